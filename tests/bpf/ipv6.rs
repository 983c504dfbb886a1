//! IPv6 through the XDP program: every reason and edit.

use std::time::Duration;

use nix::net::if_::if_nametoindex;
use xdpfrag::config::Mode;
use xdpfrag::packet::{Df, Edit, Reason, Rule};
use xdpfrag::xdp::{LanConfig, Meta, Route};

use crate::frames::mss;
use crate::frames6::*;
use crate::gateway::*;

const RESEGMENT: LanConfig = LanConfig { resegment: true, ..CONFIG };

fn to(destination: &str) -> Vec<u8> {
    let destination: std::net::Ipv6Addr = destination.parse().unwrap();
    with6(Frame6::udp(100), |f| f.destination = destination.octets()).bytes()
}

#[test]
fn scope_and_local_addresses_are_those_of_routes6() {
    if skipped("scope_and_local_addresses_are_those_of_routes6") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let set = |prefix: &str, route| gateway.program.set_route(prefix.parse().unwrap(), route).unwrap();
    set("fe80::1/128", Route::Local);
    for (destination, reason) in [
        ("2001:db8:f::2", Reason::Fits),
        ("2001:db8:f::1", Reason::Local),
        ("2001:db8:e:ffff::2", Reason::OutOfScope),
        ("fe80::1", Reason::Local),
        ("fe80::2", Reason::OutOfScope),
        ("ff02::1", Reason::Group),
        ("ff0e::1:2", Reason::Group),
    ] {
        gateway.passes_untouched(&to(destination), reason);
    }
    for mac in [1, 0x33, 0xff] {
        let frame = with6(Frame6::udp(100), |f| f.mac = mac);
        gateway.passes_untouched(&frame.bytes(), Reason::Group);
    }
    let rule = Rule::new(1300, None, None);
    set("::/0", Route::Tunnel(rule));
    gateway.passes_untouched(&to("2001:db8:e::2"), Reason::Fits);
    gateway.passes_untouched(&to("fe80::2"), Reason::OutOfScope);
    gateway.passes_untouched(&to("febf::2"), Reason::OutOfScope);
    gateway.passes_untouched(&to("fec0::2"), Reason::Fits);
    let long = |host| with6(Frame6::udp(1400), |f| f.destination = host).bytes();
    gateway.passes_untouched(&long(FAR_HOST6), Reason::Fits);
    set("2001:db8:f::2/128", Route::Tunnel(rule));
    gateway.passes_untouched(&long(FAR_HOST6), Reason::Ipv6TooBig);
    gateway.passes_untouched(&long(ROUTER6), Reason::Local);

    let mut routes = gateway.program.routes().unwrap();
    routes.retain(|(prefix, _)| prefix.prefix_len() == 128);
    assert_eq!(routes.len(), 3, "{routes:?}");
    gateway.program.remove_route("2001:db8:f::2/128".parse().unwrap()).unwrap();
    gateway.passes_untouched(&long(FAR_HOST6), Reason::Fits);
    let error = gateway.program.remove_route("2001:db8:f::2/128".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("routes6") && error.contains("2001:db8:f::2/128"), "{error}");
}

#[test]
fn malformed_ipv6_passes_untouched() {
    if skipped("malformed_ipv6_passes_untouched") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let frame = Frame6::udp(60).bytes();
    let poke = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[14 + at] = byte;
        frame
    };
    for (what, frame) in [
        ("version 4", poke(0, 0x40)),
        ("jumbogram, or nothing in it", poke(5, 0)),
        ("longer than the frame", poke(5, 21)),
        ("header cut short", frame[..14 + 39].to_vec()),
    ] {
        let seen = gateway.send(&frame);
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::Malformed), "{what}");
        assert!(seen.data == frame, "{what}");
    }
    gateway.passes_untouched(&with6(Frame6::udp(60), |f| f.padding = 4).bytes(), Reason::Fits);
    gateway.passes_untouched(&Frame6::udp(1501).bytes(), Reason::Ipv6TooBig);
}

