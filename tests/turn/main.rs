//! Worker turns over memory, with faults on both sides: nothing is lost without a counter.

mod property;

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::errno::Errno;
use proptest::prelude::*;
use xdpfrag::config::Scope;
use xdpfrag::handback::mem::FlushFault;
use xdpfrag::handback::{HandbackError, MemHandback};
use xdpfrag::packet::{Df, Edit, Idents, Reason, Rule, Tcp, Transform};
use xdpfrag::port::{Fault, MemPort};
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::worker::{FLUSH_ATTEMPTS, Posted, Settings, Turn};
use xdpfrag::xdp::Meta;

use property::{ELSEWHERE, IN_SCOPE, Input, RULE, Step, frame, numbers, turn};

fn memory() -> (MemPort, MemHandback) {
    (MemPort::new(256, 1792, 9022), MemHandback::new(256, 2048))
}

#[test]
fn a_frame_has_the_rule_of_its_metadata_else_that_of_its_destination() {
    let (mut port, handback) = memory();
    let narrow = Rule::new(600, None, None);
    port.deliver(&frame(IN_SCOPE, 0, 1000), Some(Meta { rx_ns: 1, rule: narrow }));
    port.deliver(&frame(IN_SCOPE, 1, 1000), None);
    port.deliver(&frame(IN_SCOPE, 2, 1450), None);
    port.deliver(&frame(ELSEWHERE, 3, 1450), None);
    let untouched = frame(ELSEWHERE, 4, 100);
    port.deliver(&untouched, None);
    port.deliver(&[0xff; 14], None);
    let mut turn = turn(port, handback);
    let progress = turn.turn().unwrap();
    assert_eq!((progress.received, progress.pending), (6, 0));
    let lengths: Vec<usize> = turn.handback().taken().iter().map(Vec::len).collect();
    assert_eq!(lengths, [14 + 596, 14 + 452, 1042, 14 + 1420, 14 + 78, 1492, 142, 14]);
    assert_eq!(turn.handback().taken()[6], untouched);
    let counters = turn.counters();
    let reasons = [Reason::Fits, Reason::Fragmented, Reason::OutOfScope, Reason::NotIp];
    assert_eq!(reasons.map(|reason| counters.count(reason)), [1, 2, 2, 1]);
    assert_eq!((counters.edits(Edit::Df), counters.edits(Edit::Id)), (3, 2));
    assert_eq!(counters.snapshot().handed_back, 8);
}

#[test]
fn a_turn_goes_by_the_settings_at_its_beginning() {
    let (port, handback) = memory();
    let scope = Scope(BTreeMap::from([(
        "198.18.2.0/24".parse().unwrap(),
        BTreeMap::from([("0.0.0.0/0".parse().unwrap(), Some(RULE))]),
    )]));
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) };
    let mut posted = Posted::new(Settings::new(transform.clone(), scope.clone()));
    let mut turn = turn(port, handback).following(posted.followed());
    let reason_of = |turn: &mut Turn<MemPort, MemHandback>| {
        let counts = |turn: &Turn<_, _>| {
            [Reason::Fragmented, Reason::DfKept, Reason::OutOfScope]
                .map(|reason| turn.counters().count(reason))
        };
        let before = counts(turn);
        turn.port_mut().deliver(&frame(IN_SCOPE, 0, 1450), None);
        turn.turn().unwrap();
        let mut growth = counts(turn);
        growth.iter_mut().zip(before).for_each(|(count, before)| *count -= before);
        growth
    };
    assert_eq!(reason_of(&mut turn), [1, 0, 0]);
    posted.change(Settings { transform: Transform { df: Df::Keep, ..transform }, ..posted.now() });
    assert!(!posted.taken());
    assert_eq!(reason_of(&mut turn), [0, 1, 0]);
    assert!(posted.taken());
    // On the way out of scope: the XDP program may have sent it by either.
    let before = Some(Arc::clone(&posted.now().scope));
    posted.change(Settings { scope: Arc::default(), before, ..posted.now() });
    assert_eq!(reason_of(&mut turn), [0, 1, 0]);
    posted.change(Settings { before: None, ..posted.now() });
    assert_eq!(reason_of(&mut turn), [0, 0, 1]);
}

