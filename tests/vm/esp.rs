//! Deaf appliances behind ESP: what arrives without xdpfrag and with it, and what the WAN sees of it.

use std::time::Duration;

use xdpfrag::lab::Daemon;
use xdpfrag::lab::traffic::tcp::{Direction, Transfer};
use xdpfrag::lab::traffic::udp::{Flow, Tally};

use crate::gateways::{Gateways, Site};
use crate::sa::{Esp, Route, Tunnel};

/// What is tested.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_xdpfrag");
const PORT: u16 = 7001;
/// How long to wait for datagrams some of which are lost.
pub(crate) const QUIET: Duration = Duration::from_secs(2);
/// How long a datagram may be on its way through two emulated routers on a busy machine.
pub(crate) const LONG_QUIET: Duration = Duration::from_secs(10);
/// Carried by a TCP connection: a hundred full segments.
pub(crate) const BYTES: u64 = 144_800;

/// Sends DF datagrams of these payload lengths from one appliance to the other; the last may take `quiet`.
pub(crate) fn datagrams(from: &Site, to: &Site, sizes: Vec<usize>, quiet: Duration) -> Tally {
    let flow = Flow { rate: 500, quiet, ..Flow::new((to.address, PORT), sizes) };
    flow.run(&from.appliance, &to.appliance).unwrap()
}

pub(crate) fn transfer(from: &Site, to: &Site, deadline: u64) -> (u64, bool) {
    let deadline = Duration::from_secs(deadline);
    let transfer =
        Transfer { to: (to.address, PORT).into(), bytes: BYTES, direction: Direction::Upload, deadline };
    let report = transfer.run(&from.appliance, &to.appliance).unwrap();
    // It does not do as it is told: 1460 less the time stamps.
    assert_eq!(report.client_mss, 1448, "{report:?}");
    (report.received, report.complete())
}

/// Payload lengths up to and beyond the SA MTU: 28 bytes of headers go on top.
fn around(mtu: u16) -> Vec<usize> {
    let fits = usize::from(mtu) - 28;
    (0..35).map(|number| [1472, fits, fits + 1, 100, 1472, fits - 1, 1400 + number][number % 7]).collect()
}

/// What `xdpfrag mtu` says of the SA that a router encrypts with.
fn sa_mtu(site: &Site) -> Option<u64> {
    let json = site.router.output(BINARY, &["mtu", "--json"]).unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    rows.iter().find(|row| row["direction"] == "out")?["sizes"]["mtu"].as_u64()
}

/// Without xdpfrag: whatever does not fit is lost, and the router says to nobody's ears how much would fit.
pub(crate) fn before(gateways: &Gateways, mtu: u16) {
    for (from, to) in ways(gateways) {
        let fits = usize::from(mtu) - 28;
        let tally = datagrams(from, to, vec![fits, fits + 1, 1472], QUIET);
        assert_eq!(tally.missing.into_keys().collect::<Vec<_>>(), [fits + 1, 1472]);
        assert_eq!(from.capture.icmp_mtu(), Some(mtu), "{}", from.router.name());
        assert_eq!(sa_mtu(from), Some(mtu.into()), "{}", from.router.name());
    }
    assert_eq!(transfer(&gateways.sites[0], &gateways.sites[1], 2), (0, false), "a deaf appliance stalls");
}

/// With xdpfrag: everything arrives whole, in whole ESP packets. Answers what the daemons said.
pub(crate) fn after(gateways: &Gateways, mtu: u16, daemons: [Daemon; 2]) -> Vec<String> {
    let mut logs = Vec::new();
    for ((from, to), daemon) in ways(gateways).into_iter().zip(daemons) {
        from.capture.reset();
        from.wire.reset().unwrap();
        let tally = datagrams(from, to, around(mtu), LONG_QUIET);
        assert!(tally.complete(), "{} {tally:?}", from.router.name());
        assert_eq!(transfer(from, to, 30), (BYTES, true));
        assert_eq!(from.wire.seen().unwrap().too_big, 0, "no oversize packet reached the kernel's MTU check");
        let wan = from.capture.wan();
        assert!(wan.esp > 200, "{wan:?}");
        assert!(wan.longest <= 1500, "{wan:?}");
        assert_eq!((wan.fragments, wan.clear), (0, 0), "{wan:?}");
        // Full ESP packets: the SA MTU is not too small either.
        assert!(wan.longest > 1500 - 16, "{wan:?}");
        let ended = daemon.stop().unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        let interface = &ended.snapshot.expect("--json").interfaces[0];
        // Whichever way the tunnel has.
        let by_worker = ["fragmented", "handed_whole", "resegmented"];
        let by_worker: u64 = by_worker.iter().map(|reason| interface.workers[0].reasons[*reason]).sum();
        let by_kernel = interface.xdp["edited"] + interface.xdp["late"];
        assert!(by_worker + by_kernel > 100, "{interface:?}");
        logs.push(ended.stderr);
    }
    logs
}

/// Each site as the sender.
fn ways(gateways: &Gateways) -> [(&Site, &Site); 2] {
    let [one, two] = &gateways.sites;
    [(one, two), (two, one)]
}

fn carry(tunnel: Tunnel, mtu: u16) {
    let gateways = Gateways::new(tunnel.outer, Some(tunnel)).unwrap();
    before(&gateways, mtu);
    let daemons = gateways.protect(mtu).unwrap();
    after(&gateways, mtu, daemons);
}

