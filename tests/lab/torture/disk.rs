//! A disk that fills up under a capture.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use xdpfrag::lab::{Daemon, LAN, Lab, LabConfig};

use super::{costs_at_most, disturb};
use crate::capture::{before_and_after, read};
use crate::support::{binary, deliver, lab, mixed};

/// Less than a second of the two streams.
const DISK: u64 = 256 << 10;
/// What such a disk must hold at least: blocks have up to 1.7 KB, and a page more may be the file system's own.
const FILLED: u64 = DISK - (8 << 10);

/// `program` where `dir` is a small disk that nobody else sees.
fn on_small_disk(dir: &Path, program: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let mount = format!("mount -t tmpfs -o size={DISK} tmpfs \"$0\" && exec \"$@\"");
    command.args(["--mount", "sh", "-c", &mount]).arg(dir).args(program);
    command
}

/// The file as the process `pid` sees it: whole to its last block, and as long as the disk.
fn full_and_whole(seen: &Path) -> usize {
    let length = fs::metadata(seen).unwrap().len();
    assert!((FILLED..=DISK).contains(&length), "{length} bytes on a disk of {DISK}");
    let frames = read(seen);
    assert!(before_and_after(&frames) > 20, "{} frames", frames.len());
    frames.len()
}

/// That another capture can be had: the buffers and the place of the one that failed are free.
fn captures_again(lab: &Lab, dir: &Path) {
    let next = dir.join("next.pcapng");
    thread::scope(|scope| {
        let arguments = ["capture", next.to_str().unwrap(), "--count", "30", "--seconds", "20"];
        let capture = scope.spawn(move || lab.gateway.output(binary().to_str().unwrap(), &arguments));
        while !capture.is_finished() {
            deliver(lab, mixed(60));
        }
        capture.join().unwrap().unwrap();
    });
    assert_eq!(read(&next).len(), 30);
}

#[test]
fn the_disk_of_a_capture_from_the_start_fills_up() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.pcapng");
    let program = [binary().to_str().unwrap(), "run", "--iface", LAN, "--mtu", "1422", "--json", "--capture"];
    let command = on_small_disk(dir.path(), &[&program[..], &[path.to_str().unwrap()]].concat());
    let daemon = Daemon::start_command(&lab.gateway, command).unwrap_or_else(|error| panic!("{error:#}"));
    let cost = disturb(&lab, Duration::from_secs(1), || ());
    costs_at_most("disk full under `--capture`", cost, 0);
    let seen = PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), path.display()));
    let frames = full_and_whole(&seen);
    captures_again(&lab, dir.path());
    let ended = daemon.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let said = format!("warning: --capture {}: No space left on device", path.display());
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("ends with {frames} whole frames")), "{}", ended.stderr);
}

#[test]
fn the_disk_of_a_capture_of_a_running_instance_fills_up() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let [disk, kept] = ["disk", "kept.pcapng"].map(|name| dir.path().join(name));
    fs::create_dir(&disk).unwrap();
    let daemon = crate::support::forward(&lab, &[]);
    // Exits as the capture does, after what it wrote is brought out of the mount namespace.
    let keep = "\"$0\" capture \"$1\" --seconds 20; status=$?; cp \"$1\" \"$2\"; exit $status";
    let path = disk.join("live.pcapng");
    let [path, kept_path] = [&path, &kept].map(|path| path.to_str().unwrap());
    let command = ["sh", "-c", keep, binary().to_str().unwrap(), path, kept_path];
    let mut ended = None;
    let cost = disturb(&lab, Duration::from_millis(300), || {
        let run = || Ok(on_small_disk(&disk, &command).output()?);
        ended = Some(lab.gateway.run(run).unwrap());
    });
    costs_at_most("disk full under `xdpfrag capture`", cost, 0);
    let ended = ended.expect("the capture has ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("live.pcapng takes no more") && said.contains("No space left on device"), "{said}");
    let frames = full_and_whole(&kept);
    assert!(said.contains(&format!("{frames} whole frames are in it")), "{frames}: {said}");
    captures_again(&lab, dir.path());
    crate::support::stop(daemon);
}
