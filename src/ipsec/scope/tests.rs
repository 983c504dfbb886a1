mod ways;

use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn policy(src: &str, dst: &str, priority: u32, action: Action) -> Policy {
    Policy {
        src: net(src),
        dst: net(dst),
        priority,
        index: 0,
        if_id: 0,
        mark: Mark::default(),
        oif: 0,
        upper: false,
        protocol: 0,
        ports: false,
        action,
    }
}

fn protect(mtu: u32) -> Action {
    Action::Protect(vec![Sa { spi: mtu, mtu }])
}

const PLAIN: Hop = Hop {
    oif: 1,
    name: String::new(),
    device: Device::Plain,
    mtu: 1500,
    mtu_of_route: false,
    encap: false,
    exempt: false,
};

fn xfrm(if_id: u32) -> Hop {
    let device = Device::Tunnel { name: format!("xfrm{if_id}"), if_id, mark: None, lower: 1 };
    Hop { oif: 10 + if_id, name: format!("xfrm{if_id}"), device, ..PLAIN }
}

/// Routes of one table; the longest prefix that holds the destination.
type Routes = BTreeMap<IpNet, Vec<Hop>>;

fn routes(list: &[(&str, Hop)]) -> Routes {
    list.iter().map(|(prefix, hop)| (net(prefix), vec![hop.clone()])).collect()
}

fn compiled(policies: Vec<Policy>, routes: &Routes) -> Table {
    let route_destinations = routes.keys().copied().collect();
    let facts = Facts { policies, route_destinations, follow: true, ..Facts::default() };
    compile_over(&facts, routes)
}

fn compile_over(facts: &Facts, routes: &Routes) -> Table {
    compile(facts, &mut Answers { routes: Ok(routes), rules: Rules::default(), asked: Vec::new() }).unwrap()
}

/// What the kernel answers.
struct Answers<'a> {
    routes: Result<&'a Routes, &'static str>,
    rules: Rules,
    /// Source and destination of routes that were asked for.
    asked: Vec<String>,
}

impl Lookups for Answers<'_> {
    type Error = &'static str;

    fn route(&mut self, source: IpAddr, destination: IpAddr) -> Result<Vec<Hop>, &'static str> {
        self.asked.push(format!("{source} {destination}"));
        self.routes.map(|routes| longest(routes, destination).cloned().unwrap_or_default())
    }

    fn rules(&mut self, _: IpNet, _: IpNet, _: bool) -> Rules {
        self.rules.clone()
    }
}

/// `DESTINATION SOURCE MTU` of each row, `-` for one that passes.
fn rows(table: &Table) -> Vec<String> {
    let row = |to: &IpNet, from: &IpNet, tunnel: &Option<Tunnel>| {
        format!("{to} {from} {}", tunnel.as_ref().map_or("-".into(), |tunnel| tunnel.mtu.to_string()))
    };
    let rows = table.0.iter().flat_map(|(to, sources)| match sources.is_empty() {
        true => vec![format!("{to} -")],
        false => sources.iter().map(|(from, tunnel)| row(to, from, tunnel)).collect(),
    });
    rows.collect()
}

#[test]
fn a_policy_serves_its_sources_and_nobody_else() {
    let plain = routes(&[("0.0.0.0/0", PLAIN)]);
    let table = compiled(vec![policy("10.2.0.0/16", "10.1.0.0/16", 1, protect(1422))], &plain);
    assert_eq!(rows(&table), ["10.1.0.0/16 10.2.0.0/16 1422"]);
    let tunnel = |from: &str, to: &str| table.tunnel(ip(from), ip(to)).map(|tunnel| tunnel.mtu);
    assert_eq!(tunnel("10.2.3.4", "10.1.2.3"), Some(1422));
    assert_eq!(tunnel("10.3.3.4", "10.1.2.3"), None);
    assert_eq!(tunnel("10.2.3.4", "10.3.2.3"), None);
    assert_eq!(tunnel("2001:db8::1", "2001:db8::2"), None);
    assert_eq!(rows(&compiled(Vec::new(), &plain)), [] as [&str; 0], "no tunnel: everything passes");
}

