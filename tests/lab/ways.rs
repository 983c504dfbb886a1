//! By which ways oversize packets go, as devices, routes and rules change under `run`; policies of IPsec need a VM
//! (`tests/vm/ways.rs`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use xdpfrag::lab::{Lab, LabConfig};
use xdpfrag::observe::snapshot::{Snapshot, WaysSnapshot};

use crate::support::{binary, deliver, forward, lab, mixed};

/// How long a change may take to be followed on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
const REMOTE: &str = "198.18.2.0/24";

/// What `stats` says of packets to the far host: of the longest prefix around it.
fn ways(lab: &Lab) -> WaysSnapshot {
    let text = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let mut routes = snapshot.interfaces.into_iter().next().unwrap().routes;
    routes.retain(|route| [REMOTE, "0.0.0.0/0"].contains(&route.prefix.as_str()));
    routes.sort_by_key(|route| route.prefix != REMOTE);
    routes.into_iter().next().unwrap().ways.unwrap()
}

/// Waits until packets go by these, for a reason that has `why` in it.
#[track_caller]
fn await_ways(lab: &Lab, (udp, other): (&str, &str), why: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ways = ways(lab);
        if (ways.udp.as_str(), ways.other.as_str()) == (udp, other) && ways.why.contains(why) {
            return;
        }
        assert!(Instant::now() < deadline, "{ways:?}, not {udp} and {other} because of {why:?}");
        sleep(Duration::from_millis(5));
    }
}

fn nft(lab: &Lab, rule: &str) {
    lab.gateway.output("nft", &[rule]).unwrap();
}

const NOBODY: &str = "nothing on the way asks for ports or tracks connections";
const FRAGMENTS: (&str, &str) = ("fragments", "fragments");
const EDIT: (&str, &str) = ("edit", "edit");

#[test]
fn devices_and_routes_that_become_narrow_have_the_kernel_cut() {
    let Some(lab) = lab(LabConfig { sa_mtu: 1500, ..LabConfig::default() }) else { return };
    let daemon = forward(&lab, &[]);
    await_ways(&lab, FRAGMENTS, NOBODY);
    deliver(&lab, mixed(60));
    lab.gateway.ip("link set wan0 mtu 1422").unwrap();
    await_ways(&lab, EDIT, "wan0 has MTU 1422");
    deliver(&lab, mixed(60));
    lab.gateway.ip("link set wan0 mtu 1423").unwrap();
    await_ways(&lab, FRAGMENTS, NOBODY);
    lab.gateway.ip("route change 198.18.2.0/24 dev wan0 mtu 1400").unwrap();
    await_ways(&lab, EDIT, "the route over wan0 has MTU 1400");
    // A second table may lead elsewhere.
    lab.gateway.ip("rule add fwmark 7 table 77").unwrap();
    await_ways(&lab, ("gso", "pass"), "a rule of policy routing");
    lab.gateway.ip("rule del fwmark 7 table 77").unwrap();
    await_ways(&lab, EDIT, "MTU 1400");
    let ended = daemon.stop().unwrap();
    for line in ["fragments: nothing", "edit, was fragments: wan0 has", "fragments, was edit: nothing"] {
        assert!(ended.stderr.contains(line), "{line} in {}", ended.stderr);
    }
}

#[test]
fn rules_that_ask_for_ports_or_connections_are_followed() {
    let Some(lab) = lab(LabConfig { sa_mtu: 1500, ..LabConfig::default() }) else { return };
    let daemon = forward(&lab, &[]);
    await_ways(&lab, FRAGMENTS, NOBODY);
    nft(&lab, "add table ip t; add chain ip t f { type filter hook forward priority 0; }");
    nft(&lab, "add rule ip t f counter; add rule ip t f ip protocol udp counter accept");
    nft(&lab, "add chain ip t i { type filter hook input priority 0; }; add rule ip t i udp dport 53 drop");
    nft(&lab, "add rule ip t f ip saddr 192.0.2.0/24 udp dport 9 drop");
    nft(&lab, "add rule ip t f tcp flags syn tcp option maxseg size set 1300");
    nft(&lab, "add chain ip t g { type filter hook forward priority 1; }; add rule ip t g udp dport 9 drop");
    // One that such packets meet.
    await_ways(&lab, ("gso", "fragments"), "in table ip t, chain g");
    nft(&lab, "add rule ip t g icmp type echo-request drop");
    await_ways(&lab, ("gso", "pass"), "in table ip t, chain g");
    // Tracked, they are put together in front of the rules.
    nft(&lab, "add rule ip t i ct state established accept");
    await_ways(&lab, ("gso", "fragments"), "in table ip t, chain g");
    nft(&lab, "flush chain ip t g");
    await_ways(&lab, ("gso", "fragments"), "connections are tracked");
    drop(daemon);
}

#[test]
fn with_generic_xdp_nothing_is_handed_back_whole() {
    let Some(lab) = lab(LabConfig { sa_mtu: 1500, ..LabConfig::default() }) else { return };
    nft(&lab, "add table ip t; add chain ip t f { type filter hook forward priority 0; }");
    nft(&lab, "add rule ip t f udp dport 9 drop");
    let daemon = forward(&lab, &["--mode", "generic"]);
    await_ways(&lab, ("pass", "fragments"), "datagrams cannot be handed back whole here");
    drop(daemon);
}