#[test]
fn the_mss_is_lowered_behind_extension_headers() {
    if skipped("the_mss_is_lowered_behind_extension_headers") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let lowered = |frame: &Frame6| {
        let seen = gateway.send(&frame.bytes());
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::Fits));
        let l4 = frame.l4();
        assert_eq!(seen.data[..l4], frame.bytes()[..l4], "only TCP is touched");
        let out = with6(frame.clone(), |f| f.payload = seen.data[l4..].to_vec());
        assert_eq!(out.tcp_sum(), frame.tcp_sum(), "the sum is kept, right or wrong");
        let edited = seen.edits.contains(&Edit::Mss);
        assert_eq!(edited, out.payload != frame.payload);
        (edited, seen.data[l4 + 20..].to_vec())
    };
    let syn = |nops: usize| {
        let mut options = vec![1; nops];
        options.extend(mss(1440));
        options.resize(options.len().next_multiple_of(4), 0);
        Frame6::tcp(0x02, &options, 0)
    };
    let chains = [
        vec![],
        vec![extension(HOP_BY_HOP, 8)],
        vec![extension(DESTINATION, 8), extension(ROUTING, 24), extension(DESTINATION, 256)],
        vec![fragment(1)],
        vec![extension(HOP_BY_HOP, 8), fragment(0)],
        vec![extension(DESTINATION, 8); 6],
    ];
    for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 7), (0x8100, 5)]] {
        for chain in &chains {
            for nops in 0..=36 {
                let frame = with6(syn(nops), |f| {
                    (f.tags, f.extensions) = (tags.to_vec(), chain.clone());
                });
                let (edited, out) = lowered(&frame);
                assert!(edited, "{nops} NOPs, {chain:?}");
                assert_eq!(out[nops..nops + 4], mss(MSS6));
            }
        }
    }
    let mut beyond = with6(syn(0), |f| f.extensions = vec![extension(DESTINATION, 8)]).bytes();
    beyond[14 + 40 + 1] = 200;
    gateway.passes_untouched(&beyond, Reason::Fits);
    for (what, frame) in [
        ("seven extension headers", with6(syn(0), |f| f.extensions = vec![extension(DESTINATION, 8); 7])),
        ("a later fragment", with6(syn(0), |f| f.extensions = vec![fragment(8)])),
        (
            "behind an authentication header",
            with6(syn(0), |f| f.extensions = vec![(AUTHENTICATION, vec![0, 4, 0, 0, 0, 0, 0, 0])]),
        ),
        ("not TCP", with6(syn(0), |f| f.protocol = 17)),
        ("no SYN", with6(syn(0), |f| f.payload[13] = 0x10)),
        ("a data offset beyond the packet", with6(syn(0), |f| f.payload[12] = 0x70)),
        ("a TCP header cut short", with6(syn(0), |f| f.payload.truncate(19))),
        ("an MSS that fits", Frame6::tcp(0x12, &mss(MSS6), 0)),
    ] {
        let seen = gateway.send(&frame.bytes());
        assert_eq!((seen.reason, &seen.edits[..]), (Reason::Fits, &[][..]), "{what}");
        assert!(seen.data == frame.bytes(), "{what}");
    }
    let (edited, _) = lowered(&with6(syn(0), |f| f.payload[17] ^= 1));
    assert!(edited, "a wrong checksum stays wrong");
}

#[test]
fn oversize_ipv6_is_the_kernels() {
    if skipped("oversize_ipv6_is_the_kernels") {
        return;
    }
    let gateway = Gateway::with_worker(CONFIG);
    gateway.passes_untouched(&Frame6::udp(1423).bytes(), Reason::Ipv6TooBig);
    gateway.passes_untouched(&Frame6::tcp(0x10, &[], 1400).bytes(), Reason::Ipv6TooBig);
    gateway.passes_untouched(&Frame6::udp(1422).bytes(), Reason::Fits);
}

#[test]
fn oversize_segments_go_to_the_worker_and_their_flow_follows() {
    if skipped("oversize_segments_go_to_the_worker_and_their_flow_follows") {
        return;
    }
    let gateway = Gateway::with_worker(RESEGMENT);
    let reason = |frame: &Frame6| {
        gateway.beat(now_ns());
        gateway.send(&frame.bytes()).reason
    };
    let small = Frame6::tcp(0x10, &[], 100);
    let large = Frame6::tcp(0x18, &[], 1363);
    assert_eq!(reason(&Frame6::tcp(0x18, &[], 1362)), Reason::Fits);
    assert_eq!(reason(&small), Reason::Fits);
    let seen = gateway.send(&large.bytes());
    assert_eq!((seen.action, seen.reason), (XDP_REDIRECT, Reason::Oversize));
    let (headroom, out) = seen.data.split_at(Meta::SIZE);
    let rule = Rule::new(MTU, None, Some(MSS6));
    assert_eq!(Meta::before_frame(headroom).unwrap().rule, rule);
    assert!(out == large.bytes());
    assert_eq!(reason(&small), Reason::Sticky);
    let other = with6(small.clone(), |f| f.payload[3] ^= 1);
    assert_eq!(reason(&other), Reason::Fits, "another port is another flow");
    let other = with6(small.clone(), |f| f.source[15] = 3);
    assert_eq!(reason(&other), Reason::Fits, "another address is another flow");
    for (what, frame) in [
        ("not TCP", Frame6::udp(1500)),
        ("part of a segment", with6(large.clone(), |f| f.extensions = vec![fragment(1)])),
        ("an atomic fragment", with6(large.clone(), |f| f.extensions = vec![fragment(0)])),
        ("TCP header cut off", with6(large.clone(), |f| f.extensions = vec![extension(DESTINATION, 1440)])),
    ] {
        let frame = if what.starts_with("TCP") { with6(frame, |f| f.payload.truncate(19)) } else { frame };
        assert_eq!(reason(&frame), Reason::Ipv6TooBig, "{what}");
    }
    let behind = with6(large.clone(), |f| f.extensions = vec![extension(HOP_BY_HOP, 16)]);
    assert_eq!(reason(&behind), Reason::Oversize);
    gateway.beat(0);
    gateway.passes_untouched(&large.bytes(), Reason::NoWorker);
}

