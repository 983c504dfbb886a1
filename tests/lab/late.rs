//! `--redirect late`: oversize TCP is made to fit after GRO, and what fits is edited there; the worker sees none of it.

use std::net::{IpAddr, UdpSocket};

use xdpfrag::lab::bench::{Cores, Router};
use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR, FAR6, LAN, Lab, LabConfig};
use xdpfrag::observe::snapshot::InterfaceSnapshot;

use crate::support::{PORT, carry_to, forward, lab, received, snmp, stop, tcp_ext};

const LATE: [&str; 4] = ["--tcp", "resegment", "--redirect", "late"];

/// Lets one core receive from eth1, with GRO, as a NIC's interrupt does: halves wait in the backlog of the core that cut
/// them, and the softirq of a veth is wherever its sender is.
fn on_one_core(lab: &Lab) -> Router {
    Router::new(lab, Cores { generator: 0, router: 0, sink: 0 }).unwrap()
}

/// 4 MB each way: byte by byte, in order, as whole segments that fit, with DF and right checksums.
fn carries(lab: &Lab, to: IpAddr) -> InterfaceSnapshot {
    let daemon = forward(lab, &[&LATE[..], &["--df", "keep"]].concat());
    let _router = on_one_core(lab);
    for direction in [Direction::Upload, Direction::Download] {
        let report = carry_to(lab, to, direction);
        assert!(report.complete(), "{direction:?} {report:?}");
        assert!(report.client_mss > 1422 - 60, "it did ignore the MSS: {report:?}");
    }
    let far = lab.far_wire.seen().unwrap();
    assert!(far.largest() <= 1422 && far.fragments == 0, "{far:?}");
    // Clamped behind GRO: --df keep leaves nothing else to be done to what fits.
    assert!(to.is_ipv6() || (far.syn > 0 && far.syn_mss <= 1422 - 40), "{far:?}");
    for host in [&lab.far, &lab.appliance] {
        assert_eq!((snmp(host, "Tcp", "InCsumErrors"), snmp(host, "Tcp", "InErrs")), (0, 0));
    }
    let (sent, again) = (snmp(&lab.appliance, "Tcp", "OutSegs"), snmp(&lab.appliance, "Tcp", "RetransSegs"));
    // What the ring of a veth has no room for on a busy machine. What xdpfrag loses it counts, see below.
    assert!(again * 10 <= sent, "{again} of {sent} segments were sent again");
    // Out of order arrives only what a lost segment leaves a gap for.
    let disordered = tcp_ext(&lab.far, "TCPOFOQueue");
    assert!(disordered == 0 || again > 0, "{disordered} segments were overtaken, none was lost");
    let interface = stop(daemon);
    assert_eq!(interface.late["lost"] + interface.late["refused"] + interface.late["checksum"], 0);
    interface
}

#[test]
fn segments_are_merged_and_leave_at_the_size_of_the_sa() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let interface = carries(&lab, FAR.into());
    assert!(interface.xdp["late"] > 2000, "{interface:?}");
    assert!(interface.late["lowered"] > 50, "{interface:?}");
    assert_eq!(received(&interface), 0, "no worker is in the way: {interface:?}");
    let far = lab.far_wire.seen().unwrap();
    assert_eq!(far.df, far.packets, "{far:?}");
}

#[test]
fn what_fits_is_edited_behind_gro_and_counted_once() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[&LATE[..], &["--df", "clear"]].concat());
    let tally = Flow::new((FAR, PORT), vec![100; 500]).run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete() && tally.reordered == 0, "{tally:?}");
    let far = lab.far_wire.seen().unwrap();
    assert!(far.packets >= 500 && far.df == 0, "{far:?}");
    // What is not for the tunnel the program behind GRO finds out. The address is the gateway's.
    let to_gateway = || Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(&[0; 100], ("198.18.1.1", PORT))?);
    lab.appliance.run(to_gateway).unwrap();
    let interface = stop(daemon);
    assert_eq!((interface.xdp["fits"], interface.xdp["local"], received(&interface)), (500, 1, 0));
    assert_eq!(interface.xdp_edits["df"], 500, "{interface:?}");
}

