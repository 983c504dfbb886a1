//! By which way an oversize packet goes: what the XDP program, the program behind GRO and a worker make of one is the same.

use std::sync::Arc;
use std::time::Duration;

use xdpfrag::packet::{
    self, Df, Edit, Frames, Idents, Packet, Partition, Reason, Rule, Tcp, Transform, Verdict, Way, Ways,
    checksum,
};
use xdpfrag::xdp::{Came, LanConfig, Least, Leave, Meta, Route};

use crate::frames::{DF, Frame, MF, with};
use crate::gateway::*;
use crate::late::{Behind, UNSPEC, behind};
use crate::parity::Random;

const RULE: Rule = Rule { ways: Ways::EDIT, ..Rule::new(MTU, Some(MSS), Some(MSS6)) };
const WHOLE: Leave = Leave { whole: true, ..Leave::NOTHING };
const UNREAD: Leave = Leave { tcp: true, fitting: true, oversize: true, marked: true, ..WHOLE };
const AH: u8 = 51;

fn served(gateway: &Gateway, rule: Rule) {
    for prefix in ["198.18.0.0/15", "0.0.0.0/0", "2001:db8:f::/48", "::/0"] {
        gateway.program.set_route(prefix.parse().unwrap(), Route::Tunnel(rule)).unwrap();
    }
}

/// Sends no frame to the program behind GRO.
fn editing(df: Df) -> Gateway {
    let config = LanConfig { df, sticky: Duration::ZERO, stall: Duration::from_secs(600), ..CONFIG };
    let gateway = Gateway::with_worker(config);
    served(&gateway, RULE);
    gateway.program.set_late(WHOLE).unwrap();
    gateway
}

/// Passes every frame unread to the program behind GRO.
fn unread(df: Df) -> Behind {
    let config = LanConfig { df, resegment: true, stall: Duration::from_secs(600), ..CONFIG };
    let behind = behind(Gateway::with_worker(config), |late| {
        (late.leave, late.df, late.partition) = (UNREAD, df, Partition::WHOLE);
    });
    served(&behind.gateway, RULE);
    behind.gateway.program.set_late(UNREAD).unwrap();
    behind.gateway.program.set_least(Least { any: MTU, worked: u16::MAX }).unwrap();
    behind
}

fn worker(df: Df, gateway: &Gateway) -> Transform {
    let idents = Idents::shared(Partition::WHOLE, Arc::clone(&gateway.idents) as _);
    Transform { df, tcp: Tcp::Fragment, idents: Arc::new(idents) }
}

/// `frame` with the identification of `of`, where both have one.
fn with_ident(frame: &[u8], of: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let l3 = packet::parse(&frame).expect("an IP packet").0.header().len();
    frame[l3 + 4..l3 + 6].copy_from_slice(&of[l3 + 4..l3 + 6]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&of[l3 + 10..l3 + 12]);
    frame
}

#[test]
fn xdp_edits_what_goes_on_whole_as_a_worker_does() {
    if skipped("xdp_edits_what_goes_on_whole_as_a_worker_does") {
        return;
    }
    for (seed, df) in [Df::Clear, Df::Oversize, Df::Keep].into_iter().enumerate() {
        let gateway = editing(df);
        let (worker, mut random, mut edited) = (worker(df, &gateway), Random(seed as u64), [0; 2]);
        for n in 0..8_000 {
            let frame = random.frame();
            let seen = gateway.send(&frame);
            if seen.reason != Reason::Edited {
                continue;
            }
            let mut out = Frames::default();
            let did = worker.apply(&frame, RULE, &mut out);
            let context = || format!("df {df:?}, frame {n}: {seen:02x?}\n{did:?}\n{frame:02x?}");
            assert_eq!((seen.action, did.verdict.reason()), (XDP_PASS, Reason::Edited), "{}", context());
            let edits: Vec<Edit> = did.edits.iter().filter(|edit| *edit != Edit::Checksum).collect();
            assert_eq!(edits, seen.edits, "{}", context());
            let by_worker = out.iter().next().unwrap();
            let fresh = edits.contains(&Edit::Id);
            let expected = if fresh { with_ident(by_worker, &seen.data) } else { by_worker.to_vec() };
            // Nobody need finish a checksum for the kernel, which knows of it.
            if !did.edits.contains(Edit::Checksum) {
                assert!(expected == seen.data, "{}\n{expected:02x?}", context());
            }
            edited[usize::from(fresh)] += 1;
        }
        let wanted = if df == Df::Keep { [100, 0] } else { [100, 300] };
        assert!(edited[0] >= wanted[0] && edited[1] >= wanted[1], "{df:?}: {edited:?}");
    }
}

