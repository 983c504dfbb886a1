//! Short frames, which the XDP program leaves unread to the program behind GRO: nothing becomes of them but what the XDP
//! program itself would have made of them.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use xdpfrag::packet::{Df, Edit, Late, Reason, checksum};
use xdpfrag::xdp::{Came, Counters, LanConfig, Least, Leave, Meta};

use crate::frames::{DF, Frame, mss, with};
use crate::gateway::*;
use crate::late::{Behind, REDIRECT, UNSPEC, behind};
use crate::parity::Random;

const FRAMES: usize = 16_000;
const FITTING: Leave = Leave { fitting: true, ..Leave::NOTHING };
/// Ethernet header and the least MTU of all routes.
const LONGEST: usize = 14 + MTU as usize;

/// A gateway whose XDP program leaves unread what it can.
fn unread(config: LanConfig) -> Behind {
    let behind = behind(Gateway::with_worker(config), |late| {
        (late.leave, late.df) = (FITTING, config.df);
    });
    behind.gateway.program.set_least(Least { any: MTU, worked: MTU }).unwrap();
    behind.gateway.program.set_late(FITTING).unwrap();
    behind
}

impl Behind {
    /// Through both programs, merged with others if told so. As [`Gateway::send`].
    fn send(&self, frame: &[u8], came: Came) -> (Counted, Vec<u8>) {
        let before = self.gateway.program.counters().unwrap();
        let run = self.gateway.program.run_once(frame).unwrap();
        assert_eq!((run.action, run.data == frame), (XDP_PASS, true));
        let run = self.program.run_once(frame, came).unwrap();
        assert_eq!(run.action, UNSPEC);
        (what_was_counted(before, self.gateway.program.counters().unwrap()), run.data)
    }

    fn edits(&self, frame: &[u8]) -> Vec<Edit> {
        self.send(frame, Came::default()).0.edits
    }
}

/// What was counted meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    reasons: BTreeMap<Reason, u64>,
    edits: Vec<Edit>,
}

fn what_was_counted(before: Counters, after: Counters) -> Counted {
    let more = |reason: &Reason| (*reason, after.reason(*reason) - before.reason(*reason));
    Counted {
        reasons: Reason::ALL.iter().map(more).filter(|(_, count)| *count > 0).collect(),
        edits: Edit::ALL.iter().copied().filter(|edit| after.edit(*edit) > before.edit(*edit)).collect(),
    }
}

fn agree(df: Df, seed: u64) {
    let config = LanConfig { df, stall: Duration::from_secs(600), ..CONFIG };
    let reading = Gateway::with_worker(config);
    let unread = unread(config);
    let mut random = Random(seed);
    let mut told = BTreeMap::<Reason, u64>::new();
    for n in 0..FRAMES {
        let frame = random.frame();
        // BPF_PROG_RUN takes no packet that ends within its fixed IP header.
        if !(14 + 40..=LONGEST).contains(&frame.len()) {
            continue;
        }
        let seen = reading.send(&frame);
        let (counted, data) = unread.send(&frame, Came::default());
        let context = || format!("df {df:?}, frame {n}: {seen:02x?}\n{counted:?}\n{frame:02x?}");
        *told.entry(seen.reason).or_default() += 1;
        if seen.reason == Reason::Unfinished {
            // No worker is needed here: the kernel knows which checksums it has still to finish.
            assert_eq!(counted.reasons, BTreeMap::from([(Reason::Fits, 1)]), "{}", context());
            assert!(counted.edits.contains(&Edit::Mss), "{}", context());
            continue;
        }
        assert_eq!(counted.reasons, BTreeMap::from([(seen.reason, 1)]), "{}", context());
        assert_eq!(counted.edits, seen.edits, "{}", context());
        assert!(data == seen.data, "{}\n{data:02x?}", context());
    }
    eprintln!("df {df:?}: {told:?}");
    for reason in [Reason::Fits, Reason::NotIp, Reason::Group, Reason::Malformed, Reason::OutOfScope] {
        assert!(told.get(&reason).is_some_and(|count| *count >= 20), "too few of {reason:?}: {told:?}");
    }
}

