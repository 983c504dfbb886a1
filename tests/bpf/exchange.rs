//! Other constants for a program that is attached.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use libbpf_rs::Program;
use nix::net::if_::if_nametoindex;
use xdpfrag::config::Mode;
use xdpfrag::packet::{Df, Reason};
use xdpfrag::xdp::{AttachError, Attached, IdentMap, LanConfig, LanProgram, Patience};

use crate::frames::{DF, Frame, LAN_HOST, with};
use crate::gateway::*;

/// A gateway whose program is attached to one end of a veth pair.
fn attached(config: LanConfig, mode: Mode) -> (Gateway, Attached) {
    let gateway = Gateway::with_worker(config);
    ip("link add eth1 type veth peer name host");
    ip("link set eth1 up");
    let attached = gateway.program.attach(if_nametoindex("eth1").unwrap(), mode).unwrap();
    (gateway, attached)
}

/// Gives the attached program `config`, and answers what it had.
fn exchange(gateway: &mut Gateway, attached: &Attached, config: LanConfig) -> LanConfig {
    let variant = gateway.program.variant(attached, config).unwrap();
    *gateway.program.exchange(attached, variant).unwrap().config()
}

/// True if the program that answers in tests is the one on eth1.
fn is_on_the_link(program: &LanProgram) -> bool {
    let done = Command::new("ip").args(["link", "show", "eth1"]).output().unwrap();
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    shown.contains(&format!("prog/xdp id {} ", Program::id_from_fd(program.as_fd()).unwrap()))
}

#[test]
fn the_other_program_works_on_with_sockets_heartbeats_routes_limits_and_counters() {
    if skipped("the_other_program_works_on_with_sockets_heartbeats_routes_limits_and_counters") {
        return;
    }
    let (mut gateway, attached) = attached(LanConfig { sticky: Duration::ZERO, ..CONFIG }, Mode::Native);
    assert!(is_on_the_link(&gateway.program));
    let (fits, oversize) = (Frame::udp(100).bytes(), Frame::udp(1500).bytes());
    let df = |frame: &[u8]| u16::from_be_bytes([frame[20], frame[21]]) & DF != 0;
    assert!(!df(&gateway.send(&fits).data));
    assert_eq!(gateway.send(&oversize).action, XDP_REDIRECT);
    let before = gateway.program.counters().unwrap();

    let other = LanConfig { df: Df::Oversize, ..*gateway.program.config() };
    let old = exchange(&mut gateway, &attached, other);
    assert_eq!((old.df, gateway.program.config().df), (Df::Clear, Df::Oversize));
    assert!(is_on_the_link(&gateway.program));
    assert_eq!(gateway.program.counters().unwrap(), before, "an exchange is no frame");
    assert!(df(&gateway.send(&fits).data));
    assert_eq!(gateway.send(&oversize).reason, Reason::Oversize);
    assert_eq!(gateway.program.counters().unwrap().frames(), before.frames() + 2);

    let keep = LanConfig { df: Df::Keep, ..other };
    exchange(&mut gateway, &attached, keep);
    gateway.passes_untouched(&oversize, Reason::DfKept);

    let all = LanConfig { redirect_all: true, ..other };
    exchange(&mut gateway, &attached, all);
    assert_eq!(gateway.send(&fits).reason, Reason::All);

    // A heart that was found silent 100 ms ago is alive, or not.
    gateway.beat(now_ns() - CONFIG.stall.as_nanos() as u64);
    assert_eq!(gateway.send(&oversize).reason, Reason::Oversize);
    sleep(Duration::from_millis(100));
    assert_eq!(gateway.send(&oversize).reason, Reason::Oversize);
    exchange(&mut gateway, &attached, LanConfig { stall: Duration::from_millis(20), ..all });
    gateway.passes_untouched(&oversize, Reason::NoWorker);
}

#[test]
fn flows_and_deaf_hosts_are_remembered() {
    if skipped("flows_and_deaf_hosts_are_remembered") {
        return;
    }
    // Time for a busy machine.
    let sticky = Duration::from_secs(5);
    let (mut gateway, attached) = attached(LanConfig { sticky, ..CONFIG }, Mode::Native);
    assert_eq!(gateway.send(&Frame::udp(1500).bytes()).reason, Reason::Oversize);
    let patience = Patience { grace: Duration::ZERO, window: Duration::from_secs(60) };
    let deaf = LanConfig { deaf_only: Some(patience), ..*gateway.program.config() };
    exchange(&mut gateway, &attached, deaf);
    assert_eq!(gateway.send(&Frame::udp(100).bytes()).reason, Reason::Sticky, "its flow");
    gateway.passes_untouched(&Frame::udp(1500).bytes(), Reason::Warned);
    // `warned` goes on ...
    exchange(&mut gateway, &attached, LanConfig { df: Df::Oversize, ..deaf });
    assert_eq!(gateway.send(&Frame::udp(1500).bytes()).reason, Reason::Oversize, "it went on");
    // ... and `deaf`.
    exchange(&mut gateway, &attached, deaf);
    assert_eq!(gateway.send(&Frame::udp(1500).bytes()).reason, Reason::Oversize);
    let hosts = gateway.program.deaf_hosts().unwrap();
    assert_eq!(
        hosts.iter().map(|host| (host.address, host.frames)).collect::<Vec<_>>(),
        [(Ipv4Addr::from(LAN_HOST).into(), 2)]
    );
}

#[test]
fn after_redirect_all_a_flow_keeps_to_its_worker_until_it_pauses() {
    if skipped("after_redirect_all_a_flow_keeps_to_its_worker_until_it_pauses") {
        return;
    }
    let (mut gateway, attached) = attached(LanConfig { redirect_all: true, ..CONFIG }, Mode::Native);
    let fits = Frame::udp(100).bytes();
    let fragment = with(Frame::udp(60), |f| f.frag_off = 182).bytes();
    assert_eq!(gateway.send(&fits).reason, Reason::All);
    let config = LanConfig { redirect_all: false, sticky: Duration::from_secs(2), ..CONFIG };
    let variant = gateway.program.variant(&attached, config).unwrap();
    gateway.program.hold_flows(now_ns()).unwrap();
    gateway.program.exchange(&attached, variant).unwrap();
    assert_eq!(gateway.send(&fragment).reason, Reason::Sticky);
    assert_eq!(gateway.send(&fits).reason, Reason::Sticky);
    sleep(config.sticky);
    gateway.beat(now_ns());
    assert_eq!(gateway.send(&fits).reason, Reason::Fits);
}

#[test]
fn what_cannot_be_exchanged_stays() {
    if skipped("what_cannot_be_exchanged_stays") {
        return;
    }
    let (mut gateway, generic) = attached(CONFIG, Mode::Generic);
    let all = LanConfig { redirect_all: true, ..CONFIG };
    let error = gateway.program.variant(&generic, all).unwrap_err();
    assert!(matches!(error, AttachError::RedirectAll { .. }), "{error}");

    // The link has another program than the one that is to go.
    let mut other = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    let variant = other.variant(&generic, LanConfig { df: Df::Keep, ..CONFIG }).unwrap();
    let error = other.exchange(&generic, variant).unwrap_err().to_string();
    assert!(error.contains("eth1 keeps its XDP program"), "{error}");
    assert_eq!(*other.config(), CONFIG);
    let variant = gateway.program.variant(&generic, LanConfig { df: Df::Keep, ..CONFIG }).unwrap();
    gateway.program.exchange(&generic, variant).unwrap();
    assert_eq!(gateway.program.config().df, Df::Keep);
}
