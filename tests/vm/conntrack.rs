//! Connection tracking on the gateways: the rows of docs/conntrack.md, each without its remedy and with it.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use xdpfrag::lab::traffic::udp::Tally;
use xdpfrag::lab::{Daemon, Namespace};

use crate::capture::Wan;
use crate::esp::{BYTES, LONG_QUIET, QUIET, datagrams, transfer};
use crate::gateways::{Gateways, Site};
use crate::sa::{Esp, Route, Tunnel};

pub(crate) const MTU: u16 = 1446;

/// A firewall of the gateway itself, which is enough to track every connection.
pub(crate) const INPUT: &str =
    "table inet own { chain input { type filter hook input priority 0; policy accept;
    ct state established,related accept; }\n}";
/// The router hides its LAN behind its WAN address, but not from the other site.
const MASQUERADE: &str = "table ip nat { chain post { type nat hook postrouting priority srcnat;
    oifname wan0 rt ipsec exists accept; oifname wan0 masquerade; }\n}";
/// The same, in words that `run` cannot read: a range.
const MASQUERADE_UNREAD: &str = "table ip nat { chain post { type nat hook postrouting priority srcnat;
    oifname wan0 ip daddr != 198.18.0.0-198.19.255.255 masquerade; }\n}";
/// The other site knows this one by an address of its router.
pub(crate) const INTO_THE_TUNNEL: &str =
    "table ip nat { chain post { type nat hook postrouting priority srcnat;
    iifname eth1 ip daddr 198.18.2.0/24 snat to 198.18.1.1; }\n}";
pub(crate) const STATEFUL: &str =
    "table inet fw { chain forward { type filter hook forward priority 0; policy drop;
    ct state established,related accept; iifname eth1 ct state new accept; }\n}";

/// Two gateways; `rules` are those of the first, the other has a firewall of its own that tracks.
pub(crate) fn gateways(route: Route, rules: &str) -> Gateways {
    let tunnel = Tunnel { route, esp: Esp::Gcm16, nat_t: false, outer: 4, copy_df: true };
    let gateways = Gateways::new(4, Some(tunnel)).unwrap();
    let [one, two] = &gateways.sites;
    nft(&one.router, rules);
    nft(&two.router, INPUT);
    gateways
}

pub(crate) fn nft(namespace: &Namespace, rules: &str) {
    let load = || {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        nft.stdin.take().unwrap().write_all(rules.as_bytes())?;
        assert!(nft.wait()?.success(), "{rules}");
        Ok(())
    };
    namespace.run(load).unwrap();
}

/// Datagrams from the first site to the second, and what the WAN saw of them.
pub(crate) fn udp(gateways: &Gateways, quiet: Duration) -> (Tally, Wan) {
    let [one, two] = &gateways.sites;
    one.capture.reset();
    let tally = datagrams(one, two, vec![1472, 1200, 1472, 100, 1472, 1472], quiet);
    (tally, one.capture.wan())
}

/// The same with a TCP connection; true if all of it arrived.
fn tcp(gateways: &Gateways) -> (bool, Wan) {
    let [one, two] = &gateways.sites;
    one.capture.reset();
    let (received, complete) = transfer(one, two, 30);
    (complete && received == BYTES, one.capture.wan())
}

/// Everything arrives, but the WAN sees fragments of ESP packets.
#[track_caller]
fn esp_in_fragments(gateways: &Gateways) {
    let (tally, wan) = udp(gateways, LONG_QUIET);
    assert!(tally.complete(), "{tally:?}");
    assert_eq!((wan.fragments, wan.clear), (8, 0), "{wan:?}");
}

#[track_caller]
pub(crate) fn whole_udp(gateways: &Gateways) {
    let (tally, wan) = udp(gateways, LONG_QUIET);
    assert!(tally.complete(), "{tally:?}");
    assert_eq!((wan.esp, wan.fragments, wan.clear), (10, 0, 0), "{wan:?}");
    assert!(wan.longest <= 1500, "{wan:?}");
}

#[track_caller]
fn whole_tcp(gateways: &Gateways) {
    let (complete, wan) = tcp(gateways);
    // Segments that came together leave as few packets as their bytes fill.
    assert!(complete && wan.esp as u64 > BYTES / u64::from(MTU), "{wan:?}");
    assert_eq!((wan.fragments, wan.clear), (0, 0), "{wan:?}");
    assert!(wan.longest <= 1500, "{wan:?}");
}

pub(crate) fn serve(gateways: &Gateways, arguments: &[&str]) -> Daemon {
    gateways.sites[0].serve(MTU, arguments).unwrap()
}

pub(crate) fn exempt(gateways: &Gateways) -> bool {
    gateways.sites[0].router.output("nft", &["list", "ruleset"]).unwrap().contains("xdpfrag-eth1")
}

/// What `check` says of connection tracking.
fn check(gateways: &Gateways) -> serde_json::Value {
    let site = &gateways.sites[0];
    let arguments = ["check", "--iface", "eth1", "--mtu", "1446", "--dst", site.remote_net, "--json"];
    // Its exit code says what else it found.
    let output = site.router.run(|| Ok(Command::new(crate::esp::BINARY).args(arguments).output()?)).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["what"] == "conntrack").unwrap().clone()
}

/// Policy-based, and no rule depends on connections: exempt by itself.
fn exempt_by_itself(rules: &str) {
    let gateways = gateways(Route::Policy, rules);
    let daemon = serve(&gateways, &["--notrack", "off", "--handback", "inject"]);
    esp_in_fragments(&gateways);
    drop(daemon);
    // Datagrams go on whole.
    let daemon = serve(&gateways, &["--notrack", "off"]);
    whole_udp(&gateways);
    drop(daemon);
    assert_eq!(check(&gateways)["level"], "ok");
    let daemon = serve(&gateways, &[]);
    assert!(exempt(&gateways));
    whole_udp(&gateways);
    whole_tcp(&gateways);
    daemon.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.wait().unwrap();
    assert!(!exempt(&gateways), "the kernel takes the table away with the process");
}

