//! Which packets go after another to the worker.

use std::thread::sleep;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use xdpfrag::config::Mode;
use xdpfrag::packet::{Edit, Reason};
use xdpfrag::xdp::{LanConfig, Meta};

use crate::frames::{Frame, MF, with};
use crate::gateway::*;

#[test]
fn a_flow_follows_its_oversize_frame() {
    if skipped("a_flow_follows_its_oversize_frame") {
        return;
    }
    let gateway = Gateway::with_worker(CONFIG);
    let small = with(Frame::tcp(0x10, &[], 100), |f| f.payload[3] = 1);
    let large = with(Frame::tcp(0x10, &[], 1460), |f| f.payload[3] = 1);
    let other = with(Frame::tcp(0x10, &[], 100), |f| f.payload[3] = 2);
    let reason = |frame: &Frame| {
        gateway.beat(now_ns());
        gateway.send(&frame.bytes()).reason
    };
    assert_eq!(reason(&small), Reason::Fits);
    assert_eq!(reason(&large), Reason::Oversize);
    let seen = gateway.send(&small.bytes());
    assert_eq!((seen.action, seen.reason, &seen.edits[..]), (XDP_REDIRECT, Reason::Sticky, &[][..]));
    assert_eq!(reason(&other), Reason::Fits, "another port is another flow");
    for _ in 0..3 {
        sleep(CONFIG.sticky * 2 / 3);
        assert_eq!(reason(&small), Reason::Sticky, "as long as it is not silent");
    }
    gateway.beat(0);
    let seen = gateway.send(&small.bytes());
    assert_eq!((seen.action, seen.reason, &seen.edits[..]), (XDP_PASS, Reason::Fits, &[Edit::Df][..]));
    sleep(CONFIG.sticky);
    assert_eq!(reason(&small), Reason::Fits);
}

#[test]
fn a_flow_follows_only_until_what_went_before_it_has_been_handed_back() {
    if skipped("a_flow_follows_only_until_what_went_before_it_has_been_handed_back") {
        return;
    }
    let gateway = Gateway::with_worker(LanConfig { sticky: Duration::from_secs(60), ..CONFIG });
    let worker = gateway.program.heartbeats().of(0).unwrap();
    let (small, large) = (Frame::udp(100).bytes(), Frame::udp(1500).bytes());
    let last = with(Frame::udp(60), |f| f.frag_off = 182).bytes();
    let reason = |frame: &[u8]| {
        gateway.beat(now_ns());
        gateway.send(frame).reason
    };
    let redirected = |frame: &[u8]| {
        gateway.beat(now_ns());
        let seen = gateway.send(frame);
        assert_eq!(seen.action, XDP_REDIRECT);
        Meta::before_frame(&seen.data[..Meta::SIZE]).unwrap().rx_ns
    };
    let first = redirected(&large);
    worker.served(first - 1);
    let second = redirected(&small);
    assert!(second > first);
    worker.served(first);
    assert_eq!(reason(&small), Reason::Sticky, "not yet the last one");
    worker.served(now_ns());
    assert_eq!(reason(&small), Reason::Fits);
    // The next one holds it again.
    let third = redirected(&large);
    worker.served(third - 1);
    assert_eq!(reason(&small), Reason::Sticky);
    worker.served(now_ns());
    assert_eq!(reason(&small), Reason::Fits);
    // A worker that does not know.
    redirected(&large);
    worker.served(0);
    assert_eq!(reason(&small), Reason::Sticky);
    // Fragments may come on another queue.
    worker.served(now_ns());
    assert_eq!(reason(&small), Reason::Fits);
    assert_eq!(reason(&last), Reason::Sticky);
    assert_eq!(reason(&small), Reason::Sticky, "behind that fragment");
}

#[test]
fn trap_12_fragments_and_datagrams_of_a_host_pair_stay_together() {
    if skipped("trap_12_fragments_and_datagrams_of_a_host_pair_stay_together") {
        return;
    }
    let gateway = Gateway::with_worker(CONFIG);
    let fragment = with(Frame::udp(1476), |f| f.frag_off = MF);
    let last = with(Frame::udp(60), |f| f.frag_off = 182);
    assert_eq!(gateway.send(&Frame::udp(60).bytes()).reason, Reason::Fits);
    assert_eq!(gateway.send(&fragment.bytes()).reason, Reason::Oversize);
    gateway.beat(now_ns());
    // Fragments carry no ports, so that ports must not tell them from the datagrams of their flow.
    assert_eq!(gateway.send(&last.bytes()).reason, Reason::Sticky);
    assert_eq!(gateway.send(&Frame::udp(60).bytes()).reason, Reason::Sticky);
    let tcp = Frame::tcp(0x10, &[], 100).bytes();
    assert_eq!(gateway.send(&tcp).reason, Reason::Fits, "another protocol");
}

#[test]
fn datagrams_of_another_port_go_their_own_way_but_no_fragment_does() {
    if skipped("datagrams_of_another_port_go_their_own_way_but_no_fragment_does") {
        return;
    }
    let options = vec![1; 4];
    for ip_options in [Vec::new(), options] {
        let gateway = Gateway::with_worker(CONFIG);
        let to_port = |length, port| {
            with(Frame::udp(length), |f| {
                f.ip_options.clone_from(&ip_options);
                f.payload[3] = port;
            })
        };
        let last = with(Frame::udp(60), |f| f.frag_off = 182);
        let reason = |frame: &Frame| {
            gateway.beat(now_ns());
            gateway.send(&frame.bytes()).reason
        };
        assert_eq!(reason(&to_port(1480, 1)), Reason::Oversize);
        assert_eq!(reason(&to_port(100, 1)), Reason::Sticky);
        assert_eq!(reason(&to_port(100, 2)), Reason::Fits);
        assert_eq!(reason(&last), Reason::Sticky, "it may be of any datagram");
        assert_eq!(reason(&to_port(100, 2)), Reason::Sticky, "it may be of this datagram");
    }
    let gateway = Gateway::with_worker(CONFIG);
    assert_eq!(gateway.send(&with(Frame::udp(60), |f| f.frag_off = 182).bytes()).reason, Reason::Fits);
}

#[test]
fn an_oversize_frame_that_found_no_worker_marks_no_flow() {
    if skipped("an_oversize_frame_that_found_no_worker_marks_no_flow") {
        return;
    }
    let gateway = Gateway::with_worker(CONFIG);
    gateway.beat(0);
    gateway.passes_untouched(&Frame::udp(1500).bytes(), Reason::NoWorker);
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&Frame::udp(60).bytes()).reason, Reason::Fits);
}

#[test]
fn in_generic_mode_no_flow_follows() {
    if skipped("in_generic_mode_no_flow_follows") {
        return;
    }
    // There the program sees what was handed back: a sticky frame would come again and again.
    let gateway = Gateway::with_worker(CONFIG);
    let _attached = gateway.program.attach(if_nametoindex("lo").unwrap(), Mode::Generic).unwrap();
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&Frame::udp(1500).bytes()).reason, Reason::Oversize);
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&Frame::udp(60).bytes()).reason, Reason::Fits);
}
