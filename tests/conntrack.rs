//! Which rulesets allow to exempt fragments from connection tracking, and that nothing of the exemption is left.
//! Needs root; the policy stands for a tunnel, no packet is sent. `tests/vm/conntrack.rs` sends some.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use xdpfrag::config::Choice;
use xdpfrag::control::conntrack::assess;
use xdpfrag::control::finding::{Finding, Level};
use xdpfrag::lab::topology::link;
use xdpfrag::lab::{Daemon, Namespace};
use xdpfrag::net::links;

const POLICY: &str = "src 198.18.1.0/24 dst 198.18.2.0/24 dir out";
const TEMPLATE: &str = "tmpl src 198.51.100.1 dst 198.51.100.2 proto esp reqid 1 mode tunnel";
/// A firewall of the gateway itself: tracks, and nothing that is forwarded depends on it.
const INPUT: &str = "table inet own { chain input { type filter hook input priority 0; policy drop;
    ct state established,related accept; }\n}";

/// A gateway with eth1 and one policy-based tunnel.
fn gateway() -> (Namespace, Namespace) {
    let [gateway, lan] = ["gateway", "lan"].map(|name| Namespace::new(name).unwrap());
    link([(&lan, "lan0", "02:00:00:00:01:02"), (&gateway, "eth1", "02:00:00:00:01:01")], 1, 1500).unwrap();
    gateway.ip("link add wan0 type veth peer name isp0").unwrap();
    gateway.sysctl("ipv4/ip_forward", "1").unwrap();
    gateway.ip(&format!("xfrm policy add {POLICY} {TEMPLATE}")).unwrap();
    (gateway, lan)
}

fn nft(namespace: &Namespace, rules: &str) {
    namespace
        .run(|| {
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
            nft.stdin.take().unwrap().write_all(rules.as_bytes())?;
            assert!(nft.wait()?.success(), "{rules}");
            Ok(())
        })
        .unwrap();
}

/// What is found for the tunnel's network with these rules.
fn find(rules: &str, notrack: Choice) -> Finding {
    let (gateway, _lan) = gateway();
    nft(&gateway, rules);
    let assess = || {
        let eth1 = links::find("eth1")?.unwrap();
        Ok(assess(&eth1, &["198.18.0.0/15".parse()?])?)
    };
    let assessment = gateway.run(assess).unwrap();
    let finding = assessment.finding("eth1", notrack);
    assert_eq!(assessment.exempts(notrack), finding.why.contains("are exempt while"), "{finding}");
    finding
}

/// A chain at a hook of forwarded packets, beside the firewall that tracks.
fn hooked(kind: &str, hook: &str, rules: &str) -> String {
    format!("{INPUT}\ntable ip t {{ chain base {{ type {kind} hook {hook} priority 0; {rules} }}\n}}")
}

#[track_caller]
fn safe(rules: &str) {
    let finding = find(rules, Choice::Auto);
    assert_eq!(finding.level, Level::Ok, "{finding}");
    assert!(finding.why.contains("from 198.18.1.0/24 to 198.18.2.0/24"), "{finding}");
}

#[track_caller]
fn in_the_way(rules: &str, part: &str) -> String {
    let finding = find(rules, Choice::Auto);
    assert_eq!(finding.level, Level::Warning, "{finding}");
    assert!(finding.why.contains(part), "{finding}");
    finding.remedy.unwrap()
}

#[test]
fn without_tracking_there_is_nothing_to_do() {
    let plain =
        "table ip t { chain forward { type filter hook forward priority 0; ip saddr 192.0.2.1 drop; }\n}";
    assert!(find(plain, Choice::Auto).why.contains("no connections are tracked"));
}

#[test]
fn rules_that_such_packets_never_meet_are_no_obstacle() {
    safe(INPUT);
    safe(&hooked("nat", "postrouting", "rt ipsec exists accept; oifname wan0 masquerade;"));
    safe(&hooked("nat", "postrouting", "oifname wan0 rt ipsec exists accept; oifname wan0 masquerade;"));
    safe(&hooked("nat", "postrouting", "oif wan0 rt ipsec missing masquerade;"));
    safe(&hooked("nat", "postrouting", "ip daddr 198.18.0.0/15 counter accept; masquerade;"));
    safe(&hooked("nat", "postrouting", "ip daddr != 198.18.2.0/24 ip saddr != 198.18.2.0/24 masquerade;"));
    safe(&hooked("nat", "postrouting", "oifname wan0 rt ipsec missing masquerade;"));
    safe(&hooked("filter", "forward", "iifname \"ppp*\" oifname ppp0 ct state new drop;"));
    safe(&hooked(
        "filter",
        "forward",
        "rt ipsec exists accept; meta ipsec exists accept; ct state invalid drop;",
    ));
    safe(&hooked("filter", "prerouting", "ip frag-off & 0x3fff != 0 notrack;"));
    let called = "jump tunnels; ct state invalid drop; }\n chain tunnels { rt ipsec exists accept; meta ipsec exists accept;";
    safe(&called_chains(called));
}

fn called_chains(rules: &str) -> String {
    // nft wants a chain before the rule that jumps to it: both in one transaction, the called one empty at first.
    format!(
        "{INPUT}\ntable ip t {{ chain tunnels {{ }}\n chain base {{ type filter hook forward priority 0; {rules} }}\n}}"
    )
}

