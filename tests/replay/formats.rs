//! Everything that tcpdump and Wireshark read, written here byte by byte.

use std::fs;

use serde_json::Value;

use crate::support::{Dir, Order, frame, payload};

/// A packet of 1500 bytes without a link header, and its fragments for 1422.
fn packet() -> (Vec<u8>, [Vec<u8>; 2]) {
    let big = payload(1480);
    let ip = |flags_offset, payload: &[u8]| frame([198, 51, 100, 1], 7, flags_offset, payload)[14..].to_vec();
    (ip(0, &big), [ip(0x2000, &big[..1400]), ip(175, &big[1400..])])
}

const ETHERNET: [u8; 14] = crate::support::ETHERNET;

fn with(header: &[u8], packet: &[u8]) -> Vec<u8> {
    [header, packet].concat()
}

/// Replays `input` and says what came of it, and the counts.
#[track_caller]
fn replayed(dir: &Dir, input: &[u8]) -> (Vec<u8>, Value) {
    fs::write(dir.path("in"), input).unwrap();
    let result = dir.replay("in", "out", "--mtu 1422 --json");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    (fs::read(dir.path("out")).unwrap(), serde_json::from_slice(&result.stdout).unwrap())
}

/// What `replay` prints for people about `input`.
fn words(dir: &Dir, input: &[u8]) -> String {
    fs::write(dir.path("in"), input).unwrap();
    let result = dir.replay("in", "out", "--mtu 1422");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    String::from_utf8(result.stdout).unwrap()
}

#[test]
fn every_magic_number_of_pcap_in_both_byte_orders() {
    let dir = Dir::new();
    let (whole, parts) = packet();
    let frames =
        |packets: &[Vec<u8>]| packets.iter().map(|packet| with(&ETHERNET, packet)).collect::<Vec<_>>();
    for order in Order::BOTH {
        // Microseconds, nanoseconds, and the patched form with its interface, protocol and type.
        for (magic, extra) in
            [(0xa1b2_c3d4, &[][..]), (0xa1b2_3c4d, &[]), (0xa1b2_cd34, &[9, 0, 0, 0, 8, 0, 4, 0])]
        {
            let (out, counts) =
                replayed(&dir, &order.pcap(magic, 1, extra, &frames(std::slice::from_ref(&whole))));
            assert_eq!(out, order.pcap(magic, 1, extra, &frames(&parts)), "{order:?} {magic:x}");
            assert_eq!(counts["reasons"]["fragmented"], 1);
        }
    }
}

#[test]
fn the_link_header_of_every_link_type_that_is_read_stays_before_each_fragment() {
    let dir = Dir::new();
    let (whole, parts) = packet();
    let headers: [(u32, &[u8]); 11] = [
        (1, &ETHERNET),
        (1, &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 8, 0]),
        (101, &[]),
        (228, &[]),
        (0, &[2, 0, 0, 0]),
        (0, &[0, 0, 0, 2]),
        (108, &[0, 0, 0, 2]),
        (113, &[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0, 8, 0]),
        (276, &[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0, 0, 0, 2, 0, 0]),
        (9, &[0xff, 3, 0, 0x21]),
        (50, &[0x21]),
    ];
    for (link, header) in headers {
        let frames =
            |packets: &[Vec<u8>]| packets.iter().map(|packet| with(header, packet)).collect::<Vec<_>>();
        let order = Order(false);
        let (out, _) =
            replayed(&dir, &order.pcap(0xa1b2_c3d4, link, &[], &frames(std::slice::from_ref(&whole))));
        assert!(out == order.pcap(0xa1b2_c3d4, link, &[], &frames(&parts)), "link type {link}, {header:x?}");
    }
    let v6 = with(&[0x60, 0, 0, 0, 5, 200, 59, 64], &[&[0x20; 32][..], &payload(1480)].concat());
    let (_, counts) = replayed(&dir, &Order(false).pcap(0xa1b2_c3d4, 229, &[], &[v6]));
    assert_eq!(counts["reasons"]["ipv6_too_big"], 1);
}

/// IEEE 802.3 section 3.2.9, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let bit = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| bit(sum)))
}

