//! `--mtu auto`: what it serves, what it leaves alone, and that it follows the tunnels under traffic.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use xdpfrag::lab::Daemon;
use xdpfrag::lab::traffic::tcp::{Direction, Transfer};
use xdpfrag::lab::traffic::udp::{Flow, Tally};
use xdpfrag::observe::snapshot::{InterfaceSnapshot, RouteSnapshot, Snapshot};

use crate::esp::{self, BINARY, LONG_QUIET};
use crate::gateways::{Gateways, Site, batch};
use crate::sa::{Esp, Route, Tunnel};
use crate::swan::Charon;

/// How long a change may take to be followed, under emulation.
const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 7003;

const POLICY: Tunnel =
    Tunnel { route: Route::Policy, esp: Esp::CbcSha256, nat_t: true, outer: 4, copy_df: true };
const INTERFACE: Tunnel = Tunnel { route: Route::Interface, ..POLICY };

/// `xdpfrag run --mtu auto` on both routers.
fn follow(gateways: &Gateways, more: &[&str]) -> [Daemon; 2] {
    let start = |site: &Site, handback: &str| {
        let flags = ["--mtu", "auto", "--handback", handback, "--stall", "10000", "--json"];
        Daemon::start(&site.router, Path::new(BINARY), &[&flags, more].concat()).unwrap()
    };
    [start(&gateways.sites[0], "inject"), start(&gateways.sites[1], "veth")]
}

fn stats(site: &Site) -> InterfaceSnapshot {
    let json = site.router.output(BINARY, &["stats", "--json"]).unwrap();
    serde_json::from_str::<Snapshot>(&json).unwrap().interfaces.remove(0)
}

