//! Every reason and edit of the XDP program.

use std::thread;
use std::time::Duration;

use xdpfrag::packet::{Df, Edit, Reason, Rule, checksum};
use xdpfrag::xdp::{IdentMap, LanConfig, LanProgram, Meta, Route};

use crate::frames::{AO, DF, Frame, MD5, MF, ROUTER, mss, with};
use crate::gateway::*;

/// The packet in `out`, which was `frame`, with its header checksum checked.
fn header_is_valid(frame: &Frame, out: &[u8]) {
    let l3 = frame.l3();
    let len = usize::from(out[l3] & 15) * 4;
    assert_eq!(checksum::sum(&out[l3..l3 + len]), 0xffff);
}

#[test]
fn a_packet_that_fits_loses_df() {
    if skipped("a_packet_that_fits_loses_df") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 7), (0x8100, 5)], &[(0x9100, 7), (0x8100, 5)]] {
        for total in [28, 46, 1421, 1422] {
            let frame = with(Frame::udp(total), |f| f.tags = tags.to_vec());
            let seen = gateway.send(&frame.bytes());
            assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::Fits));
            assert_eq!(seen.edits, [Edit::Df]);
            assert_eq!(seen.data, with(frame.clone(), |f| f.frag_off = 0).bytes());
            header_is_valid(&frame, &seen.data);
        }
    }
    let plain = with(Frame::udp(100), |f| f.frag_off = 0);
    gateway.passes_untouched(&plain.bytes(), Reason::Fits);
    let fragment = with(Frame::udp(100), |f| f.frag_off = DF | MF | 7);
    assert_eq!(gateway.send(&fragment.bytes()).data, with(fragment, |f| f.frag_off = MF | 7).bytes());
}

#[test]
fn what_is_not_in_scope_passes_untouched() {
    if skipped("what_is_not_in_scope_passes_untouched") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let change = |change: fn(&mut Frame)| with(Frame::udp(100), change).bytes();
    for (frame, reason) in [
        (change(|f| f.ethertype = 0x8864), Reason::NotIp),
        (change(|f| f.ethertype = 0x0806), Reason::NotIp),
        (change(|f| f.tags = vec![(0x8100, 1), (0x8100, 2), (0x8100, 3)]), Reason::NotIp),
        (change(|f| f.mac = 1), Reason::Group),
        (change(|f| f.mac = 0xff), Reason::Group),
        (change(|f| f.destination = [224, 0, 0, 1]), Reason::Group),
        (change(|f| f.destination = [239, 255, 255, 255]), Reason::Group),
        (change(|f| f.destination = [255; 4]), Reason::Group),
        (change(|f| f.destination = [240, 0, 0, 1]), Reason::OutOfScope),
        (change(|f| f.destination = [198, 51, 100, 9]), Reason::OutOfScope),
        (change(|f| f.destination = ROUTER), Reason::Local),
    ] {
        gateway.passes_untouched(&frame, reason);
    }
    // Hosts may send more than the interface does. Generic XDP sees what GRO has merged.
    gateway.passes_untouched(&Frame::udp(1501).bytes(), Reason::NoWorker);
    gateway.program.set_generic(true).unwrap();
    gateway.passes_untouched(&Frame::udp(1501).bytes(), Reason::SuperPacket);
    gateway.program.set_lan_mtu(9000).unwrap();
    gateway.passes_untouched(&Frame::udp(1501).bytes(), Reason::NoWorker);
}

