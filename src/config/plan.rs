//! The validated plan of a run: what the rest of the program trusts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;

use super::values::Mss;
use crate::ipsec::scope::{any, longest};
use crate::packet::ident::Partition;
use crate::packet::{Df, Rule, Tcp, Ways};

/// Everything `run` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// LAN interfaces, each served on its own.
    pub interfaces: Vec<String>,
    /// Scope and SA MTU, and what happens to the packets in it.
    pub treatment: Treatment,
    /// `--mtu auto`: the kernel's tunnels are in scope besides.
    pub auto: Option<Auto>,
    /// Whose oversize packets are served.
    pub force: Force,
    /// Whether senders of oversize packets are told the SA MTU besides.
    pub notify: bool,
    /// The IPv4 identifications that this gateway chooses from.
    pub id_partition: Partition,
    /// Which frames go through the workers.
    pub redirect: Redirect,
    /// How frames return to the kernel.
    pub handback: HandbackChoice,
    /// RX queues to serve; `None` for all.
    pub queues: Option<Vec<u32>>,
    /// Cores to pin the workers to, in order of queues, used in turn; `None` for the default.
    pub cores: Option<Vec<usize>>,
    /// How a worker waits for frames.
    pub poll: Poll,
    /// XDP attach mode.
    pub mode: Mode,
    /// AF_XDP zero-copy.
    pub zero_copy: Choice,
    /// Exempting fragments from connection tracking.
    pub notrack: Notrack,
    /// How long a flow follows its last oversize frame through the worker.
    pub sticky: Duration,
    /// Age of a worker's heartbeat at which the XDP program passes frames to the kernel.
    pub stall: Duration,
    /// Where Prometheus finds the metrics; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// File to capture to; `None` for none.
    pub capture: Option<PathBuf>,
    /// Whether to take over from an instance that serves these interfaces.
    pub replace: bool,
    /// What the user should know about these settings, a line each.
    pub warnings: Vec<String>,
}

/// What happens to which packets: shared by `run` and `replay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treatment {
    /// Destination prefixes in scope, longest prefix first, each with its rule.
    pub scope: Vec<(IpNet, Rule)>,
    /// Don't Fragment.
    pub df: Df,
    /// Oversize TCP segments.
    pub tcp: Tcp,
}

/// `--mtu auto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auto {
    /// Tunnels are in scope as far as they lead to these prefixes; to anywhere if there is none.
    pub within: Vec<IpNet>,
    /// `--mss`.
    pub mss: Mss,
}

/// What holds for packets between two prefixes: by destination, then by source. Of each the longest prefix that
/// holds the address counts; `None`, and no prefix, is for packets that pass untouched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(pub BTreeMap<IpNet, BTreeMap<IpNet, Option<Rule>>>);

impl Scope {
    /// The lowest SA MTU in it, bytes; the largest number there is if nothing is in scope.
    pub fn least_mtu(&self) -> u16 {
        let rules = self.0.values().flat_map(BTreeMap::values);
        rules.flatten().map(|rule| rule.mtu).min().unwrap_or(u16::MAX)
    }

    /// The same, of the rules by which an oversize packet may have to go to a worker. IPv6 needs one only for TCP
    /// after extension headers, which is not worth a look at every packet.
    pub fn least_worked_mtu(&self) -> u16 {
        let v4 = self.0.iter().filter(|(prefix, _)| prefix.addr().is_ipv4());
        let rules = v4.flat_map(|(_, sources)| sources.values().flatten());
        rules.filter(|rule| rule.ways != Ways::EDIT).map(|rule| rule.mtu).min().unwrap_or(u16::MAX)
    }

    /// The same, with other ways.
    #[must_use]
    pub fn by(mut self, ways: Ways) -> Scope {
        self.0.values_mut().flat_map(BTreeMap::values_mut).flatten().for_each(|rule| rule.ways = ways);
        self
    }

    /// The rule for packets from `source` to `destination`.
    pub fn rule(&self, source: IpAddr, destination: IpAddr) -> Option<Rule> {
        // fe80::/10 never leaves its link (RFC 4291 section 2.5.6), hence is in no tunnel.
        if matches!(destination, IpAddr::V6(address) if address.is_unicast_link_local()) {
            return None;
        }
        *longest(longest(&self.0, destination)?, source)?
    }
}

impl From<&Treatment> for Scope {
    /// By destination alone.
    fn from(treatment: &Treatment) -> Scope {
        let entry = |(prefix, rule): &(IpNet, Rule)| {
            (*prefix, BTreeMap::from([(any(prefix.addr().is_ipv4()), Some(*rule))]))
        };
        Scope(treatment.scope.iter().map(entry).collect())
    }
}

/// `--force`: whose packets are made to fit although they forbid it (IPv4 with DF, IPv6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Force {
    /// Everybody's.
    #[default]
    Always,
    /// Those of hosts that go on after the kernel has told them the MTU; until then the kernel refuses them.
    Deaf,
}

/// `--redirect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Redirect {
    /// `late` where the kernel can do it (for TCP where GRO is on), else `oversize`.
    #[default]
    Auto,
    /// Oversize frames and their flows; not those that the kernel fragments where they leave.
    Oversize,
    /// Every frame in scope.
    All,
    /// Oversize frames that the kernel does not make fit by itself (native XDP, Linux 6.6): with --tcp resegment GRO
    /// merges TCP and the kernel cuts it to the SA MTU on its way out. What fits is edited there, too, with
    /// --tcp resegment or another --df than clear.
    Late,
}

/// `--handback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum HandbackChoice {
    /// tap where it can be had (native XDP), else inject, else veth.
    #[default]
    Auto,
    /// BPF_PROG_RUN with live frames.
    Inject,
    /// AF_XDP TX into a veth pair.
    Veth,
    /// Through a TAP device what the kernel is to cut, TCP merged before; the rest as with inject.
    Tap,
}

impl HandbackChoice {
    /// True if a TAP device may be among what is opened.
    pub fn may_be_tap(self) -> bool {
        matches!(self, HandbackChoice::Auto | HandbackChoice::Tap)
    }
}

/// `--poll`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Poll {
    /// Spin for a moment, then sleep in poll(2).
    #[default]
    Adaptive,
    /// Never sleep.
    Busy,
    /// Always sleep in poll(2).
    Wait,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mode {
    /// Native, or generic where the driver has no XDP; `run` says which.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack, after the socket buffer is made.
    Generic,
}

/// A feature to use where it is there, always, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Choice {
    /// Where it is there.
    #[default]
    Auto,
    /// Fail without it.
    On,
    /// Never.
    Off,
}

/// `--notrack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Notrack {
    /// Where the kernel would encrypt whole packets otherwise, unless a rule asks for their connection or ports.
    #[default]
    Auto,
    /// Whatever the rules say.
    On,
    /// Never.
    Off,
}
