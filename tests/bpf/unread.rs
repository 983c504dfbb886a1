//! Short frames, which the XDP program leaves unread to the program behind GRO: nothing becomes of them but what the XDP
//! program itself would have made of them.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use xdpfrag::packet::{Df, Edit, Late, Reason, checksum};
use xdpfrag::xdp::{Came, Counters, LanConfig, Leave, Meta};

use crate::frames::{DF, Frame, MF, mss, with};
use crate::gateway::*;
use crate::late::{Behind, REDIRECT, UNSPEC, behind};
use crate::parity::Random;

const FRAMES: usize = 16_000;
const FITTING: Leave = Leave { tcp: false, datagrams: false, fitting: true };
/// Ethernet header and the least MTU of all routes.
const LONGEST: usize = 14 + MTU as usize;

/// A gateway whose XDP program leaves unread what it can.
fn unread(config: LanConfig) -> Behind {
    let behind = behind(Gateway::with_worker(config), |late| {
        (late.leave, late.df, late.sticky) = (FITTING, config.df, config.sticky);
    });
    behind.gateway.program.set_least_mtu(MTU).unwrap();
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
        let seen = gateway.send(&Frame::udp(total).bytes());
        assert_eq!(seen.reason, Reason::Fits);
        seen.edits.is_empty()
    };
    assert!(left(60) && left(1422));
    // A tag may be one that hardware strips from others.
    let tagged = with(Frame::udp(1422), |f| f.tags = vec![(0x8100, 5)]);
    assert_eq!(gateway.send(&tagged.bytes()).edits, [Edit::Df]);
    lan.set_least_mtu(1300).unwrap();
    assert!(left(1300) && !left(1301));
    lan.set_lan_mtu(1000).unwrap();
    assert!(left(1000));
    gateway.passes_untouched(&Frame::udp(1001).bytes(), Reason::SuperPacket);
    lan.set_lan_mtu(1500).unwrap();
    lan.set_late(Leave { datagrams: true, ..Leave::NOTHING }).unwrap();
    assert!(!left(60));
    lan.set_late(FITTING).unwrap();
    assert!(left(60));
    // A capture has the workers do it all. What XDP has read is not counted again.
    lan.live().keep_from_late(true).unwrap();
    assert!(!left(60));
    let elsewhere = with(Frame::udp(100), |f| f.destination = [198, 51, 100, 9]).bytes();
    let (counted, _) = unread.send(&elsewhere, Came::default());
    assert_eq!(counted.reasons, BTreeMap::from([(Reason::OutOfScope, 1)]));
    lan.live().keep_from_late(false).unwrap();
    let (counted, _) = unread.send(&elsewhere, Came::default());
    assert_eq!(counted.reasons, BTreeMap::from([(Reason::OutOfScope, 1)]));
}

#[test]
fn after_a_packet_for_the_worker_everything_is_read_and_soon_nothing_is_looked_at_twice() {
    let name = "after_a_packet_for_the_worker_everything_is_read_and_soon_nothing_is_looked_at_twice";
    if skipped(name) || without_tcx(name) {
        return;
    }
    let unread = unread(LanConfig { sticky: Duration::from_millis(600), ..CONFIG });
    let short = Frame::udp(100).bytes();
    let by_late = || unread.program.run_once(&short, Came::default()).unwrap().data != short;
    assert!(by_late());
    let seen = unread.gateway.send(&Frame::udp(1500).bytes());
    assert_eq!((seen.action, seen.reason), (XDP_REDIRECT, Reason::Oversize));
    // Of the same flow, and of another one.
    let seen = unread.gateway.send(&short);
    assert_eq!((seen.reason, seen.data[Meta::SIZE..] == short), (Reason::Sticky, true));
    let other = with(Frame::udp(100), |f| f.payload[0] ^= 1);
    assert_eq!(unread.gateway.send(&other.bytes()).edits, [Edit::Df]);
    // What was left unread before may come still.
    assert!(by_late());
    sleep(Duration::from_millis(250));
    assert!(!by_late());
    // Once it is quiet again, as before. Ticks of a VM may be late.
    let quiet = (0..100).any(|_| {
        sleep(Duration::from_millis(20));
        unread.gateway.send(&other.bytes()).edits.is_empty()
    });
    assert!(quiet && by_late());
}

#[test]
fn while_a_half_is_under_way_only_what_may_overtake_it_goes_after_it() {
    let name = "while_a_half_is_under_way_only_what_may_overtake_it_goes_after_it";
    if skipped(name) || without_tcx(name) {
        return;
    }
    let leave = Leave { datagrams: true, ..FITTING };
    let behind = behind(Gateway::with_worker(CONFIG), |late| {
        // With a seed of its own every run has the flows in other slots, and some time two in one.
        (late.leave, late.df, late.sticky, late.seed) = (leave, CONFIG.df, CONFIG.sticky, 1);
    });
    behind.gateway.program.set_least_mtu(MTU).unwrap();
    let short = || with(Frame::udp(100), |f| f.frag_off = DF);
    let of_another = |flow| with(short(), |f| f.payload[0] ^= flow);
    let go = |frame: Frame| {
        // Loopback's backlog does not bring it back.
        behind.program.run_once(&Frame::udp(1500).bytes(), Came::default()).unwrap();
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
    // A fragment goes after all of its hosts and protocol, and all of that after it.
    assert_eq!(go(with(short(), |f| f.frag_off = DF | MF)), REDIRECT);
    assert_eq!(go(of_another(1)), REDIRECT);
    assert_eq!(go(with(Frame::tcp(0x02, &mss(1460), 0), |f| f.frag_off = DF)), UNSPEC);
    assert_eq!(behind.program.counters().unwrap()[Late::Followed as usize], 5);
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
    assert_eq!(
        counted,
        Counted { reasons: BTreeMap::from([(Reason::Fits, 1)]), edits: vec![] },
        "by the XDP program"
    );
    // Out of scope: all of them, or the last one, if only that was short.
    let elsewhere = with(merged, |f| f.destination = [198, 51, 100, 9]).bytes();
    for (least_mtu, expected) in [(MTU, 4), (300, 1), (100, 0)] {
        unread.gateway.program.set_least_mtu(least_mtu).unwrap();
        // What the XDP program makes of the four, were they to come.
        let before = unread.gateway.program.counters().unwrap();
        for _ in 0..4 {
            unread.gateway.program.run_once(&Frame::udp(60).bytes()).unwrap();
        }
        unread.program.run_once(&elsewhere, came).unwrap();
        let reasons = what_was_counted(before, unread.gateway.program.counters().unwrap()).reasons;
        assert_eq!(reasons.get(&Reason::OutOfScope).copied().unwrap_or(0), expected);
        assert_eq!(reasons.values().sum::<u64>(), 4);
    }
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