#[test]
fn malformed_headers_pass_untouched() {
    if skipped("malformed_headers_pass_untouched") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let frame = Frame::udp(60).bytes();
    let poke = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[14 + at] = byte;
        frame
    };
    for (what, frame) in [
        ("version 6", poke(0, 0x65)),
        ("no IPv6 in spite of its ethertype", with(Frame::udp(60), |f| f.ethertype = 0x86dd).bytes()),
        ("header of 16 bytes", poke(0, 0x44)),
        ("total length below the header's", poke(3, 19)),
        ("total length beyond the frame", poke(3, 61)),
        ("header beyond the total length", poke(0, 0x4f).into_iter().take(14 + 60).collect::<Vec<_>>()),
        ("header cut short", frame[..14 + 19].to_vec()),
        ("tag cut short", with(Frame::udp(60), |f| f.tags = vec![(0x8100, 1)]).bytes()[..17].to_vec()),
        ("tag without packet", with(Frame::udp(60), |f| f.tags = vec![(0x8100, 1)]).bytes()[..18].to_vec()),
    ] {
        // A 60-byte header in a 60-byte packet is whole: shorten what it claims.
        let frame = if what.starts_with("header beyond") { with_total(frame, 59) } else { frame };
        let seen = gateway.send(&frame);
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::Malformed), "{what}");
        assert_eq!(seen.data, frame, "{what}");
    }
    // Ethernet padding is no part of the packet, and stays.
    let padded = with(Frame::udp(28), |f| f.padding = 18);
    assert_eq!(gateway.send(&padded.bytes()).data, with(padded, |f| f.frag_off = 0).bytes());
}

fn with_total(mut frame: Vec<u8>, total: u8) -> Vec<u8> {
    frame[14 + 3] = total;
    frame
}

#[test]
fn mss_is_lowered_at_any_offset_and_never_raised() {
    if skipped("mss_is_lowered_at_any_offset_and_never_raised") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let lowered = |frame: &Frame| {
        let seen = gateway.send(&frame.bytes());
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::Fits));
        let tcp = frame.l3() + 20;
        let out = with(frame.clone(), |f| f.payload = seen.data[tcp..].to_vec());
        assert_eq!(out.tcp_sum(), frame.tcp_sum(), "the sum is kept, right or wrong");
        (seen.edits.contains(&Edit::Mss), seen.data[tcp + 20..].to_vec())
    };
    for flags in [0x02, 0x12, 0xc2] {
        for nops in 0..=36usize {
            let mut options = vec![1; nops];
            options.extend(mss(1460));
            options.resize(options.len().next_multiple_of(4), 0);
            let (edited, out) = lowered(&Frame::tcp(flags, &options, 0));
            assert!(edited, "flags {flags:x}, {nops} NOPs");
            options[nops..nops + 4].copy_from_slice(&mss(MSS));
            assert_eq!(out, options);
        }
    }
    for (what, options) in [
        ("equal", mss(MSS).to_vec()),
        ("below", mss(536).to_vec()),
        ("behind the end of the list", [&[0, 1, 1, 1][..], &mss(1460)].concat()),
        ("zero length before it", [&[8, 0, 1, 1][..], &mss(1460)].concat()),
        ("length 1 before it", [&[8, 1, 1, 1][..], &mss(1460)].concat()),
        ("length beyond the list before it", [&[8, 40, 1, 1][..], &mss(1460)].concat()),
        ("length 3", vec![2, 3, 5, 0xb4]),
        ("length 6", vec![2, 6, 5, 0xb4, 5, 0xb4, 0, 0]),
        ("cut by the list's end", vec![1, 1, 2, 4]),
        ("no options", vec![]),
        ("before TCP-AO", [&mss(1460)[..], &AO].concat()),
        ("after TCP-AO", [&AO[..], &mss(1460)].concat()),
        ("on both sides of TCP-AO", [&mss(1460)[..], &[1], &AO, &mss(9000), &[1, 1, 1]].concat()),
        ("before the shortest TCP-AO", [&mss(1460)[..], &[29, 4, 1, 1]].concat()),
    ] {
        let (edited, out) = lowered(&Frame::tcp(0x02, &options, 4));
        assert!(!edited, "{what}");
        assert_eq!(out[..options.len()], options, "{what}");
    }
    let twice = [&mss(1460)[..], &[1], &mss(9000), &[0, 0, 0]].concat();
    let (_, out) = lowered(&Frame::tcp(0x02, &twice, 0));
    assert_eq!(out, [&mss(MSS)[..], &[1], &mss(MSS), &[0, 0, 0]].concat(), "each of several");
    let (_, out) = lowered(&Frame::tcp(0x02, &mss(1460).repeat(10), 0));
    assert_eq!(out, mss(MSS).repeat(10), "as many as there is room for");
    for (what, rest) in [
        ("TCP-MD5", [&MD5[..], &[1, 1]].concat()),
        ("TCP-AO after the end of the list", [&[0], &AO[..], &[0, 0, 0]].concat()),
        ("TCP-AO beyond the list", vec![29, 16, 1, 1]),
        ("TCP-AO too short", vec![29, 3, 1, 1]),
        ("TCP-AO in the data of another option", [&[254, 18][..], &AO, &[1, 1]].concat()),
        ("TCP-AO after a malformed option", [&[8, 1], &AO[..], &[1, 1]].concat()),
    ] {
        let (edited, out) = lowered(&Frame::tcp(0x02, &[&mss(1460)[..], &rest].concat(), 0));
        assert_eq!((edited, out), (true, [&mss(MSS)[..], &rest].concat()), "{what}");
    }

    let (edited, _) = lowered(&Frame::tcp(0x10, &mss(1460), 0));
    assert!(!edited, "no SYN");
    let (edited, _) = lowered(&with(Frame::tcp(0x02, &mss(1460), 0), |f| f.payload[17] ^= 1));
    assert!(edited, "a wrong checksum stays wrong");
    let (edited, _) = lowered(&with(Frame::tcp(0x02, &mss(1460), 0), |f| f.payload[12] = 0x70));
    assert!(!edited, "a data offset beyond the packet");
    let fragment = with(Frame::tcp(0x02, &mss(1460), 0), |f| f.frag_off = 1);
    gateway.passes_untouched(&fragment.bytes(), Reason::Fits);

    let rule = Rule::new(MTU, None, None);
    gateway.program.set_route("198.18.0.0/15".parse().unwrap(), Route::Tunnel(rule)).unwrap();
    let (edited, _) = lowered(&Frame::tcp(0x02, &mss(1460), 0));
    assert!(!edited, "--mss off");
}

