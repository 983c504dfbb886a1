//! Where a capture may go: files, which are replaced whole; pipes and devices, which are written to; nothing else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_file::DataLink;

use crate::support::{Dir, XDPFRAG, frame, packet, payload, read_pcap, skip, write_pcap};

/// A folder with a capture `in` of one oversize packet, and what `replay --mtu 1422` makes of it.
fn folder() -> (Dir, Vec<u8>) {
    let dir = Dir::new();
    let one = frame([198, 51, 100, 1], 1, 0x4000, &payload(1480));
    write_pcap(&dir.path("in"), DataLink::ETHERNET, &[packet(1, &one, one.len())]);
    assert!(dir.replay("in", "right", "--mtu 1422").status.success());
    let right = fs::read(dir.path("right")).unwrap();
    assert!(right.len() > one.len());
    (dir, right)
}

/// `xdpfrag replay` by way of a shell, in the folder.
fn shell(dir: &Dir, script: &str) -> (String, String) {
    let mut command = Command::new("sh");
    command.args(["-c", script, XDPFRAG]).current_dir(dir.path(""));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {said}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), said)
}

#[test]
fn the_output_is_replaced_only_when_it_is_complete() {
    let dir = Dir::new();
    let one = frame([198, 51, 100, 1], 1, 0, &payload(500));
    write_pcap(&dir.path("good"), DataLink::ETHERNET, &[packet(1, &one, one.len())]);
    fs::write(dir.path("out"), b"old").unwrap();
    fs::write(dir.path("cut"), &fs::read(dir.path("good")).unwrap()[..60]).unwrap();
    dir.refused("cut", "out", 2, &["cut short"]);
    assert_eq!(fs::read(dir.path("out")).unwrap(), b"old");

    std::os::unix::fs::symlink(dir.path("out"), dir.path("link")).unwrap();
    assert!(dir.replay("good", "link", "--mtu 1422").status.success());
    assert!(fs::symlink_metadata(dir.path("link")).unwrap().is_symlink());
    assert_eq!(read_pcap(&dir.path("out")), [(1, one)]);

    fs::create_dir(dir.path("folder")).unwrap();
    dir.refused("good", "folder", 2, &["folder", "a directory"]);
    dir.refused("good", "nowhere/out", 2, &["nowhere/out", "No such file"]);
}

