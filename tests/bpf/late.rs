//! The program behind GRO, on segments that stayed alone: what it makes of them is what a worker would.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use xdpfrag::packet::{Df, Idents, Late, Reason, Rule, Sink, Tcp, Transform};
use xdpfrag::xdp::{LanConfig, LateConfig, LateProgram, Route};

use crate::frames::{Frame, mss, with};
use crate::frames6::Frame6;
use crate::gateway::*;

const UNSPEC: u32 = u32::MAX;
/// TC_ACT_REDIRECT
const REDIRECT: u32 = 7;
const RULE: Rule = Rule { mtu: MTU, mss4: Some(MSS), mss6: Some(MSS6) };
/// As long as a time stamp, with its padding.
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// TCP-AO with a code of 8 bytes: as long as a time stamp.
const AUTHENTICATED: [u8; 12] = [29, 12, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9];

/// The gateway and the program behind GRO on the loopback of a private namespace.
fn late(deaf_only: bool) -> (Gateway, LateProgram) {
    private_netns();
    let gateway = Gateway::without_worker(LanConfig { resegment: true, ..CONFIG });
    let config = LateConfig {
        ifindex: if_nametoindex("lo").unwrap(),
        sticky: Duration::from_millis(200),
        flow_seed: 1,
        token: 0x0123_4567_89ab_cdef,
        deaf_only,
    };
    let program = LateProgram::load(config, &gateway.program).unwrap();
    (gateway, program)
}

#[derive(Default)]
struct Outputs(Vec<Vec<u8>>);

impl Sink for Outputs {
    fn reserve(&mut self, _frames: usize, _len: usize) -> bool {
        true
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        self.0.push(vec![0; len]);
        self.0.last_mut().unwrap()
    }
}

/// What a worker makes of `frame`.
fn by_worker(frame: &[u8]) -> Vec<Vec<u8>> {
    let transform = Transform { df: Df::Clear, tcp: Tcp::Resegment, idents: Arc::new(Idents::with_seed(1)) };
    let mut outputs = Outputs::default();
    let outcome = transform.apply(frame, RULE, &mut outputs);
    assert_eq!(outcome.verdict.reason(), Reason::Resegmented);
    outputs.0
}

fn count(program: &LateProgram, late: Late) -> u64 {
    program.counters().unwrap()[late as usize]
}

#[test]
fn a_segment_that_stayed_alone_is_cut_as_a_worker_cuts_it() {
    if skipped("a_segment_that_stayed_alone_is_cut_as_a_worker_cuts_it")
        || without_tcx("a_segment_that_stayed_alone_is_cut_as_a_worker_cuts_it")
    {
        return;
    }
    let (_gateway, program) = late(false);
    // What the loopback receives: the first half.
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
        .expect("a packet socket");
    let mut buffer = [0; 4096];
    let mut cuts = 0;
    for (options, flags) in [(&[][..], 0x10), (&TIMESTAMP, 0x18), (&TIMESTAMP, 0x99), (&[], 0xd9)] {
        let headers = 20 + options.len();
        for total in [1423, 1424, 1425, 1460, 1499, 1500, 2000, 2001, 2 * 1422 - 20 - headers] {
            let v4 = Frame::tcp(flags, options, total - 20 - headers).bytes();
            let padded = with(Frame::tcp(flags, options, total - 20 - headers), |f| f.padding = 5).bytes();
            let mut v6 = Frame6::tcp(flags, options, (total - 20 - headers).min(2 * (1382 - headers)));
            v6.finish_tcp();
            for frame in [v4, padded, v6.bytes()] {
                let run = program.run_once(&frame).unwrap();
                let len = recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("the first half");
                let expected = by_worker(&frame);
                assert_eq!(expected.len(), 2);
                assert!(buffer[..len] == expected[0], "{total} first");
                assert!(run.data == expected[1], "{total} second\n{:02x?}\n{:02x?}", run.data, expected[1]);
                assert_eq!(run.action, REDIRECT);
                cuts += 1;
            }
        }
    }
    assert_eq!(count(&program, Late::Cut), cuts);
    // They have come back by way of the backlog, but were told from new ones.
    assert_eq!((count(&program, Late::Lost), count(&program, Late::Refused)), (0, 0));
}