#[test]
fn oversize_frames_need_a_live_worker() {
    if skipped("oversize_frames_need_a_live_worker") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { sticky: Duration::ZERO, ..CONFIG });
    let frame = Frame::udp(1423).bytes();
    let before = now_ns();
    let seen = gateway.send(&frame);
    assert_eq!((seen.action, seen.reason), (XDP_REDIRECT, Reason::Oversize));
    let (headroom, out) = seen.data.split_at(Meta::SIZE);
    let meta = Meta::before_frame(headroom).unwrap();
    assert_eq!(meta.rule, Rule::new(MTU, Some(MSS), None));
    assert!((before..=now_ns()).contains(&meta.rx_ns));
    assert!(out == frame && seen.edits.is_empty());

    gateway.beat(0);
    gateway.passes_untouched(&frame, Reason::NoWorker);
    gateway.beat(now_ns() + 1_000_000);
    assert_eq!(gateway.send(&frame).reason, Reason::Oversize, "a heartbeat from a core that is ahead");
    gateway.program.unregister_socket(0).unwrap();
    gateway.passes_untouched(&frame, Reason::NoWorker);
    gateway.program.unregister_socket(0).unwrap();
}

#[test]
fn a_worker_that_is_late_has_half_the_stall_time_from_the_first_frame_on_that_finds_it_so() {
    if skipped("a_worker_that_is_late_has_half_the_stall_time_from_the_first_frame_on_that_finds_it_so") {
        return;
    }
    let stall = Duration::from_secs(1);
    let gateway = Gateway::with_worker(LanConfig { stall, sticky: Duration::ZERO, ..CONFIG });
    let frame = Frame::udp(1423).bytes();
    for held_up in [2, 3] {
        // As after a pause of the whole machine: nobody ran, no frame came.
        gateway.beat(now_ns() - held_up * stall.as_nanos() as u64);
        assert_eq!(gateway.send(&frame).reason, Reason::Oversize);
        thread::sleep(stall);
        gateway.passes_untouched(&frame, Reason::NoWorker);
        gateway.passes_untouched(&frame, Reason::NoWorker);
    }
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&frame).reason, Reason::Oversize, "it goes on");
}

