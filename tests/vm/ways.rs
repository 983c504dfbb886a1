//! By which ways oversize packets go, and what is on the wire then: whatever asks for ports meets whole packets, nothing
//! leaves in the clear, and every ESP packet is whole.

use std::thread::sleep;
use std::time::{Duration, Instant};

use xdpfrag::lab::Daemon;
use xdpfrag::observe::snapshot::{Snapshot, WaysSnapshot};

use crate::capture::Wan;
use crate::conntrack::{INTO_THE_TUNNEL, MTU, STATEFUL, gateways, nft, serve, udp, whole_udp};
use crate::esp::{BINARY, QUIET};
use crate::gateways::{Gateways, batch};
use crate::sa::Route;

/// How long a change may take to be followed, under emulation.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the datagrams go.
const PORT: u16 = 7001;
const PAIR: &str = "src 198.18.1.0/24 dst 198.18.2.0/24";
const TEMPLATE: &str = "tmpl src 198.51.100.1 dst 198.51.100.2 proto esp reqid 1 mode tunnel";

/// What `stats` says of packets from the first site to the second.
fn ways(gateways: &Gateways) -> WaysSnapshot {
    let site = &gateways.sites[0];
    let json = site.router.output(BINARY, &["stats", "--json"]).unwrap();
    let interface = serde_json::from_str::<Snapshot>(&json).unwrap().interfaces.remove(0);
    let to_site = interface.routes.into_iter().filter(|route| route.prefix == site.remote_net);
    // The source comes before all sources.
    let mut routes: Vec<_> = to_site.collect();
    routes.sort_by_key(|route| route.source.as_deref() != Some("198.18.1.0/24"));
    routes.remove(0).ways.unwrap()
}

/// Waits until these are the ways; `udp` and `other`.
#[track_caller]
fn await_ways(gateways: &Gateways, wanted: (&str, &str)) -> WaysSnapshot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ways = ways(gateways);
        if (ways.udp.as_str(), ways.other.as_str()) == wanted {
            return ways;
        }
        assert!(Instant::now() < deadline, "{ways:?}, not {wanted:?}");
        sleep(Duration::from_millis(20));
    }
}