#[test]
fn priority_decides_then_age() {
    let plain = routes(&[("0.0.0.0/0", PLAIN)]);
    let wide = || policy("0.0.0.0/0", "10.0.0.0/8", 2, protect(1422));
    // Bypass, block, trap: inside the tunnel's prefix, and before it.
    for action in [Action::Allow, Action::Block, Action::Protect(Vec::new()), Action::Other] {
        let inner = policy("0.0.0.0/0", "10.1.0.0/16", 1, action.clone());
        let table = compiled(vec![wide(), inner], &plain);
        assert_eq!(rows(&table), ["10.0.0.0/8 0.0.0.0/0 1422", "10.1.0.0/16 -"], "{action:?}");
        let behind = policy("0.0.0.0/0", "10.1.0.0/16", 3, action);
        assert_eq!(rows(&compiled(vec![wide(), behind], &plain)), ["10.0.0.0/8 0.0.0.0/0 1422"]);
    }
    let old = Policy { index: 1, ..wide() };
    let new = Policy { index: 2, action: protect(1300), ..wide() };
    assert_eq!(rows(&compiled(vec![new, old], &plain)), ["10.0.0.0/8 0.0.0.0/0 1422"]);
    // A host that goes by a tunnel of its own.
    let host = policy("10.9.0.7/32", "10.0.0.0/8", 1, protect(1406));
    let table = compiled(vec![wide(), host], &plain);
    assert_eq!(rows(&table), ["10.0.0.0/8 0.0.0.0/0 1422", "10.0.0.0/8 10.9.0.7/32 1406"]);
}

#[test]
fn the_least_sa_mtu_counts_and_that_of_the_route() {
    let both = Action::Protect(vec![Sa { spi: 1, mtu: 1422 }, Sa { spi: 2, mtu: 1406 }]);
    let policies = vec![policy("10.2.0.0/16", "10.1.0.0/16", 1, both)];
    let narrow = routes(&[("0.0.0.0/0", PLAIN), ("10.1.9.0/24", Hop { mtu: 1400, ..PLAIN })]);
    let table = compiled(policies, &narrow);
    assert_eq!(rows(&table), ["10.1.0.0/16 10.2.0.0/16 1406", "10.1.9.0/24 10.2.0.0/16 1400"]);
    let tunnel = table.tunnel(ip("10.2.0.1"), ip("10.1.0.1")).unwrap();
    assert_eq!((&tunnel.via, &tunnel.spis), (&Via::Policy, &BTreeSet::from([1, 2])));
}

#[test]
fn an_interface_has_its_own_policies() {
    let mine = |if_id, mtu| Policy { if_id, ..policy("0.0.0.0/0", "0.0.0.0/0", 1, protect(mtu)) };
    let map = routes(&[
        ("0.0.0.0/0", PLAIN),
        ("10.1.0.0/16", xfrm(42)),
        ("10.1.5.0/24", PLAIN),
        ("10.2.0.0/16", Hop { mtu: 1300, ..xfrm(43) }),
        ("10.3.0.0/16", xfrm(44)),
    ]);
    let table = compiled(vec![mine(42, 1422), mine(43, 1438)], &map);
    assert_eq!(
        rows(&table),
        ["10.1.0.0/16 0.0.0.0/0 1422", "10.1.5.0/24 -", "10.2.0.0/16 0.0.0.0/0 1300"],
        "no policy of 44, and none without an interface"
    );
    assert_eq!(table.tunnel(ip("10.9.0.1"), ip("10.1.0.1")).unwrap().via, Via::Interface("xfrm42".into()));
    // Policies of no interface come first, wherever the route leads.
    let first = policy("0.0.0.0/0", "10.1.0.0/16", 9, protect(1200));
    let table = compiled(vec![mine(42, 1422), first.clone()], &map);
    assert_eq!(rows(&table), ["10.1.0.0/16 0.0.0.0/0 1200"]);
    // Unless the interface is exempt from them.
    let exempt = routes(&[("10.1.0.0/16", Hop { exempt: true, ..xfrm(42) })]);
    assert_eq!(rows(&compiled(vec![mine(42, 1422), first], &exempt)), ["10.1.0.0/16 0.0.0.0/0 1422"]);
    // Over several hops only what each of them encrypts.
    let mut paths = routes(&[("10.1.0.0/16", xfrm(42))]);
    paths.get_mut(&net("10.1.0.0/16")).unwrap().push(xfrm(43));
    assert_eq!(rows(&compiled(vec![mine(42, 1422), mine(43, 1406)], &paths)), ["10.1.0.0/16 0.0.0.0/0 1406"]);
    paths.get_mut(&net("10.1.0.0/16")).unwrap().push(PLAIN);
    assert!(compiled(vec![mine(42, 1422), mine(43, 1406)], &paths).0.is_empty());
}