#[test]
fn a_frame_check_sequence_is_right_again_and_a_wrong_one_stays_wrong() {
    let dir = Dir::new();
    let (whole, parts) = packet();
    let checked = |packet: &[u8], error: u32| {
        let frame = with(&ETHERNET, packet);
        let sum = (crc(&frame) ^ error).to_le_bytes();
        with(&frame, &sum)
    };
    for order in Order::BOTH {
        for error in [0, 0x0100_0080] {
            let [input, output] =
                [vec![checked(&whole, error)], parts.iter().map(|part| checked(part, error)).collect()];
            // pcap: two words of 16 bits, in the upper half of the link type.
            let link = 2 << 28 | 1 << 26 | 1;
            let (out, counts) = replayed(&dir, &order.pcap(0xa1b2_c3d4, link, &[], &input));
            assert!(out == order.pcap(0xa1b2_c3d4, link, &[], &output));
            assert_eq!(counts["frame_checks"], 1);
            // pcapng: of the interface, in bytes or bits, or in the flags of the packet.
            let flags = order.option(2, &order.u32(4 << 5 | 1));
            for (interface, flags) in
                [(order.option(13, &[4]), &[][..]), (order.option(13, &[32]), &[]), (vec![], &flags)]
            {
                let end = if flags.is_empty() { &[][..] } else { &[0; 4] };
                let file = |frames: &[Vec<u8>], options: &[u8]| {
                    let packets = frames.iter().flat_map(|frame| order.packet(0, frame, options)).collect();
                    [order.section(-1), order.interface(1, 0, &interface), packets].concat()
                };
                let (out, _) = replayed(&dir, &file(&input, flags));
                assert!(out == file(&output, &[flags, end].concat()), "{order:?} {error:x} {flags:x?}");
            }
        }
    }
    let said =
        words(&dir, &Order(false).pcap(0xa1b2_c3d4, 2 << 28 | 1 << 26 | 1, &[], &[checked(&whole, 0)]));
    assert!(said.contains("1 changed frames have new frame check sequences"), "{said}");
    let order = Order(false);
    let packet = order.packet(0, &with(&ETHERNET, &whole), &[]);
    let file = [order.section(-1), order.interface(1, 0, &order.option(13, &[16])), packet].concat();
    fs::write(dir.path("bits"), file).unwrap();
    dir.refused("bits", "out", 2, &["bits", "frame check sequences of 2 bytes on link type 1"]);
    fs::write(dir.path("odd"), Order(false).pcap(0xa1b2_c3d4, 1 << 28 | 1 << 26 | 1, &[], &[])).unwrap();
    dir.refused("odd", "out", 2, &["odd", "frame check sequences of 2 bytes on link type 1", "those of 4"]);
}

#[test]
fn pcapng_of_several_sections_in_either_byte_order_with_what_strict_readers_refuse() {
    let dir = Dir::new();
    let (whole, parts) = packet();
    let [whole, first, second] = [&whole, &parts[0], &parts[1]].map(|packet| with(&ETHERNET, packet));
    let section = |order: Order, length: i64, changed: bool| {
        let options = [
            // A name that is no UTF-8, a time zone of four bytes, and no end.
            order.option(2, b"eth\xff"),
            order.option(10, &[1, 2, 3, 4]),
        ]
        .concat();
        let (comment, hash) = (order.option(1, b"caf\xe9"), order.option(3, &[2, 1, 2, 3, 4]));
        let flags = order.option(2, &order.u32(1));
        let end = [0; 4];
        let mut file = order.section(length);
        file.extend(order.interface(1, 0, &options));
        // Names, statistics, something private: copied.
        file.extend(order.block(4, &[&[0, 0, 0, 0]]));
        match changed {
            false => {
                file.extend(order.packet(0, &whole, &[&comment[..], &hash, &flags].concat()));
                file.extend(order.block(3, &[&order.u32(whole.len() as u32), &whole]));
            }
            true => {
                file.extend(order.packet(0, &first, &[&comment[..], &flags, &end].concat()));
                file.extend(order.packet(0, &second, &[&flags[..], &end].concat()));
                for part in [&first, &second] {
                    file.extend(order.block(3, &[&order.u32(part.len() as u32), part]));
                }
            }
        }
        // The obsolete packet block: interface and drops share a word.
        let obsolete = |frame: &[u8]| {
            let words: Vec<u8> = [7, 8, frame.len() as u32, frame.len() as u32]
                .into_iter()
                .flat_map(|word| order.u32(word))
                .collect();
            order.block(2, &[&order.u16(0), &order.u16(3), &words, frame])
        };
        let frames = if changed { vec![&first, &second] } else { vec![&whole] };
        file.extend(frames.into_iter().flat_map(|frame| obsolete(frame)));
        file.extend(order.block(5, &[&[0; 12]]));
        file.extend(order.block(0x0bad_beef, &[&[1, 2, 3]]));
        file
    };
    let sections = |length, changed| {
        [Order(false), Order(true), Order(false)].map(|order| section(order, length, changed)).concat()
    };
    let (out, counts) = replayed(&dir, &sections(1234, false));
    assert_eq!(counts["frames_in"], 9);
    assert_eq!(counts["reasons"]["fragmented"], 9);
    assert!(out == sections(-1, true));
    // An interface belongs to its section.
    let lonely =
        [section(Order(false), -1, false), Order(true).section(-1), Order(true).packet(0, &whole, &[])]
            .concat();
    fs::write(dir.path("lonely"), lonely).unwrap();
    dir.refused(
        "lonely",
        "out",
        2,
        &["damaged after frame 3", "interface 0 is not described", "tcpdump -c 3"],
    );
}

