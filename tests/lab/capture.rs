//! `--capture` and `xdpfrag capture`: frames before and after, read back by independent readers.

use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::Duration;

use etherparse::SlicedPacket;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR, LabConfig};

use crate::support::{PORT, binary, deliver, forward, lab, mixed, received, skip, stop};

/// Comments and frames of a capture.
pub(crate) fn read(path: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                _ => None,
            });
            frames.push((comment.expect("a comment"), packet.data.to_vec()));
        }
    }
    assert_eq!(reader.interfaces().len(), 1);
    frames
}

/// Length of the IPv4 packet in a frame.
fn ip_len(frame: &[u8]) -> u16 {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    sliced.net.unwrap().ipv4_ref().unwrap().header().total_len()
}

/// Every oversize frame is followed by its fragments, which fit.
pub(crate) fn before_and_after(frames: &[(String, Vec<u8>)]) -> usize {
    let mut oversize = 0;
    for (position, (comment, frame)) in frames.iter().enumerate() {
        if comment.starts_with("before") && comment.contains("forward fragmented") {
            assert!(ip_len(frame) > 1422, "{comment}");
            // A count may end a capture between the two.
            let Some(fragments) = frames.get(position + 1..position + 3) else { break };
            oversize += 1;
            for (part, (after, fragment)) in (1..).zip(fragments) {
                assert!(
                    after.starts_with(&format!("after {part}/2, queue 0: forward fragmented (")),
                    "{after}"
                );
                assert!(after.ends_with("; edits: df, id"), "{after}");
                assert!(ip_len(fragment) <= 1422);
            }
        }
    }
    oversize
}

/// That tcpdump reads all `frames` of the file.
fn tcpdump_agrees(path: &std::path::Path, frames: usize) {
    match Command::new("tcpdump").args(["-nr", path.to_str().unwrap()]).output() {
        Err(error) => skip(&format!("tcpdump: {error}")),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), frames);
        }
    }
}

#[test]
fn a_running_instance_is_captured_by_host_and_port_up_to_a_count() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    // While nobody captures, no worker sees so few.
    let daemon = forward(&lab, &["--redirect", "auto"]);
    let capture = |name: &str, arguments: &[&str]| {
        let path = dir.path().join(name);
        let mut all = vec!["capture", path.to_str().unwrap()];
        all.extend(arguments);
        // One datagram a millisecond, for the time of the capture and a little more.
        let flow = Flow { rate: 1000, ..Flow::new((FAR, PORT), vec![1472; 1500]) };
        let tally = thread::scope(|scope| {
            let flow = scope.spawn(|| flow.run(&lab.appliance, &lab.far).unwrap());
            lab.gateway.output(binary().to_str().unwrap(), &all).unwrap();
            flow.join().unwrap()
        });
        assert!(tally.complete(), "{tally:?}");
        path
    };
    let by_count = capture("count.pcapng", &["--host", &FAR.to_string(), "--port", "7001", "--count", "30"]);
    let frames = read(&by_count);
    assert!(frames.len() == 30 && before_and_after(&frames) >= 8, "{frames:?}");
    tcpdump_agrees(&by_count, 30);

    let by_time = capture("time.pcapng", &["--seconds", "1"]);
    let frames = read(&by_time);
    assert!(frames.len() > 20 && before_and_after(&frames) > 6, "{}", frames.len());

    let by_size = capture("size.pcapng", &["--max-bytes", "10000", "--seconds", "5"]);
    let length = by_size.metadata().unwrap().len();
    assert!((5000..=10_000).contains(&length), "{length}");
    assert!(read(&by_size).len() >= 6);

    let nothing = capture("none.pcapng", &["--port", "9", "--seconds", "1"]);
    assert!(read(&nothing).is_empty());
    let interface = stop(daemon);
    assert!(received(&interface) > 0, "{interface:?}");
    let tcx = !interface.late.is_empty();
    assert_eq!(interface.late.get("datagram").is_some_and(|cut| *cut > 0), tcx, "{interface:?}");
}

#[test]
fn an_instance_captures_to_a_file_from_its_start_and_one_capture_at_a_time() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.pcapng");
    let daemon = forward(&lab, &["--capture", path.to_str().unwrap()]);
    deliver(&lab, mixed(60));
    let second = lab.gateway.output(binary().to_str().unwrap(), &["capture", "-"]).unwrap_err();
    assert!(format!("{second:#}").contains("another capture runs"), "{second:#}");
    thread::sleep(Duration::from_millis(200));
    let frames = read(&path);
    assert!(before_and_after(&frames) >= 20, "{frames:?}");
    tcpdump_agrees(&path, frames.len());
    let interface = stop(daemon);
    let received: u64 = interface.workers.iter().map(|worker| worker.received).sum();
    assert_eq!(frames.iter().filter(|(comment, _)| comment.starts_with("before")).count() as u64, received);
}