#[test]
fn a_vti_marks_its_packets() {
    let device = Device::Tunnel { name: "vti7".into(), if_id: 0, mark: Some(7), lower: 1 };
    let map = routes(&[("0.0.0.0/0", PLAIN), ("10.1.0.0/16", Hop { oif: 3, device, mtu: 1480, ..PLAIN })]);
    let mark = Mark { value: 7, mask: u32::MAX };
    let mine = Policy { mark, ..policy("0.0.0.0/0", "0.0.0.0/0", 1, protect(1438)) };
    let table = compiled(vec![mine], &map);
    assert_eq!(rows(&table), ["10.1.0.0/16 0.0.0.0/0 1438"]);
}

#[test]
fn what_addresses_cannot_tell_is_served_only_if_it_does_not_matter() {
    let plain = routes(&[("0.0.0.0/0", PLAIN)]);
    let ports = || Policy { upper: true, ..policy("0.0.0.0/0", "10.1.0.0/16", 1, protect(1422)) };
    let marked = || Policy {
        mark: Mark { value: 1, mask: 1 },
        ..policy("0.0.0.0/0", "10.1.0.0/16", 1, protect(1406))
    };
    assert!(compiled(vec![ports()], &plain).0.is_empty());
    assert!(compiled(vec![marked()], &plain).0.is_empty());
    let rest = policy("0.0.0.0/0", "10.0.0.0/8", 2, protect(1438));
    assert_eq!(
        rows(&compiled(vec![ports(), marked(), rest.clone()], &plain)),
        ["10.0.0.0/8 0.0.0.0/0 1438", "10.1.0.0/16 0.0.0.0/0 1406"],
        "into one tunnel or the other"
    );
    let clear = Policy { action: Action::Allow, ..ports() };
    assert_eq!(
        rows(&compiled(vec![clear, rest.clone()], &plain)),
        ["10.0.0.0/8 0.0.0.0/0 1438", "10.1.0.0/16 -"]
    );
    // An out-device can be told.
    let device = |oif| Policy { oif, ..policy("0.0.0.0/0", "10.1.0.0/16", 1, protect(1406)) };
    assert_eq!(rows(&compiled(vec![device(1)], &plain)), ["10.1.0.0/16 0.0.0.0/0 1406"]);
    assert!(compiled(vec![device(2)], &plain).0.is_empty());
}