#[test]
fn both_programs_make_the_same_of_short_frames() {
    if skipped("both_programs_make_the_same_of_short_frames")
        || without_tcx("both_programs_make_the_same_of_short_frames")
    {
        return;
    }
    for (seed, df) in [Df::Clear, Df::Oversize, Df::Keep].into_iter().enumerate() {
        agree(df, seed as u64);
    }
}

#[test]
fn only_what_is_certain_to_fit_is_left_unread() {
    if skipped("only_what_is_certain_to_fit_is_left_unread")
        || without_tcx("only_what_is_certain_to_fit_is_left_unread")
    {
        return;
    }
    let unread = unread(CONFIG);
    let (gateway, lan) = (&unread.gateway, &unread.gateway.program);
    let left = |total| {
        let before = lan.counters().unwrap();
        let run = lan.run_once(&Frame::udp(total).bytes()).unwrap();
        assert_eq!(run.action, XDP_PASS);
        lan.counters().unwrap() == before
    };
    assert!(left(60) && left(1422));
    // A tag may be one that hardware strips from others.
    let tagged = with(Frame::udp(1422), |f| f.tags = vec![(0x8100, 5)]);
    assert_eq!(gateway.send(&tagged.bytes()).edits, [Edit::Df]);
    lan.set_least(Least { any: 1300, worked: 1400 }).unwrap();
    assert!(left(1300) && !left(1301));
    // What goes by way of an edit needs nobody to read it here.
    lan.set_late(Leave { whole: true, oversize: true, ..FITTING }).unwrap();
    assert!(left(1400) && !left(1401));
    lan.set_least(Least { any: 1300, worked: u16::MAX }).unwrap();
    assert!(left(9000));
    lan.set_least(Least { any: 1300, worked: 1300 }).unwrap();
    lan.set_late(Leave { tcp: true, ..Leave::NOTHING }).unwrap();
    assert!(!left(60));
    lan.set_late(FITTING).unwrap();
    assert!(left(60));
    // A capture has the workers do it all.
    lan.live().keep_from_late(true).unwrap();
    assert!(!left(60));
    lan.live().keep_from_late(false).unwrap();
    assert!(left(60));
}

/// [`XF_MARK`](../../bpf/intf.h), as it stands in front of the frame.
const MARK: [u8; 4] = 0x7866_7231u32.to_ne_bytes();

#[test]
fn what_has_been_read_is_marked_for_the_program_behind_gro() {
    if skipped("what_has_been_read_is_marked_for_the_program_behind_gro")
        || without_tcx("what_has_been_read_is_marked_for_the_program_behind_gro")
    {
        return;
    }
    let unread = unread(CONFIG);
    let (gateway, lan) = (&unread.gateway, &unread.gateway.program);
    let elsewhere = with(Frame::udp(100), |f| f.destination = [198, 51, 100, 9]).bytes();
    let long = Frame::udp(1500).bytes();
    for leave in [Leave { marked: true, ..FITTING }, Leave { marked: true, ..Leave::NOTHING }] {
        lan.set_late(leave).unwrap();
        gateway.beat(0);
        let seen = gateway.send(&long);
        assert_eq!((seen.reason, &seen.data[..4], &seen.data[4..]), (Reason::NoWorker, &MARK[..], &long[..]));
        if !leave.fitting {
            let seen = gateway.send(&elsewhere);
            let expected = (Reason::OutOfScope, &MARK[..], &elsewhere[..]);
            assert_eq!((seen.reason, &seen.data[..4], &seen.data[4..]), expected);
        }
    }
    // Without that program nobody needs the mark.
    lan.set_late(Leave::NOTHING).unwrap();
    gateway.passes_untouched(&elsewhere, Reason::OutOfScope);
}

#[test]
fn while_a_flow_is_with_a_worker_everything_is_read() {
    let name = "while_a_flow_is_with_a_worker_everything_is_read";
    if skipped(name) || without_tcx(name) {
        return;
    }
    let unread = unread(LanConfig { sticky: Duration::from_millis(600), ..CONFIG });
    let short = Frame::udp(100).bytes();
    let seen = unread.gateway.send(&Frame::udp(1500).bytes());
    assert_eq!((seen.action, seen.reason), (XDP_REDIRECT, Reason::Oversize));
    // Of the same flow, and of another one.
    let seen = unread.gateway.send(&short);
    assert_eq!((seen.reason, seen.data[Meta::SIZE..] == short), (Reason::Sticky, true));
    let other = with(Frame::udp(100), |f| f.payload[0] ^= 1).bytes();
    assert_eq!(unread.gateway.send(&other).edits, [Edit::Df]);
    // Once it is quiet again, as before. Ticks of a VM may be late.
    let quiet = (0..100).any(|_| {
        sleep(Duration::from_millis(20));
        let before = unread.gateway.program.counters().unwrap();
        unread.gateway.program.run_once(&other).unwrap();
        unread.gateway.program.counters().unwrap() == before
    });
    assert!(quiet);
}

