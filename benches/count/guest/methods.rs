//! What is counted: one row of [`METHODS`] for each way to get packets through the tunnel.
//!
//! To add one, add a row: its name, the tunnel, what the administrator of the first gateway set up, the way and the flags
//! of `xdpfrag run` there, and the traffic.

use xdpfrag::packet::Way;

use super::traffic::Traffic::{self, *};

/// How packets get into the tunnel. The SA MTU is 1446 (AES-GCM, 16-byte ICV, IPv4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// By policy.
    Policy,
    /// Over an xfrm interface of MTU 1500.
    Interface,
    /// Over an xfrm interface whose MTU is the SA MTU.
    Lowered,
}

impl Tunnel {
    pub(crate) const ALL: [Tunnel; 3] = [Tunnel::Policy, Tunnel::Interface, Tunnel::Lowered];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Tunnel::Policy => "policy",
            Tunnel::Interface => "xfrmi",
            Tunnel::Lowered => "xfrmi-1446",
        }
    }
}

/// A ruleset of nftables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// DF is cleared and the MSS of SYNs set.
    ClearDf,
    /// A firewall that accepts by connection.
    Stateful,
    /// The LAN is hidden behind the gateway's LAN address.
    Nat,
    /// Known connections take the fast path, in software.
    Flowtable,
}

impl Rules {
    /// For `nft -f`. Since 7.2 `ip frag-off set` has no effect in prerouting.
    pub(crate) fn text(self, kernel: &str, tunnel: Tunnel) -> &'static str {
        match self {
            Rules::ClearDf if kernel == "7" => {
                "table netdev df {
                    chain in {
                        type filter hook ingress device eth1 priority -500
                        ip frag-off set 0
                        tcp flags syn tcp option maxseg size set 1406
                    }
                }"
            }
            Rules::ClearDf => {
                "table ip df {
                    chain pre {
                        type filter hook prerouting priority -500
                        ip frag-off set 0
                        tcp flags syn tcp option maxseg size set 1406
                    }
                }"
            }
            Rules::Stateful => {
                "table inet fw {
                    chain forward {
                        type filter hook forward priority 0; policy drop
                        ct state established,related accept
                        iifname eth1 ct state new accept
                    }
                }"
            }
            Rules::Nat => {
                "table ip nat {
                    chain post {
                        type nat hook postrouting priority srcnat
                        iifname eth1 ip daddr 198.18.2.0/24 snat to 198.18.1.1
                    }
                }"
            }
            Rules::Flowtable if tunnel == Tunnel::Policy => {
                "table inet ft {
                    flowtable f {
                        hook ingress priority 0
                        devices = { eth1, wan0 }
                    }
                    chain forward {
                        type filter hook forward priority 0
                        ct state established meta l4proto { tcp, udp } flow add @f
                    }
                }"
            }
            Rules::Flowtable => {
                "table inet ft {
                    flowtable f {
                        hook ingress priority 0
                        devices = { eth1, xfrm0 }
                    }
                    chain forward {
                        type filter hook forward priority 0
                        ct state established meta l4proto { tcp, udp } flow add @f
                    }
                }"
            }
        }
    }
}

/// One way to get packets through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) tunnels: &'static [Tunnel],
    pub(crate) rules: &'static [Rules],
    /// The way that xdpfrag chooses for oversize datagrams.
    pub(crate) way: Option<Way>,
    /// Of `xdpfrag run`, besides the interface and what is in scope; `None` without xdpfrag.
    pub(crate) flags: Option<&'static [&'static str]>,
    pub(crate) traffic: &'static [Traffic],
}

/// What a gateway does by itself.
const fn without(
    name: &'static str,
    tunnels: &'static [Tunnel],
    rules: &'static [Rules],
    traffic: &'static [Traffic],
) -> Method {
    Method { name, tunnels, rules, way: None, flags: None, traffic }
}

/// What it does with xdpfrag.
const fn with(
    name: &'static str,
    tunnels: &'static [Tunnel],
    rules: &'static [Rules],
    way: Way,
    flags: &'static [&'static str],
    traffic: &'static [Traffic],
) -> Method {
    Method { name, tunnels, rules, way: Some(way), flags: Some(flags), traffic }
}

const POLICY: &[Tunnel] = &[Tunnel::Policy];
const INTERFACE: &[Tunnel] = &[Tunnel::Interface];
const LOWERED: &[Tunnel] = &[Tunnel::Lowered];
const INTERFACES: &[Tunnel] = &[Tunnel::Interface, Tunnel::Lowered];
const POLICY_AND_LOWERED: &[Tunnel] = &[Tunnel::Policy, Tunnel::Lowered];

const DEFAULT: &[&str] = &[];
const WAIT: &[&str] = &["--poll", "wait"];
const VETH: &[&str] = &["--poll", "wait", "--redirect", "oversize", "--handback", "veth"];
const TCP_FRAGMENT: &[&str] = &["--poll", "wait", "--tcp", "fragment"];

