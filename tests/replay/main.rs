//! `replay` from outside: whole files in, whole files out, or none.

mod formats;
mod outputs;
mod support;
mod tools;

use std::borrow::Cow;
use std::fs;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use serde_json::Value;

use support::{Dir, ETHERNET, frame, packet, payload, read_pcap, write_pcap};

#[test]
fn fragments_as_the_published_vectors_of_dpdk() {
    let dir = Dir::new();
    let (big, small) = (payload(1400), payload(100));
    let input = [frame([198, 51, 100, 1], 0x1234, 0, &big), frame([198, 51, 100, 1], 0x1235, 0, &small)];
    let packets: Vec<_> = input.iter().zip(10..).map(|(f, second)| packet(second, f, f.len())).collect();
    write_pcap(&dir.path("in.pcap"), DataLink::ETHERNET, &packets);

    let result = dir.replay("in.pcap", "out.pcap", "--mtu 600 --json");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let expected = [
        (10, frame([198, 51, 100, 1], 0x1234, 0x2000, &big[..576])),
        (10, frame([198, 51, 100, 1], 0x1234, 0x2048, &big[576..1152])),
        (10, frame([198, 51, 100, 1], 0x1234, 0x0090, &big[1152..])),
        (11, frame([198, 51, 100, 1], 0x1235, 0, &small)),
    ];
    assert_eq!(read_pcap(&dir.path("out.pcap")), expected);

    let counts: Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!((counts["frames_in"].as_u64(), counts["frames_out"].as_u64()), (Some(2), Some(4)));
    let reasons = counts["reasons"].as_object().unwrap();
    assert_eq!((reasons["fragmented"].as_u64(), reasons["fits"].as_u64()), (Some(1), Some(1)));
    assert_eq!(reasons.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 2);
}

#[test]
fn the_scope_decides_and_df_goes_with_a_fresh_id_that_is_the_same_each_time() {
    let dir = Dir::new();
    let big = payload(1480);
    let inside = frame([198, 51, 100, 1], 0, 0x4000, &big);
    let outside = frame([198, 18, 7, 7], 0, 0x4000, &big);
    let arp = [&[0xff; 6][..], &ETHERNET[6..12], &[8, 6], &[0; 46]].concat();
    let packets = [&inside, &outside, &arp].map(|f| packet(1, f, f.len()));
    write_pcap(&dir.path("in.pcap"), DataLink::ETHERNET, &packets);

    for name in ["one.pcap", "two.pcap"] {
        let result = dir.replay("in.pcap", name, "--mtu 1422 --dst 198.51.100.0/24");
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        let table = String::from_utf8(result.stdout).unwrap();
        for part in ["3 frames read, 4 written", "fragmented", "out_of_scope", "not_ip", "DF cleared"] {
            assert!(table.contains(part), "'{part}' is missing in: {table}");
        }
    }
    let out = read_pcap(&dir.path("one.pcap"));
    assert_eq!(out, read_pcap(&dir.path("two.pcap")));
    assert_eq!((&out[2].1, &out[3].1), (&outside, &arp));
    let id = u16::from_be_bytes([out[0].1[18], out[0].1[19]]);
    assert_ne!(id, 0, "datagrams with ID 0 would be mixed up");
    assert_eq!(out[0].1, frame([198, 51, 100, 1], id, 0x2000, &big[..1400]));
    assert_eq!(out[1].1, frame([198, 51, 100, 1], id, 175, &big[1400..]));

    assert!(dir.replay("in.pcap", "keep.pcap", "--mtu 1422 --df keep").status.success());
    let kept: Vec<_> = read_pcap(&dir.path("keep.pcap")).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(kept, [inside, outside, arp]);
}

