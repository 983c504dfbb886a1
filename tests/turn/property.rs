//! The property of a whole worker, as proptest (`tests/turn/main.rs`) and the fuzz target `turn` check it:
//! whatever arrives and whatever fails, no memory is lost and every frame is counted once.

use std::net::Ipv4Addr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use nix::errno::Errno;
use xdpfrag::config::Treatment;
use xdpfrag::handback::mem::FlushFault;
use xdpfrag::handback::{Handback, HandbackError, MemHandback};
use xdpfrag::packet::{Df, Idents, Rule, Tcp, Transform};
use xdpfrag::port::{Fault, FaultPort, MemPort, Port};
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::worker::{FLUSH_ATTEMPTS, Turn};
use xdpfrag::xdp::Meta;

pub(crate) const RULE: Rule = Rule::new(1422, Some(1382), None);

/// A DF datagram with `payload` bytes whose first four are `number`.
pub(crate) fn frame(destination: Ipv4Addr, number: u32, payload: usize) -> Vec<u8> {
    let mut data = vec![0xa5; payload.max(4)];
    data[..4].copy_from_slice(&number.to_be_bytes());
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([198, 18, 1, 2], destination.octets(), 64)
        .udp(4000, 5000);
    let mut frame = Vec::with_capacity(builder.size(data.len()));
    builder.write(&mut frame, &data).unwrap();
    frame
}

pub(crate) const IN_SCOPE: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

pub(crate) fn turn<P: Port>(port: P, handback: MemHandback) -> Turn<P, MemHandback> {
    let treatment = Treatment {
        scope: vec![("198.18.2.0/24".parse().unwrap(), RULE)],
        df: Df::Clear,
        tcp: Tcp::Fragment,
    };
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) };
    Turn::new(port, handback, transform, Arc::new(treatment))
}

/// The numbers of the datagrams that were handed back: of whole ones and of first fragments.
pub(crate) fn numbers(handback: &MemHandback) -> Vec<u32> {
    let first = |frame: &&Vec<u8>| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff == 0;
    let number = |frame: &Vec<u8>| u32::from_be_bytes(*frame[42..].first_chunk().unwrap());
    handback.taken().iter().filter(first).map(number).collect()
}

/// A frame that arrives.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// A DF datagram, with or without metadata of the XDP program.
    Datagram { payload: usize, in_scope: bool, meta: bool },
    /// Anything, with a rule of any SA MTU or without metadata.
    Bytes { bytes: Vec<u8>, mtu: Option<u16> },
}

/// What happens in one turn.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) frames: Vec<Input>,
    pub(crate) port: Option<Fault>,
    pub(crate) flush: Option<FlushFault>,
    pub(crate) complete: bool,
}

/// Lets a worker with `slots` buffers for its output go through `steps`.
///
/// # Panics
/// If a frame is lost, counted twice or overtaken.
pub(crate) fn check(steps: &[Step], slots: usize) {
    let mut handback = MemHandback::new(slots, 2048);
    handback.script(steps.iter().map(|step| step.flush));
    let port = FaultPort::new(MemPort::new(128, 1792, 4100), steps.iter().map(|step| step.port));
    let mut turn = turn(port, handback);
    let (mut number, mut delivered, mut refused) = (0, 0, 0);
    let (mut broken, mut numbered) = (false, true);
    for step in steps {
        for input in &step.frames {
            let (bytes, rule) = match input {
                Input::Datagram { payload, in_scope, meta } => {
                    number += 1;
                    let destination = if *in_scope { IN_SCOPE } else { ELSEWHERE };
                    (frame(destination, number - 1, *payload), meta.then_some(RULE))
                }
                Input::Bytes { bytes, mtu } => {
                    numbered = false;
                    (bytes.clone(), mtu.map(|mtu| Rule { mtu, ..RULE }))
                }
            };
            let meta = rule.map(|rule| Meta { rx_ns: monotonic_ns(), rule });
            let arrived = turn.port_mut().inner_mut().deliver(&bytes, meta);
            *if arrived { &mut delivered } else { &mut refused } += 1;
        }
        match turn.turn() {
            Ok(progress) => assert_eq!(progress.pending, turn.handback().pending()),
            Err(error) => {
                assert_eq!(error, HandbackError::Fatal(Errno::ENODEV));
                broken = true;
            }
        }
        for ledger in turn.ledgers() {
            assert!(ledger.balanced(), "{ledger:?}");
        }
        assert_eq!(turn.port().ledger().held, 0);
        if step.complete {
            turn.handback_mut().complete();
        }
    }
    turn.handback_mut().complete();
    for _ in 0..FLUSH_ATTEMPTS {
        // The error of a hand-back that is gone: what counts is checked below.
        let _ = turn.turn();
    }
    let snapshot = turn.counters().snapshot();
    assert_eq!(snapshot.received, delivered);
    assert_eq!(turn.port().drops().unwrap(), refused);
    assert_eq!(snapshot.reasons.values().sum::<u64>(), delivered);
    assert_eq!(snapshot.handed_back as usize, turn.handback().totals().0);
    assert_eq!(turn.ledgers()[1].held, 0);
    if !numbered {
        return;
    }
    let handed_back = numbers(turn.handback());
    assert!(handed_back.is_sorted_by(|a, b| a < b), "order: {handed_back:?}");
    if !broken && snapshot.handback_errors == 0 && snapshot.reasons["handback_error"] == 0 {
        let forwarded = ["fits", "fragmented", "out_of_scope"].map(|reason| snapshot.reasons[reason]);
        assert_eq!(handed_back.len() as u64, forwarded.iter().sum::<u64>());
    }
}
