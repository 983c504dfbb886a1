//! The egress program: MSS of what comes out of the tunnel.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{getsockopt, sockopt};
use xdpfrag::packet::{Edit, Rule};
use xdpfrag::xdp::{ClampProgram, Route};

use crate::frames::{AO, FAR_HOST, Frame, LAN_HOST, MD5, ROUTER, mss, with};
use crate::frames6::{
    DESTINATION, FAR_HOST6, Frame6, HOP_BY_HOP, LAN_HOST6, ROUTER6, extension, fragment, with6,
};
use crate::gateway::*;

/// `TC_ACT_UNSPEC`: on to the next program.
const UNSPEC: u32 = u32::MAX;

/// A SYN-ACK from the far side to the LAN.
fn syn_ack(options: &[u8]) -> Frame {
    let mut frame = Frame::tcp(0x12, options, 0);
    (frame.source, frame.destination) = (FAR_HOST, LAN_HOST);
    frame.finish_tcp();
    frame
}

#[test]
fn syns_out_of_the_tunnel_are_clamped() {
    if skipped("syns_out_of_the_tunnel_are_clamped") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let clamp = ClampProgram::load(gateway.program.route_maps()).unwrap();
    let mut clamped = 0;
    let mut run = |frame: &Frame, expect: bool| {
        let seen = clamp.run_once(&frame.bytes()).unwrap();
        assert_eq!(seen.action, UNSPEC);
        let out = with(frame.clone(), |f| f.payload = seen.data[f.l3() + 20..].to_vec());
        assert_eq!(seen.data[..frame.l3() + 20], frame.bytes()[..frame.l3() + 20], "only TCP is touched");
        assert_eq!(out.tcp_sum(), frame.tcp_sum());
        clamped += u64::from(expect);
        assert_eq!(clamp.counters().unwrap().edit(Edit::Mss), clamped);
        assert_eq!(out.payload != frame.payload, expect);
        out.payload[20..].to_vec()
    };
    for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 7), (0x8100, 5)]] {
        for nops in 0..8 {
            let mut options = vec![1; nops];
            options.extend(mss(1460));
            options.resize(12, 0);
            let out = run(&with(syn_ack(&options), |f| f.tags = tags.to_vec()), true);
            assert_eq!(out[nops..nops + 4], mss(MSS), "{nops} NOPs");
        }
    }
    run(&syn_ack(&mss(MSS)), false);
    run(&syn_ack(&[8, 0, 2, 4, 5, 0xb4, 0, 0]), false);
    run(&syn_ack(&[&AO[..], &mss(1460)].concat()), false);
    run(&syn_ack(&[&mss(1460)[..], &AO].concat()), false);
    run(&syn_ack(&[&mss(1460)[..], &MD5, &[1, 1]].concat()), true);
    run(&with(syn_ack(&mss(1460)), |f| f.source = ROUTER), false);
    run(&with(syn_ack(&mss(1460)), |f| f.source = [198, 51, 100, 9]), false);
    run(&with(syn_ack(&mss(1460)), |f| f.payload[13] = 0x10), false);
    run(&with(syn_ack(&mss(1460)), |f| f.payload[17] ^= 1), true);
    run(&Frame::udp(100), false);

    let rule = Rule::new(MTU, Some(1200), None);
    gateway.program.set_route("198.18.0.0/15".parse().unwrap(), Route::Tunnel(rule)).unwrap();
    assert_eq!(run(&syn_ack(&mss(1460)), true), mss(1200), "the XDP program's map");
}