#[test]
fn what_may_come_back_whole_must_fit_the_hand_back() {
    if skipped("what_may_come_back_whole_must_fit_the_hand_back") {
        return;
    }
    let limits = xdpfrag::xdp::FrameLimits { receive: MAX_FRAME, whole: 3000 };
    let gateway = Gateway::with_worker(LanConfig { lan_mtu: 9100, ..RESEGMENT });
    gateway.program.set_limits(limits).unwrap();
    assert_eq!(gateway.send(&Frame6::tcp(0x10, &[], 2000).bytes()).reason, Reason::Oversize);
    gateway.passes_untouched(&Frame6::tcp(0x10, &[], 3000).bytes(), Reason::TooLong);
    // IPv4 is fragmented if need be.
    assert_eq!(gateway.send(&crate::frames::Frame::tcp(0x10, &[], 3000).bytes()).reason, Reason::Oversize);
}

#[test]
fn in_generic_mode_nothing_is_redirected_that_could_come_again() {
    if skipped("in_generic_mode_nothing_is_redirected_that_could_come_again") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { df: Df::Keep, ..RESEGMENT });
    let six = Frame6::tcp(0x10, &[], 1400).bytes();
    let four = crate::frames::Frame::tcp(0x10, &[], 1400).bytes();
    assert_eq!(gateway.send(&six).reason, Reason::Oversize);
    assert_eq!(gateway.send(&four).reason, Reason::Oversize);
    let _attached = gateway.program.attach(if_nametoindex("lo").unwrap(), Mode::Generic).unwrap();
    gateway.beat(now_ns());
    gateway.passes_untouched(&six, Reason::Ipv6TooBig);
    gateway.passes_untouched(&four, Reason::DfKept);
}

#[test]
fn redirect_all_is_for_ipv6_too() {
    if skipped("redirect_all_is_for_ipv6_too") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { redirect_all: true, sticky: Duration::ZERO, ..CONFIG });
    let seen = gateway.send(&Frame6::udp(60).bytes());
    assert_eq!((seen.action, seen.reason, &seen.edits[..]), (XDP_REDIRECT, Reason::All, &[][..]));
    gateway.passes_untouched(&with6(Frame6::udp(60), |f| f.destination = ROUTER6).bytes(), Reason::Local);
    gateway.passes_untouched(&Frame6::udp(1500).bytes(), Reason::Ipv6TooBig);
}

#[test]
fn an_ipv6_syn_with_an_unfinished_checksum_is_the_workers() {
    if skipped("an_ipv6_syn_with_an_unfinished_checksum_is_the_workers") {
        return;
    }
    let gateway = Gateway::with_worker(CONFIG);
    for extensions in [vec![], vec![extension(DESTINATION, 16)]] {
        let unfinished = |options: &[u8]| {
            with6(Frame6::tcp(0x02, options, 0), |f| {
                let sum = f.pseudo_sum();
                f.payload[16..18].copy_from_slice(&sum.to_be_bytes());
                f.extensions = extensions.clone();
            })
        };
        let frame = unfinished(&mss(1440)).bytes();
        gateway.beat(now_ns());
        let seen = gateway.send(&frame);
        assert_eq!((seen.action, seen.reason, &seen.edits[..]), (XDP_REDIRECT, Reason::Unfinished, &[][..]));
        assert!(seen.data[Meta::SIZE..] == frame);
        assert_eq!(gateway.send(&unfinished(&mss(1200)).bytes()).reason, Reason::Fits, "nothing to clamp");
        gateway.beat(0);
        gateway.passes_untouched(&frame, Reason::NoWorker);
    }
}
