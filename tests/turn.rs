//! Worker turns over memory, with faults on both sides: nothing is lost without a counter.

use std::net::Ipv4Addr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use nix::errno::Errno;
use proptest::prelude::*;
use xdpfrag::config::Treatment;
use xdpfrag::handback::mem::FlushFault;
use xdpfrag::handback::{Handback, HandbackError, MemHandback};
use xdpfrag::packet::{Df, Edit, Idents, Reason, Rule, Tcp, Transform};
use xdpfrag::port::{Fault, FaultPort, MemPort, Port};
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::worker::{FLUSH_ATTEMPTS, Turn};
use xdpfrag::xdp::Meta;

const RULE: Rule = Rule { mtu: 1422, mss4: Some(1382), mss6: None };

/// A DF datagram with `payload` bytes whose first four are `number`.
fn frame(destination: Ipv4Addr, number: u32, payload: usize) -> Vec<u8> {
    let mut data = vec![0xa5; payload.max(4)];
    data[..4].copy_from_slice(&number.to_be_bytes());
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([198, 18, 1, 2], destination.octets(), 64)
        .udp(4000, 5000);
    let mut frame = Vec::with_capacity(builder.size(data.len()));
    builder.write(&mut frame, &data).unwrap();
    frame
}

const IN_SCOPE: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn turn<P: Port>(port: P, handback: MemHandback) -> Turn<P, MemHandback> {
    let treatment = Treatment {
        scope: vec![("198.18.2.0/24".parse().unwrap(), RULE)],
        df: Df::Clear,
        tcp: Tcp::Fragment,
    };
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) };
    Turn::new(port, handback, transform, Arc::new(treatment))
}

fn memory() -> (MemPort, MemHandback) {
    (MemPort::new(256, 1792, 9022), MemHandback::new(256, 2048))
}

/// The numbers of the datagrams that were handed back: of whole ones and of first fragments.
fn numbers(handback: &MemHandback) -> Vec<u32> {
    let first = |frame: &&Vec<u8>| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff == 0;
    let number = |frame: &Vec<u8>| u32::from_be_bytes(*frame[42..].first_chunk().unwrap());
    handback.taken().iter().filter(first).map(number).collect()
}

#[test]
fn a_frame_has_the_rule_of_its_metadata_else_that_of_its_destination() {
    let (mut port, handback) = memory();
    let narrow = Rule { mtu: 600, mss4: None, mss6: None };
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
    let fail = |taken| Some(FlushFault::Fail { taken, errno: Errno::EAGAIN });
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
    handback.script([Some(FlushFault::Fail { taken: 1, errno: Errno::EINTR })]);
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
    handback.script([Some(FlushFault::Fail { taken: 0, errno: Errno::ENOBUFS }); FLUSH_ATTEMPTS as usize]);
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
    handback.script([Some(FlushFault::Fail { taken: 2, errno: Errno::ENODEV })]);
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

/// What happens in one turn.
#[derive(Debug, Clone)]
struct Step {
    frames: Vec<(usize, bool, bool)>,
    port: Option<Fault>,
    flush: Option<FlushFault>,
    complete: bool,
}

fn step() -> impl Strategy<Value = Step> {
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
        2 => (0usize..40, errno).prop_map(|(taken, errno)| Some(FlushFault::Fail { taken, errno })),
        1 => (0usize..6).prop_map(|lost| Some(FlushFault::Lose(lost))),
        1 => Just(Some(FlushFault::Withhold)),
    ];
    let frame = (prop_oneof![4usize..1472, 1380usize..1472, 1472usize..4000], any::<bool>(), any::<bool>());
    (prop::collection::vec(frame, 0..90), port, flush, any::<bool>())
        .prop_map(|(frames, port, flush, complete)| Step { frames, port, flush, complete })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn nothing_is_lost_without_a_counter(steps in prop::collection::vec(step(), 1..30), slots in 4usize..80) {
        let mut handback = MemHandback::new(slots, 2048);
        handback.script(steps.iter().map(|step| step.flush));
        let port = FaultPort::new(MemPort::new(128, 1792, 4100), steps.iter().map(|step| step.port));
        let mut turn = turn(port, handback);
        let (mut number, mut delivered, mut refused) = (0, 0, 0);
        let mut broken = false;
        for step in &steps {
            for &(len, in_scope, meta) in &step.frames {
                let bytes = frame(if in_scope { IN_SCOPE } else { ELSEWHERE }, number, len);
                let meta = meta.then(|| Meta { rx_ns: monotonic_ns(), rule: RULE });
                number += 1;
                if turn.port_mut().inner_mut().deliver(&bytes, meta) { delivered += 1 } else { refused += 1 }
            }
            match turn.turn() {
                Ok(progress) => prop_assert_eq!(progress.pending, turn.handback().pending()),
                Err(error) => {
                    prop_assert_eq!(error, HandbackError::Fatal(Errno::ENODEV));
                    broken = true;
                }
            }
            for ledger in turn.ledgers() {
                prop_assert!(ledger.balanced(), "{:?}", ledger);
            }
            prop_assert_eq!(turn.port().ledger().held, 0);
            if step.complete {
                turn.handback_mut().complete();
            }
        }
        turn.handback_mut().complete();
        for _ in 0..FLUSH_ATTEMPTS {
            let _ = turn.turn();
        }
        let snapshot = turn.counters().snapshot();
        prop_assert_eq!(snapshot.received, delivered);
        prop_assert_eq!(turn.port().drops().unwrap(), refused);
        prop_assert_eq!(snapshot.reasons.values().sum::<u64>(), delivered);
        prop_assert_eq!(snapshot.handed_back as usize, turn.handback().totals().0);
        prop_assert_eq!(turn.ledgers()[1].held, 0);
        let handed_back = numbers(turn.handback());
        prop_assert!(handed_back.is_sorted_by(|a, b| a < b), "order: {:?}", handed_back);
        if !broken && snapshot.handback_errors == 0 && snapshot.reasons["handback_error"] == 0 {
            let passed: u64 = ["fits", "fragmented", "out_of_scope"].iter().map(|reason| snapshot.reasons[*reason]).sum();
            prop_assert_eq!(handed_back.len() as u64, passed);
        }
    }
}
