//! Which rulesets allow to exempt fragments from connection tracking, and that nothing of the exemption is left.
//! Needs root; the policy stands for a tunnel, no packet is sent. `tests/vm/conntrack.rs` sends some.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use xdpfrag::config::Notrack;
use xdpfrag::control::conntrack::{Assessment, Machine};
use xdpfrag::control::finding::{Finding, Level};
use xdpfrag::lab::topology::link;
use xdpfrag::lab::{Daemon, Namespace};

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

/// What is found for fragments from eth1, those of TCP among them if `tcp`.
fn assess(gateway: &Namespace, tcp: bool) -> Assessment {
    let assess = || {
        let machine = Machine::read()?;
        Ok(machine.assess(machine.link("eth1").unwrap(), &["198.18.0.0/15".parse()?], tcp))
    };
    gateway.run(assess).unwrap()
}

/// What is found for the tunnel's network with these rules.
fn find(rules: &str, notrack: Notrack) -> Finding {
    find_for(rules, notrack, true)
}

fn find_for(rules: &str, notrack: Notrack, tcp: bool) -> Finding {
    let (gateway, _lan) = gateway();
    nft(&gateway, rules);
    let assessment = assess(&gateway, tcp);
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
    let finding = find(rules, Notrack::Auto);
    assert_eq!(finding.level, Level::Ok, "{finding}");
    assert!(finding.why.contains("from 198.18.1.0/24 to 198.18.2.0/24"), "{finding}");
}

#[track_caller]
fn in_the_way(rules: &str, part: &str) -> String {
    let finding = find(rules, Notrack::Auto);
    assert_eq!(finding.level, Level::Warning, "{finding}");
    assert!(finding.why.contains(part), "{finding}");
    finding.remedy.unwrap()
}

#[test]
fn without_tracking_there_is_nothing_to_do() {
    let plain =
        "table ip t { chain forward { type filter hook forward priority 0; ip saddr 192.0.2.1 drop; }\n}";
    assert!(find(plain, Notrack::Auto).why.contains("no connections are tracked"));
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
    let on = find(&stateful, Notrack::On);
    assert!(on.level == Level::Note && on.why.contains("as asked, although `ct`"), "{on}");
    let off = find(INPUT, Notrack::Off);
    assert!(off.level == Level::Warning && off.why.contains("--notrack off"), "{off}");
}

#[test]
fn an_xfrm_interface_needs_no_exemption() {
    let (gateway, _lan) = gateway();
    nft(&gateway, INPUT);
    gateway.ip(&format!("xfrm policy delete {POLICY}")).unwrap();
    gateway.ip(&format!("xfrm policy add {POLICY} if_id 42 {TEMPLATE}")).unwrap();
    let finding = assess(&gateway, true).finding("eth1", Notrack::Auto);
    assert!(finding.level == Level::Ok && finding.why.contains("xfrm interface"), "{finding}");
}

/// Zones of a firewall, each with verdict maps that lead to others.
fn zones(count: usize, last: &str) -> String {
    let chains: String = (0..count).map(|zone| format!("chain zone{zone} {{ }}\n")).collect();
    let rules = (0..count).map(|zone| {
        let lead = |field: &str| {
            let to: Vec<_> = (zone + 1..count).map(|to| format!("\"if{to}\" : jump zone{to}")).collect();
            if to.is_empty() { String::new() } else { format!("{field} vmap {{ {} }};", to.join(", ")) }
        };
        format!("chain zone{zone} {{ {} {} {} {last} }}\n", lead("iifname"), lead("oifname"), lead("iifname"))
    });
    let rules: String = rules.collect();
    format!(
        "{INPUT}\ntable inet z {{ {chains} {rules} chain base {{ type filter hook forward priority 0; \
         iifname vmap {{ eth1 : jump zone0 }}; }}\n}}"
    )
}