#[test]
fn latency_is_taken_from_the_time_stamp_to_the_end_of_the_flush() {
    let (mut port, handback) = memory();
    let rx_ns = monotonic_ns() - 5_000_000;
    port.deliver(&frame(IN_SCOPE, 0, 100), Some(Meta { rx_ns, rule: RULE }));
    port.deliver(&frame(IN_SCOPE, 1, 100), None);
    let mut turn = turn(port, handback);
    turn.turn().unwrap();
    let latency = turn.counters().latency().unwrap();
    assert_eq!(latency.count, 1, "a frame without metadata has no time stamp");
    assert!((5_000_000..1_000_000_000).contains(&latency.max_ns), "{latency:?}");
}

#[test]
fn a_full_hand_back_is_flushed_and_the_frame_applied_again() {
    let (mut port, _) = memory();
    for number in 0..10 {
        port.deliver(&frame(IN_SCOPE, number, 1450), None);
    }
    // Room for one fragmented datagram and a half.
    let mut turn = turn(port, MemHandback::new(3, 2048));
    turn.turn().unwrap();
    assert_eq!(numbers(turn.handback()), Vec::from_iter(0..10));
    assert_eq!(turn.counters().count(Reason::Fragmented), 10);
    assert_eq!(turn.counters().count(Reason::HandbackFull), 0);
}

#[test]
fn what_does_not_fit_an_empty_hand_back_is_dropped_and_counted() {
    let (mut port, _) = memory();
    port.deliver(&frame(IN_SCOPE, 0, 1450), None);
    port.deliver(&frame(IN_SCOPE, 1, 100), None);
    let mut turn = turn(port, MemHandback::new(1, 2048));
    turn.turn().unwrap();
    assert_eq!(numbers(turn.handback()), [1]);
    assert_eq!(turn.counters().count(Reason::HandbackFull), 1);
}

#[test]
fn withheld_completions_only_reduce_capacity() {
    let (mut port, mut handback) = memory();
    handback.script([Some(FlushFault::Withhold)]);
    for number in 0..60 {
        port.deliver(&frame(IN_SCOPE, number, 100), None);
    }
    let mut turn = turn(port, handback);
    turn.turn().unwrap();
    assert_eq!(turn.counters().count(Reason::Fits), 60);
    let [_, ledger] = turn.ledgers();
    assert_eq!((ledger.tx, ledger.free, ledger.balanced()), (60, 196, true));
    turn.handback_mut().complete();
    assert_eq!(turn.ledgers()[1].free, 256);
}

#[test]
fn a_failure_that_passes_delays_frames_and_keeps_their_order() {
    let (mut port, mut handback) = memory();
    let fail = |taken| Some(FlushFault::Fail { taken, lost: 0, errno: Errno::EAGAIN });
    handback.script([fail(0), fail(3), fail(0)]);
    for number in 0..10 {
        port.deliver(&frame(IN_SCOPE, number, 1450), None);
    }
    let mut turn = turn(port, handback);
    assert_eq!(turn.turn().unwrap().pending, 20);
    for number in 10..20 {
        turn.port_mut().deliver(&frame(IN_SCOPE, number, 1450), None);
    }
    let progress = turn.turn().unwrap();
    assert_eq!((progress.received, progress.pending), (0, 17), "nothing is received meanwhile");
    assert_eq!(turn.counters().count(Reason::Fragmented), 1, "the second datagram went in part");
    while !turn.turn().unwrap().idle() {}
    assert_eq!(numbers(turn.handback()), Vec::from_iter(0..20));
    assert_eq!(turn.counters().count(Reason::Fragmented), 20);
    assert_eq!(turn.counters().snapshot().handback_errors, 3);
}

