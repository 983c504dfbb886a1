//! The program behind GRO, on packets that stayed alone: what it makes of them is what a worker would.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use xdpfrag::packet::{Df, Idents, Late, Partition, Reason, Rule, Sink, Tcp, Transform, checksum};
use xdpfrag::xdp::{Came, IdentMap, LanConfig, LateConfig, LateProgram, Leave, Route};

use crate::frames::{DF, Frame, MF, mss, with};
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
const BOTH: Leave = Leave { tcp: true, datagrams: true, fitting: false };

/// A gateway, the program behind GRO on the loopback of a private namespace, and the workers' identifications.
pub(crate) struct Behind {
    pub(crate) gateway: Gateway,
    pub(crate) program: LateProgram,
    idents: Arc<Idents>,
}

/// What is shorter than 600 bytes is certain to fit.
fn late(change: impl FnOnce(&mut LateConfig)) -> Behind {
    private_netns();
    let behind = behind(Gateway::without_worker(LanConfig { resegment: true, ..CONFIG }), change);
    behind.gateway.program.set_least_mtu(600).unwrap();
    behind
}

/// In the namespace of `gateway`.
pub(crate) fn behind(gateway: Gateway, change: impl FnOnce(&mut LateConfig)) -> Behind {
    let map = Arc::new(IdentMap::new().unwrap());
    let idents = Arc::new(Idents::shared(Partition::new(2, 3).unwrap(), Arc::clone(&map) as _));
    let mut config = LateConfig {
        ifindex: if_nametoindex("lo").unwrap(),
        leave: BOTH,
        seed: idents.seed(),
        partition: idents.partition(),
        token: TOKEN,
        deaf_only: false,
        df: Df::Clear,
        sticky: Duration::from_millis(200),
        grace: Duration::from_millis(10),
    };
    change(&mut config);
    let program = LateProgram::load(config, &gateway.program, &map).unwrap();
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

fn ident(frame: &[u8], l3: usize) -> u16 {
    u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]])
}