#[test]
fn policy_tracked() {
    exempt_by_itself(INPUT);
}

#[test]
fn policy_masquerading() {
    exempt_by_itself(MASQUERADE);
}

/// The remedy that `check` prints is taken up by the running instance.
#[test]
fn policy_masquerading_after_the_remedy() {
    let gateways = gateways(Route::Policy, MASQUERADE_UNREAD);
    let daemon = serve(&gateways, &["--handback", "inject"]);
    esp_in_fragments(&gateways);
    let finding = check(&gateways);
    assert_eq!(finding["level"], "warning");
    let remedy: Vec<_> = finding["remedy"].as_str().unwrap().split(' ').collect();
    gateways.sites[0].router.output(remedy[0], &remedy[1..]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !exempt(&gateways) {
        assert!(Instant::now() < deadline, "{remedy:?}");
    }
    whole_udp(&gateways);
    drop(daemon);
}

/// Where connections matter, TCP is resegmented, UDP still arrives, and an exemption would lose both.
fn not_exempt(rules: &str, names: &str) -> Gateways {
    let gateways = gateways(Route::Policy, rules);
    let daemon = serve(&gateways, &["--tcp", "resegment"]);
    assert!(!exempt(&gateways));
    let finding = check(&gateways);
    assert!(finding["why"].as_str().unwrap().contains(names), "{finding}");
    whole_udp(&gateways);
    whole_tcp(&gateways);
    let ended = daemon.stop().unwrap();
    assert!(ended.stderr.contains(names), "{}", ended.stderr);
    gateways
}

#[test]
fn policy_stateful() {
    let gateways = not_exempt(STATEFUL, "`ct` in table inet fw, chain forward");
    let _daemon = serve(&gateways, &["--notrack", "on"]);
    let (tally, _) = udp(&gateways, QUIET);
    assert_eq!(tally.missing.into_iter().collect::<Vec<_>>(), [(1472, 4)], "untracked is not new");
    let accept = "insert rule inet fw forward iifname eth1 ct state untracked accept";
    gateways.sites[0].router.output("nft", &[accept]).unwrap();
    whole_udp(&gateways);
    assert!(!answered(&gateways), "nobody expects the answer to an untracked datagram");
    let accept = "insert rule inet fw forward iifname wan0 meta ipsec exists udp sport 5060 accept";
    gateways.sites[0].router.output("nft", &[accept]).unwrap();
    assert!(answered(&gateways));
}

#[test]
fn policy_nat_into_the_tunnel() {
    let gateways = not_exempt(INTO_THE_TUNNEL, "`nat` in table ip nat, chain post");
    let daemon = serve(&gateways, &[]);
    assert_eq!(seen_as(&gateways).to_string(), "198.18.1.1");
    drop(daemon);
    let _daemon = serve(&gateways, &["--notrack", "on"]);
    assert_eq!(seen_as(&gateways).to_string(), "198.18.1.2", "an exempt datagram is not translated");
}

/// An xfrm interface makes fragments again, whatever its MTU: nothing to exempt, and nothing is.
fn over_an_interface(rules: &str, mtu: u16) {
    let gateways = gateways(Route::Interface, rules);
    for site in &gateways.sites {
        site.router.ip(&format!("link set xfrm0 mtu {mtu}")).unwrap();
    }
    let (tally, _) = udp(&gateways, QUIET);
    // Without xdpfrag.
    assert_eq!(tally.missing.into_iter().collect::<Vec<_>>(), [(1472, 4)]);
    let daemon = serve(&gateways, &[]);
    assert!(!exempt(&gateways));
    assert_eq!(check(&gateways)["level"], "ok");
    whole_udp(&gateways);
    whole_tcp(&gateways);
    drop(daemon);
}

#[test]
fn interface_stateful() {
    over_an_interface(STATEFUL, 1500);
}

#[test]
fn interface_nat_into_the_tunnel() {
    over_an_interface(INTO_THE_TUNNEL, 1500);
}

#[test]
fn lowered_interface_stateful() {
    over_an_interface(STATEFUL, MTU);
}

/// Sends one oversize datagram from the first site and hands its receiver and its sender on.
fn oversize<T>(gateways: &Gateways, then: impl FnOnce(UdpSocket, UdpSocket) -> T) -> T {
    let open = |site: &Site| {
        let socket = site.appliance.run(|| {
            let socket = UdpSocket::bind((site.address, 5060))?;
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
            Ok(socket)
        });
        socket.unwrap()
    };
    let [one, two] = gateways.sites.each_ref().map(open);
    one.send_to(&[0x5a; 1472], (gateways.sites[1].address, 5060)).unwrap();
    then(one, two)
}

/// Whether the answer to an oversize datagram, the first of its flow, comes back.
fn answered(gateways: &Gateways) -> bool {
    oversize(gateways, |one, two| {
        let mut buffer = [0; 2000];
        let (length, peer) = two.recv_from(&mut buffer).unwrap();
        assert_eq!(length, 1472);
        two.send_to(b"yes", peer).unwrap();
        one.recv(&mut buffer).is_ok()
    })
}

/// The source address of an oversize datagram at the other site.
fn seen_as(gateways: &Gateways) -> IpAddr {
    oversize(gateways, |_one, two| two.recv_from(&mut [0; 2000])).unwrap().1.ip()
}