/// Waits until `xdpfrag stats` of both routers lists these routes: destination, source and SA MTU.
#[track_caller]
fn await_routes(gateways: &Gateways, wanted: impl Fn(&Site) -> Vec<(String, Option<String>, u16)>) {
    for site in &gateways.sites {
        let wanted = wanted(site);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let routes: Vec<_> = stats(site)
                .routes
                .into_iter()
                .map(|RouteSnapshot { prefix, source, mtu, .. }| (prefix, source, mtu))
                .collect();
            if routes == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "{}: {routes:?}, not {wanted:?}", site.router.name());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The one route that a tunnel between the two LANs makes.
fn tunnel(mtu: u16) -> impl Fn(&Site) -> Vec<(String, Option<String>, u16)> {
    move |site| {
        let here = if site.remote_net == "198.18.2.0/24" { "198.18.1.0/24" } else { "198.18.2.0/24" };
        vec![(site.remote_net.to_owned(), Some(here.to_owned()), mtu)]
    }
}

fn datagrams(from: &Site, to: &Site, address: &str, sizes: Vec<usize>) -> Tally {
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    let flow = Flow { rate: 200, quiet: LONG_QUIET, ..Flow::new((address, PORT), sizes) };
    flow.run(&from.appliance, &to.appliance).unwrap()
}

/// Packets of 1500 bytes and a TCP connection from site 1 to `address` pass without an edit.
#[track_caller]
fn untouched(gateways: &Gateways, address: &str) {
    let [one, two] = &gateways.sites;
    let before = stats(one);
    let tally = datagrams(one, two, address, vec![1472, 100, 1472]);
    assert!(tally.complete(), "{address}: {tally:?}");
    let to = (address.parse::<std::net::IpAddr>().unwrap(), PORT).into();
    let transfer =
        Transfer { to, bytes: 20_000, direction: Direction::Upload, deadline: Duration::from_secs(20) };
    let report = transfer.run(&one.appliance, &two.appliance).unwrap();
    // 1460 less the time stamps, on both sides.
    assert!(report.complete() && (report.client_mss, report.server_mss) == (1448, 1448), "{report:?}");
    let after = stats(one);
    assert_eq!(before.xdp_edits, after.xdp_edits);
    assert_eq!(before.egress_mss, after.egress_mss);
    let passed = |stats: &InterfaceSnapshot| stats.xdp["out_of_scope"];
    assert!(passed(&after) >= passed(&before) + 6, "{after:?}");
    assert_eq!(before.workers[0].received, after.workers[0].received);
}

/// A host of LAN 1 that no policy selects, a network behind router 2 that no tunnel leads to.
fn add_outsiders(gateways: &Gateways) {
    let [one, two] = &gateways.sites;
    one.appliance.ip("addr add 198.18.3.2/24 dev lan0").unwrap();
    two.appliance.ip("addr add 198.18.4.2/24 dev lan0").unwrap();
    two.appliance.ip("addr add 198.18.2.130/24 dev lan0").unwrap();
    let lines = "addr add 198.18.3.1/24 dev eth1\nroute add 198.18.4.0/24 via 198.51.100.2";
    batch(&one.router, lines).unwrap();
    batch(&two.router, "addr add 198.18.4.1/24 dev eth1\nroute add 198.18.3.0/24 via 198.51.100.1").unwrap();
}

#[test]
fn auto_serves_what_policies_select() {
    let gateways = Gateways::new(4, Some(POLICY)).unwrap();
    add_outsiders(&gateways);
    let [one, two] = &gateways.sites;
    one.router.ip("route replace 198.18.2.0/24 via 198.51.100.2").unwrap();
    two.router.ip("route replace 198.18.1.0/24 via 198.51.100.1").unwrap();
    esp::before(&gateways, 1422);
    let daemons = follow(&gateways, &[]);
    await_routes(&gateways, tunnel(1422));
    println!("{}", one.router.output(BINARY, &["stats"]).unwrap());
    println!("{}", one.router.output(BINARY, &["mtu"]).unwrap());
    untouched(&gateways, "198.18.4.2");
    one.appliance.ip("route replace default via 198.18.1.1 src 198.18.3.2").unwrap();
    untouched(&gateways, "198.18.2.2");
    one.appliance.ip("route replace default via 198.18.1.1").unwrap();
    esp::after(&gateways, 1422, daemons);
}

#[test]
fn auto_serves_what_is_routed_over_an_xfrm_interface() {
    let gateways = Gateways::new(4, Some(INTERFACE)).unwrap();
    add_outsiders(&gateways);
    let [one, two] = &gateways.sites;
    // A part of the other LAN that is not routed into the tunnel.
    one.router.ip("route add 198.18.2.128/25 via 198.51.100.2").unwrap();
    two.router.ip("route add 198.18.1.2/32 via 198.51.100.1 table 100").unwrap();
    batch(&two.router, "rule add from 198.18.2.128/25 lookup 100\nrule add from 198.18.4.0/24 lookup 100")
        .unwrap();
    esp::before(&gateways, 1422);
    let daemons = follow(&gateways, &[]);
    let routes = |mtu: u16| {
        move |site: &Site| {
            let mut routes = tunnel(mtu)(site);
            if site.remote_net == "198.18.1.0/24" {
                let (_, source, _) = routes[0].clone();
                routes.insert(0, ("198.18.1.2/32".into(), source, mtu));
            }
            routes
        }
    };
    await_routes(&gateways, routes(1422));
    assert_eq!(stats(two).exceptions, ["198.18.1.2/32 from 198.18.2.128/25"]);
    println!("{}", one.router.output(BINARY, &["stats"]).unwrap());
    println!("{}", one.router.output(BINARY, &["mtu"]).unwrap());
    let route = &stats(one).routes[0];
    assert_eq!(route.via.as_deref(), Some("xfrm0"));
    untouched(&gateways, "198.18.4.2");
    untouched(&gateways, "198.18.2.130");
    // The MTU of the interface counts, too.
    one.router.ip("link set xfrm0 mtu 1300").unwrap();
    two.router.ip("link set xfrm0 mtu 1300").unwrap();
    await_routes(&gateways, routes(1300));
    for site in &gateways.sites {
        site.router.ip("link set xfrm0 mtu 1500").unwrap();
    }
    await_routes(&gateways, routes(1422));
    esp::after(&gateways, 1422, daemons);
}

/// New SAs beside the old, which then go: nothing is lost, and the smaller SA MTU is followed.
#[test]
fn auto_follows_a_rekey_with_another_algorithm() {
    let gateways = Gateways::new(4, Some(POLICY)).unwrap();
    let [one, two] = &gateways.sites;
    let daemons = follow(&gateways, &[]);
    await_routes(&gateways, tunnel(1422));
    let changed = Tunnel { esp: Esp::CbcSha512, ..POLICY };
    thread::scope(|scope| {
        let sizes: Vec<usize> = (0..800).map(|number| [1472, 1394, 1378, 100][number % 4]).collect();
        let flow = scope.spawn(|| datagrams(one, two, "198.18.2.2", sizes));
        thread::sleep(Duration::from_millis(500));
        for site in [two, one] {
            batch(&site.router, &changed.states(&gateways.side(site, 0x100))).unwrap();
        }
        await_routes(&gateways, tunnel(1406));
        for site in [one, two] {
            batch(&site.router, &Tunnel::delete(&gateways.side(site, 0))).unwrap();
        }
        let tally = flow.join().unwrap();
        assert!(tally.complete(), "{tally:?}");
    });
    await_routes(&gateways, tunnel(1406));
    let logs = esp::after(&gateways, 1406, daemons);
    let both = "198.18.2.0/24 from 198.18.1.0/24: SA MTU 1406 (SPI 0x00001001, 0x00001101, was 1422)";
    assert!(logs[0].contains(both), "{}", logs[0]);
    println!("{}", logs[0]);
}

#[test]
fn auto_follows_a_tunnel_down_and_up() {
    let gateways = Gateways::new(4, None).unwrap();
    let [one, two] = &gateways.sites;
    one.router.ip("route add 198.18.2.0/24 via 198.51.100.2").unwrap();
    two.router.ip("route add 198.18.1.0/24 via 198.51.100.1").unwrap();
    let none = |_: &Site| Vec::new();
    let daemons = follow(&gateways, &[]);
    let tunneled = Tunnel { nat_t: false, ..POLICY };
    untouched(&gateways, "198.18.2.2");
    let change = |what: &dyn Fn(&Site) -> String| {
        for site in &gateways.sites {
            batch(&site.router, &what(site)).unwrap();
        }
    };
    let states = |site: &Site| tunneled.states(&gateways.side(site, 0));
    let policies = |site: &Site| tunneled.policies(&gateways.side(site, 0));
    change(&policies);
    await_routes(&gateways, none);
    change(&states);
    await_routes(&gateways, tunnel(1438));
    let around = || vec![1472, 1410, 1411, 1409, 100];
    assert!(datagrams(one, two, "198.18.2.2", around()).complete());
    // The path gets narrower, and wide again.
    change(&|_| "link set wan0 mtu 1400".into());
    await_routes(&gateways, tunnel(1326));
    change(&|_| "link set wan0 mtu 1500".into());
    await_routes(&gateways, tunnel(1438));
    // No message tells of this one.
    for site in &gateways.sites {
        site.router.sysctl("ipv4/conf/wan0/disable_xfrm", "1").unwrap();
    }
    await_routes(&gateways, none);
    for site in &gateways.sites {
        site.router.sysctl("ipv4/conf/wan0/disable_xfrm", "0").unwrap();
    }
    await_routes(&gateways, tunnel(1438));
    change(&|_| "xfrm state flush".into());
    await_routes(&gateways, none);
    change(&|_| "xfrm policy flush".into());
    untouched(&gateways, "198.18.2.2");
    change(&states);
    change(&policies);
    await_routes(&gateways, tunnel(1438));
    println!("{}", esp::after(&gateways, 1438, daemons)[0]);
}

#[test]
fn auto_with_strongswan() {
    let gateways = Gateways::new(4, None).unwrap();
    let [one, two] = &gateways.sites;
    one.router.ip("route add 198.18.2.0/24 via 198.51.100.2").unwrap();
    two.router.ip("route add 198.18.1.0/24 via 198.51.100.1").unwrap();
    let daemons = follow(&gateways, &[]);
    untouched(&gateways, "198.18.2.2");
    let charons = gateways.sites.each_ref().map(|site| Charon::start(site).unwrap());
    for charon in &charons {
        charon.load().with_context(|| charon.log()).unwrap();
    }
    let swanctl = |arguments: &[&str]| {
        charons[0].swanctl(arguments).with_context(|| charons[0].log()).unwrap();
    };
    swanctl(&["--initiate", "--child", "lan"]);
    await_routes(&gateways, tunnel(1422));
    let spis = stats(one).routes[0].spis.clone();
    thread::scope(|scope| {
        let sizes: Vec<usize> = (0..600).map(|number| [1472, 1394, 100][number % 3]).collect();
        let flow = scope.spawn(|| datagrams(one, two, "198.18.2.2", sizes));
        thread::sleep(Duration::from_millis(500));
        swanctl(&["--rekey", "--child", "lan"]);
        let tally = flow.join().unwrap();
        assert!(tally.complete(), "{tally:?}");
    });
    await_routes(&gateways, tunnel(1422));
    let deadline = Instant::now() + PATIENCE;
    while stats(one).routes[0].spis.iter().any(|spi| spis.contains(spi)) {
        assert!(Instant::now() < deadline, "{:?}, was {spis:?}", stats(one).routes);
        thread::sleep(Duration::from_millis(50));
    }
    swanctl(&["--terminate", "--child", "lan"]);
    await_routes(&gateways, |_| Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while gateways.sites.iter().any(|site| !site.router.ip("xfrm policy list dir fwd").unwrap().is_empty()) {
        assert!(Instant::now() < deadline, "policies stay");
        thread::sleep(Duration::from_millis(50));
    }
    untouched(&gateways, "198.18.2.2");
    swanctl(&["--initiate", "--child", "lan"]);
    await_routes(&gateways, tunnel(1422));
    println!("{}", esp::after(&gateways, 1422, daemons)[0]);
}