/// What `check` says of ways.
fn check(gateways: &Gateways) -> Vec<(String, Option<String>)> {
    let site = &gateways.sites[0];
    let mtu = MTU.to_string();
    let arguments = ["check", "--iface", "eth1", "--mtu", &mtu, "--dst", site.remote_net, "--json"];
    // Its exit code says what else it found.
    let run = || Ok(std::process::Command::new(BINARY).args(arguments).output()?);
    let report: serde_json::Value = serde_json::from_slice(&site.router.run(run).unwrap().stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let of_ways = findings.filter(|finding| finding["what"] == "way");
    of_ways.map(|finding| (text(&finding["why"]).unwrap(), text(&finding["remedy"]))).collect()
}

/// Replaces the policy of the first router by these: each with what it selects besides, its priority and what it does.
fn policies(gateways: &Gateways, policies: &[&str]) {
    let mut lines = vec![format!("xfrm policy delete {PAIR} dir out")];
    lines.extend(policies.iter().map(|policy| format!("xfrm policy add {PAIR} {policy}")));
    batch(&gateways.sites[0].router, &lines.join("\n")).unwrap();
}

/// Serves the first site, and expects these ways for a reason that has `why` in it, as `check` does.
#[track_caller]
fn expect(gateways: &Gateways, wanted: (&str, &str), why: &str) -> Daemon {
    let daemon = serve(gateways, &[]);
    let ways = await_ways(gateways, wanted);
    assert!(ways.why.contains(why), "{ways:?}");
    let found = check(gateways);
    assert!(found.iter().any(|(words, _)| words.contains(why)), "{found:?}");
    daemon
}

#[test]
fn ways_policy_by_port() {
    let gateways = gateways(Route::Policy, "");
    policies(&gateways, &[&format!("proto udp dport {PORT} dir out {TEMPLATE}")]);
    let daemon = expect(&gateways, ("gso", "fragments"), "198.18.1.0/24 -> 198.18.2.0/24 asks for ports");
    whole_udp(&gateways);
    drop(daemon);
}

/// A policy by port that comes while datagrams are served otherwise is followed, and so is its end.
#[test]
fn ways_policy_by_port_that_comes_and_goes() {
    let gateways = gateways(Route::Policy, "");
    let daemon = expect(&gateways, ("fragments", "fragments"), "nothing on the way asks for ports");
    whole_udp(&gateways);
    let router = &gateways.sites[0].router;
    router
        .ip(&format!("xfrm policy add {PAIR} proto udp dport {PORT} dir out priority 1 {TEMPLATE}"))
        .unwrap();
    await_ways(&gateways, ("gso", "fragments"));
    whole_udp(&gateways);
    router.ip(&format!("xfrm policy delete {PAIR} proto udp dport {PORT} dir out")).unwrap();
    await_ways(&gateways, ("fragments", "fragments"));
    let ended = daemon.stop().unwrap();
    for line in
        ["gso for UDP, else fragments, was fragments: ", "fragments, was gso for UDP, else fragments: "]
    {
        assert!(ended.stderr.contains(line), "{}", ended.stderr);
    }
}

/// What a policy blocks stays blocked: not even in ESP, for the policy behind it would take the fragments.
#[test]
fn ways_block_policy() {
    let gateways = gateways(Route::Policy, "");
    let block = format!("proto udp dport {PORT} dir out action block priority 1");
    policies(&gateways, &[&block, &format!("dir out priority 9 {TEMPLATE}")]);
    let (tally, wan) = udp(&gateways, QUIET);
    assert_eq!((tally.missing.values().sum::<u64>(), wan), (6, Wan::default()), "without xdpfrag");
    let daemon = expect(&gateways, ("gso", "fragments"), "asks for ports");
    let (tally, wan) = udp(&gateways, QUIET);
    assert_eq!((tally.missing.values().sum::<u64>(), wan), (6, Wan::default()));
    drop(daemon);
}

/// Only what a rule has marked has a route.
#[test]
fn ways_policy_routing_by_port() {
    let mark = format!(
        "table ip m {{ chain pre {{ type filter hook prerouting priority mangle; udp dport {PORT} meta mark set 7; }}\n}}"
    );
    let gateways = gateways(Route::Policy, &mark);
    let lines = [
        "route del 198.18.2.0/24 dev wan0",
        "route add unreachable 198.18.2.0/24",
        "route add 198.18.2.0/24 dev wan0 table 77",
        "rule add fwmark 7 table 77",
    ];
    batch(&gateways.sites[0].router, &lines.join("\n")).unwrap();
    let daemon = expect(&gateways, ("gso", "pass"), "a rule of policy routing");
    whole_udp(&gateways);
    drop(daemon);
}

#[test]
fn ways_stateless_firewall_by_port() {
    let rules = format!(
        "table ip f {{ chain forward {{ type filter hook forward priority 0; policy drop; udp dport {PORT} accept; }}\n}}"
    );
    let gateways = gateways(Route::Policy, &rules);
    // It does not matter to other protocols.
    let daemon = expect(&gateways, ("gso", "fragments"), "in table ip f, chain forward");
    whole_udp(&gateways);
    // The rule goes, and comes again.
    let router = &gateways.sites[0].router;
    router.output("nft", &["flush", "table", "ip", "f"]).unwrap();
    await_ways(&gateways, ("fragments", "fragments"));
    router.output("nft", &["add", "rule", "ip", "f", "forward", "udp", "dport", "7001", "accept"]).unwrap();
    await_ways(&gateways, ("gso", "fragments"));
    // A port of any protocol.
    router.output("nft", &["add", "rule", "ip", "f", "forward", "th", "dport", "7002", "drop"]).unwrap();
    await_ways(&gateways, ("gso", "pass"));
    // What a program may look at cannot be handed back whole: it is left alone, unless it is put together in front of
    // the rules.
    router.output("nft", &["insert", "rule", "ip", "f", "forward", "queue", "num", "7", "bypass"]).unwrap();
    let ways = await_ways(&gateways, ("pass", "pass"));
    assert!(
        ways.why.contains("`queue` in table ip f, chain forward") && ways.why.contains("user space"),
        "{ways:?}"
    );
    nft(router, STATEFUL);
    await_ways(&gateways, ("fragments", "fragments"));
    drop(daemon);
}

#[test]
fn ways_stateful_firewall() {
    let gateways = gateways(Route::Policy, STATEFUL);
    let daemon = expect(&gateways, ("gso", "fragments"), "connections are tracked");
    whole_udp(&gateways);
    drop(daemon);
}

#[test]
fn ways_snat_into_the_tunnel() {
    let gateways = gateways(Route::Policy, INTO_THE_TUNNEL);
    let daemon = expect(&gateways, ("gso", "fragments"), "connections are tracked");
    whole_udp(&gateways);
    drop(daemon);
}

/// An interface that is made as narrow as its SA has the kernel cut; `check` says how, and `run` follows it.
#[test]
fn ways_lowered_interface() {
    let gateways = gateways(Route::Interface, "");
    let daemon = expect(&gateways, ("fragments", "fragments"), "nothing on the way asks for ports");
    let lower = check(&gateways).into_iter().find_map(|(_, remedy)| remedy).unwrap();
    assert_eq!(lower, format!("ip link set xfrm0 mtu {MTU}"));
    let router = &gateways.sites[0].router;
    router.ip(lower.strip_prefix("ip ").unwrap()).unwrap();
    let ways = await_ways(&gateways, ("edit", "edit"));
    assert_eq!(ways.why, format!("xfrm0 has MTU {MTU}"));
    whole_udp(&gateways);
    // Raised again, and then lowered for the route alone.
    router.ip("link set xfrm0 mtu 1500").unwrap();
    await_ways(&gateways, ("fragments", "fragments"));
    whole_udp(&gateways);
    router.ip(&format!("route change 198.18.2.0/24 dev xfrm0 mtu {MTU}")).unwrap();
    await_ways(&gateways, ("edit", "edit"));
    whole_udp(&gateways);
    // Whatever asks for connections or ports sees whole packets.
    nft(router, STATEFUL);
    whole_udp(&gateways);
    assert_eq!(self::ways(&gateways).udp, "edit");
    drop(daemon);
}

/// A policy of the interface by port sees what the kernel has cut: so it is not cut there.
#[test]
fn ways_lowered_interface_with_a_policy_by_port() {
    let gateways = gateways(Route::Interface, STATEFUL);
    let router = &gateways.sites[0].router;
    let lines = [
        format!("link set xfrm0 mtu {MTU}"),
        format!("xfrm policy delete {PAIR} dir out if_id 42"),
        format!("xfrm policy add {PAIR} proto udp dport {PORT} dir out if_id 42 {TEMPLATE}"),
    ];
    batch(router, &lines.join("\n")).unwrap();
    let daemon = expect(&gateways, ("pass", "fragments"), "the kernel cuts in front of its interface");
    // What does not fit is refused, as without xdpfrag.
    let (tally, wan) = udp(&gateways, QUIET);
    assert_eq!(tally.missing.into_iter().collect::<Vec<_>>(), [(1472, 4)]);
    assert_eq!((wan.esp, wan.fragments, wan.clear), (2, 0, 0), "{wan:?}");
    drop(daemon);
}