#[test]
fn what_a_sender_left_to_its_nic_is_said_to_be_that() {
    let dir = Dir::new();
    let long = frame([198, 51, 100, 1], 7, 0x4000, &payload(14_580));
    let mut unfilled = frame([198, 51, 100, 1], 7, 0x4000, &payload(2960));
    unfilled[16..18].fill(0);
    let file = Order(false).pcap(0xa1b2_c3d4, 1, &[], &[long, unfilled.clone()]);
    let (out, counts) = replayed(&dir, &file);
    assert_eq!((&counts["reasons"]["super_packet"], &counts["reasons"]["malformed"]), (&1.into(), &0.into()));
    assert_eq!((&counts["long_packets"], &counts["longest"]), (&1.into(), &14_600.into()));
    assert!(out.ends_with(&unfilled));
    let said = words(&dir, &file);
    for part in ["longer than 1,500 bytes, up to 14,600", "TSO", "super_packet", "no length in the header"] {
        assert!(said.contains(part), "'{part}' is missing in: {said}");
    }
}

#[test]
fn a_link_type_that_is_not_read_is_copied_beside_others_and_refused_alone() {
    let dir = Dir::new();
    let (whole, parts) = packet();
    let [whole, first, second] = [&whole, &parts[0], &parts[1]].map(|packet| with(&ETHERNET, packet));
    let order = Order(false);
    let file = |ethernet: &[&Vec<u8>]| {
        let mut file = [order.section(-1), order.interface(220, 0, &[]), order.interface(1, 0, &[])].concat();
        file.extend(order.packet(0, b"USB", &[]));
        ethernet.iter().for_each(|frame| file.extend(order.packet(1, frame, &[])));
        file
    };
    let (out, counts) = replayed(&dir, &file(&[&whole]));
    assert!(out == file(&[&first, &second]));
    assert_eq!(counts["unread_link"], 1);
    fs::write(dir.path("usb"), file(&[])).unwrap();
    dir.refused("usb", "out2", 2, &["link type 220", "is not read", "linktypes"]);
    fs::write(dir.path("radio"), order.pcap(0xa1b2_c3d4, 127, &[], &[whole])).unwrap();
    dir.refused("radio", "out2", 2, &["link type 127"]);
}

#[test]
fn damage_is_named_with_the_frame_after_which_it_is() {
    let dir = Dir::new();
    let order = Order(true);
    let whole = with(&ETHERNET, &packet().0);
    let good = [order.section(-1), order.interface(1, 0, &[]), order.packet(0, &whole, &[])].concat();
    let mut wrong_end = [&good[..], &order.packet(0, &whole, &[])].concat();
    *wrong_end.last_mut().unwrap() ^= 4;
    let mut too_long = order.packet(0, &whole, &[]);
    too_long[20..24].copy_from_slice(&order.u32(5000));
    let version = order.block(0x0a0d_0d0a, &[&order.u32(0x1a2b_3c4d), &order.u16(2), &[0; 10]]);
    for (name, bytes, parts) in [
        ("wrong_end", wrong_end, &["damaged after frame 1", "two lengths differ"][..]),
        ("too_long", [&good[..], &too_long].concat(), &["after frame 1", "too short for its frame"]),
        (
            "odd",
            [&good[..], &[0, 0, 0, 9, 0, 0, 0, 13], &[0; 20]].concat(),
            &["after frame 1", "a block of 13 bytes"],
        ),
        (
            "magic",
            [&good[..], &order.block(0x0a0d_0d0a, &[&[0; 16]])].concat(),
            &["after frame 1", "byte order"],
        ),
        ("version", version, &["after frame 0", "version"]),
        ("short", order.pcap(0xa1b2_c3d4, 1, &[], &[])[..20].to_vec(), &["not a pcap", "shorter"]),
        ("old", [&order.u32(0xa1b2_c3d4)[..], &order.u16(2), &order.u16(2), &[0; 16]].concat(), &["version"]),
    ] {
        fs::write(dir.path(name), bytes).unwrap();
        dir.refused(name, "out", 2, parts);
    }
}
