//! The program behind GRO, on packets that stayed alone: what it makes of them is what a worker would.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use xdpfrag::packet::{Df, Idents, Late, Partition, Reason, Rule, Sink, Tcp, Transform};
use xdpfrag::xdp::{Came, LanConfig, LateConfig, LateProgram, Leave, Route};

use crate::frames::{Frame, mss, with};
use crate::frames6::Frame6;
use crate::gateway::*;

/// TC_ACT_UNSPEC
pub(crate) const UNSPEC: u32 = u32::MAX;
/// TC_ACT_REDIRECT
pub(crate) const REDIRECT: u32 = 7;
const RULE: Rule = Rule::new(MTU, Some(MSS), Some(MSS6));
/// As long as a time stamp, with its padding.
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// TCP-AO with a code of 8 bytes: as long as a time stamp.
const AUTHENTICATED: [u8; 12] = [29, 12, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9];

/// Tells the program's own packets.
const TOKEN: u64 = 0x0123_4567_89ab_cdef;
const SEGMENTS: Leave = Leave { tcp: true, ..Leave::NOTHING };

/// A gateway, the program behind GRO on the loopback of a private namespace, and the workers' identifications.
pub(crate) struct Behind {
    pub(crate) gateway: Gateway,
    pub(crate) program: LateProgram,
    pub(crate) idents: Arc<Idents>,
}

fn late(change: impl FnOnce(&mut LateConfig)) -> Behind {
    private_netns();
    behind(Gateway::without_worker(LanConfig { resegment: true, ..CONFIG }), change)
}

/// In the namespace of `gateway`.
pub(crate) fn behind(gateway: Gateway, change: impl FnOnce(&mut LateConfig)) -> Behind {
    let idents = Arc::new(Idents::shared(Partition::new(2, 3).unwrap(), Arc::clone(&gateway.idents) as _));
    let mut config = LateConfig {
        ifindex: if_nametoindex("lo").unwrap(),
        leave: SEGMENTS,
        seed: idents.seed(),
        partition: idents.partition(),
        token: TOKEN,
        deaf_only: false,
        df: Df::Clear,
    };
    change(&mut config);
    let program = LateProgram::load(config, &gateway.program).unwrap();
    Behind { gateway, program, idents }
}

/// What loopback receives: the first piece.
fn wire() -> OwnedFd {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
        .expect("a packet socket")
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
fn by_worker(frame: &[u8], idents: &Arc<Idents>, reason: Reason) -> Vec<Vec<u8>> {
    let transform = Transform { df: Df::Clear, tcp: Tcp::Resegment, idents: Arc::clone(idents) };
    let mut outputs = Outputs::default();
    let outcome = transform.apply(frame, RULE, &mut outputs);
    assert_eq!(outcome.verdict.reason(), reason);
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
    let Behind { gateway: _gateway, program, idents } = late(|_| ());
    let (wire, mut buffer) = (wire(), [0; 4096]);
    let mut cuts = 0;
    for (options, flags) in
        [(&[][..], 0x010), (&TIMESTAMP, 0x018), (&TIMESTAMP, 0x099), (&[], 0x0d9), (&[], 0x190), (&[], 0x1d8)]
    {
        let headers = 20 + options.len();
        for total in [1423, 1424, 1425, 1460, 1499, 1500, 2000, 2001, 2 * 1422 - 20 - headers] {
            let data = total - 20 - headers;
            let mut v4 = Frame::tcp(flags as u8, options, data);
            let mut v6 = Frame6::tcp(flags as u8, options, data.min(2 * (1382 - headers)));
            // AE, which makes CWR a part of a counter, stands beside the data offset.
            v4.payload[12] |= (flags >> 8) as u8;
            v6.payload[12] |= (flags >> 8) as u8;
            v4.finish_tcp();
            v6.finish_tcp();
            let padded = with(v4.clone(), |f| f.padding = 5);
            for frame in [v4.bytes(), padded.bytes(), v6.bytes()] {
                let run = program.run_once(&frame, Came::default()).unwrap();
                let len = recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("the first half");
                let expected = by_worker(&frame, &idents, Reason::Resegmented);
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
    let Behind { gateway, program, .. } = late(|_| ());
    let untouched = |frame: &Frame| {
        let run = program.run_once(&frame.bytes(), Came::default()).unwrap();
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
    untouched(&with(segment.clone(), |f| f.destination = [192, 0, 2, 1]));
    // Datagrams are the workers', if they are not edited.
    untouched(&Frame::udp(1422));
    untouched(&Frame::udp(1500));
    assert_eq!(count(&program, Late::Refused), 0);
    // Into three.
    let narrow = Rule { mtu: 600, ..RULE };
    gateway.program.set_route("198.18.0.0/15".parse().unwrap(), Route::Tunnel(narrow)).unwrap();
    untouched(&segment);
    assert_eq!((count(&program, Late::Refused), count(&program, Late::Cut)), (1, 0));
    drop(gateway);
    let refuses = |what: &str, frame: &Frame, change: &dyn Fn(&mut LateConfig)| {
        let behind = late(change);
        let run = behind.program.run_once(&frame.bytes(), Came::default()).unwrap();
        assert_eq!((run.action, run.data == frame.bytes()), (UNSPEC, true), "{what}");
    };
    refuses("a segment of a host not known to be deaf", &segment, &|c| c.deaf_only = true);
    refuses("TCP is the workers'", &segment, &|c| c.leave.tcp = false);
}

#[test]
fn the_xdp_program_leaves_to_gro_just_what_can_be_cut_behind_it() {
    if skipped("the_xdp_program_leaves_to_gro_just_what_can_be_cut_behind_it") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { resegment: true, sticky: Duration::ZERO, ..CONFIG });
    gateway.program.set_late(Leave { tcp: true, ..Leave::NOTHING }).unwrap();
    gateway.program.set_lan_mtu(9000).unwrap();
    let segment = Frame::tcp(0x10, &TIMESTAMP, 1448);
    gateway.passes_uncounted(&segment.bytes());
    gateway.passes_uncounted(&with(segment.clone(), |f| f.tags = vec![(0x8100, 5)]).bytes());
    gateway.passes_uncounted(&Frame::tcp(0x10, &[], 2 * 1382).bytes());
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
    gateway.passes_uncounted(&segment.bytes());
    gateway.program.set_late(Leave::NOTHING).unwrap();
    gateway.passes_untouched(&segment.bytes(), Reason::NoWorker);
}

#[test]
fn a_flow_that_a_worker_serves_stays_with_it() {
    if skipped("a_flow_that_a_worker_serves_stays_with_it") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { resegment: true, ..CONFIG });
    gateway.program.set_late(SEGMENTS).unwrap();
    let segment = Frame::tcp(0x10, &[], 1460).bytes();
    gateway.passes_uncounted(&segment);
    assert_eq!(gateway.send(&Frame::tcp(0x30, &[], 1460).bytes()).reason, Reason::Oversize);
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&segment).reason, Reason::Oversize, "after the one before it");
}