#[test]
fn the_user_restricts_and_overrides() {
    let plain = routes(&[("0.0.0.0/0", PLAIN)]);
    let with = |wishes: &[(&str, Wish)]| {
        let policies = vec![policy("10.9.0.0/16", "10.0.0.0/8", 1, protect(1422))];
        let wishes = wishes.iter().map(|(prefix, wish)| (net(prefix), *wish)).collect();
        rows(&compile_over(&Facts { policies, wishes, follow: true, ..Facts::default() }, &plain))
    };
    assert_eq!(with(&[("10.1.0.0/16", Wish::Follow)]), ["10.1.0.0/16 10.9.0.0/16 1422"]);
    assert_eq!(
        with(&[("10.1.0.0/16", Wish::Fixed(1300))]),
        ["10.0.0.0/8 10.9.0.0/16 1422", "10.1.0.0/16 0.0.0.0/0 1300"],
        "whoever sends it"
    );
    assert_eq!(
        with(&[("10.1.0.0/16", Wish::Follow), ("11.0.0.0/8", Wish::Fixed(1300))]),
        ["10.1.0.0/16 10.9.0.0/16 1422", "11.0.0.0/8 0.0.0.0/0 1300"]
    );
}

#[test]
fn routes_are_asked_for_hosts_that_can_be() {
    let facts = Facts {
        policies: vec![
            policy("0.0.0.0/0", "10.0.0.0/8", 2, protect(1422)),
            policy("10.9.4.0/24", "10.0.0.0/8", 1, protect(1406)),
        ],
        own: BTreeSet::from(["10.9.0.0/32", "10.9.0.1/32", "10.9.4.0/32", "10.0.0.0/32"].map(net)),
        lan: BTreeSet::from(["10.9.0.0/16"].map(net)),
        follow: true,
        ..Facts::default()
    };
    let plain = routes(&[("0.0.0.0/0", PLAIN)]);
    let mut answers = Answers { routes: Ok(&plain), rules: Rules::default(), asked: Vec::new() };
    let table = compile(&facts, &mut answers).unwrap();
    let asked = answers.asked;
    assert_eq!(rows(&table), ["10.0.0.0/8 0.0.0.0/0 1422", "10.0.0.0/8 10.9.4.0/24 1406"]);
    assert_eq!(asked[1..3], ["10.9.0.2 10.0.0.1", "10.9.4.1 10.0.0.1"], "{asked:?}");
}

#[test]
fn an_error_of_the_kernel_is_passed_on() {
    let policies = vec![policy("10.9.0.0/16", "10.0.0.0/8", 1, protect(1422))];
    let facts = Facts { policies, follow: true, ..Facts::default() };
    let mut answers = Answers { routes: Err("no answer"), rules: Rules::default(), asked: Vec::new() };
    assert_eq!(compile(&facts, &mut answers), Err("no answer"));
}

/// What becomes of one packet, of which everything is known: the mark and whether upper-layer selectors fit.
fn outcome(
    policies: &[Policy],
    routes: &Routes,
    from: IpAddr,
    to: IpAddr,
    mark: u32,
    upper: bool,
) -> Vec<Option<u32>> {
    let find = |if_id, mark: u32, oif| {
        let selected = |policy: &&Policy| {
            policy.if_id == if_id
                && policy.src.contains(&from)
                && policy.dst.contains(&to)
                && mark & policy.mark.mask == policy.mark.value
                && (policy.oif == 0 || policy.oif == oif)
                && (!policy.upper || upper)
        };
        policies.iter().filter(selected).min_by_key(|policy| (policy.priority, policy.index))
    };
    let mtu = |action: &Action, cap| match action {
        Action::Protect(sas) => sas.iter().map(|sa| sa.mtu).min().map(|mtu| mtu.min(cap)),
        _ => None,
    };
    let hops = longest(routes, to).cloned().unwrap_or_default();
    let through = |hop: &Hop| {
        let policy = if hop.exempt { None } else { find(0, mark, hop.oif) };
        match (policy.map(|policy| &policy.action), &hop.device) {
            (None | Some(Action::Allow), Device::Tunnel { if_id, mark: own, lower, .. }) => {
                mtu(&find(*if_id, own.unwrap_or(mark), *lower)?.action, hop.mtu)
            }
            (None, _) => None,
            (Some(action), _) => mtu(action, hop.mtu),
        }
    };
    hops.iter().map(through).collect()
}

