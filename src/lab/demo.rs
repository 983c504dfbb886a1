//! What `xdpfrag lab` shows: the same traffic without and with xdpfrag, and what a reused ID does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::daemon::Daemon;
use super::topology::{FAR, Lab, LabConfig};
use super::traffic::tcp::{self, Direction, Transfer};
use super::traffic::udp::{Flow, Tally};
use super::wire::{Rules, Seen};
use crate::observe::snapshot::{Latency, Snapshot};

const PORT: u16 = 7001;
/// Fills a frame of 1500 bytes: 20 bytes of IP and 8 of UDP come on top.
const PAYLOAD: usize = 1472;
const DATAGRAMS: usize = 4000;
const TCP_BYTES: u64 = 4 << 20;
/// A transfer that has not ended by then has stalled.
const TCP_PATIENCE: Duration = Duration::from_secs(4);
const ID_DATAGRAMS: usize = 20_000;
/// Odd, so that first and last fragments are lost in turn.
const LOSE_FRAGMENT: u32 = 1001;

/// Everything the demo found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// SA MTU, bytes.
    pub sa_mtu: u32,
    /// Plain kernel forwarding.
    pub without: Delivery,
    /// The same traffic with `xdpfrag run`.
    pub with: Delivery,
    /// DF cleared by nftables, fragmented by the kernel.
    pub ids_nftables: IdCase,
    /// The same traffic with `xdpfrag run`.
    pub ids_xdpfrag: IdCase,
    /// What xdpfrag counted meanwhile.
    pub counted: Snapshot,
    /// How long all of it took.
    pub elapsed_s: f64,
}

/// How oversize traffic fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Delivery {
    /// UDP datagrams of 1472 bytes with DF.
    pub udp: Tally,
    /// TCP from the appliance, which ignores the MSS and ICMP.
    pub upload: tcp::Report,
    /// TCP to the appliance.
    pub download: tcp::Report,
    /// What the far side saw of it.
    pub far: Sizes,
}

/// What the far side saw: IP packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Packets.
    pub packets: u64,
    /// Fragments among them.
    pub fragments: u64,
    /// Longest, bytes.
    pub largest: u32,
    /// The lengths that occurred most, with how often, most frequent first.
    pub commonest: Vec<(u32, u64)>,
}

/// How ID-0 datagrams with DF fared, by way of an unconnected Linux socket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdCase {
    /// With no loss on the way: the control.
    pub control: Tally,
    /// With one fragment in 1001 lost.
    pub lossy: Tally,
    /// How many fragments were lost.
    pub fragments_lost: u64,
}

impl Delivery {
    /// True if all of it arrived, whole.
    pub fn complete(&self) -> bool {
        self.udp.complete() && self.upload.complete() && self.download.complete()
    }
}

impl IdCase {
    /// True if nothing was lost but one datagram per lost fragment, and nothing mixed up.
    pub fn clean(&self) -> bool {
        let Tally { sent, intact, corrupt, .. } = self.lossy;
        self.control.complete() && corrupt == 0 && intact + self.fragments_lost >= sent
    }
}

impl Report {
    /// True if xdpfrag kept its promise.
    pub fn delivered(&self) -> bool {
        self.with.complete() && self.with.far.largest <= self.sa_mtu && self.ids_xdpfrag.clean()
    }

    /// From xdpfrag's XDP program to the end of its hand-back; absent if no frame took that way.
    pub fn latency(&self) -> Option<Latency> {
        // The lab's LAN has one queue, hence one worker.
        self.counted
            .interfaces
            .iter()
            .flat_map(|interface| &interface.workers)
            .find_map(|worker| worker.latency)
    }
}