const FITS: &[Traffic] = &[Fits(1), Fits(8), Fits(64), Small, Syn, TcpFits(1), TcpFits(16)];
const ALL: &[Traffic] = &[Udp(1), Udp(8), Udp(64), Small, Imix, Syn, Tcp(1), Tcp(16)];
const BURSTS: &[Traffic] = &[Udp(1), Udp(8), Udp(64)];
const FEW: &[Traffic] = &[Udp(1), Tcp(1)];

/// Names say the way that oversize datagrams go by; TCP is resegmented in each of them but `tcp-fragment`. After a
/// hyphen comes what is not a default, after a plus what else the administrator has set up.
pub(crate) const METHODS: &[Method] = &[
    without("nothing", POLICY, &[], FITS),
    without("nothing", INTERFACES, &[], &[Fits(1)]),
    without("nft", POLICY_AND_LOWERED, &[Rules::ClearDf], ALL),
    without("nft+stateful", POLICY_AND_LOWERED, &[Rules::ClearDf, Rules::Stateful], FEW),
    without("nft+nat", POLICY_AND_LOWERED, &[Rules::ClearDf, Rules::Nat], FEW),
    without("nft+flowtable", POLICY_AND_LOWERED, &[Rules::ClearDf, Rules::Flowtable], FEW),
    with(
        "edit",
        LOWERED,
        &[],
        Way::Edit,
        DEFAULT,
        &[Udp(1), Udp(8), Udp(64), Small, Imix, Syn, Tcp(1), Merged(1)],
    ),
    with("edit+stateful", LOWERED, &[Rules::Stateful], Way::Edit, DEFAULT, FEW),
    with("edit+nat", LOWERED, &[Rules::Nat], Way::Edit, DEFAULT, FEW),
    with("edit+flowtable", LOWERED, &[Rules::Flowtable], Way::Edit, DEFAULT, FEW),
    with("gso+stateful", POLICY, &[Rules::Stateful], Way::Gso, DEFAULT, &[Udp(1), Udp(8)]),
    with("gso-wait+stateful", POLICY, &[Rules::Stateful], Way::Gso, WAIT, &[Udp(1), Udp(8), Udp(64), Tcp(1)]),
    with("gso-wait+nat", POLICY, &[Rules::Nat], Way::Gso, WAIT, FEW),
    with("gso-wait+flowtable", POLICY, &[Rules::Flowtable], Way::Gso, WAIT, FEW),
    with(
        "fragments",
        POLICY,
        &[],
        Way::Fragments,
        DEFAULT,
        &[Udp(1), Udp(8), Udp(64), Small, Imix, Syn, Tcp(1), Tcp(16), Merged(1), Merged(16)],
    ),
    with(
        "fragments-wait",
        POLICY,
        &[],
        Way::Fragments,
        WAIT,
        &[Udp(1), Udp(8), Udp(64), Imix, Tcp(1), Tcp(16)],
    ),
    with("fragments-wait", INTERFACE, &[], Way::Fragments, WAIT, FEW),
    with("fragments-veth", POLICY, &[], Way::Fragments, VETH, BURSTS),
    with("tcp-fragment", POLICY, &[], Way::Fragments, TCP_FRAGMENT, &[Tcp(1)]),
];

/// The rows of `make test`.
const SHORT: [(Tunnel, &str, &[Traffic]); 6] = [
    (Tunnel::Policy, "nothing", &[Fits(1), Small, Syn]),
    (Tunnel::Policy, "nft", &[Udp(1)]),
    (Tunnel::Policy, "gso-wait+stateful", &[Udp(1)]),
    (Tunnel::Policy, "fragments", &[Small, Syn, Merged(1)]),
    (Tunnel::Policy, "fragments-wait", &[Udp(1)]),
    (Tunnel::Lowered, "edit", &[Udp(1)]),
];

impl Method {
    /// Whether a worker gets oversize packets of this traffic: datagrams unless the kernel cuts them where they leave, TCP
    /// where GRO is off.
    fn has_workers(&self, traffic: Traffic) -> bool {
        match traffic {
            Udp(_) | Imix => matches!(self.way, Some(Way::Fragments | Way::Gso)),
            Tcp(_) => self.flags.is_some(),
            _ => false,
        }
    }

    /// Whether a worker looks for frames for a while before it sleeps, by the clock.
    pub(crate) fn spins(&self, traffic: Traffic) -> bool {
        self.has_workers(traffic) && self.flags.is_some_and(|flags| !flags.contains(&"wait"))
    }

    /// Whether a worker is to run as soon as it has something to do, as it would on another core. If not, sender and
    /// receiver go before all others: nothing comes in between, and a burst reaches the worker as one.
    pub(crate) fn wakes_worker(&self, traffic: Traffic) -> bool {
        self.has_workers(traffic) && !traffic.is_burst()
    }

    pub(crate) fn is_short(&self, tunnel: Tunnel, traffic: Traffic) -> bool {
        SHORT.iter().any(|(of, name, rows)| *of == tunnel && *name == self.name && rows.contains(&traffic))
    }
}