/// Prefixes that overlap a lot: of 16 addresses.
fn prefixes() -> impl Strategy<Value = IpNet> {
    (0u8..16, 28u8..=32)
        .prop_map(|(host, len)| IpNet::new(IpAddr::from([10, 0, 0, host]), len).unwrap().trunc())
}

fn actions() -> impl Strategy<Value = Action> {
    let sas = prop::collection::vec((1u32..9, 1000u32..1010).prop_map(|(spi, mtu)| Sa { spi, mtu }), 0..3);
    prop_oneof![
        1 => Just(Action::Allow),
        1 => Just(Action::Block),
        1 => Just(Action::Other),
        5 => sas.prop_map(Action::Protect),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let mark =
        prop_oneof![4 => Just(Mark::default()), 1 => (0u32..2).prop_map(|value| Mark { value, mask: 1 })];
    let rare = || prop_oneof![5 => Just(false), 1 => Just(true)];
    (
        prefixes(),
        prefixes(),
        0u32..3,
        (0u32..3, mark, prop_oneof![5 => Just(0u32), 1 => 1u32..3], rare(), actions()),
    )
        .prop_map(|(src, dst, priority, (if_id, mark, oif, upper, action))| Policy {
            src,
            dst,
            priority,
            index: 0,
            if_id,
            mark,
            oif,
            upper,
            protocol: 0,
            ports: upper,
            action,
        })
}

fn hops() -> impl Strategy<Value = Hop> {
    let mark = prop_oneof![Just(None), (0u32..2).prop_map(Some)];
    let device = prop_oneof![
        Just(Device::Plain),
        (0u32..3, mark).prop_map(|(if_id, mark)| Device::Tunnel { name: "t".into(), if_id, mark, lower: 1 }),
    ];
    let exempt = prop_oneof![4 => Just(false), 1 => Just(true)];
    (1u32..3, device, prop_oneof![Just(1500u32), Just(1003)], exempt)
        .prop_map(|(oif, device, mtu, exempt)| Hop { oif, device, mtu, exempt, ..PLAIN })
}

proptest! {
    /// The table against a look at policies and routes for each packet there can be: it never touches what may
    /// go on in the clear or be dropped, and serves everything else with an MTU that fits wherever it may go.
    #[test]
    fn the_table_says_what_the_kernel_does(
        mut policies in prop::collection::vec(policies(), 0..7),
        routes in prop::collection::btree_map(prefixes(), prop::collection::vec(hops(), 1..3), 0..5),
    ) {
        for (index, policy) in policies.iter_mut().enumerate() {
            policy.index = index as u32;
        }
        let table = compiled(policies.clone(), &routes);
        for host in 0..16 {
            for remote in 0..16 {
                let (from, to) = (IpAddr::from([10, 0, 0, host]), IpAddr::from([10, 0, 0, remote]));
                let mut may_be = Vec::new();
                for (mark, upper) in [(0, false), (0, true), (1, false), (1, true)] {
                    may_be.extend(outcome(&policies, &routes, from, to, mark, upper));
                }
                let mtu = table.tunnel(from, to).map(|tunnel| u32::from(tunnel.mtu));
                if may_be.is_empty() || may_be.contains(&None) {
                    prop_assert_eq!(mtu, None, "{} to {}: {:?}", from, to, may_be);
                } else if let Some(mtu) = mtu {
                    prop_assert!(may_be.iter().all(|fits| mtu <= fits.unwrap_or(0)), "{from} to {to}: {mtu} {may_be:?}");
                    let certain = policies.iter().all(|policy| !policy.upper && policy.mark.mask == 0);
                    prop_assert!(!certain || may_be.contains(&Some(mtu)), "{from} to {to}: {mtu} {may_be:?}");
                } else {
                    // Left out for caution: only where something is not known.
                    prop_assert!(
                        policies.iter().any(|policy| policy.upper || policy.mark.mask != 0),
                        "{from} to {to}: not served, {may_be:?}"
                    );
                }
            }
        }
    }
}