#[test]
fn an_oversize_packet_that_cannot_be_fragmented_passes_untouched() {
    if skipped("an_oversize_packet_that_cannot_be_fragmented_passes_untouched") {
        return;
    }
    let gateway = Gateway::with_worker(CONFIG);
    for (what, frame) in [
        ("options run past the header", with(Frame::udp(1490), |f| f.ip_options = vec![7, 5, 4, 0])),
        ("an option of no length", with(Frame::udp(1490), |f| f.ip_options = vec![1, 7, 0, 0])),
        ("an option without length", with(Frame::udp(1490), |f| f.ip_options = vec![1, 1, 1, 7])),
        ("beyond the largest datagram", with(Frame::udp(1500), |f| f.frag_off = 8005)),
        ("more to come, but no multiple of 8", with(Frame::udp(1499), |f| f.frag_off = MF)),
    ] {
        let seen = gateway.send(&frame.bytes());
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::Malformed), "{what}");
        assert!(seen.data == frame.bytes(), "{what}");
    }
    for frame in [
        with(Frame::udp(1490), |f| f.ip_options = vec![7, 4, 4, 0]),
        with(Frame::udp(1490), |f| f.ip_options = vec![1, 0, 7, 0]),
        with(Frame::udp(1460), |f| f.ip_options = [&[7, 39, 4][..], &[0; 36], &[1]].concat()),
        with(Frame::udp(1500), |f| f.frag_off = 8004),
        with(Frame::udp(1500), |f| f.frag_off = MF),
    ] {
        assert_eq!(gateway.send(&frame.bytes()).reason, Reason::Oversize, "{frame:?}");
    }
}

#[test]
fn every_queue_has_its_heartbeat() {
    if skipped("every_queue_has_its_heartbeat") {
        return;
    }
    let program = LanProgram::load(&LanConfig { queues: 3, ..CONFIG }, &IdentMap::new().unwrap()).unwrap();
    let heartbeats = program.heartbeats();
    let beats: Vec<_> = (0..3).map(|queue| heartbeats.of(queue).unwrap()).collect();
    assert!(heartbeats.of(3).is_none() && heartbeats.of(u32::MAX).is_none());
    // They outlive the program, for a worker that ends after it.
    drop(program);
    for (beat, ns) in beats.iter().zip(1..) {
        beat.beat(ns);
    }
    assert_eq!(beats.iter().map(|beat| beat.last()).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn redirect_all_sends_everything_in_scope() {
    if skipped("redirect_all_sends_everything_in_scope") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { redirect_all: true, lan_mtu: 9100, ..CONFIG });
    let seen = gateway.send(&Frame::udp(60).bytes());
    assert_eq!((seen.action, seen.reason, &seen.edits[..]), (XDP_REDIRECT, Reason::All, &[][..]));
    gateway.passes_untouched(&with(Frame::udp(60), |f| f.destination = ROUTER).bytes(), Reason::Local);
    assert_eq!(gateway.send(&Frame::udp(1500).bytes()).reason, Reason::Oversize);
    assert_eq!(gateway.send(&Frame::udp(60).bytes()).reason, Reason::All);
    let rule = Rule::new(9000, None, None);
    gateway.program.set_route("198.18.0.3/32".parse().unwrap(), Route::Tunnel(rule)).unwrap();
    let long = with(Frame::udp(8987), |f| f.destination = [198, 18, 0, 3]);
    assert_eq!(gateway.send(&long.bytes()).reason, Reason::Fits, "too long for a worker, but it needs none");
    gateway.beat(0);
    assert_eq!(gateway.send(&Frame::udp(60).bytes()).reason, Reason::Fits, "edited by the program itself");
}

#[test]
fn df_modes() {
    if skipped("df_modes") {
        return;
    }
    let oversize = Gateway::without_worker(LanConfig { df: Df::Oversize, ..CONFIG });
    oversize.passes_untouched(&Frame::udp(100).bytes(), Reason::Fits);
    oversize.passes_untouched(&Frame::udp(1500).bytes(), Reason::NoWorker);

    let keep = Gateway::with_worker(LanConfig { df: Df::Keep, ..CONFIG });
    keep.passes_untouched(&Frame::udp(100).bytes(), Reason::Fits);
    keep.passes_untouched(&Frame::udp(1500).bytes(), Reason::DfKept);
    let plain = with(Frame::udp(1500), |f| f.frag_off = 0);
    assert_eq!(keep.send(&plain.bytes()).reason, Reason::Oversize);

    let cut = Gateway::with_worker(LanConfig { df: Df::Keep, resegment: true, ..CONFIG });
    let segment = Frame::tcp(0x10, &[], 1460);
    assert_eq!(cut.send(&segment.bytes()).reason, Reason::Oversize, "several segments, DF kept");
    cut.passes_untouched(&Frame::udp(1500).bytes(), Reason::DfKept);
    let part = with(segment, |f| f.frag_off = DF | 185);
    cut.passes_untouched(&part.bytes(), Reason::DfKept);
}

#[test]
fn jumbo_frames_in_several_buffers() {
    if skipped("jumbo_frames_in_several_buffers") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { lan_mtu: 9100, sticky: Duration::ZERO, ..CONFIG });
    let frame = Frame::udp(8986).bytes();
    let seen = gateway.send(&frame);
    assert_eq!((seen.action, seen.reason), (XDP_REDIRECT, Reason::Oversize));
    assert!(seen.data[Meta::SIZE..] == frame);
    gateway.passes_untouched(&Frame::udp(8987).bytes(), Reason::TooLong);
    let rule = Rule::new(9000, None, None);
    gateway.program.set_route("198.18.0.2/32".parse().unwrap(), Route::Tunnel(rule)).unwrap();
    let fits = with(Frame::udp(8987), |f| f.frag_off = 0).bytes();
    assert!(gateway.program.run_once(&Frame::udp(8987).bytes()).unwrap().data == fits, "longest prefix");
}

