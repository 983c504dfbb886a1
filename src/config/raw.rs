//! The flags of `run` and `replay` as written; [`validate`](super::validate) settles what they mean together.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::file::ConfigFile;
use super::plan::{Choice, Force, HandbackChoice, Mode, Notrack, Poll, Redirect};
use super::values::{self, Destination, List, Mss, Mtu, Queues};
use crate::packet::ident::Partition;
use crate::packet::{Df, Tcp};

/// What happens to which packets: the flags that `run` and `replay` share.
#[derive(Debug, Clone, Args)]
pub struct TreatmentArgs {
    /// SA MTU in bytes: the largest inner IP packet one ESP packet can carry (68 to 65535); or auto: that of
    /// each IPsec tunnel of this machine, for the packets that go into it, while it is up (`run` only)
    #[arg(long, value_name = "auto|BYTES", allow_negative_numbers = true)]
    pub mtu: Mtu,

    /// Destination prefix in scope, IPv4 or IPv6, with its own SA MTU if it has one; may be repeated, the
    /// longest prefix wins, and what no prefix holds passes untouched [default: 0.0.0.0/0 and ::/0]. With
    /// --mtu auto: CIDR restricts it to this prefix, CIDR=BYTES serves all packets to this prefix by hand
    #[arg(long, value_name = "CIDR[=BYTES]")]
    pub dst: Vec<Destination>,

    /// When the Don't Fragment bit is cleared
    #[arg(long, value_enum, default_value_t)]
    pub df: DfPolicy,

    /// Limit of the TCP MSS option in bytes, never raised: auto (SA MTU less 40, not below 536; for IPv6
    /// less 60, not below 1220), off, or a number that is used where the SA MTU does not ask for less
    #[arg(long, value_name = "auto|off|BYTES", default_value = "auto", allow_negative_numbers = true)]
    pub mss: Mss,

    /// How oversize TCP segments are made to fit
    #[arg(long, value_enum, default_value_t)]
    pub tcp: TcpPolicy,
}

/// `--df`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DfPolicy {
    /// On every packet in scope.
    Clear,
    /// On packets that are longer than the SA MTU and are to be fragmented.
    #[default]
    Oversize,
    /// Never: oversize packets with DF that cannot be resegmented are left to the kernel, which answers with ICMP 3/4.
    Keep,
}

impl From<DfPolicy> for Df {
    fn from(policy: DfPolicy) -> Df {
        match policy {
            DfPolicy::Clear => Df::Clear,
            DfPolicy::Oversize => Df::Oversize,
            DfPolicy::Keep => Df::Keep,
        }
    }
}

/// `--tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum TcpPolicy {
    /// As IP fragments, like any other packet; IPv6, which may not be fragmented on its way, is left to
    /// the kernel, which answers with ICMPv6 "packet too big".
    Fragment,
    /// As several TCP segments, DF kept, IPv4 and IPv6 (generic XDP: IPv4 without --df keep); what cannot be (SYN,
    /// RST, URG, TCP-MD5, TCP-AO, wrong checksum) as with fragment.
    #[default]
    Resegment,
}

impl From<TcpPolicy> for Tcp {
    fn from(policy: TcpPolicy) -> Tcp {
        match policy {
            TcpPolicy::Fragment => Tcp::Fragment,
            TcpPolicy::Resegment => Tcp::Resegment,
        }
    }
}

/// The flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// TOML file of settings with the names of these flags, such as mtu = 1422 and iface = ["eth1"]; a flag
    /// given here replaces the file's setting of that name
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// What was read from there.
    #[arg(skip)]
    pub file: Option<ConfigFile>,

    /// LAN interface to serve; may be repeated
    #[arg(long, value_name = "IF", required = true, value_parser = values::interface)]
    pub iface: Vec<String>,

    /// Scope, SA MTU and policies.
    #[command(flatten)]
    pub treatment: TreatmentArgs,

    /// Whose oversize packets are made to fit although they forbid it (IPv4 with DF, IPv6)
    #[arg(long, value_enum, default_value_t)]
    pub force: Force,

    /// Also tell the senders of oversize packets the SA MTU by ICMP, at most once a second each, so that
    /// those who listen stop
    #[arg(long)]
    pub notify: bool,

    /// Part of the IPv4 identifications to choose from, such as 1/2, on each of several gateways that
    /// share the load of the same hosts: part K of N (1 to 256)
    #[arg(long, value_name = "K/N", default_value = "1/1", value_parser = values::id_partition)]
    pub id_partition: Partition,

    /// Which frames in scope go through the workers
    #[arg(long, value_enum, default_value_t)]
    pub redirect: Redirect,

    /// How frames return to the kernel
    #[arg(long, value_enum, default_value_t)]
    pub handback: HandbackChoice,

    /// RX queues to serve, such as 0,2-3; frames of the others pass untouched
    #[arg(long, value_name = "all|LIST", default_value = "all")]
    pub queues: Queues,

    /// Cores to pin the workers to, such as 1,3: in the order of queues, used in turn
    /// [default: from the last core down, since interrupts favour the first]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<List>,

    /// How a worker waits for frames
    #[arg(long, value_enum, default_value_t)]
    pub poll: Poll,

    /// Where the XDP program runs
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,

    /// AF_XDP zero-copy: where the driver has it, always, or never
    #[arg(long, value_enum, default_value_t)]
    pub zero_copy: Choice,

    /// Exempt the fragments handed back from connection tracking, which would put them together again
    #[arg(long, value_enum, default_value_t)]
    pub notrack: Notrack,

    /// Milliseconds for which a flow follows its last oversize frame through the worker at most, so
    /// that its frames keep their order, where it does not end as soon as that one has been handed
    /// back (--handback veth); 0 for never (up to 60000)
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub sticky: u32,

    /// Milliseconds without a sign of life from a worker, while frames come for it, after which
    /// these pass to the kernel untouched (10 to 60000)
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub stall: u32,

    /// Serve Prometheus metrics by HTTP at this address, path /metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,

    /// Write the frames that workers get, and what becomes of them, to this pcapng file, up to 64 MiB; frames
    /// that come too fast are missed and counted there
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,

    /// Take over from the instance that serves these interfaces: what can be prepared is, then it is asked to end
    #[arg(long)]
    pub replace: bool,

    /// How messages are written to standard error
    #[arg(long, value_enum, default_value_t)]
    pub log: LogFormat,

    /// Least important messages that are written
    #[arg(long, value_enum, default_value_t)]
    pub log_level: LogLevel,

    /// Print the summary at the end as JSON
    #[arg(long)]
    pub json: bool,
}

/// `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// A line each; with the priority that journald reads where standard error leads there.
    #[default]
    Text,
    /// A JSON object each, with time and level.
    Json,
}

/// `--log-level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogLevel {
    /// What ends it.
    Error,
    /// And what does not work as it should.
    Warn,
    /// And what it does.
    #[default]
    Info,
    /// And details for the search of faults.
    Debug,
}