#[test]
fn behind_gro_the_same_is_edited_and_counted_once() {
    let name = "behind_gro_the_same_is_edited_and_counted_once";
    if skipped(name) || without_tcx(name) {
        return;
    }
    for (seed, df) in [Df::Clear, Df::Oversize].into_iter().enumerate() {
        let (reading, unread, mut random) = (editing(df), unread(df), Random(10 + seed as u64));
        let mut edited = 0;
        for n in 0..8_000 {
            let frame = random.frame();
            // BPF_PROG_RUN takes no packet that ends within its fixed IP header.
            let tcp = packet::parse(&frame).is_ok_and(|(_, packet)| match packet {
                Packet::V4(packet) => packet.protocol() == 6,
                Packet::V6(packet) => packet.upper_layer().is_some_and(|upper| upper.protocol == 6),
            });
            if tcp || frame.len() < 54 {
                continue;
            }
            let seen = reading.send(&frame);
            unread.gateway.passes_uncounted(&frame);
            let before = unread.gateway.program.counters().unwrap();
            let run = unread.program.run_once(&frame, Came::default()).unwrap();
            let after = unread.gateway.program.counters().unwrap();
            let context = || format!("df {df:?}, frame {n}: {seen:02x?}\n{frame:02x?}");
            assert_eq!((run.action, after.frames()), (UNSPEC, before.frames() + 1), "{}", context());
            assert_eq!(after.reason(seen.reason), before.reason(seen.reason) + 1, "{}", context());
            let edits: Vec<Edit> =
                Edit::ALL.iter().copied().filter(|e| after.edit(*e) > before.edit(*e)).collect();
            assert_eq!(edits, seen.edits, "{}", context());
            let fresh = edits.contains(&Edit::Id);
            let expected = if fresh { with_ident(&run.data, &seen.data) } else { run.data.clone() };
            assert!(expected == seen.data, "{}\n{expected:02x?}", context());
            edited += u64::from(seen.reason == Reason::Edited);
        }
        assert!(edited >= 200, "{edited}");
    }
}

#[test]
fn a_fresh_identification_is_for_what_was_never_fragmented_nor_authenticated() {
    if skipped("a_fresh_identification_is_for_what_was_never_fragmented_nor_authenticated") {
        return;
    }
    let gateway = editing(Df::Clear);
    let edits = |change: &dyn Fn(&mut Frame)| gateway.send(&with(Frame::udp(1500), change).bytes()).edits;
    assert_eq!(edits(&|_| ()), [Edit::Df, Edit::Id]);
    assert_eq!(edits(&|f| f.protocol = 47), [Edit::Df, Edit::Id]);
    assert_eq!(edits(&|f| f.protocol = AH), [Edit::Df]);
    assert_eq!(edits(&|f| f.frag_off = DF | MF), [Edit::Df]);
    assert_eq!(edits(&|f| f.frag_off = DF | 185), [Edit::Df]);
    assert_eq!(edits(&|f| f.frag_off = 0), []);
}

/// Somebody switches `rx-udp-gro-forwarding` or `rx-gro-list` on, and user space has not heard of it yet.
#[test]
fn datagrams_that_gro_has_merged_get_identifications_in_a_row() {
    let name = "datagrams_that_gro_has_merged_get_identifications_in_a_row";
    if skipped(name) || without_tcx(name) {
        return;
    }
    let mut behind = unread(Df::Clear);
    // One UDP header, and the data of two.
    let came = Came { merged: 2, share: 1472, ..Came::default() };
    let finished = Frame::udp(28 + 2 * 1472);
    let listed = with(finished.clone(), |f| f.payload[6..8].copy_from_slice(&[1, 2]));
    let merged = with(finished, |f| {
        let sum = f.pseudo_sum().to_be_bytes();
        f.payload[6..8].copy_from_slice(&sum);
    });
    let send = |behind: &Behind, frame: &Frame| {
        let before = behind.gateway.program.counters().unwrap();
        let run = behind.program.run_once(&frame.bytes(), came).unwrap();
        let after = behind.gateway.program.counters().unwrap();
        assert_eq!((run.action, after.frames() - before.frames()), (UNSPEC, 2));
        let new = |reason| after.reason(reason) - before.reason(reason);
        let edits = [Edit::Df, Edit::Id].map(|edit| after.edit(edit) - before.edit(edit));
        (run.data, [new(Reason::Edited), new(Reason::SuperPacket)], edits)
    };
    let ident = |data: &[u8]| u16::from_be_bytes([data[18], data[19]]);
    let (first, counted, edits) = send(&behind, &merged);
    assert_eq!((counted, edits), ([2, 0], [2, 2]));
    assert_eq!((first[20] & 0x40, checksum::sum(&first[14..34])), (0, 0xffff));
    let expected = with(merged.clone(), |f| f.frag_off = 0).bytes();
    assert!(with_ident(&expected, &first) == first);
    let (second, ..) = send(&behind, &merged);
    assert_eq!(ident(&second), ident(&first) + 2);
    // Each of these has a header of its own.
    let (data, counted, edits) = send(&behind, &listed);
    assert!((data, counted, edits) == (listed.bytes(), [0, 2], [0, 0]));
    // Without DF the kernel fragments them as they are.
    let open = with(merged.clone(), |f| f.frag_off = 0);
    assert!(send(&behind, &open) == (open.bytes(), [2, 0], [0, 0]));
    // Others count between.
    let partition = Partition::new(2, 3).unwrap();
    behind = self::behind(behind.gateway, |late| (late.leave, late.partition) = (UNREAD, partition));
    assert!(send(&behind, &merged) == (merged.bytes(), [0, 2], [0, 0]));
}