#[test]
fn while_a_half_is_under_way_only_what_may_overtake_it_goes_after_it() {
    let name = "while_a_half_is_under_way_only_what_may_overtake_it_goes_after_it";
    if skipped(name) || without_tcx(name) {
        return;
    }
    let leave = Leave { tcp: true, ..FITTING };
    let behind = behind(Gateway::with_worker(LanConfig { resegment: true, ..CONFIG }), |late| {
        // With a seed of its own every run has the flows in other slots, and some time two in one.
        (late.leave, late.df, late.seed) = (leave, CONFIG.df, 1);
    });
    let short = || with(Frame::tcp(0x10, &[], 60), |f| f.frag_off = DF);
    let of_another = |flow| with(short(), |f| f.payload[0] ^= flow);
    let go = |frame: Frame| {
        // Loopback's backlog does not bring it back.
        behind.program.run_once(&Frame::tcp(0x10, &[], 1460).bytes(), Came::default()).unwrap();
        let sent = frame.bytes();
        let run = behind.program.run_once(&sent, Came::default()).unwrap();
        assert_ne!(run.data, sent, "edited");
        run.action
    };
    assert_eq!(go(short()), REDIRECT);
    assert_eq!(go(with(short(), |f| f.tags = vec![(0x8100, 5)])), REDIRECT);
    assert_eq!(go(with(short(), |f| f.ip_options = vec![1; 4])), REDIRECT);
    for flow in 1..=40 {
        assert_eq!(go(of_another(flow)), UNSPEC, "{flow}");
    }
    assert_eq!(go(Frame::udp(100)), UNSPEC);
    assert_eq!(behind.program.counters().unwrap()[Late::Followed as usize], 3);
}

#[test]
fn what_gro_has_merged_keeps_df_and_is_counted_one_by_one() {
    if skipped("what_gro_has_merged_keeps_df_and_is_counted_one_by_one")
        || without_tcx("what_gro_has_merged_keeps_df_and_is_counted_one_by_one")
    {
        return;
    }
    let unread = unread(CONFIG);
    // Three segments of 400 bytes, and one of 100.
    let came = Came { merged: 4, share: 400, ..Came::default() };
    let merged = Frame::tcp(0x10, &[], 1300);
    let (counted, data) = unread.send(&merged.bytes(), came);
    assert!(data == merged.bytes());
    assert_eq!(counted, Counted { reasons: BTreeMap::from([(Reason::Fits, 4)]), edits: vec![] });
    let elsewhere = with(merged, |f| f.destination = [198, 51, 100, 9]).bytes();
    let (counted, _) = unread.send(&elsewhere, came);
    assert_eq!(counted, Counted { reasons: BTreeMap::from([(Reason::OutOfScope, 4)]), edits: vec![] });
}

#[test]
fn a_syn_whose_checksum_is_left_to_hardware_needs_no_worker() {
    if skipped("a_syn_whose_checksum_is_left_to_hardware_needs_no_worker")
        || without_tcx("a_syn_whose_checksum_is_left_to_hardware_needs_no_worker")
    {
        return;
    }
    let unread = unread(CONFIG);
    let syn = with(Frame::tcp(0x02, &mss(1460), 0), |f| f.frag_off = DF);
    assert_eq!(unread.edits(&syn.bytes()), [Edit::Df, Edit::Mss]);
    let (_, data) = unread.send(&syn.bytes(), Came::default());
    let l4 = syn.l3() + 20;
    assert_eq!(data[l4 + 22..l4 + 24], MSS.to_be_bytes());
    assert_eq!(checksum::sum(&data[syn.l3()..l4]), 0xffff);
    assert_eq!(unread.program.counters().unwrap()[Late::Refused as usize], 0);
}
