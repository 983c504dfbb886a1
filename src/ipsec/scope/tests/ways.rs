//! By which ways packets go: what the table says of policies, routes and rules.

use super::*;
use crate::ipsec::ways::Tracking;

/// A policy that asks for UDP ports.
fn by_port(src: &str, dst: &str, action: Action) -> Policy {
    Policy { upper: true, ports: true, protocol: 17, ..policy(src, dst, 1, action) }
}

fn named(name: &str, mtu: u32) -> Hop {
    Hop { oif: 7, name: name.into(), mtu, ..PLAIN }
}

fn by_hand(dst: &str, mtu: u16) -> Facts {
    Facts { wishes: BTreeMap::from([(net(dst), Wish::Fixed(mtu))]), tap: true, ..Facts::default() }
}

fn compiled_with(facts: &Facts, map: &Routes, rules: Rules) -> Table {
    let facts = Facts { route_destinations: map.keys().copied().collect(), ..facts.clone() };
    compile(&facts, &mut Answers { routes: Ok(map), rules, asked: Vec::new() }).unwrap()
}

/// `DESTINATION SOURCE WAYS: WHY` of each row.
fn ways(table: &Table) -> Vec<String> {
    let rows =
        table.0.iter().flat_map(|(to, sources)| sources.iter().map(move |(from, tunnel)| (to, from, tunnel)));
    let row = |(to, from, tunnel): (&IpNet, &IpNet, &Option<Tunnel>)| {
        let tunnel = tunnel.as_ref().expect("served");
        format!("{to} {from} {}: {}", tunnel.ways, tunnel.why)
    };
    rows.map(row).collect()
}

const NOBODY: &str = "nothing on the way asks for ports or tracks connections";

#[test]
fn a_device_or_route_with_a_small_mtu_has_packets_cut_for_it() {
    let facts = by_hand("0.0.0.0/0", 1422);
    for (hop, edit) in [
        (named("wg0", 1420), Some("wg0 has MTU 1420")),
        (named("gre1", 1422), Some("gre1 has MTU 1422")),
        (Hop { mtu_of_route: true, ..named("wan0", 1400) }, Some("the route over wan0 has MTU 1400")),
        (Hop { name: "xfrm7".into(), mtu: 1400, ..xfrm(7) }, Some("xfrm7 has MTU 1400")),
        (named("wan0", 1423), None),
        (Hop { encap: true, ..named("wan0", 1400) }, None),
    ] {
        let table = compiled_with(&facts, &routes(&[("0.0.0.0/0", hop.clone())]), Rules::default());
        let words = edit.map_or(format!("fragments: {NOBODY}"), |why| format!("edit: {why}"));
        assert_eq!(ways(&table), [format!("0.0.0.0/0 0.0.0.0/0 {words}")], "{hop:?}");
        let wide = table.tunnel(ip("10.0.0.1"), ip("10.1.0.1")).unwrap().wide.clone();
        assert_eq!(wide, None, "nobody should lower the MTU of a plain device");
    }
    let wide = compiled_with(&facts, &routes(&[("0.0.0.0/0", xfrm(7))]), Rules::default());
    let device = Wide { device: "xfrm7".into(), mtu: 1500, of_route: false };
    assert_eq!(wide.tunnel(ip("10.0.0.1"), ip("10.1.0.1")).unwrap().wide, Some(device));
    let unknown = compiled_with(&facts, &Routes::new(), Rules::default());
    assert_eq!(ways(&unknown), [format!("0.0.0.0/0 0.0.0.0/0 fragments: {NOBODY}")], "no route");
}

#[test]
fn packets_of_several_hops_are_cut_for_each_of_them_or_for_none() {
    let facts = by_hand("10.1.0.0/16", 1422);
    let both = |second| Routes::from([(net("0.0.0.0/0"), vec![named("wg0", 1420), second])]);
    let table = compiled_with(&facts, &both(named("wg1", 1300)), Rules::default());
    assert_eq!(ways(&table), ["10.1.0.0/16 0.0.0.0/0 edit: wg0 has MTU 1420, wg1 has MTU 1300"]);
    let table = compiled_with(&facts, &both(named("wan0", 1500)), Rules::default());
    assert_eq!(ways(&table), [format!("10.1.0.0/16 0.0.0.0/0 fragments: {NOBODY}")]);
}