#[test]
fn a_segment_whose_checksum_is_unfinished_is_the_workers() {
    if skipped("a_segment_whose_checksum_is_unfinished_is_the_workers") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { resegment: true, sticky: Duration::ZERO, ..CONFIG });
    gateway.program.set_late(Leave { tcp: true, ..Leave::NOTHING }).unwrap();
    let segment = Frame::tcp(0x10, &[], 1460);
    gateway.passes_uncounted(&segment.bytes());
    let unfinished = with(segment.clone(), |f| {
        let sum = f.pseudo_sum().to_be_bytes();
        f.payload[16..18].copy_from_slice(&sum);
    });
    let goes = |frame: &Frame| {
        // Tests share the cores, each of which remembers one host.
        let run = gateway.program.run_once(&frame.bytes()).unwrap();
        run.action == XDP_REDIRECT
    };
    on_one_core(|| {
        // One in 65,536 that is finished looks so, too, and must not overtake what GRO holds.
        assert_eq!([goes(&unfinished), goes(&segment), goes(&unfinished)], [false; 3]);
        assert_eq!([goes(&unfinished), goes(&unfinished)], [true; 2]);
        let of_another = with(unfinished.clone(), |f| f.source[3] ^= 1);
        let sum = of_another.pseudo_sum().to_be_bytes();
        let of_another = with(of_another, |f| f.payload[16..18].copy_from_slice(&sum));
        assert_eq!([goes(&of_another), goes(&unfinished), goes(&unfinished)], [false, false, true]);
    });
}

/// Keeps this thread on its core meanwhile.
fn on_one_core(work: impl FnOnce()) {
    let core = core_affinity::get_core_ids().expect("cores")[0];
    assert!(core_affinity::set_for_current(core));
    work();
}

#[test]
fn each_protocol_goes_by_its_way() {
    if skipped("each_protocol_goes_by_its_way") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { sticky: Duration::ZERO, ..CONFIG });
    gateway.program.set_late(WHOLE).unwrap();
    let udp = Frame::udp(1500);
    let other = with(Frame::udp(1500), |f| f.protocol = 47);
    let fragment = with(Frame::udp(1500), |f| f.frag_off = MF);
    for way in [Way::Fragments, Way::Edit, Way::Gso, Way::Pass] {
        for rest in [Way::Fragments, Way::Edit, Way::Pass] {
            let ways = Ways { udp: way, other: rest };
            served(&gateway, Rule { ways, ..RULE });
            for (frame, way) in [(&udp, way), (&other, rest), (&fragment, rest)] {
                let cut = frame.frag_off & MF != 0 && way == Way::Pass;
                let expected = match way {
                    Way::Edit => Reason::Edited,
                    Way::Pass if !cut => Reason::KeptWhole,
                    _ => Reason::Oversize,
                };
                let seen = gateway.send(&frame.bytes());
                assert_eq!(seen.reason, expected, "{ways:?} {frame:?}");
                if expected == Reason::Oversize {
                    // The worker is told.
                    let meta = Meta::before_frame(&seen.data[..Meta::SIZE]).unwrap();
                    assert_eq!(meta.rule.ways, ways);
                }
                if expected == Reason::KeptWhole {
                    assert!(seen.data == frame.bytes());
                }
            }
        }
    }
}

#[test]
fn a_worker_edits_what_a_capture_wants_to_see() {
    if skipped("a_worker_edits_what_a_capture_wants_to_see") {
        return;
    }
    let gateway = editing(Df::Clear);
    gateway.program.live().keep_from_late(true).unwrap();
    let frame = Frame::udp(1500).bytes();
    assert_eq!(gateway.send(&frame).reason, Reason::Oversize);
    let mut out = Frames::default();
    let did = worker(Df::Clear, &gateway).apply(&frame, RULE, &mut out);
    assert_eq!((did.verdict, out.len()), (Verdict::Forward(Reason::Edited), 1));
    gateway.program.live().keep_from_late(false).unwrap();
    assert_eq!(gateway.send(&frame).reason, Reason::Edited);
    // No worker is needed.
    gateway.beat(0);
    assert_eq!(gateway.send(&frame).reason, Reason::Edited);
}