/// Runs the demo with `binary` as xdpfrag; `progress` is told what happens, a line each.
///
/// Interrupting it needs no clean-up: the namespaces and the child end with the process.
///
/// # Errors
/// If the lab cannot be built or `xdpfrag run` does not start.
pub fn run(binary: &Path, mut progress: impl FnMut(&str)) -> Result<Report> {
    let start = Instant::now();
    let config = LabConfig::default();

    progress("building a lab: appliance - gateway - far side, each a network namespace");
    let lab = Lab::new(&config)?;
    let without = deliver(&lab, "without xdpfrag", &mut progress)?;
    lab.clear_df_with_nftables()?;
    let ids_nftables = reuse_ids(&lab, "DF cleared by nftables", &mut progress)?;
    drop(lab);

    let lab = Lab::new(&config)?;
    let sa_mtu = config.sa_mtu.to_string();
    progress(&format!("starting `xdpfrag run --iface eth1 --mtu {sa_mtu}` in the gateway of a new lab"));
    let daemon = Daemon::start(&lab.gateway, binary, &["--mtu", &sa_mtu, "--json"])?;
    let with = deliver(&lab, "with xdpfrag", &mut progress)?;
    let ids_xdpfrag = reuse_ids(&lab, "with xdpfrag", &mut progress)?;
    let ended = daemon.stop()?;
    let counted =
        ended.snapshot.with_context(|| format!("`xdpfrag run` left no snapshot: {}", ended.stderr))?;
    Ok(Report {
        sa_mtu: config.sa_mtu,
        without,
        with,
        ids_nftables,
        ids_xdpfrag,
        counted,
        elapsed_s: start.elapsed().as_secs_f64(),
    })
}

/// Oversize UDP, then TCP each way.
fn deliver(lab: &Lab, how: &str, progress: &mut impl FnMut(&str)) -> Result<Delivery> {
    lab.far_wire.reset()?;
    progress(&format!("{how}: {DATAGRAMS} UDP datagrams of {PAYLOAD} bytes with DF"));
    let udp = Flow::new((FAR, PORT), vec![PAYLOAD; DATAGRAMS]).run(&lab.appliance, &lab.far)?;
    let mut transfer = |direction, what: &str| -> Result<tcp::Report> {
        progress(&format!(
            "{how}: {} MB of TCP {what} an appliance that ignores MSS and ICMP",
            TCP_BYTES >> 20
        ));
        Transfer { to: (FAR, PORT).into(), bytes: TCP_BYTES, direction, deadline: TCP_PATIENCE }
            .run(&lab.appliance, &lab.far)
    };
    let upload = transfer(Direction::Upload, "from")?;
    let download = transfer(Direction::Download, "to")?;
    Ok(Delivery { udp, upload, download, far: Sizes::from(lab.far_wire.seen()?) })
}

/// Datagrams that all carry ID 0, first undisturbed, then with a fragment lost now and then.
fn reuse_ids(lab: &Lab, how: &str, progress: &mut impl FnMut(&str)) -> Result<IdCase> {
    let flow = Flow { connected: false, ..Flow::new((FAR, PORT), vec![PAYLOAD; ID_DATAGRAMS]) };
    progress(&format!("{how}: {ID_DATAGRAMS} datagrams with DF and ID 0, nothing lost on the way"));
    let control = flow.run(&lab.appliance, &lab.far)?;
    lab.far_wire.reset()?;
    lab.far_wire.set(Rules { lose_fragment: LOSE_FRAGMENT, ..Rules::default() })?;
    progress(&format!("{how}: the same again, one fragment in {LOSE_FRAGMENT} lost"));
    let lossy = flow.run(&lab.appliance, &lab.far)?;
    Ok(IdCase { control, lossy, fragments_lost: lab.far_wire.seen()?.lost })
}

impl From<Seen> for Sizes {
    fn from(seen: Seen) -> Sizes {
        let largest = seen.largest();
        let mut commonest = seen.lengths;
        commonest.sort_by_key(|&(length, count)| (std::cmp::Reverse(count), length));
        commonest.truncate(4);
        Sizes { packets: seen.packets, fragments: seen.fragments, largest, commonest }
    }
}