#[test]
fn rules_that_depend_on_the_connection_are_named() {
    let nat = hooked("nat", "postrouting", "oifname wan0 masquerade;");
    let remedy = in_the_way(&nat, "`masq` in table ip t, chain base, handle 2");
    assert_eq!(remedy, "nft insert rule ip t base rt ipsec exists accept");
    let stateful = hooked("filter", "forward", "policy drop; ct state established,related accept;");
    assert!(in_the_way(&stateful, "`ct` in table ip t, chain base").contains("--tcp resegment"));
    // Into the tunnel, and answers out of it.
    in_the_way(&hooked("nat", "postrouting", "ip daddr 198.18.2.0/24 snat to 198.18.1.1;"), "`nat`");
    in_the_way(&hooked("filter", "forward", "rt ipsec exists accept; ct state invalid drop;"), "`ct`");
    in_the_way(&hooked("nat", "prerouting", "iifname wan0 tcp dport 80 dnat to 198.18.1.2;"), "`nat`");
    // What is not understood may match.
    in_the_way(&hooked("filter", "forward", "iifname { eth1, eth2 } ct state new accept;"), "`ct`");
    in_the_way(&hooked("nat", "postrouting", "meta mark 7 accept; masquerade;"), "`masq`");
    in_the_way(&called_chains("jump tunnels; }\n chain tunnels { ct state invalid drop;"), "chain tunnels");
    let map = "meta l4proto vmap { tcp : jump tunnels }; }\n chain tunnels { ct state invalid drop;";
    in_the_way(&called_chains(map), "chain tunnels");
}

#[test]
fn the_user_decides() {
    let stateful = hooked("filter", "forward", "ct state invalid drop;");
    let on = find(&stateful, Choice::On);
    assert!(on.level == Level::Note && on.why.contains("as asked, although `ct`"), "{on}");
    let off = find(INPUT, Choice::Off);
    assert!(off.level == Level::Warning && off.why.contains("--notrack off"), "{off}");
}

#[test]
fn an_xfrm_interface_needs_no_exemption() {
    let (gateway, _lan) = gateway();
    nft(&gateway, INPUT);
    gateway.ip(&format!("xfrm policy delete {POLICY}")).unwrap();
    gateway.ip(&format!("xfrm policy add {POLICY} if_id 42 {TEMPLATE}")).unwrap();
    let assess = || Ok(assess(&links::find("eth1")?.unwrap(), &["0.0.0.0/0".parse()?])?);
    let finding = gateway.run(assess).unwrap().finding("eth1", Choice::Auto);
    assert!(finding.level == Level::Ok && finding.why.contains("xfrm interface"), "{finding}");
}

fn tables(gateway: &Namespace) -> String {
    gateway.output("nft", &["list", "ruleset"]).unwrap()
}

/// Waits until the exemption is there, or is not.
#[track_caller]
fn wait(gateway: &Namespace, there: bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while tables(gateway).contains("xdpfrag") != there {
        assert!(Instant::now() < deadline, "{there}: {}", tables(gateway));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run(gateway: &Namespace, arguments: &[&str]) -> Daemon {
    let binary = Path::new(env!("CARGO_BIN_EXE_xdpfrag"));
    let always = ["--mtu", "1422", "--dst", "198.18.2.0/24"];
    Daemon::start(gateway, binary, &[&always, arguments].concat()).unwrap()
}

#[test]
fn the_exemption_lives_as_long_as_the_process() {
    let (gateway, _lan) = gateway();
    nft(&gateway, INPUT);
    let before = tables(&gateway);
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let daemon = run(&gateway, &[]);
        let with = tables(&gateway);
        let rule = "ip saddr 198.18.1.0/24 ip daddr 198.18.2.0/24 ip frag-off & 16383 != 0 counter packets 0 bytes 0 notrack";
        assert!(with.contains("table ip xdpfrag-eth1") && with.contains(rule), "{with}");
        assert!(with.contains("hook prerouting priority -450"), "{with}");
        // What reloads a firewall leaves it alone.
        nft(&gateway, &format!("flush ruleset\n{INPUT}"));
        wait(&gateway, true);
        daemon.signal(signal).unwrap();
        daemon.wait().unwrap();
        wait(&gateway, false);
        assert_eq!(tables(&gateway), before, "{signal}");
    }
}

#[test]
fn the_exemption_follows_rules_and_policies() {
    let (gateway, _lan) = gateway();
    let daemon = run(&gateway, &["--tcp", "resegment"]);
    wait(&gateway, false);
    nft(&gateway, INPUT);
    wait(&gateway, true);
    assert!(tables(&gateway).contains("ip protocol != tcp"), "{}", tables(&gateway));
    nft(
        &gateway,
        "table ip late { chain f { type filter hook forward priority 0; ct state invalid drop; }\n}",
    );
    wait(&gateway, false);
    nft(&gateway, "delete table ip late");
    wait(&gateway, true);
    gateway.ip(&format!("xfrm policy delete {POLICY}")).unwrap();
    wait(&gateway, false);
    let ended = daemon.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("are exempt while") && ended.stderr.contains("table ip late"),
        "{}",
        ended.stderr
    );
}