#[test]
fn frames_that_were_captured_in_part_are_copied_and_counted() {
    let dir = Dir::new();
    let whole = frame([198, 51, 100, 1], 1, 0, &payload(1480));
    write_pcap(&dir.path("in.pcap"), DataLink::ETHERNET, &[packet(1, &whole[..96], whole.len())]);
    let result = dir.replay("in.pcap", "out.pcap", "--mtu 1422 --json");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&result.stdout).unwrap()["cut_short"], 1);
    assert_eq!(fs::read(dir.path("in.pcap")).unwrap(), fs::read(dir.path("out.pcap")).unwrap());
}

#[test]
fn pcapng_stays_pcapng_with_everything_but_the_changed_frames() {
    let dir = Dir::new();
    let big = payload(1480);
    let oversize = frame([198, 51, 100, 1], 7, 0, &big);
    let fits = frame([198, 18, 0, 9], 8, 0, &payload(33));
    let block = |data: &Vec<u8>, nanos| EnhancedPacketBlock {
        interface_id: 0,
        timestamp: Duration::from_nanos(nanos),
        original_len: data.len() as u32,
        data: Cow::Owned(data.clone()),
        options: vec![EnhancedPacketOption::Comment(Cow::Borrowed("a comment"))],
    };
    let interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
    let mut writer = PcapNgWriter::new(fs::File::create(dir.path("in.pcapng")).unwrap()).unwrap();
    writer.write_pcapng_block(interface.clone()).unwrap();
    writer.write_pcapng_block(block(&oversize, 0x1_2345_6789)).unwrap();
    writer.write_pcapng_block(block(&fits, 0x1_2345_6790)).unwrap();
    drop(writer);

    let result = dir.replay("in.pcapng", "out.pcapng", "--mtu 1422 --dst 198.51.100.0/24");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let mut reader = PcapNgReader::new(fs::File::open(dir.path("out.pcapng")).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(read) = reader.next_block() {
        match read.unwrap().into_owned() {
            Block::InterfaceDescription(read) => assert_eq!(read, interface),
            Block::EnhancedPacket(packet) => packets.push(packet),
            other => panic!("unexpected block: {other:?}"),
        }
    }
    let fragment =
        |flags_offset, payload| block(&frame([198, 51, 100, 1], 7, flags_offset, payload), 0x1_2345_6789);
    // What was said of the frame is said of its first fragment.
    let second = EnhancedPacketBlock { options: Vec::new(), ..fragment(175, &big[1400..]) };
    let expected = [fragment(0x2000, &big[..1400]), second, block(&fits, 0x1_2345_6790)];
    assert_eq!(packets, expected);
}

#[test]
fn bad_captures_are_refused_and_nothing_is_written() {
    let dir = Dir::new();
    let one = frame([198, 51, 100, 1], 1, 0, &payload(500));
    let two = [packet(1, &one, one.len()), packet(2, &one, one.len())];
    write_pcap(&dir.path("good.pcap"), DataLink::ETHERNET, &two);
    let good = fs::read(dir.path("good.pcap")).unwrap();

    dir.refused("missing.pcap", "out", 2, &["missing.pcap", "cannot open", "No such file"]);
    fs::write(dir.path("empty"), b"").unwrap();
    dir.refused("empty", "out", 2, &["empty", "not a pcap"]);
    fs::write(dir.path("text"), [b'x'; 100]).unwrap();
    dir.refused("text", "out", 2, &["text", "not a pcap", "tcpdump -w"]);
    fs::write(dir.path("cut"), &good[..good.len() - 10]).unwrap();
    dir.refused("cut", "out", 2, &["cut", "cut short after frame 1", "tcpdump -c 1 -r"]);
    let mut huge = good.clone();
    huge[32..36].fill(0xff);
    fs::write(dir.path("huge"), &huge).unwrap();
    dir.refused(
        "huge",
        "out",
        2,
        &["huge", "damaged after frame 0", "4294967295 bytes", "no frame can be kept"],
    );
    fs::write(dir.path("block"), [&[0x0a, 0x0d, 0x0d, 0x0a][..], &[0xff; 40]].concat()).unwrap();
    dir.refused("block", "out", 2, &["block", "not a pcap or pcapng"]);
}