#[test]
fn a_failure_after_the_last_frame_was_taken_blocks_nothing() {
    let (mut port, mut handback) = memory();
    handback.script([Some(FlushFault::Fail { taken: 1, lost: 0, errno: Errno::EINTR })]);
    port.deliver(&frame(IN_SCOPE, 0, 100), None);
    let mut turn = turn(port, handback);
    assert_eq!(turn.turn().unwrap().pending, 0);
    turn.port_mut().deliver(&frame(IN_SCOPE, 1, 100), None);
    assert_eq!(turn.turn().unwrap().received, 1);
    assert_eq!(numbers(turn.handback()), [0, 1]);
}

#[test]
fn a_failure_that_does_not_pass_drops_the_frames_after_its_attempts() {
    let (mut port, mut handback) = memory();
    let fail = FlushFault::Fail { taken: 0, lost: 0, errno: Errno::ENOBUFS };
    handback.script([Some(fail); FLUSH_ATTEMPTS as usize]);
    for number in 0..10 {
        port.deliver(&frame(IN_SCOPE, number, 100), None);
    }
    let mut turn = turn(port, handback);
    for _ in 0..FLUSH_ATTEMPTS {
        turn.turn().unwrap();
    }
    assert_eq!(turn.counters().count(Reason::HandbackError), 10);
    turn.port_mut().deliver(&frame(IN_SCOPE, 10, 100), None);
    assert!(turn.turn().unwrap().received == 1);
    assert_eq!(numbers(turn.handback()), [10], "it goes on afterwards");
}

#[test]
fn a_lost_device_ends_the_worker_with_its_cause_and_everything_counted() {
    let (mut port, mut handback) = memory();
    handback.script([Some(FlushFault::Fail { taken: 2, lost: 0, errno: Errno::ENODEV })]);
    for number in 0..5 {
        port.deliver(&frame(IN_SCOPE, number, 100), None);
    }
    let mut turn = turn(port, handback);
    assert_eq!(turn.turn(), Err(HandbackError::Fatal(Errno::ENODEV)));
    turn.port_mut().deliver(&frame(IN_SCOPE, 5, 100), None);
    assert_eq!(turn.turn(), Err(HandbackError::Fatal(Errno::ENODEV)));
    let counters = turn.counters();
    assert_eq!((counters.count(Reason::Fits), counters.count(Reason::HandbackError)), (2, 4));
    assert_eq!(counters.frames(), 6);
}

#[test]
fn frames_that_the_kernel_loses_are_counted_as_such() {
    let (mut port, mut handback) = memory();
    handback.script([Some(FlushFault::Lose(3))]);
    for number in 0..5 {
        port.deliver(&frame(IN_SCOPE, number, 1450), None);
    }
    let mut turn = turn(port, handback);
    turn.turn().unwrap();
    let counters = turn.counters();
    assert_eq!(counters.count(Reason::Fragmented) + counters.count(Reason::HandbackError), 5);
    assert_eq!((counters.count(Reason::HandbackError), counters.snapshot().handed_back), (2, 7));
}

#[test]
fn frames_that_the_kernel_loses_before_it_fails_are_counted_as_such() {
    let (mut port, mut handback) = memory();
    handback.script([Some(FlushFault::Fail { taken: 6, lost: 3, errno: Errno::EAGAIN })]);
    for number in 0..5 {
        port.deliver(&frame(IN_SCOPE, number, 1450), None);
    }
    let mut turn = turn(port, handback);
    let progress = turn.turn().unwrap();
    assert!(progress.blocked && progress.pending == 4, "{progress:?}");
    let count = |turn: &Turn<_, _>| {
        let counters = turn.counters();
        let reasons = [Reason::Fragmented, Reason::HandbackError].map(|reason| counters.count(reason));
        (reasons, counters.snapshot().handed_back)
    };
    assert_eq!(count(&turn), ([1, 2], 3));
    let progress = turn.turn().unwrap();
    assert!(!progress.blocked && progress.idle(), "{progress:?}");
    assert_eq!(count(&turn), ([3, 2], 7));
}