#[test]
fn what_a_policy_without_an_interface_selects_is_encrypted_before_it_is_cut() {
    let narrow = routes(&[("0.0.0.0/0", named("wan0", 1400))]);
    for action in [Action::Allow, Action::Block, protect(1438), Action::Other] {
        let policies = vec![policy("10.2.0.0/16", "10.1.0.0/16", 1, action.clone())];
        let table =
            compiled_with(&Facts { policies, ..by_hand("0.0.0.0/0", 1438) }, &narrow, Rules::default());
        assert_eq!(
            ways(&table),
            [
                "0.0.0.0/0 0.0.0.0/0 edit: wan0 has MTU 1400".to_owned(),
                "10.1.0.0/16 0.0.0.0/0 edit: wan0 has MTU 1400".to_owned(),
                format!("10.1.0.0/16 10.2.0.0/16 fragments: {NOBODY}")
            ],
            "{action:?}"
        );
    }
}

#[test]
fn policies_by_port_split_what_is_served_by_hand() {
    let plain = routes(&[("0.0.0.0/0", named("wan0", 1500))]);
    for action in [Action::Protect(Vec::new()), protect(1438), Action::Block, Action::Allow] {
        let policies = vec![by_port("10.2.0.0/16", "10.1.0.0/16", action)];
        let facts = Facts { policies, ..by_hand("0.0.0.0/0", 1422) };
        let table = compiled_with(&facts, &plain, Rules::default());
        let why = "the IPsec policy 10.2.0.0/16 -> 10.1.0.0/16 asks for ports";
        assert_eq!(
            ways(&table),
            [
                format!("0.0.0.0/0 0.0.0.0/0 fragments: {NOBODY}"),
                format!("10.1.0.0/16 0.0.0.0/0 fragments: {NOBODY}"),
                format!("10.1.0.0/16 10.2.0.0/16 gso for UDP, else fragments: {why}"),
            ]
        );
        let mtus = table.0.values().flat_map(BTreeMap::values).map(|tunnel| tunnel.as_ref().unwrap().mtu);
        assert!(mtus.eq([1422; 3]), "as given");
        let no_tap = compiled_with(&Facts { tap: false, ..facts }, &plain, Rules::default());
        assert!(ways(&no_tap)[2].contains(" pass for UDP, else fragments: "), "{:?}", ways(&no_tap));
    }
    // ICMP types are ports to a policy, and of no concern to UDP.
    let icmp = Policy { protocol: 1, ..by_port("10.2.0.0/16", "10.1.0.0/16", protect(1438)) };
    let neither = Policy { protocol: 0, ..icmp.clone() };
    for (policy, expected) in [(icmp, "fragments for UDP, else pass"), (neither, "gso for UDP, else pass")] {
        let facts = Facts { policies: vec![policy], ..by_hand("10.1.0.0/16", 1422) };
        assert!(ways(&compiled_with(&facts, &plain, Rules::default()))[1].contains(expected));
    }
    // Each fragment has its protocol.
    let udp = Policy { ports: false, ..by_port("10.2.0.0/16", "10.1.0.0/16", protect(1438)) };
    let facts = Facts { policies: vec![udp], ..by_hand("10.1.0.0/16", 1422) };
    assert_eq!(
        ways(&compiled_with(&facts, &plain, Rules::default())),
        [format!("10.1.0.0/16 0.0.0.0/0 fragments: {NOBODY}")]
    );
}