#[test]
fn a_syn_with_an_unfinished_checksum_is_the_workers() {
    if skipped("a_syn_with_an_unfinished_checksum_is_the_workers") {
        return;
    }
    let gateway = Gateway::with_worker(CONFIG);
    let unfinished = |options: &[u8]| {
        with(Frame::tcp(0x02, options, 0), |f| {
            let sum = f.pseudo_sum();
            f.payload[16..18].copy_from_slice(&sum.to_be_bytes());
        })
    };
    let frame = unfinished(&mss(1460)).bytes();
    let seen = gateway.send(&frame);
    assert_eq!((seen.action, seen.reason, &seen.edits[..]), (XDP_REDIRECT, Reason::Unfinished, &[][..]));
    assert!(seen.data[Meta::SIZE..] == frame);
    assert_eq!(gateway.send(&unfinished(&mss(1200)).bytes()).reason, Reason::Fits, "nothing to clamp");
    let signed = unfinished(&[&mss(1460)[..], &AO].concat());
    assert_eq!(gateway.send(&signed.bytes()).reason, Reason::Fits, "TCP-AO: nothing to clamp");
    gateway.beat(0);
    gateway.passes_untouched(&frame, Reason::NoWorker);
}

#[test]
fn routes_can_be_listed_and_removed() {
    if skipped("routes_can_be_listed_and_removed") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let scope = "198.18.0.0/15".parse().unwrap();
    let mut routes = gateway.program.routes().unwrap();
    routes.retain(|(prefix, _)| prefix.addr().is_ipv4());
    routes.sort_by_key(|(prefix, _)| *prefix);
    let rule = Rule::new(MTU, Some(MSS), None);
    assert_eq!(routes, [(scope, Route::Tunnel(rule)), ("198.18.0.1/32".parse().unwrap(), Route::Local)]);
    gateway.program.remove_route(scope).unwrap();
    gateway.passes_untouched(&Frame::udp(100).bytes(), Reason::OutOfScope);
    let error = gateway.program.remove_route(scope).unwrap_err().to_string();
    assert!(error.contains("routes") && error.contains("198.18.0.0/15"), "{error}");
}