#[test]
fn standard_input_and_output_are_a_dash_and_the_counts_go_to_standard_error() {
    let (dir, right) = folder();
    let links = dir.path("stdout");
    symlink("/proc/self/fd/1", &links).unwrap();
    for script in [
        "cat in | \"$0\" replay - - --mtu 1422 | cat >out",
        "\"$0\" replay - - --mtu 1422 <in >out",
        "\"$0\" replay in - --mtu 1422 --json >out",
        "\"$0\" replay in stdout --mtu 1422 | cat >out",
        "\"$0\" replay in stdout --mtu 1422 >out",
        "\"$0\" replay in /dev/fd/1 --mtu 1422 | cat >out",
        "rm -f out; \"$0\" replay in /dev/fd/3 --mtu 1422 3>out >&2",
    ] {
        let (said, counts) = shell(&dir, script);
        assert_eq!(fs::read(dir.path("out")).unwrap(), right, "{script}");
        assert_eq!(said, "", "{script}");
        assert!(counts.contains("frames read") || counts.contains("\"frames_in\": 1"), "{script}: {counts}");
        assert!(fs::symlink_metadata(&links).unwrap().is_symlink(), "{script} has replaced the link");
    }
    shell(&dir, "echo before >out; \"$0\" replay in - --mtu 1422 >>out 2>err");
    assert_eq!(fs::read(dir.path("out")).unwrap(), [b"before\n", &right[..]].concat());
    // Whoever reads has seen enough.
    let (_, said) = shell(&dir, "\"$0\" replay in - --mtu 1422 2>err | true; cat err >&2");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn pipes_and_devices_are_written_to_and_stay_what_they_are() {
    let (dir, right) = folder();
    shell(&dir, "mkfifo fifo; ln -s fifo link; cat fifo >out & \"$0\" replay in link --mtu 1422 && wait");
    assert_eq!(fs::read(dir.path("out")).unwrap(), right);
    assert!(fs::symlink_metadata(dir.path("link")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(dir.path("fifo")).unwrap().file_type().is_fifo());
    assert!(dir.replay("in", "/dev/null", "--mtu 1422").status.success());
    let full = dir.replay("in", "/dev/full", "--mtu 1422");
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("/dev/full") && said.contains("No space left"), "{said}");
}

#[test]
fn what_must_not_be_written_is_refused_by_name_and_stays() {
    let (dir, _) = folder();
    symlink("nothing", dir.path("dangling")).unwrap();
    dir.refused("in", "dangling", 2, &["dangling", "link to a file that is not there"]);
    let _socket = UnixListener::bind(dir.path("socket")).unwrap();
    dir.refused("in", "socket", 2, &["socket", "it is a socket"]);
    let mut node = Command::new("mknod");
    match node.arg(dir.path("disk")).args(["b", "7", "250"]).status() {
        Ok(status) if status.success() => dir.refused("in", "disk", 2, &["disk", "block device"]),
        _ => skip("a block device needs root"),
    }
}

#[test]
fn a_terminal_gets_no_capture_and_gives_none() {
    let (dir, _) = folder();
    for command in
        ["replay in - --mtu 1422", "replay in /dev/stdout --mtu 1422", "capture -", "capture /dev/tty"]
    {
        let inner = format!("{XDPFRAG} {command}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &inner, "/dev/null"]).current_dir(dir.path(""));
        let output = script.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(said.contains("it is a terminal") && said.contains("tcpdump -nr -"), "{command}: {said}");
    }
}

#[test]
fn a_file_keeps_its_mode_and_its_name_for_those_who_may_not_write_it() {
    let (dir, right) = folder();
    let out = dir.path("out");
    fs::write(&out, "old").unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(dir.replay("in", "out", "--mtu 1422").status.success());
    assert_eq!(
        (fs::metadata(&out).unwrap().mode() & 0o7777, fs::read(&out).unwrap()),
        (0o640, right.clone())
    );
    // In its own place, too.
    assert!(dir.replay("out", "out", "--mtu 1422").status.success());
    assert_eq!(fs::read(&out).unwrap(), right);
}

#[test]
fn a_signal_leaves_neither_half_a_file_nor_an_empty_one() {
    let (dir, _) = folder();
    let before = dir.names();
    let mut child = Command::new(XDPFRAG)
        .args(["replay", "-"])
        .arg(dir.path("out"))
        .args(["--mtu", "1422"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // The file header; the rest never comes.
    let mut start = [0; 24];
    File::open(dir.path("in")).unwrap().read_exact(&mut start).unwrap();
    pipe.write_all(&start).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while dir.names().len() == before.len() {
        assert!(Instant::now() < deadline, "no file is begun");
        thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(dir.names(), before);
}

/// A bar that moves while the pipe does, and is gone at the end.
#[test]
fn a_terminal_is_told_how_far_it_got() {
    let (dir, right) = folder();
    let one = fs::read(dir.path("in")).unwrap();
    let command = format!("mkfifo fifo; cat fifo | {XDPFRAG} replay - out --mtu 1422");
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--command", &command, "said"]).current_dir(dir.path(""));
    let mut child = script.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !dir.path("fifo").exists() {
        assert!(Instant::now() < deadline, "no pipe");
        thread::sleep(Duration::from_millis(5));
    }
    let mut pipe = File::options().write(true).open(dir.path("fifo")).unwrap();
    pipe.write_all(&one).unwrap();
    let mut frames = 1;
    while !String::from_utf8_lossy(&fs::read(dir.path("said")).unwrap()).contains(" MB\u{1b}[K") {
        assert!(Instant::now() < deadline, "nothing is shown");
        pipe.write_all(&one[24..]).unwrap();
        frames += 1;
        thread::sleep(Duration::from_millis(5));
    }
    drop(pipe);
    assert!(child.wait().unwrap().success());
    let said = String::from_utf8(fs::read(dir.path("said")).unwrap()).unwrap();
    assert!(said.contains(&format!("\r\u{1b}[K{frames} frames read")), "{said:?}");
    assert_eq!(fs::read(dir.path("out")).unwrap().len(), 24 + frames * (right.len() - 24));
}
