//! `--force deaf`: who counts as deaf, and when.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use xdpfrag::packet::{Df, Reason};
use xdpfrag::xdp::{LanConfig, Patience};

use crate::frames::{DF, FAR_HOST, Frame, LAN_HOST, with};
use crate::frames6::{Frame6, LAN_HOST6};
use crate::gateway::*;

const PATIENCE: Patience = Patience { grace: Duration::from_millis(200), window: Duration::from_millis(600) };
const ADAPTIVE: LanConfig =
    LanConfig { deaf_only: Some(PATIENCE), resegment: true, sticky: Duration::ZERO, ..CONFIG };

/// An oversize datagram from host `from` of the LAN to host `to` behind the tunnel.
fn oversize(from: u8, to: u8) -> Vec<u8> {
    with(Frame::udp(1500), |f| {
        f.source = [198, 51, 100, from];
        f.destination = [FAR_HOST[0], FAR_HOST[1], FAR_HOST[2], to];
    })
    .bytes()
}

fn reason(gateway: &Gateway, frame: &[u8]) -> Reason {
    gateway.beat(now_ns());
    gateway.send(frame).reason
}

fn known(gateway: &Gateway) -> Vec<(IpAddr, u64)> {
    let mut hosts: Vec<_> =
        gateway.program.deaf_hosts().unwrap().iter().map(|host| (host.address, host.frames)).collect();
    hosts.sort();
    hosts
}

#[test]
fn a_host_that_goes_on_after_the_answer_is_served() {
    if skipped("a_host_that_goes_on_after_the_answer_is_served") {
        return;
    }
    let gateway = Gateway::with_worker(ADAPTIVE);
    gateway.passes_untouched(&oversize(2, 2), Reason::Warned);
    assert_eq!(reason(&gateway, &oversize(2, 2)), Reason::Warned, "it was in flight");
    assert_eq!(known(&gateway), []);
    sleep(PATIENCE.grace);
    let before = now_ns();
    assert_eq!(reason(&gateway, &oversize(2, 2)), Reason::Oversize);
    assert_eq!(reason(&gateway, &oversize(2, 2)), Reason::Oversize);
    assert_eq!(reason(&gateway, &oversize(2, 9)), Reason::Oversize, "deaf is deaf, wherever it sends");
    assert_eq!(known(&gateway), [(LAN_HOST.into(), 3)]);
    let host = gateway.program.deaf_hosts().unwrap()[0];
    assert!(before <= host.since_ns && host.since_ns < host.last_ns && host.last_ns <= now_ns(), "{host:?}");

    assert_eq!(reason(&gateway, &oversize(3, 2)), Reason::Warned, "another host is another matter");
    let fits = Frame::udp(1400).bytes();
    assert_eq!(reason(&gateway, &fits), Reason::Fits);
    gateway.beat(0);
    gateway.passes_untouched(&oversize(2, 2), Reason::NoWorker);
}

#[test]
fn a_host_that_listens_is_never_called_deaf() {
    if skipped("a_host_that_listens_is_never_called_deaf") {
        return;
    }
    let gateway = Gateway::with_worker(ADAPTIVE);
    // One packet to each of many destinations: each has to be learned on its own.
    for to in 2..50 {
        assert_eq!(reason(&gateway, &oversize(2, to)), Reason::Warned);
    }
    sleep(PATIENCE.grace);
    for to in 50..60 {
        assert_eq!(reason(&gateway, &oversize(2, to)), Reason::Warned);
    }
    // What it learned has expired: it asks again, and again after that.
    for _ in 0..2 {
        sleep(PATIENCE.window + Duration::from_millis(50));
        assert_eq!(reason(&gateway, &oversize(2, 2)), Reason::Warned);
    }
    assert_eq!(known(&gateway), []);
}

#[test]
fn ipv6_hosts_are_judged_alike() {
    if skipped("ipv6_hosts_are_judged_alike") {
        return;
    }
    let gateway = Gateway::with_worker(ADAPTIVE);
    let segment = Frame6::tcp(0x10, &[], 1400).bytes();
    gateway.passes_untouched(&segment, Reason::Warned);
    sleep(PATIENCE.grace);
    assert_eq!(reason(&gateway, &segment), Reason::Oversize);
    assert_eq!(known(&gateway), [(LAN_HOST6.into(), 1)]);
    // The kernel answers what cannot be resegmented in any case: no judgement.
    assert_eq!(reason(&gateway, &Frame6::udp(1500).bytes()), Reason::Ipv6TooBig);
    assert_eq!(known(&gateway), [(LAN_HOST6.into(), 1)]);
}

#[test]
fn only_packets_that_forbid_fragments_are_judged() {
    if skipped("only_packets_that_forbid_fragments_are_judged") {
        return;
    }
    let gateway = Gateway::with_worker(ADAPTIVE);
    let plain = with(Frame::udp(1500), |f| f.frag_off = 0).bytes();
    for _ in 0..3 {
        assert_eq!(reason(&gateway, &plain), Reason::Oversize, "it asked for fragments");
    }
    let malformed = with(Frame::udp(1490), |f| (f.frag_off, f.ip_options) = (DF, vec![7, 5, 4, 0])).bytes();
    assert_eq!(reason(&gateway, &malformed), Reason::Malformed);
    let always = Gateway::with_worker(LanConfig { deaf_only: None, ..ADAPTIVE });
    assert_eq!(reason(&always, &oversize(2, 2)), Reason::Oversize);
    let keep = Gateway::with_worker(LanConfig { df: Df::Keep, ..ADAPTIVE });
    assert_eq!(reason(&keep, &oversize(2, 2)), Reason::DfKept);
    assert_eq!(reason(&keep, &Frame::tcp(0x10, &[], 1460).bytes()), Reason::Warned);
    assert!(known(&gateway).is_empty() && known(&always).is_empty());
}

/// A flood of forged sources makes the kernel answer anew, at worst: nothing is lost, no table grows.
#[test]
fn a_full_table_forgets() {
    if skipped("a_full_table_forgets") {
        return;
    }
    let gateway = Gateway::with_worker(ADAPTIVE);
    assert_eq!(reason(&gateway, &oversize(2, 2)), Reason::Warned);
    sleep(PATIENCE.grace);
    assert_eq!(reason(&gateway, &oversize(2, 2)), Reason::Oversize);
    for forged in 0..10_000u32 {
        let [.., high, low] = forged.to_be_bytes();
        let frame = with(Frame::udp(1500), |f| f.source = [198, 19, high, low]).bytes();
        assert_eq!(gateway.program.run_once(&frame).unwrap().action, XDP_PASS);
    }
    assert_eq!(
        reason(&gateway, &oversize(2, 2)),
        Reason::Oversize,
        "the verdicts stand in a table of their own"
    );
    assert_eq!(known(&gateway).len(), 1);
}