#[test]
fn a_turn_makes_one_attempt_that_fails_and_no_more() {
    let (mut port, _) = memory();
    for number in 0..10 {
        port.deliver(&frame(IN_SCOPE, number, 100), None);
    }
    let mut handback = MemHandback::new(4, 2048);
    handback.script([Some(FlushFault::Fail { taken: 0, lost: 0, errno: Errno::ENOMEM }); 3]);
    let mut turn = turn(port, handback);
    for attempt in 1..=3 {
        let progress = turn.turn().unwrap();
        assert!(progress.blocked && progress.pending == 4, "{progress:?}");
        assert_eq!(turn.counters().snapshot().handback_errors, attempt);
    }
    while !turn.turn().unwrap().idle() {}
    assert_eq!(numbers(turn.handback()), [0, 1, 2, 3]);
    assert_eq!(turn.counters().count(Reason::HandbackFull), 6);
}

#[test]
fn jumbo_frames_are_gathered_and_too_long_ones_counted() {
    let port = MemPort::new(64, 1792, 6000);
    let mut turn = turn(port, MemHandback::new(64, 2048));
    assert!(turn.port_mut().deliver(&frame(IN_SCOPE, 7, 5900), None));
    assert!(turn.port_mut().deliver(&frame(IN_SCOPE, 8, 6000), None));
    assert_eq!(turn.turn().unwrap().received, 2);
    assert_eq!(turn.counters().count(Reason::Truncated), 1);
    assert_eq!(numbers(turn.handback()), [7]);
    let bytes: usize = turn.handback().taken().iter().map(|frame| frame.len() - 34).sum();
    assert_eq!(bytes, 5908, "UDP header and payload, once");
}

/// `wild`: with arbitrary bytes among the datagrams, whose order then cannot be told.
fn input(wild: bool) -> impl Strategy<Value = Input> {
    let length = prop_oneof![4usize..1472, 1380usize..1472, 1472usize..4000];
    let datagram = (length, any::<bool>(), any::<bool>())
        .prop_map(|(payload, in_scope, meta)| Input::Datagram { payload, in_scope, meta });
    let bytes = prop::collection::vec(any::<u8>(), 0..100);
    let mtu = prop::option::of(any::<u16>());
    prop_oneof![
        20 => datagram,
        u32::from(wild) => (bytes, mtu).prop_map(|(bytes, mtu)| Input::Bytes { bytes, mtu }),
    ]
}

fn step(wild: bool) -> impl Strategy<Value = Step> {
    let port = prop_oneof![
        3 => Just(None),
        1 => (0usize..9).prop_map(|most| Some(Fault::Short(most))),
        1 => (0usize..9).prop_map(|frames| Some(Fault::Truncate(frames))),
        1 => Just(Some(Fault::RefuseRefill)),
        1 => Just(Some(Fault::Wait(Errno::EINTR))),
    ];
    let errno =
        prop::sample::select(vec![Errno::EAGAIN, Errno::ENOBUFS, Errno::EBUSY, Errno::EINTR, Errno::ENODEV]);
    let flush = prop_oneof![
        6 => Just(None),
        2 => (0usize..40, 0usize..6, errno)
            .prop_map(|(taken, lost, errno)| Some(FlushFault::Fail { taken, lost, errno })),
        1 => (0usize..6).prop_map(|lost| Some(FlushFault::Lose(lost))),
        1 => Just(Some(FlushFault::Withhold)),
    ];
    (prop::collection::vec(input(wild), 0..90), port, flush, any::<bool>())
        .prop_map(|(frames, port, flush, complete)| Step { frames, port, flush, complete })
}

/// Under Miri a case takes a minute.
const CASES: u32 = if cfg!(miri) { 2 } else { 200 };

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn nothing_is_lost_without_a_counter(
        steps in any::<bool>().prop_flat_map(|wild| prop::collection::vec(step(wild), 1..30)),
        slots in 4usize..80,
    ) {
        property::check(&steps, slots);
    }
}
