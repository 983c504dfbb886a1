//! `--capture` and `xdpfrag capture`: frames before and after, read back by independent readers.

use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use etherparse::SlicedPacket;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR, LabConfig};

use crate::support::{PORT, binary, deliver, forward, lab, mixed, received, skip, stop};

/// Comments and frames of a capture.
pub(crate) fn read(path: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                _ => None,
            });
            let comment = comment.expect("a comment");
            // What came is of one interface, and what went back of the other.
            assert_eq!(packet.interface_id, u32::from(comment.starts_with("after")), "{comment}");
            frames.push((comment, packet.data.to_vec()));
        }
    }
    let names = reader.interfaces().iter().map(|interface| {
        let name = |option: &InterfaceDescriptionOption<'_>| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
            _ => None,
        };
        interface.options.iter().find_map(name).expect("a name")
    });
    assert_eq!(names.collect::<Vec<_>>(), ["eth1", "eth1 after"]);
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
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let daemon = forward(&lab, &[]);
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
}

#[test]
fn an_instance_captures_to_a_file_from_its_start_and_one_capture_at_a_time() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
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

/// By signal or by time, and with a word about what was received meanwhile.
#[test]
fn a_capture_of_what_fits_says_why_it_is_empty() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let daemon = forward(&lab, &[]);
    let path = dir.path().join("fits.pcapng");
    let mut command = Command::new(binary());
    command.arg("capture").arg(&path);
    let mut capture = lab.gateway.spawn(command).unwrap();
    // Its first blocks are there as soon as the instance captures.
    let deadline = Instant::now() + Duration::from_secs(30);
    while path.metadata().map_or(0, |found| found.len()) == 0 {
        assert!(Instant::now() < deadline, "no capture has begun");
        thread::sleep(Duration::from_millis(5));
    }
    let tally =
        Flow { rate: 1000, ..Flow::new((FAR, PORT), vec![100; 200]) }.run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete(), "{tally:?}");
    kill(Pid::from_raw(i32::try_from(capture.child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(capture.child.wait().unwrap().success());
    let said = std::io::read_to_string(capture.child.stderr.take().unwrap()).unwrap();
    for part in ["0 frames captured", "Received meanwhile: fits ", "redirect = \"all\"", "xdpfrag reload"] {
        assert!(said.contains(part), "'{part}' is missing in: {said}");
    }
    assert!(read(&path).is_empty());
    stop(daemon);
}