#[test]
fn verdict_maps_in_every_zone_of_a_firewall_are_looked_at_once() {
    let began = Instant::now();
    safe(&zones(14, "counter accept;"));
    in_the_way(&zones(14, "ct state invalid drop;"), "`ct` in table inet z, chain zone");
    // Walked call by call it would be years.
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn rules_that_ask_for_ports_need_whole_packets() {
    let remedy = in_the_way(
        &hooked("filter", "forward", "policy drop; udp dport 5060 accept;"),
        "`ports` in table ip t, chain base, handle 2 may ask for ports, which only first fragments have",
    );
    assert_eq!(remedy, "nft insert rule ip t base 'rt ipsec exists ip frag-off & 0x1fff != 0 accept'");
    let fragments = "rt ipsec exists ip frag-off & 0x1fff != 0 accept;";
    safe(&hooked("filter", "forward", &format!("policy drop; {fragments} udp dport 5060 accept;")));
    let inet = |rules: &str| {
        format!("{INPUT}\ntable inet t {{ chain base {{ type filter hook forward priority 0; {rules} }}\n}}")
    };
    safe(&inet(&format!("policy drop; {fragments} udp dport 5060 accept;")));
    // However the rule asks, and whatever it does then.
    for rule in [
        "udp dport { 53, 5060 } accept;",
        "tcp dport 25 drop;",
        "icmp type echo-request accept;",
        "th sport 53 return;",
        "@th,16,16 53 drop;",
        "ip saddr . udp dport vmap { 198.18.1.7 . 53 : accept };",
        "udp dport 5060 meta mark set 7;",
        "udp dport 5060 ip dscp set ef;",
        "tcp option maxseg size < 500 drop;",
    ] {
        in_the_way(&hooked("filter", "forward", rule), "`ports` in table ip t, chain base");
        in_the_way(&inet(rule), "`ports` in table inet t, chain base");
    }
    in_the_way(&called_chains("udp dport 53 jump tunnels; }\n chain tunnels { accept;"), "chain base");
    in_the_way(&called_chains("jump tunnels; }\n chain tunnels { udp dport 53 accept;"), "chain tunnels");
    // Connections are named first, and a rule once.
    let both = hooked("filter", "forward", "ct state new udp dport 5060 accept; udp dport 53 accept;");
    let finding = find(&both, Notrack::Auto);
    assert!(
        finding.why.contains("chain base, handle 2 may ask for their connection, and `ports`"),
        "{finding}"
    );
    assert!(finding.why.contains("chain base, handle 3 may ask for ports"), "{finding}");
}

#[test]
fn rules_that_ask_for_ports_of_other_packets_or_to_no_end_are_no_obstacle() {
    // The clamp of every router: a SYN is no fragment, and nothing else is changed.
    safe(&hooked("filter", "forward", "tcp flags syn tcp option maxseg size set rt mtu;"));
    safe(&hooked("filter", "forward", "udp dport 5060 counter; udp dport 5060 log prefix \"sip\";"));
    safe(&hooked("filter", "forward", "iifname ppp0 udp dport 5060 accept;"));
    safe(&hooked("filter", "forward", "udp dport 5060 iifname ppp0 accept;"));
    safe(&hooked("filter", "forward", "ip saddr 192.0.2.0/24 tcp dport 22 accept;"));
    safe(&hooked("filter", "forward", "iifname eth1 accept; meta ipsec exists udp sport 5060 accept;"));
    safe(&hooked("filter", "input", "udp dport 53 accept;"));
    // Answers are tracked as ever.
    safe(&hooked("filter", "forward", "rt ipsec exists accept; udp sport 5060 accept;"));
    // First fragments alone meet the rule: they have what it asks for.
    safe(&hooked("filter", "forward", "ip frag-off & 0x1fff == 0 udp dport 5060 accept;"));
    // But connections are asked for all the same.
    in_the_way(
        &hooked("filter", "forward", "ip frag-off & 0x1fff != 0 accept; ct state invalid drop;"),
        "`ct`",
    );
}

#[test]
fn an_unknown_register_is_not_taken_for_what_was_in_it_before() {
    in_the_way(
        &hooked("filter", "forward", "iifname eth1 fib daddr type unicast ct state invalid drop;"),
        "`ct` in table ip t, chain base",
    );
    in_the_way(
        &hooked("filter", "forward", "ct helper set \"sip\";").replace("chain base", HELPER),
        "`objref`",
    );
}

/// A helper for connections, in front of the chain.
const HELPER: &str = "ct helper sip { type \"sip\" protocol udp; }\n chain base";

#[test]
fn with_resegmented_tcp_the_rules_of_tcp_do_not_matter_and_the_remedy_is_for_the_rest() {
    let tcp =
        hooked("filter", "forward", "policy drop; tcp dport 22 accept; ip protocol tcp ct state new accept;");
    assert_eq!(find_for(&tcp, Notrack::Auto, false).level, Level::Ok);
    assert_eq!(find_for(&tcp, Notrack::Auto, true).level, Level::Warning);
    let stateful = hooked("filter", "forward", "ct state invalid drop;");
    let remedy = find_for(&stateful, Notrack::Auto, false).remedy.unwrap();
    assert!(remedy.contains("neither UDP nor TCP") && remedy.contains("xfrm interface"), "{remedy}");
    assert!(!remedy.contains("--tcp resegment"), "{remedy}");
    assert!(find_for(&stateful, Notrack::Auto, true).remedy.unwrap().contains("--tcp resegment"));
    let off = find_for(INPUT, Notrack::Off, false);
    assert!(off.remedy.unwrap().contains("--notrack auto"));
}

#[test]
fn many_tunnels_are_counted_not_listed() {
    let (gateway, _lan) = gateway();
    nft(&gateway, INPUT);
    for net in 10..20 {
        gateway
            .ip(&format!("xfrm policy add src 198.18.1.0/24 dst 198.18.{net}.0/24 dir out {TEMPLATE}"))
            .unwrap();
    }
    let finding = assess(&gateway, true).finding("eth1", Notrack::Auto);
    assert_eq!(finding.why.matches("from 198.18.1.0/24").count(), 3, "{finding}");
    assert!(finding.why.contains(" and 8 more together again"), "{finding}");
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
        let rule = "ip saddr 198.18.1.0/24 ip daddr 198.18.2.0/24 ip protocol != tcp ip frag-off & 16383 != 0 counter packets 0 bytes 0 notrack";
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

/// Of a core, with the threads that have ended.
fn cpu_time(daemon: &Daemon) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
    // USER_HZ.
    Duration::from_millis(ticks * 10)
}

#[test]
fn rules_that_change_all_the_time_keep_no_core_busy() {
    let (gateway, _lan) = gateway();
    let many = "ip saddr 192.0.2.1 counter drop; ".repeat(8000);
    nft(&gateway, &hooked("filter", "forward", &many));
    let daemon = run(&gateway, &[]);
    let (began, before) = (Instant::now(), cpu_time(&daemon));
    let mut changes = 0;
    while began.elapsed() < Duration::from_secs(4) {
        nft(&gateway, "table ip other { }\n delete table ip other");
        gateway.ip(if changes % 2 == 0 { "link set wan0 up" } else { "link set wan0 down" }).unwrap();
        changes += 1;
    }
    let (elapsed, used) = (began.elapsed(), cpu_time(&daemon) - before);
    assert!(changes > 20 && used < elapsed / 4, "{used:?} of {elapsed:?} for {changes} changes");
    // The last of them counts.
    nft(&gateway, "flush ruleset");
    wait(&gateway, false);
}