/// The outer packets never have DF (`copy_df = no`): the kernel refuses and xdpfrag delivers all the same.
#[test]
fn without_copy_df() {
    carry(Tunnel { route: Route::Policy, esp: Esp::CbcSha256, nat_t: true, outer: 4, copy_df: false }, 1422);
}

/// One test per tunnel, named `ROUTE_ESP_OUTER`; those that are ignored are of `make vm-test FULL=1`.
macro_rules! tunnels {
    ($($(#[$attribute:meta])* $name:ident: $route:ident $esp:ident $nat_t:literal $outer:literal => $mtu:literal;)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                carry(Tunnel { route: Route::$route, esp: Esp::$esp, nat_t: $nat_t, outer: $outer, copy_df: true }, $mtu);
            }
        )*
    };
}

tunnels! {
    policy_cbc_sha256_nat_t_v4: Policy CbcSha256 true 4 => 1422;
    policy_cbc_sha256_v6: Policy CbcSha256 false 6 => 1406;
    policy_gcm16_v4: Policy Gcm16 false 4 => 1446;
    interface_cbc_sha256_nat_t_v4: Interface CbcSha256 true 4 => 1422;
    interface_gcm16_nat_t_v6: Interface Gcm16 true 6 => 1418;
    interface_chacha20_nat_t_v4: Interface ChaCha20 true 4 => 1438;
    #[ignore = "FULL=1"]
    policy_cbc_sha256_v4: Policy CbcSha256 false 4 => 1438;
    #[ignore = "FULL=1"]
    policy_cbc_sha256_nat_t_v6: Policy CbcSha256 true 6 => 1406;
    #[ignore = "FULL=1"]
    policy_cbc_sha1_v4: Policy CbcSha1 false 4 => 1438;
    #[ignore = "FULL=1"]
    policy_cbc_sha1_nat_t_v4: Policy CbcSha1 true 4 => 1422;
    #[ignore = "FULL=1"]
    policy_cbc_sha1_v6: Policy CbcSha1 false 6 => 1422;
    #[ignore = "FULL=1"]
    policy_cbc_sha1_nat_t_v6: Policy CbcSha1 true 6 => 1406;
    #[ignore = "FULL=1"]
    policy_cbc_sha512_v4: Policy CbcSha512 false 4 => 1422;
    #[ignore = "FULL=1"]
    policy_cbc_sha512_nat_t_v4: Policy CbcSha512 true 4 => 1406;
    #[ignore = "FULL=1"]
    policy_cbc_sha512_v6: Policy CbcSha512 false 6 => 1390;
    #[ignore = "FULL=1"]
    policy_cbc_sha512_nat_t_v6: Policy CbcSha512 true 6 => 1390;
    #[ignore = "FULL=1"]
    policy_gcm16_nat_t_v4: Policy Gcm16 true 4 => 1438;
    #[ignore = "FULL=1"]
    policy_gcm16_v6: Policy Gcm16 false 6 => 1426;
    #[ignore = "FULL=1"]
    policy_gcm16_nat_t_v6: Policy Gcm16 true 6 => 1418;
    #[ignore = "FULL=1"]
    policy_chacha20_v4: Policy ChaCha20 false 4 => 1446;
    #[ignore = "FULL=1"]
    policy_chacha20_nat_t_v4: Policy ChaCha20 true 4 => 1438;
    #[ignore = "FULL=1"]
    policy_chacha20_v6: Policy ChaCha20 false 6 => 1426;
    #[ignore = "FULL=1"]
    policy_chacha20_nat_t_v6: Policy ChaCha20 true 6 => 1418;
    #[ignore = "FULL=1"]
    policy_gcm8_v4: Policy Gcm8 false 4 => 1454;
    #[ignore = "FULL=1"]
    policy_gcm8_nat_t_v4: Policy Gcm8 true 4 => 1446;
    #[ignore = "FULL=1"]
    policy_gcm8_v6: Policy Gcm8 false 6 => 1434;
    #[ignore = "FULL=1"]
    policy_gcm8_nat_t_v6: Policy Gcm8 true 6 => 1426;
    #[ignore = "FULL=1"]
    interface_cbc_sha256_v4: Interface CbcSha256 false 4 => 1438;
    #[ignore = "FULL=1"]
    interface_cbc_sha256_v6: Interface CbcSha256 false 6 => 1406;
    #[ignore = "FULL=1"]
    interface_cbc_sha256_nat_t_v6: Interface CbcSha256 true 6 => 1406;
    #[ignore = "FULL=1"]
    interface_gcm16_v4: Interface Gcm16 false 4 => 1446;
    #[ignore = "FULL=1"]
    interface_gcm16_nat_t_v4: Interface Gcm16 true 4 => 1438;
    #[ignore = "FULL=1"]
    interface_gcm16_v6: Interface Gcm16 false 6 => 1426;
    #[ignore = "FULL=1"]
    interface_chacha20_v4: Interface ChaCha20 false 4 => 1446;
    #[ignore = "FULL=1"]
    interface_chacha20_v6: Interface ChaCha20 false 6 => 1426;
    #[ignore = "FULL=1"]
    interface_chacha20_nat_t_v6: Interface ChaCha20 true 6 => 1418;
}
