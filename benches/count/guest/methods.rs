//! What is counted: one row of [`METHODS`] for each way to get packets through the tunnel.
//!
//! To add one, add a row: its name, the tunnel, what the administrator of the first gateway set up, the flags of
//! `xdpfrag run` there, and the traffic.

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
    pub(crate) fn text(self, kernel: &str) -> &'static str {
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
            Rules::Flowtable => {
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
        }
    }
}

/// One way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) tunnels: &'static [Tunnel],
    pub(crate) rules: &'static [Rules],
    /// Of `xdpfrag run`, besides the interface and what is in scope; `None` without xdpfrag.
    pub(crate) flags: Option<&'static [&'static str]>,
    pub(crate) traffic: &'static [Traffic],
}

const POLICY: &[Tunnel] = &[Tunnel::Policy];
const INTERFACES: &[Tunnel] = &[Tunnel::Interface, Tunnel::Lowered];
const LOWERED: &[Tunnel] = &[Tunnel::Lowered];

const DEFAULT: Option<&[&str]> = Some(&[]);
const WAIT: Option<&[&str]> = Some(&["--redirect", "oversize", "--poll", "wait"]);
const ADAPTIVE: Option<&[&str]> = Some(&["--redirect", "oversize", "--poll", "adaptive"]);
const VETH: Option<&[&str]> = Some(&["--redirect", "oversize", "--poll", "wait", "--handback", "veth"]);
const RESEGMENT: Option<&[&str]> = Some(&["--tcp", "resegment"]);
const RESEGMENT_WAIT: Option<&[&str]> =
    Some(&["--tcp", "resegment", "--redirect", "oversize", "--poll", "wait"]);

const FITS: &[Traffic] = &[Fits(1), Fits(8), Fits(64), Small, Syn, TcpFits(1), TcpFits(16)];
const ALL: &[Traffic] = &[Udp(1), Udp(8), Udp(64), Small, Imix, Syn, Tcp(1), Tcp(16)];
const FEW: &[Traffic] = &[Udp(1), Tcp(1)];

pub(crate) const METHODS: &[Method] = &[
    Method { name: "nothing", tunnels: POLICY, rules: &[], flags: None, traffic: FITS },
    Method { name: "nothing", tunnels: INTERFACES, rules: &[], flags: None, traffic: &[Fits(1)] },
    Method { name: "nft", tunnels: POLICY, rules: &[Rules::ClearDf], flags: None, traffic: ALL },
    Method { name: "nft", tunnels: LOWERED, rules: &[Rules::ClearDf], flags: None, traffic: ALL },
    Method {
        name: "nft+stateful",
        tunnels: POLICY,
        rules: &[Rules::ClearDf, Rules::Stateful],
        flags: None,
        traffic: FEW,
    },
    Method {
        name: "nft+nat",
        tunnels: POLICY,
        rules: &[Rules::ClearDf, Rules::Nat],
        flags: None,
        traffic: FEW,
    },
    Method {
        name: "nft+flowtable",
        tunnels: POLICY,
        rules: &[Rules::ClearDf, Rules::Flowtable],
        flags: None,
        traffic: FEW,
    },
    Method { name: "xdpfrag", tunnels: POLICY, rules: &[], flags: DEFAULT, traffic: ALL },
    Method { name: "xdpfrag", tunnels: INTERFACES, rules: &[], flags: DEFAULT, traffic: FEW },
    Method {
        name: "xdpfrag+stateful",
        tunnels: POLICY,
        rules: &[Rules::Stateful],
        flags: DEFAULT,
        traffic: FEW,
    },
    Method { name: "xdpfrag+nat", tunnels: POLICY, rules: &[Rules::Nat], flags: DEFAULT, traffic: FEW },
    Method {
        name: "xdpfrag+flowtable",
        tunnels: POLICY,
        rules: &[Rules::Flowtable],
        flags: DEFAULT,
        traffic: FEW,
    },
    Method {
        name: "workers-wait",
        tunnels: POLICY,
        rules: &[],
        flags: WAIT,
        traffic: &[Udp(1), Udp(8), Udp(64), Imix, Tcp(1)],
    },
    Method {
        name: "workers-adaptive",
        tunnels: POLICY,
        rules: &[],
        flags: ADAPTIVE,
        traffic: &[Udp(1), Udp(8)],
    },
    Method {
        name: "workers-veth",
        tunnels: POLICY,
        rules: &[],
        flags: VETH,
        traffic: &[Udp(1), Udp(8), Udp(64)],
    },
    Method {
        name: "resegment",
        tunnels: POLICY,
        rules: &[],
        flags: RESEGMENT,
        traffic: &[Merged(1), Merged(16), Tcp(1)],
    },
    Method {
        name: "workers-resegment",
        tunnels: POLICY,
        rules: &[],
        flags: RESEGMENT_WAIT,
        traffic: &[Tcp(1), Tcp(16)],
    },
];

impl Method {
    /// Whether a worker looks for frames for a while before it sleeps, by the clock.
    pub(crate) fn spins(&self) -> bool {
        self.flags.is_some_and(|flags| flags.contains(&"adaptive"))
    }

    /// Whether a worker is to run as soon as it has something to do, as it would on another core. If not, sender and
    /// receiver go before all others: nothing comes in between, and a burst reaches the worker as one.
    pub(crate) fn wakes_worker(&self, traffic: Traffic) -> bool {
        let by_worker = |flags: &[&str]| flags.contains(&"oversize") || matches!(traffic, Traffic::Tcp(_));
        !traffic.is_burst() && self.flags.is_some_and(by_worker)
    }

    /// Those of `make test`.
    pub(crate) fn is_short(&self, tunnel: Tunnel, traffic: Traffic) -> bool {
        let methods = ["nothing", "nft", "xdpfrag", "workers-wait", "resegment"];
        let of_all = [Fits(1), Udp(1), Small, Syn, Merged(1)];
        tunnel == Tunnel::Policy && methods.contains(&self.name) && of_all.contains(&traffic)
    }
}