/// `frame` with another identification.
fn with_ident(mut frame: Vec<u8>, l3: usize, ident: u16) -> Vec<u8> {
    frame[l3 + 4..l3 + 6].copy_from_slice(&ident.to_be_bytes());
    frame[l3 + 10..l3 + 12].fill(0);
    let sum = !checksum::sum(&frame[l3..l3 + 20]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    frame
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
    for (options, flags) in [(&[][..], 0x10), (&TIMESTAMP, 0x18), (&TIMESTAMP, 0x99), (&[], 0xd9)] {
        let headers = 20 + options.len();
        for total in [1423, 1424, 1425, 1460, 1499, 1500, 2000, 2001, 2 * 1422 - 20 - headers] {
            let v4 = Frame::tcp(flags, options, total - 20 - headers).bytes();
            let padded = with(Frame::tcp(flags, options, total - 20 - headers), |f| f.padding = 5).bytes();
            let mut v6 = Frame6::tcp(flags, options, (total - 20 - headers).min(2 * (1382 - headers)));
            v6.finish_tcp();
            for frame in [v4, padded, v6.bytes()] {
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
    for datagram in [
        Frame::udp(1422),
        with(Frame::udp(1500), |f| f.destination = [192, 0, 2, 1]),
        with(Frame::udp(1500), |f| f.ip_options = vec![1, 1, 1, 1]),
        Frame::udp(1400 + 1422 + 1),
    ] {
        untouched(&datagram);
    }
    assert_eq!(count(&program, Late::Refused), 0);
    // CHECKSUM_PARTIAL: fragments of it would never get a checksum.
    untouched(&with(Frame::udp(1500), |f| {
        let sum = f.pseudo_sum().to_be_bytes();
        f.payload[6..8].copy_from_slice(&sum);
    }));
    assert_eq!(count(&program, Late::Refused), 1);
    // Into three.
    let narrow = Rule { mtu: 600, ..RULE };
    gateway.program.set_route("198.18.0.0/15".parse().unwrap(), Route::Tunnel(narrow)).unwrap();
    untouched(&segment);
    assert_eq!(count(&program, Late::Refused), 2);
    assert_eq!((count(&program, Late::Cut), count(&program, Late::Datagram)), (0, 0));
    drop(gateway);
    let datagram = Frame::udp(1500);
    let refuses = |what: &str, frame: &Frame, change: &dyn Fn(&mut LateConfig)| {
        let behind = late(change);
        let run = behind.program.run_once(&frame.bytes(), Came::default()).unwrap();
        assert_eq!((run.action, run.data == frame.bytes()), (UNSPEC, true), "{what}");
    };
    refuses("a segment of a host not known to be deaf", &segment, &|c| c.deaf_only = true);
    refuses("a datagram of a host not known to be deaf", &datagram, &|c| c.deaf_only = true);
    refuses("--df keep", &datagram, &|c| c.df = Df::Keep);
    refuses("TCP is the workers'", &segment, &|c| c.leave.tcp = false);
    refuses("datagrams are the workers'", &datagram, &|c| c.leave.datagrams = false);
}

#[test]
fn a_datagram_is_fragmented_as_a_worker_fragments_it() {
    if skipped("a_datagram_is_fragmented_as_a_worker_fragments_it")
        || without_tcx("a_datagram_is_fragmented_as_a_worker_fragments_it")
    {
        return;
    }
    let Behind { gateway: _gateway, program, idents } = late(|_| ());
    let (wire, mut buffer) = (wire(), [0; 4096]);
    let (mut cuts, mut last) = (0, None);
    for (flags, fresh) in
        [(DF, true), (0, false), (0x8000 | DF, true), (MF, false), (MF | 100, false), (100, false)]
    {
        for total in [1423, 1428, 1429, 1436, 1500, 2000, 2004, 1400 + 1422] {
            // What is not the last fragment ends at a multiple of 8.
            let total = if flags & MF == 0 { total } else { total - (total - 20) % 8 };
            if total <= 1422 {
                continue;
            }
            for protocol in [17, 47] {
                let frame = with(Frame::udp(total), |f| {
                    (f.frag_off, f.protocol, f.padding) = (flags, protocol, 5);
                });
                let (l3, frame) = (frame.l3(), frame.bytes());
                let run = program.run_once(&frame, Came::default()).unwrap();
                let len = recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("a copy");
                let id = ident(&run.data, l3);
                let expected = by_worker(&frame, &idents, Reason::Fragmented);
                assert_eq!(expected.len(), 2);
                let [first, second] =
                    [&expected[0], &expected[1]].map(|frame| with_ident(frame.clone(), l3, id));
                let what = format!("{total} bytes, {flags:#06x}, protocol {protocol}");
                assert!(run.data == first, "{what}: first\n{:02x?}\n{first:02x?}", run.data);
                assert_eq!((run.action, buffer[..len] == frame), (UNSPEC, true));
                // `REST` in bpf/late_fragment.h.
                let rest = ((1400 / 8) << 16) | u32::from(id.to_be());
                let back = Came { cb: [TOKEN as u32, (TOKEN >> 32) as u32, 0, 0, rest], ..Came::default() };
                let run = program.run_once(&frame, back).unwrap();
                assert!(run.data == second, "{what}: second\n{:02x?}\n{second:02x?}", run.data);
                assert_eq!(run.action, UNSPEC);
                let by_worker = ident(&expected[0], l3);
                if fresh {
                    // The worker counts on where the program has counted to, in part 2 of 4.
                    assert_eq!(by_worker, id.wrapping_add(4), "{what}");
                    assert_eq!((id & 3, last == Some((protocol, id))), (1, false), "{what}");
                    last = Some((protocol, id));
                } else {
                    assert_eq!((id, by_worker), (0x1234, 0x1234), "{what}");
                }
                cuts += 1;
            }
        }
    }
    assert_eq!(count(&program, Late::Datagram), cuts);
    assert_eq!((count(&program, Late::Lost), count(&program, Late::Refused)), (0, 0));
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
    gateway.program.set_late(Leave::NOTHING).unwrap();
    gateway.passes_untouched(&segment.bytes(), Reason::NoWorker);
}

#[test]
fn the_xdp_program_leaves_datagrams_behind_that_become_two_fragments_while_there_are_few() {
    if skipped("the_xdp_program_leaves_datagrams_behind_that_become_two_fragments_while_there_are_few") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { sticky: Duration::ZERO, ..CONFIG });
    gateway.program.set_late(Leave { datagrams: true, ..Leave::NOTHING }).unwrap();
    gateway.program.set_lan_mtu(9000).unwrap();
    for datagram in [
        Frame::udp(1500),
        Frame::udp(1400 + 1422),
        with(Frame::udp(1500), |f| f.tags = vec![(0x8100, 5)]),
        with(Frame::udp(1500), |f| f.protocol = 47),
        with(Frame::udp(1500), |f| f.frag_off = MF),
        with(Frame::udp(1500), |f| f.frag_off = 100),
        // GRO merges no fragments.
        with(Frame::tcp(0x10, &[], 1460), |f| f.frag_off = 100),
    ] {
        gateway.passes_untouched(&datagram.bytes(), Reason::Late);
    }
    for other in [
        Frame::udp(1400 + 1422 + 1),
        Frame::tcp(0x10, &[], 1460),
        with(Frame::udp(1500), |f| f.ip_options = vec![1, 1, 1, 1]),
        with(Frame::udp(1500), |f| f.tags = vec![(0x88a8, 7), (0x8100, 5)]),
        with(Frame::udp(1500), |f| {
            let sum = f.pseudo_sum().to_be_bytes();
            f.payload[6..8].copy_from_slice(&sum);
        }),
    ] {
        let seen = gateway.send(&other.bytes());
        assert_eq!((seen.action, seen.reason), (XDP_REDIRECT, Reason::Oversize), "{other:?}");
    }
    // Back to back, which on a slow machine is not always on one core, nor 250 in a millisecond.
    let flood = Frame::udp(1500).bytes();
    gateway.beat(now_ns());
    let oversize = || gateway.program.counters().unwrap().reason(Reason::Oversize);
    let (goes, before) = (|| gateway.program.run_once(&flood).unwrap().action == XDP_REDIRECT, oversize());
    assert!((0..50_000).any(|_| goes()), "50,000 in a row are not many");
    assert_eq!(oversize(), before + 1);
    // Without a worker all is done here.
    gateway.beat(0);
    gateway.passes_untouched(&flood, Reason::Late);
}

#[test]
fn a_flow_that_a_worker_serves_stays_with_it() {
    if skipped("a_flow_that_a_worker_serves_stays_with_it") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { resegment: true, ..CONFIG });
    gateway.program.set_late(BOTH).unwrap();
    let segment = Frame::tcp(0x10, &[], 1460).bytes();
    gateway.passes_untouched(&segment, Reason::Late);
    assert_eq!(gateway.send(&Frame::tcp(0x30, &[], 1460).bytes()).reason, Reason::Oversize);
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&segment).reason, Reason::Oversize, "behind the one before it");
}
