//! IPv6 inside the tunnel: routers may not fragment it, so TCP is resegmented, and for the rest the kernel answers.

use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use xdpfrag::lab::Daemon;
use xdpfrag::lab::traffic::tcp::{Direction, Report, Transfer};
use xdpfrag::lab::traffic::udp::Flow;

use crate::capture::Wan;
use crate::esp::{BINARY, QUIET};
use crate::gateways::{Gateways, batch};
use crate::sa::{Esp, Route, Side, Tunnel};

const PORT: u16 = 7001;
const BYTES: u64 = 144_800;
/// AES-CBC-256/SHA-256 in UDP over IPv4.
const MTU: u16 = 1422;

/// The tunnel of the IPv4 tests, with policies and addresses for IPv6.
fn gateways() -> Gateways {
    let tunnel = Tunnel { route: Route::Policy, esp: Esp::CbcSha256, nat_t: true, outer: 4, copy_df: true };
    let gateways = Gateways::new(4, Some(tunnel)).unwrap();
    for (index, site) in gateways.sites.iter().enumerate() {
        let (here, there) = (index + 1, 2 - index);
        site.appliance.sysctl("ipv6/conf/all/disable_ipv6", "0").unwrap();
        let side = Side {
            local: &format!("198.51.100.{here}"),
            remote: &format!("198.51.100.{there}"),
            local_net: &format!("2001:db8:{here}::/64"),
            remote_net: &format!("2001:db8:{there}::/64"),
            spi_out: 0,
            spi_in: 0,
        };
        let router = [
            format!("addr add 2001:db8:{here}::1/64 dev eth1 nodad"),
            format!("route add 2001:db8:{there}::/64 dev wan0"),
            tunnel.policies(&side),
        ];
        batch(&site.router, &router.join("\n")).unwrap();
        let appliance = [
            format!("addr add 2001:db8:{here}::2/64 dev lan0 nodad"),
            format!("route add default via 2001:db8:{here}::1"),
        ];
        batch(&site.appliance, &appliance.join("\n")).unwrap();
    }
    gateways
}

fn address(site: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, 2)
}

fn carry(gateways: &Gateways, bytes: u64, direction: Direction, deadline: u64) -> Report {
    let [one, two] = &gateways.sites;
    let deadline = Duration::from_secs(deadline);
    let transfer = Transfer { to: (address(2), PORT).into(), bytes, direction, deadline };
    transfer.run(&one.appliance, &two.appliance).unwrap()
}

#[test]
fn ipv6_in_the_tunnel() {
    let gateways = gateways();
    // What fits, which also finds the neighbours.
    let report = carry(&gateways, 1000, Direction::Upload, 30);
    assert!(report.complete(), "without xdpfrag: {report:?}");
    let report = carry(&gateways, BYTES, Direction::Upload, 2);
    assert_eq!(report.received, 0, "without xdpfrag: {report:?}");
    let serve = |site: usize, net: &str| {
        gateways.sites[site - 1].serve(MTU, &["--dst", net, "--tcp", "resegment"]).unwrap()
    };
    carried_and_answered(&gateways, [serve(1, "2001:db8:2::/64"), serve(2, "2001:db8:1::/64")]);
}

#[test]
fn ipv6_in_the_tunnel_by_auto() {
    let gateways = gateways();
    let daemons = gateways.sites.each_ref().map(|site| {
        let flags = ["--mtu", "auto", "--tcp", "resegment", "--stall", "10000", "--json"];
        Daemon::start(&site.router, Path::new(BINARY), &flags).unwrap()
    });
    carried_and_answered(&gateways, daemons);
}

/// TCP arrives in both directions, each ESP packet whole; what is not TCP and too long is the kernel's to answer.
fn carried_and_answered(gateways: &Gateways, daemons: [Daemon; 2]) {
    gateways.sites.iter().for_each(|site| site.capture.reset());
    for direction in [Direction::Upload, Direction::Download] {
        let report = carry(gateways, BYTES, direction, 30);
        assert!(report.complete(), "{direction:?} {report:?}");
    }
    for site in &gateways.sites {
        let wan = site.capture.wan();
        let Wan { esp, fragments, longest, clear } = wan;
        assert!(esp > 100 && longest <= 1500 && (fragments, clear) == (0, 0), "{wan:?}");
    }

    let [one, two] = &gateways.sites;
    one.wire.reset().unwrap();
    // 40 bytes of IPv6 and 8 of UDP.
    let fits = usize::from(MTU) - 48;
    let flow = Flow { rate: 200, quiet: QUIET, ..Flow::new((address(2), PORT), vec![fits, fits + 1, 1452]) };
    let tally = flow.run(&one.appliance, &two.appliance).unwrap();
    assert_eq!(tally.missing.into_keys().collect::<Vec<_>>(), [fits + 1, 1452]);
    assert_eq!(one.wire.seen().unwrap().too_big, 2, "the kernel says so, as without xdpfrag");
    for daemon in daemons {
        assert!(daemon.stop().unwrap().status.success());
    }
}
