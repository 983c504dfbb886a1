//! With the tools of others: what they write is read, what is written they read, and the commands that messages name
//! do what they are named for.

use std::fs;
use std::process::{Command, Output};

use pcap_file::DataLink;

use crate::support::{Dir, Order, XDPFRAG, frame, packet, payload, skip, write_pcap};

/// The output of a tool in the folder, or that it is not installed.
fn tool(dir: &Dir, name: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(name).args(arguments).current_dir(dir.path("")).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("{name}: {error}"));
            None
        }
    }
}

#[track_caller]
fn works(dir: &Dir, name: &str, arguments: &[&str]) -> Option<String> {
    let output = tool(dir, name, arguments)?;
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Three oversize packets in `in`.
fn folder() -> Dir {
    let dir = Dir::new();
    let frames = [1, 2, 3].map(|id| frame([198, 51, 100, 1], id, 0, &payload(1480)));
    let packets: Vec<_> = frames.iter().map(|frame| packet(1, frame, frame.len())).collect();
    write_pcap(&dir.path("in"), DataLink::ETHERNET, &packets);
    dir
}

#[test]
fn what_editcap_writes_is_read_and_what_is_written_tcpdump_and_tshark_read() {
    let dir = folder();
    let mut formats = vec!["in".to_owned()];
    for format in ["pcap", "nsecpcap", "modpcap", "pcapng"] {
        if works(&dir, "editcap", &["-F", format, "in", format]).is_none() {
            break;
        }
        formats.push(format.to_owned());
    }
    for input in &formats {
        let result = dir.replay(input, "out", "--mtu 1422");
        assert!(result.status.success(), "{input}: {}", String::from_utf8_lossy(&result.stderr));
        // Of the patched form tcpdump warns, and reads it.
        if let Some(lines) = works(&dir, "tcpdump", &["-nr", "out"]) {
            assert_eq!(lines.lines().count(), 6, "{input}: {lines}");
        }
        let fields = ["-r", "out", "-o", "ip.defragment:FALSE", "-T", "fields", "-e", "ip.len"];
        if let Some(lines) = works(&dir, "tshark", &fields) {
            assert_eq!(lines.lines().collect::<Vec<_>>(), ["1420", "100"].repeat(3), "{input}: {lines}");
        }
    }
}

#[test]
fn the_command_that_a_message_names_keeps_what_is_whole() {
    let dir = folder();
    let good = fs::read(dir.path("in")).unwrap();
    fs::write(dir.path("cut"), &good[..good.len() - 10]).unwrap();
    let mut damaged = good;
    // The length of the third frame.
    let third = 24 + 2 * (16 + 1514) + 8;
    damaged[third..third + 4].fill(0xff);
    fs::write(dir.path("damaged"), &damaged).unwrap();
    for input in ["cut", "damaged"] {
        let said = String::from_utf8(dir.replay(input, "out", "--mtu 1422").stderr).unwrap();
        let command = said.split("with: ").nth(1).unwrap_or_else(|| panic!("no command: {said}"));
        let command = command.replace("IN", input).replace("NEW", "new");
        let words: Vec<&str> = command.split_whitespace().collect();
        if tool(&dir, words[0], &words[1..]).is_none() {
            return;
        }
        let kept = dir.replay("new", "out", "--mtu 1422");
        assert!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stderr));
        assert!(String::from_utf8_lossy(&kept.stdout).contains("2 frames read"), "{input}");
    }
}

#[test]
fn a_compressed_file_is_named_with_the_command_that_unpacks_it() {
    for (name, packed) in
        [("gzip", "in.gz"), ("zstd", "in.zst"), ("xz", "in.xz"), ("bzip2", "in.bz2"), ("lz4", "in.lz4")]
    {
        let dir = folder();
        assert!(dir.replay("in", "right", "--mtu 1422").status.success());
        let suffix = packed.rsplit('.').next().unwrap();
        let pack = format!("{name} -c in >in.{suffix}");
        let Some(output) = tool(&dir, "sh", &["-c", &pack]) else { return };
        if !output.status.success() {
            skip(&format!("{pack}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            continue;
        }
        let said = String::from_utf8(dir.replay(packed, "out", "--mtu 1422").stderr).unwrap();
        assert!(said.contains(&format!("compressed with {name}")), "{said}");
        let command = said.split("on the way: ").nth(1).unwrap_or_else(|| panic!("no command: {said}"));
        let command =
            command.replace("xdpfrag", XDPFRAG).replace("IN", packed).replace("OUT ...", "out --mtu 1422");
        works(&dir, "sh", &["-c", command.trim()]);
        assert_eq!(fs::read(dir.path("out")).unwrap(), fs::read(dir.path("right")).unwrap(), "{name}");
    }
}

/// Two interfaces of different link types, as `tcpdump` cannot write them.
#[test]
fn tshark_reads_every_section_that_is_written() {
    let dir = Dir::new();
    let ethernet = frame([198, 51, 100, 1], 7, 0, &payload(1480));
    let section = |order: Order| {
        [
            order.section(-1),
            order.interface(1, 0, &[]),
            order.interface(101, 0, &[]),
            order.packet(0, &ethernet, &[]),
            order.packet(1, &ethernet[14..], &[]),
        ]
        .concat()
    };
    fs::write(dir.path("in"), Order::BOTH.map(section).concat()).unwrap();
    assert!(dir.replay("in", "out", "--mtu 1422").status.success());
    let fields = ["-r", "out", "-o", "ip.defragment:FALSE", "-T", "fields", "-e", "ip.len"];
    if let Some(lines) = works(&dir, "tshark", &fields) {
        assert_eq!(lines.lines().collect::<Vec<_>>(), ["1420", "100"].repeat(4));
    }
}