#[test]
fn ipv6_syns_out_of_the_tunnel_are_clamped() {
    if skipped("ipv6_syns_out_of_the_tunnel_are_clamped") {
        return;
    }
    let gateway = Gateway::without_worker(CONFIG);
    let clamp = ClampProgram::load(gateway.program.route_maps()).unwrap();
    let syn_ack = |nops: usize, extensions: &[(u8, Vec<u8>)]| {
        let mut options = vec![1; nops];
        options.extend(mss(1440));
        options.resize(options.len().next_multiple_of(4), 0);
        with6(Frame6::tcp(0x12, &options, 0), |f| {
            (f.source, f.destination) = (FAR_HOST6, LAN_HOST6);
            f.extensions = extensions.to_vec();
            f.finish_tcp();
        })
    };
    let run = |frame: &Frame6, expect: bool| {
        let before = clamp.counters().unwrap().edit(Edit::Mss);
        let seen = clamp.run_once(&frame.bytes()).unwrap();
        let l4 = frame.l4();
        assert_eq!((seen.action, &seen.data[..l4]), (UNSPEC, &frame.bytes()[..l4]), "only TCP is touched");
        let out = with6(frame.clone(), |f| f.payload = seen.data[l4..].to_vec());
        assert_eq!(out.tcp_sum(), frame.tcp_sum());
        assert_eq!(clamp.counters().unwrap().edit(Edit::Mss) - before, u64::from(expect));
        assert_eq!(out.payload != frame.payload, expect);
        out.payload[20..].to_vec()
    };
    for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 7), (0x8100, 5)]] {
        for extensions in [&[][..], &[extension(HOP_BY_HOP, 8), extension(DESTINATION, 64)], &[fragment(1)]] {
            for nops in 0..8 {
                let out = run(&with6(syn_ack(nops, extensions), |f| f.tags = tags.to_vec()), true);
                assert_eq!(out[nops..nops + 4], mss(MSS6), "{nops} NOPs");
            }
        }
    }
    run(&syn_ack(0, &[fragment(8)]), false);
    let signed = |code: &[u8]| {
        with6(Frame6::tcp(0x12, &[&mss(1440)[..], code].concat(), 0), |f| {
            (f.source, f.destination) = (FAR_HOST6, LAN_HOST6);
            f.finish_tcp();
        })
    };
    run(&signed(&AO), false);
    run(&signed(&[&MD5[..], &[1, 1]].concat()), true);
    run(&with6(syn_ack(0, &[]), |f| f.source = ROUTER6), false);
    run(&with6(syn_ack(0, &[]), |f| f.source = LAN_HOST6), false);
    run(&with6(syn_ack(0, &[]), |f| f.payload[13] = 0x10), false);
    run(&with6(syn_ack(0, &[]), |f| f.payload[17] ^= 1), true);
    run(&Frame6::udp(100), false);
}

#[test]
fn a_real_connection_gets_the_lower_mss() {
    if skipped("a_real_connection_gets_the_lower_mss") {
        return;
    }
    connect("198.51.100", "/24", FAR_HOST.into(), MSS);
}

#[test]
fn a_real_ipv6_connection_gets_the_lower_mss() {
    if skipped("a_real_ipv6_connection_gets_the_lower_mss") {
        return;
    }
    connect("2001:db8:a:", "/64", FAR_HOST6.into(), MSS6);
}

/// A kernel's own SYN-ACK leaves with CHECKSUM_PARTIAL: clamped, it must still be taken. The LAN is
/// `net`, the router's address there ends in 1 and the host's in 2; `far` is the router's as well.
fn connect(net: &'static str, len: &'static str, far: IpAddr, mss: u16) {
    let dot = if far.is_ipv4() { "." } else { ":" };
    let nodad = if far.is_ipv4() { "" } else { "nodad" };
    private_netns();
    ip("link add eth1 type veth peer name host");
    let (ready, lan_netns) = mpsc::channel();
    let (go, linked) = mpsc::channel();
    let lan_host = thread::spawn(move || {
        private_netns();
        let task = fs::read_link("/proc/thread-self").unwrap();
        ready.send(format!("/proc/{}/ns/net", task.display())).unwrap();
        linked.recv_timeout(Duration::from_secs(10)).unwrap();
        ip(&format!("addr add {net}{dot}2{len} dev host {nodad}"));
        ip("link set host up");
        ip(&format!("route add default via {net}{dot}1"));
        let far = SocketAddr::new(far, 80);
        let mut stream = TcpStream::connect_timeout(&far, Duration::from_secs(10)).unwrap();
        stream.write_all(&[7; 20_000]).unwrap();
        getsockopt(&stream, sockopt::TcpMaxSeg).unwrap()
    });
    let netns = lan_netns.recv_timeout(Duration::from_secs(10)).unwrap();
    ip(&format!("link set host netns {netns}"));
    ip(&format!("addr add {net}{dot}1{len} dev eth1 {nodad}"));
    ip(&format!("addr add {far} dev lo {nodad}"));
    ip("link set eth1 up");
    let gateway = Gateway::without_worker(CONFIG);
    let clamp = ClampProgram::load(gateway.program.route_maps()).unwrap();
    let _link = clamp.attach(if_nametoindex("eth1").unwrap()).unwrap();
    let listener = TcpListener::bind(SocketAddr::new(far, 80)).unwrap();
    go.send(()).unwrap();
    // It has connected and sent all by then, or failed in time.
    let used = lan_host.join().unwrap();
    let mut received = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), 20_000);
    // Less 12 bytes of time stamps in every segment.
    assert!(used <= u32::from(mss) && used >= u32::from(mss) - 40, "{used}");
    assert!(clamp.counters().unwrap().edit(Edit::Mss) >= 1);
}
