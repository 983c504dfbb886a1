//! Attaching to interfaces, in private network namespaces.

use std::os::fd::AsFd;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use libbpf_rs::Program;
use libbpf_rs::query::LinkInfoIter;
use nix::net::if_::if_nametoindex;
use xdpfrag::config::Mode;
use xdpfrag::xdp::sys::XdpMode;
use xdpfrag::xdp::{AttachError, ClampProgram, IdentMap, LanConfig, LanProgram, Method, clamp};

use crate::gateway::*;

/// The index of one end of a fresh veth pair in a private namespace.
fn veth() -> u32 {
    private_netns();
    ip("link add eth1 type veth peer name host");
    ip("link set eth1 up");
    ip("link set host up");
    if_nametoindex("eth1").unwrap()
}

fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let done = Command::new(words.next().unwrap()).args(words).output().unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Waits until no XDP program is on eth1: a child of another test may hold the link between fork and exec.
fn free_of_xdp() {
    let gone = || !output("ip link show eth1").contains("xdp");
    assert!((0..50).any(|_| gone() || {
        sleep(Duration::from_millis(20));
        false
    }));
}

#[test]
fn the_program_goes_with_its_link() {
    if skipped("the_program_goes_with_its_link") {
        return;
    }
    let eth1 = veth();
    let program = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    for (mode, expected, shown) in [
        (Mode::Native, XdpMode::Native, "xdp"),
        (Mode::Auto, XdpMode::Native, "xdp"),
        (Mode::Generic, XdpMode::Generic, "xdpgeneric"),
    ] {
        let attached = program.attach(eth1, mode).unwrap();
        assert_eq!((attached.mode, attached.fallback.as_deref()), (expected, None));
        let link = output("ip link show eth1");
        assert!(link.contains(&format!(" {shown} ")) && link.contains("name xdpfrag"), "{link}");
        drop(attached);
        // A process that another test is starting holds the link until its execve(2).
        free_of_xdp();
    }
}

#[test]
fn another_program_is_named_and_not_replaced() {
    if skipped("another_program_is_named_and_not_replaced") {
        return;
    }
    let eth1 = veth();
    let first = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    let second = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    for (mode, other) in
        [(Mode::Native, Mode::Auto), (Mode::Native, Mode::Generic), (Mode::Generic, Mode::Auto)]
    {
        let attached = first.attach(eth1, mode).unwrap();
        let error = second.attach(eth1, other).unwrap_err();
        assert!(matches!(&error, AttachError::Busy { name, .. } if name == "xdpfrag"), "{error}");
        assert!(error.to_string().contains("ip link set dev eth1 xdp off"), "{error}");
        drop(attached);
        free_of_xdp();
    }
}

#[test]
fn generic_mode_only_where_native_is_not_to_be_had() {
    if skipped("generic_mode_only_where_native_is_not_to_be_had") {
        return;
    }
    private_netns();
    let lo = if_nametoindex("lo").unwrap();
    let program = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    let error = program.attach(lo, Mode::Native).unwrap_err();
    assert!(matches!(error, AttachError::Unsupported { .. }), "{error}");
    let attached = program.attach(lo, Mode::Auto).unwrap();
    assert_eq!(attached.mode, XdpMode::Generic);
    assert!(attached.fallback.as_deref().is_some_and(|why| why.contains("native")), "{attached:?}");
    drop(attached);

    ip("link add eth2 numtxqueues 1 numrxqueues 1 type veth peer name host2 numtxqueues 2 numrxqueues 1");
    ip("link set eth2 up");
    ip("link set host2 up");
    let error = program.attach(if_nametoindex("eth2").unwrap(), Mode::Native).unwrap_err().to_string();
    assert!(error.contains("eth2") && error.contains("ethtool -L"), "{error}");

    let all =
        LanProgram::load(&LanConfig { redirect_all: true, ..CONFIG }, &IdentMap::new().unwrap()).unwrap();
    let error = all.attach(lo, Mode::Auto).unwrap_err().to_string();
    assert!(error.contains("--redirect all needs native XDP"), "{error}");
    let error = program.attach(9999, Mode::Auto).unwrap_err().to_string();
    assert!(error.contains("interface 9999") && error.contains("No such device"), "{error}");
}

#[test]
fn the_clamp_leaves_nothing_behind() {
    if skipped("the_clamp_leaves_nothing_behind") {
        return;
    }
    let eth1 = veth();
    let lan = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    let program = ClampProgram::load(lan.route_maps()).unwrap();
    let filters = || output("tc filter show dev eth1 egress");
    let qdiscs = || output("tc qdisc show dev eth1");

    let link = program.attach_with(eth1, Method::Clsact).unwrap();
    assert_eq!(link.method(), Method::Clsact);
    assert!(filters().contains("xdpfrag_clamp"), "{}", filters());
    drop(link);
    assert!(!qdiscs().contains("clsact"), "{}", qdiscs());

    // Others may have come to use the qdisc meanwhile, on either side.
    for hook in ["ingress", "egress"] {
        let link = program.attach_with(eth1, Method::Clsact).unwrap();
        output(&format!("tc filter add dev eth1 {hook} u32 match u32 0 0 flowid 1:1"));
        drop(link);
        let others = output(&format!("tc filter show dev eth1 {hook}"));
        assert!(others.contains("u32") && !filters().contains("xdpfrag_clamp"), "{others}");
        output("tc qdisc del dev eth1 clsact");
    }

    // What SIGKILL leaves: the filter stays, and the next one finds and replaces it.
    std::mem::forget(program.attach_with(eth1, Method::Clsact).unwrap());
    drop(program.attach_with(eth1, Method::Clsact).unwrap());
    assert!(!filters().contains("xdpfrag_clamp") && qdiscs().contains("clsact"), "not ours to remove");
    std::mem::forget(program.attach_with(eth1, Method::Clsact).unwrap());
    assert!(clamp::detach_leftover(eth1).unwrap());
    assert!(!filters().contains("xdpfrag_clamp"), "{}", filters());
    assert!(!clamp::detach_leftover(eth1).unwrap());
}

#[test]
fn the_clamp_prefers_a_link() {
    if skipped("the_clamp_prefers_a_link") || without_tcx("the_clamp_prefers_a_link") {
        return;
    }
    let eth1 = veth();
    let lan = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    let program = ClampProgram::load(lan.route_maps()).unwrap();
    let link = program.attach(eth1).unwrap();
    let id = Program::id_from_fd(program.as_fd()).unwrap();
    // A link of another test that goes meanwhile ends the listing early, and whoever lists them holds each for a moment.
    let linked = || (0..10).any(|_| LinkInfoIter::default().any(|link| link.prog_id == id));
    let soon = |expected| {
        (0..400).any(|_| {
            sleep(Duration::from_millis(5));
            linked() == expected
        })
    };
    assert!(soon(true));
    drop(link);
    assert!(soon(false));
}
