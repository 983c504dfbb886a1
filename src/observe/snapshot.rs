//! What a running instance tells: the body of `stats --json` and of the summary.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::latency::Latency;
use crate::packet::{Late, Reason};

/// State and counters of one `xdpfrag run` at one moment. Counters count from its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the running binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since forwarding began.
    pub uptime_s: f64,
    /// IPv4 identifications used again within the reassembly time of 30 s: where a fragment is lost, a
    /// receiver may mix the datagrams that had them.
    #[serde(default)]
    pub idents_reused: u64,
    /// One entry per LAN interface.
    pub interfaces: Vec<InterfaceSnapshot>,
}

impl Snapshot {
    /// Frames that xdpfrag lost, or had to leave to the kernel for want of a worker: counter and number, zeros left out.
    pub fn unserved(&self) -> BTreeMap<String, u64> {
        let mut unserved = BTreeMap::new();
        let mut add = |label: &str, frames: Option<&u64>| {
            if let Some(&frames) = frames.filter(|frames| **frames > 0) {
                *unserved.entry(label.to_owned()).or_default() += frames;
            }
        };
        for interface in &self.interfaces {
            add(Reason::NoWorker.label(), interface.xdp.get(Reason::NoWorker.label()));
            add(Late::Lost.label(), interface.late.get(Late::Lost.label()));
            for worker in &interface.workers {
                for reason in [Reason::HandbackFull, Reason::HandbackError, Reason::Truncated] {
                    add(reason.label(), worker.reasons.get(reason.label()));
                }
                add("socket_drops", Some(&worker.socket_drops));
            }
        }
        unserved
    }
}

/// One LAN interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfaceSnapshot {
    /// Name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// `inject` or `veth`.
    pub handback: String,
    /// What is in scope, each with its SA MTU.
    pub routes: Vec<RouteSnapshot>,
    /// Prefixes inside of those in `routes` that pass untouched all the same, as `DESTINATION from SOURCE`.
    #[serde(default)]
    pub exceptions: Vec<String>,
    /// True with `--mtu auto`: `routes` changes with the tunnels, and may be empty.
    #[serde(default)]
    pub auto: bool,
    /// `--force deaf`: hosts that are served because they are deaf, the busiest first.
    #[serde(default)]
    pub deaf: Vec<DeafSnapshot>,
    /// The XDP program: frames per reason label, zeros included.
    pub xdp: BTreeMap<String, u64>,
    /// The XDP program: edits per label.
    pub xdp_edits: BTreeMap<String, u64>,
    /// The program behind GRO (`--redirect late`): packets per label; empty without it.
    #[serde(default)]
    pub late: BTreeMap<String, u64>,
    /// The egress program: SYNs whose MSS was lowered on the way to the LAN.
    pub egress_mss: u64,
    /// One entry per RX queue.
    pub workers: Vec<WorkerSnapshot>,
}

/// A destination prefix and what holds for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSnapshot {
    /// CIDR.
    pub prefix: String,
    /// CIDR of the sources it holds for; absent for all.
    #[serde(default)]
    pub source: Option<String>,
    /// SA MTU, bytes.
    pub mtu: u16,
    /// MSS limit for TCP over IPv4, bytes; absent with `--mss off` and for an IPv6 prefix.
    pub mss4: Option<u16>,
    /// The same for TCP over IPv6.
    #[serde(default)]
    pub mss6: Option<u16>,
    /// With `--mtu auto` what leads into the tunnel: `policy`, the name of the interface, or `--dst`.
    #[serde(default)]
    pub via: Option<String>,
    /// SPIs of its SAs, in hexadecimal; several during a rekey.
    #[serde(default)]
    pub spis: Vec<String>,
    /// By which ways oversize packets are made to fit; absent for an IPv6 prefix.
    #[serde(default)]
    pub ways: Option<WaysSnapshot>,
}

/// The ways of a route: `edit`, `gso`, `fragments` or `pass`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaysSnapshot {
    /// Of whole UDP datagrams.
    pub udp: String,
    /// Of other packets, TCP that is cut into segments left out.
    pub other: String,
    /// Why, in words.
    pub why: String,
}

/// A host that went on sending oversize packets after the kernel had told it the MTU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeafSnapshot {
    /// Source address.
    pub address: String,
    /// Seconds since this showed.
    pub since_s: f64,
    /// Seconds since its last oversize packet.
    pub last_s: f64,
    /// Its oversize packets since this showed.
    pub frames: u64,
}

/// One worker: one RX queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerSnapshot {
    /// RX queue.
    pub queue: u32,
    /// Core it is pinned to, if any.
    pub core: Option<usize>,
    /// False once the worker has ended; the XDP program then passes the queue's frames to the kernel.
    pub alive: bool,
    /// True if the socket is bound zero-copy.
    pub zero_copy: bool,
    /// Frames received from the XDP program.
    pub received: u64,
    /// Frames handed back to the kernel (fragments count one by one).
    pub handed_back: u64,
    /// Frames per reason label, zeros included. Their sum is `received`.
    pub reasons: BTreeMap<String, u64>,
    /// Edits per label.
    pub edits: BTreeMap<String, u64>,
    /// Frames the kernel could not queue to the socket (ring full, fill ring empty, invalid): XDP_STATISTICS.
    pub socket_drops: u64,
    /// Hand-back calls that failed, and were repeated or counted as drops.
    pub handback_errors: u64,
    /// ICMP messages of `--notify` that the kernel did not take (no route back, or filtered); the packets they
    /// were about are forwarded all the same.
    #[serde(default)]
    pub notify_errors: u64,
    /// The most frames that the worker found in the RX ring at once lately (a quarter of `--stall`); it takes
    /// 64 at most, so that 64 means a ring that fills faster than it is emptied.
    #[serde(default)]
    pub batch_peak: u64,
    /// The longest hand-back call lately (a quarter of `--stall`), ns. A call sleeps while XDP is attached or detached
    /// somewhere on the machine.
    #[serde(default)]
    pub handback_peak_ns: u64,
    /// UMEM size, bytes.
    pub umem_bytes: u64,
    /// From the XDP program's time stamp to the end of the hand-back; absent before the first frame.
    pub latency: Option<Latency>,
}