#[test]
fn policies_of_an_interface_matter_to_what_leaves_by_it() {
    let map = routes(&[
        ("0.0.0.0/0", named("wan0", 1500)),
        ("10.1.0.0/16", Hop { mtu: 1400, ..xfrm(7) }),
        ("10.3.0.0/16", Hop { mtu: 1400, ..xfrm(8) }),
    ]);
    let policies = [Policy { if_id: 7, ..by_port("0.0.0.0/0", "0.0.0.0/0", protect(1438)) }].to_vec();
    let tracked = Rules { tracking: Tracking::Certain, ..Rules::default() };
    let table = compiled_with(&Facts { policies, ..by_hand("0.0.0.0/0", 1422) }, &map, tracked);
    assert_eq!(
        ways(&table),
        [
            "0.0.0.0/0 0.0.0.0/0 gso for UDP, else fragments: connections are tracked",
            "10.1.0.0/16 0.0.0.0/0 pass for UDP, else fragments: the IPsec policy 0.0.0.0/0 -> 0.0.0.0/0 asks for ports, \
             and the kernel cuts in front of its interface",
            "10.3.0.0/16 0.0.0.0/0 edit: xfrm8 has MTU 1400",
        ]
    );
}

#[test]
fn the_mark_of_a_vti_finds_its_policy_alone() {
    let device = Device::Tunnel { name: "vti7".into(), if_id: 0, mark: Some(7), lower: 1 };
    let map = routes(&[("0.0.0.0/0", Hop { device, ..named("vti7", 1400) })]);
    let mark = Mark { value: 7, mask: u32::MAX };
    let policies = vec![Policy { mark, ..policy("0.0.0.0/0", "0.0.0.0/0", 1, protect(1438)) }];
    let facts = Facts { policies, ..by_hand("0.0.0.0/0", 1422) };
    let edit = |facts: &Facts| ways(&compiled_with(facts, &map, Rules::default()))[0].contains(" edit: ");
    assert!(edit(&facts));
    assert!(!edit(&Facts { marks: true, ..facts.clone() }), "a rule may give packets this mark");
    let other = Mark { value: 8, mask: u32::MAX };
    let mut policies = facts.policies.clone();
    policies.push(Policy { mark: other, ..policies[0].clone() });
    assert!(!edit(&Facts { policies, ..facts }), "a mark that packets may come with");
}

#[test]
fn a_rule_of_policy_routing_that_asks_for_more_may_take_packets_elsewhere() {
    let map = routes(&[("0.0.0.0/0", named("wg0", 1400))]);
    let facts = Facts { routing_asks: Some("a rule asks for a mark".into()), ..by_hand("0.0.0.0/0", 1422) };
    let table = compiled_with(&facts, &map, Rules::default());
    assert_eq!(ways(&table), ["0.0.0.0/0 0.0.0.0/0 gso for UDP, else pass: a rule asks for a mark"]);
    // To an interface, whose policies see fragments although connections are tracked.
    let of_any_protocol =
        Policy { if_id: 7, protocol: 0, ..by_port("0.0.0.0/0", "0.0.0.0/0", protect(1438)) };
    let policies = vec![of_any_protocol];
    let tracked = Rules { tracking: Tracking::Certain, ..Rules::default() };
    let table = compiled_with(&facts, &map, tracked.clone());
    assert!(ways(&table)[0].contains(" gso for UDP, else fragments: "));
    let table = compiled_with(&Facts { policies, ..facts }, &map, tracked);
    assert!(ways(&table)[0].contains(" pass: "));
}

#[test]
fn nothing_is_asked_of_the_rules_for_what_is_cut_behind_them_and_nothing_is_cut_for_ipv6() {
    let map = routes(&[("0.0.0.0/0", named("wg0", 1400)), ("::/0", named("wg0", 1400))]);
    let mut facts = by_hand("0.0.0.0/0", 1422);
    facts.wishes.insert(net("::/0"), Wish::Fixed(1422));
    let rules = Rules { asked: Asked::both("a rule asks for ports"), ..Rules::default() };
    let table = compiled_with(&facts, &map, rules);
    assert_eq!(ways(&table), ["0.0.0.0/0 0.0.0.0/0 edit: wg0 has MTU 1400", "::/0 ::/0 fragments: "]);
}