#[test]
fn auto_takes_it_for_tcp_where_gro_is_on_and_tcp_is_resegmented() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let late = |gro: &str, tcp: &str| {
        lab.gateway.output("ethtool", &["-K", LAN, "gro", gro]).unwrap();
        let daemon = forward(&lab, &["--redirect", "auto", "--tcp", tcp]);
        assert!(carry_to(&lab, FAR.into(), Direction::Upload).complete(), "GRO {gro}, {tcp}");
        let interface = stop(daemon);
        assert_ne!(interface.xdp["late"] > 0, received(&interface) > 0, "one or the other: {interface:?}");
        interface.xdp["late"] > 0
    };
    assert!(late("on", "resegment"));
    assert!(!late("off", "resegment") && !late("on", "fragment"));
}

#[test]
fn without_gro_every_segment_is_cut_in_two() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[&LATE[..], &["--df", "keep"]].concat());
    let _router = on_one_core(&lab);
    lab.gateway.output("ethtool", &["-K", LAN, "gro", "off"]).unwrap();
    for direction in [Direction::Upload, Direction::Download] {
        let report = carry_to(&lab, FAR.into(), direction);
        assert!(report.complete(), "{direction:?} {report:?}");
    }
    let far = lab.far_wire.seen().unwrap();
    assert!(far.largest() <= 1422 && far.fragments == 0 && far.df == far.packets, "{far:?}");
    assert_eq!((snmp(&lab.far, "Tcp", "InCsumErrors"), snmp(&lab.far, "Tcp", "InErrs")), (0, 0));
    let again = snmp(&lab.appliance, "Tcp", "RetransSegs");
    let disordered = tcp_ext(&lab.far, "TCPOFOQueue");
    assert!(disordered == 0 || again > 0, "{disordered} segments were overtaken, none was lost");
    let ended = daemon.stop().unwrap();
    assert!(ended.stderr.contains("ethtool -K eth1 gro on"), "{}", ended.stderr);
    let interface = &ended.snapshot.expect("a snapshot").interfaces[0];
    assert!(interface.late["cut"] > 2000, "{interface:?}");
    // Both halves, and what had to go after them.
    assert_eq!(interface.late["returned"], 2 * interface.late["cut"] + interface.late["followed"]);
    assert_eq!(interface.late["lowered"] + interface.late["lost"], 0, "{interface:?}");
}

#[test]
fn ipv6_and_tagged_segments_too() {
    let Some(lab) = lab(LabConfig { ipv6: true, ..LabConfig::default() }) else { return };
    let interface = carries(&lab, FAR6.into());
    assert!(interface.late["lowered"] > 50 && received(&interface) == 0, "{interface:?}");
    drop(lab);
    let Some(lab) = crate::support::lab(LabConfig { vlan: Some(7), ..LabConfig::default() }) else { return };
    let interface = carries(&lab, FAR.into());
    assert!(interface.late["lowered"] + interface.late["cut"] > 50, "{interface:?}");
}

#[test]
fn only_deaf_hosts_are_served_where_that_is_asked_for() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[&LATE[..], &["--force", "deaf"]].concat());
    let report = carry_to(&lab, FAR.into(), Direction::Upload);
    assert!(report.complete(), "{report:?}");
    // Told first: TCP's own pauses decide when it is seen to go on.
    assert!(report.elapsed_s > 0.5 && lab.lan_wire.seen().unwrap().too_big > 0, "{report:?}");
    let interface = stop(daemon);
    assert_eq!(interface.deaf.len(), 1, "{interface:?}");
    assert!(interface.late["lowered"] + interface.late["cut"] > 50, "{interface:?}");
}

#[test]
fn what_was_asked_for_and_cannot_be_had_is_a_warning() {
    let Some(lab) = lab(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    // A veth whose peer sends on more queues than it receives on takes no native XDP.
    lab.gateway.output("ethtool", &["-L", LAN, "rx", "1"]).unwrap();
    let said = forward(&lab, &["--tcp", "resegment", "--redirect", "late"]).stop().unwrap().stderr;
    for line in [
        "warning: eth1: generic XDP, because the driver cannot do it natively",
        "warning: eth1: --redirect oversize instead of late: generic XDP runs behind GRO",
    ] {
        assert!(said.contains(line), "{said}");
    }
}
