//! The two gateways of the VM tests, ready to be counted: no capture, and the plugin knows whose each device is.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use xdpfrag::lab::{Namespace, Wire};

use super::marks::tell;
use super::methods::Tunnel;
use super::traffic::Traffic;
use crate::capture::Capture;
use crate::gateways::{Gateways, Site};
use crate::sa::{self, Esp, Route};

/// The SA MTU of [`Esp::Gcm16`] over IPv4.
pub(crate) const MTU: &str = "1446";
/// Behind the second gateway.
pub(crate) const REMOTE: &str = "198.18.2.0/24";
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);

/// One site.
pub(crate) struct End {
    pub(crate) appliance: Namespace,
    pub(crate) router: Namespace,
    _wire: Wire,
}

/// Both.
pub(crate) struct Sites {
    pub(crate) near: End,
    pub(crate) far: End,
}

/// What the WAN and the peer saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// ESP packets that are fragments.
    pub(crate) esp_fragments: u64,
    /// Packets that the peer's gateway and host put together.
    pub(crate) reassembled: [u64; 2],
}

impl Sites {
    pub(crate) fn new(tunnel: Tunnel) -> Result<Sites> {
        let route = if tunnel == Tunnel::Policy { Route::Policy } else { Route::Interface };
        let sa = sa::Tunnel { route, esp: Esp::Gcm16, nat_t: false, outer: 4, copy_df: true };
        let [near, far] = Gateways::new(4, Some(sa))?.sites.map(End::from);
        for end in [&near, &far] {
            // Nothing that comes by itself: no neighbour that must be asked for again, no router or multicast of IPv6.
            end.router.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
            // The kernel looks up other policies in a table whose chains are long or short by chance: a row would differ by
            // 0.7 % from one boot to the next.
            end.router.output("ip", &["xfrm", "policy", "set", "hthresh4", "24", "24"])?;
            if tunnel == Tunnel::Lowered {
                end.router.ip(&format!("link set xfrm0 mtu {MTU}"))?;
            }
        }
        let sites = Sites { near, far };
        sites.know_neighbours()?;
        sites.learn()?;
        Ok(sites)
    }

    fn know_neighbours(&self) -> Result<()> {
        for (site, end) in [(1, &self.near), (2, &self.far)] {
            let [appliance_mac, router_mac] = [2, 1].map(|host| format!("02:00:00:00:0{site}:0{host}"));
            end.appliance.ip(&format!("neigh replace 198.18.{site}.1 lladdr {router_mac} dev lan0"))?;
            end.router.ip(&format!("neigh replace 198.18.{site}.2 lladdr {appliance_mac} dev eth1"))?;
        }
        Ok(())
    }

    /// Sends a datagram each way, with NAPI as XDP and GRO have it and without, so that the plugin sees which device a
    /// packet comes to after which.
    fn learn(&self) -> Result<()> {
        tell("forget");
        let ways = [
            ("learn sender gateway1 gateway2 receiver", &self.near, &self.far, FAR),
            ("learn receiver gateway2 gateway1 sender", &self.far, &self.near, Ipv4Addr::new(198, 18, 1, 2)),
        ];
        for gro in ["on", "off"] {
            for (router, device) in
                [(&self.near, "eth1"), (&self.near, "wan0"), (&self.far, "eth1"), (&self.far, "wan0")]
            {
                router.router.output("ethtool", &["-K", device, "gro", gro])?;
            }
            for (way, from, to, address) in ways {
                let (sender, receiver) = Traffic::sockets(&from.appliance, &to.appliance, address)?;
                tell(way);
                sender.send(b"whose")?;
                receiver.recv(&mut [0; 8]).context("a datagram to learn from")?;
                tell("learn");
            }
        }
        Ok(())
    }

    /// eth1 of the gateway that is counted merges, or not.
    pub(crate) fn gro(&self, on: bool) -> Result<()> {
        self.near.router.output("ethtool", &["-K", "eth1", "gro", if on { "on" } else { "off" }])?;
        Ok(())
    }

    /// Gives the first gateway a ruleset in the place of the one it has.
    pub(crate) fn rules(&self, rules: &str) -> Result<()> {
        let load = || {
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
            let mut input = nft.stdin.take().context("standard input is piped")?;
            write!(input, "flush ruleset\n{rules}\n")?;
            drop(input);
            ensure!(nft.wait()?.success(), "nft refuses {rules}");
            Ok(())
        };
        self.near.router.run(load)
    }

    /// Runs `flow` once with a look at the WAN.
    pub(crate) fn observe(&self, mut flow: impl FnMut() -> Result<u64>) -> Result<Seen> {
        let capture = Capture::start(&self.near.router)?;
        let before = self.counters()?;
        flow()?;
        // What was delivered last may have an answer on its way.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let after = self.counters()?;
        let [packets, bytes, gateway, host] = std::array::from_fn(|at| after[at] - before[at]);
        let esp_fragments = capture.wan().fragments as u64;
        Ok(Seen { packets, bytes, esp_fragments, reassembled: [gateway, host] })
    }

    /// Packets and bytes sent on the WAN, packets put together by the far gateway and by the far host.
    fn counters(&self) -> Result<[u64; 4]> {
        let [packets, bytes] =
            self.near.router.run(|| sent(&fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let put_together =
            |host: &Namespace| host.run(|| reassembled(&fs::read_to_string("/proc/thread-self/net/snmp")?));
        Ok([packets, bytes, put_together(&self.far.router)?, put_together(&self.far.appliance)?])
    }
}

impl From<Site> for End {
    /// Without the capture, which would cost each packet a copy.
    fn from(site: Site) -> End {
        End { appliance: site.appliance, router: site.router, _wire: site.wire }
    }
}

/// Packets and bytes that wan0 sent, of /proc/net/dev.
fn sent(text: &str) -> Result<[u64; 2]> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("wan0:")).context("no wan0")?;
    let columns: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok([*columns.get(9).context("/proc/net/dev")?, columns[8]])
}

/// ReasmOKs of /proc/net/snmp.
fn reassembled(text: &str) -> Result<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (mut names, mut values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let at = names.position(|name| name == "ReasmOKs").context("no ReasmOKs")?;
    Ok(values.nth(at).context("no value")?.parse()?)
}