#[test]
fn what_a_worker_would_not_cut_is_left_alone() {
    if skipped("what_a_worker_would_not_cut_is_left_alone")
        || without_tcx("what_a_worker_would_not_cut_is_left_alone")
    {
        return;
    }
    let (gateway, program) = late(false);
    let untouched = |frame: &Frame| {
        let run = program.run_once(&frame.bytes()).unwrap();
        assert_eq!(run.action, UNSPEC, "{frame:?}");
        assert!(run.data == frame.bytes(), "{frame:?}");
    };
    let segment = Frame::tcp(0x10, &[], 1460);
    untouched(&with(segment.clone(), |f| f.payload[17] ^= 1));
    assert_eq!(count(&program, Late::Checksum), 1);
    for flags in [0x02, 0x12, 0x14, 0x30] {
        untouched(&Frame::tcp(flags, &[], 1460));
    }
    // TCP-MD5 is 18 bytes long.
    untouched(&Frame::tcp(0x10, &[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], 1440));
    // TCP-AO with a short code fits where a time stamp would.
    untouched(&Frame::tcp(0x10, &AUTHENTICATED, 1448));
    untouched(&Frame::tcp(0x02, &mss(1460), 0));
    untouched(&Frame::tcp(0x10, &[], 1382));
    untouched(&Frame::udp(1500));
    untouched(&with(segment.clone(), |f| f.frag_off = 0x2000));
    untouched(&with(segment.clone(), |f| f.destination = [192, 0, 2, 1]));
    // Into three.
    let narrow = Rule { mtu: 600, ..RULE };
    gateway.program.set_route("198.18.0.0/15".parse().unwrap(), Route::Tunnel(narrow)).unwrap();
    untouched(&segment);
    assert_eq!(count(&program, Late::Refused), 1);
    assert_eq!(count(&program, Late::Cut), 0);
    drop(gateway);
    let (_gateway, program) = late(true);
    let run = program.run_once(&segment.bytes()).unwrap();
    assert_eq!((run.action, run.data == segment.bytes()), (UNSPEC, true), "a host not known to be deaf");
}

#[test]
fn the_xdp_program_leaves_to_gro_just_what_can_be_cut_behind_it() {
    if skipped("the_xdp_program_leaves_to_gro_just_what_can_be_cut_behind_it") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { resegment: true, sticky: Duration::ZERO, ..CONFIG });
    gateway.program.set_late(true).unwrap();
    gateway.program.set_lan_mtu(9000).unwrap();
    let segment = Frame::tcp(0x10, &TIMESTAMP, 1448);
    gateway.passes_untouched(&segment.bytes(), Reason::Late);
    gateway.passes_untouched(&with(segment.clone(), |f| f.tags = vec![(0x8100, 5)]).bytes(), Reason::Late);
    gateway.passes_untouched(&Frame::tcp(0x10, &[], 2 * 1382).bytes(), Reason::Late);
    for other in [
        Frame::udp(1500),
        Frame::tcp(0x10, &[], 2 * 1382 + 1),
        Frame::tcp(0x30, &[], 1460),
        Frame::tcp(0x10, &[1; 16], 1444),
        Frame::tcp(0x10, &AUTHENTICATED, 1448),
        with(segment.clone(), |f| f.tags = vec![(0x88a8, 7), (0x8100, 5)]),
        with(segment.clone(), |f| f.ip_options = vec![1, 1, 1, 1]),
        with(segment.clone(), |f| f.frag_off = 0x2000),
    ] {
        let seen = gateway.send(&other.bytes());
        assert_eq!((seen.action, seen.reason), (XDP_REDIRECT, Reason::Oversize), "{other:?}");
    }
    // A worker is not needed.
    gateway.beat(0);
    gateway.passes_untouched(&segment.bytes(), Reason::Late);
    gateway.program.set_late(false).unwrap();
    gateway.passes_untouched(&segment.bytes(), Reason::NoWorker);
}

#[test]
fn a_flow_that_a_worker_serves_stays_with_it() {
    if skipped("a_flow_that_a_worker_serves_stays_with_it") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { resegment: true, ..CONFIG });
    gateway.program.set_late(true).unwrap();
    let segment = Frame::tcp(0x10, &[], 1460).bytes();
    gateway.passes_untouched(&segment, Reason::Late);
    assert_eq!(gateway.send(&Frame::tcp(0x30, &[], 1460).bytes()).reason, Reason::Oversize);
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&segment).reason, Reason::Oversize, "behind the one before it");
}
