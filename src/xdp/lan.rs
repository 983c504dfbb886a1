//! The XDP program of a LAN interface and its maps.

use std::collections::BTreeMap;
use std::mem::{MaybeUninit, offset_of};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use std::{io, result};

use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::error::Error;
use super::exchange::{self, Variant};
use super::heartbeat::Heartbeats;
use super::idents::IdentMap;
use super::layout::{self, Counters, DeafHost, FrameLimits, Least, Leave, Live, Route};
use super::live::LiveSettings;
use super::log;
use super::shared::{self, Shared};
use super::skeleton::xdpfrag::types;
use super::sys::{self, Run};
use crate::packet::{Df, MIN_MTU, Partition};

type Result<T> = result::Result<T, Error>;

/// What is settled before the XDP program is loaded (`struct xf_config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanConfig {
    /// `--df`.
    pub df: Df,
    /// `--redirect all`.
    pub redirect_all: bool,
    /// `--tcp resegment`: IPv6 segments go to the worker too, and with [`Df::Keep`] IPv4 ones with DF.
    pub resegment: bool,
    /// `--force deaf`: hosts are served once they have shown to be deaf; `None` for `--force always`.
    pub deaf_only: Option<Patience>,
    /// A flow follows its oversize frame through the worker until it has been silent for this long;
    /// zero: it does not.
    pub sticky: Duration,
    /// Age of a heartbeat at which its worker counts as dead.
    pub stall: Duration,
    /// Keys the flow hash: random, so that a sender cannot aim at a slot.
    pub flow_seed: u64,
    /// Which identifications packets get.
    pub partition: Partition,
    /// RX queues of the interface.
    pub queues: u32,
    /// MTU of the interface at the start, bytes.
    pub lan_mtu: u32,
}

/// When a host counts as deaf: it sends an oversize packet to a destination for which the kernel had
/// answered one by ICMP 3/4 or ICMPv6 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// At least this long after that answer: it has arrived, and so has what was in flight.
    pub grace: Duration,
    /// At most this long after it, else the host may have forgotten, and the kernel answers anew.
    pub window: Duration,
}

impl Default for Patience {
    /// 1 s and 60 s: hosts remember a path MTU for 10 minutes (RFC 8201 section 5.3).
    fn default() -> Patience {
        Patience { grace: Duration::from_secs(1), window: Duration::from_secs(60) }
    }
}

impl Default for LanConfig {
    /// What the flags' defaults say, for one queue of an Ethernet.
    fn default() -> LanConfig {
        LanConfig {
            df: Df::Clear,
            redirect_all: false,
            resegment: false,
            deaf_only: None,
            sticky: Duration::from_millis(200),
            stall: Duration::from_millis(100),
            flow_seed: 0,
            partition: Partition::WHOLE,
            queues: 1,
            lan_mtu: 1500,
        }
    }
}

impl LanConfig {
    pub(super) fn to_rodata(self) -> types::xf_config {
        types::xf_config {
            stall_ns: ns(self.stall),
            sticky_ns: ns(self.sticky),
            flow_seed: self.flow_seed,
            df: df_bits(self.df),
            redirect_all: self.redirect_all.into(),
            resegment: self.resegment.into(),
            grace_ns: self.deaf_only.map_or(0, |patience| ns(patience.grace)),
            window_ns: self.deaf_only.map_or(0, |patience| ns(patience.window).max(1)),
            sticky_ticks: shared::ticks(self.sticky),
            ident_bits: self.partition.bits(),
            ident_part: self.partition.low().into(),
        }
    }
}

/// A loaded XDP program with its maps. Owns everything; dropping it unloads what is not attached.
#[derive(Debug)]
pub struct LanProgram {
    pub(super) variant: Variant,
    pub(super) routes: MapHandle,
    pub(super) routes6: MapHandle,
    pub(super) sources: MapHandle,
    pub(super) sources6: MapHandle,
    pub(super) deaf: MapHandle,
    pub(super) warned: MapHandle,
    pub(super) flows: MapHandle,
    pub(super) pairs: MapHandle,
    pub(super) xsks: MapHandle,
    pub(super) cpus: MapHandle,
    pub(super) heartbeats_map: MapHandle,
    heartbeats: Arc<Heartbeats>,
    pub(super) shared: Shared,
    pub(super) idents: MapHandle,
    pub(super) live: Arc<LiveSettings>,
}

impl LanProgram {
    /// Loads the program, which takes identifications from `idents`. It does nothing before
    /// [`attach`](LanProgram::attach).
    pub fn load(config: &LanConfig, idents: &IdentMap) -> Result<LanProgram> {
        log::captured(|| LanProgram::load_quietly(config, idents)).map_err(Error::load("xdpfrag"))
    }

    fn load_quietly(config: &LanConfig, idents: &IdentMap) -> libbpf_rs::Result<LanProgram> {
        let queues = config.queues.max(1);
        // The skeleton borrows it, and is left behind once the descriptors are copied.
        let mut storage = MaybeUninit::uninit();
        let skeleton = exchange::load(config, &mut storage, |maps| {
            maps.idents.reuse_fd(idents.as_fd())?;
            maps.xsks.set_max_entries(queues)?;
            maps.heartbeats.set_max_entries(queues)
        })?;
        let heartbeats_map = MapHandle::try_from(&*skeleton.maps.heartbeats)?;
        let live = Live {
            lan_mtu: config.lan_mtu,
            generic: false,
            late: Leave::NOTHING,
            limits: FrameLimits::default(),
            least: Least { any: MIN_MTU, worked: MIN_MTU },
        };
        Ok(LanProgram {
            variant: Variant {
                program: skeleton.progs.xdpfrag.as_fd().try_clone_to_owned()?,
                config: *config,
            },
            routes: MapHandle::try_from(&*skeleton.maps.routes)?,
            routes6: MapHandle::try_from(&*skeleton.maps.routes6)?,
            sources: MapHandle::try_from(&*skeleton.maps.sources)?,
            sources6: MapHandle::try_from(&*skeleton.maps.sources6)?,
            deaf: MapHandle::try_from(&*skeleton.maps.deaf)?,
            warned: MapHandle::try_from(&*skeleton.maps.warned)?,
            flows: MapHandle::try_from(&*skeleton.maps.flows)?,
            pairs: MapHandle::try_from(&*skeleton.maps.pairs)?,
            xsks: MapHandle::try_from(&*skeleton.maps.xsks)?,
            cpus: MapHandle::try_from(&*skeleton.maps.cpus)?,
            heartbeats: Heartbeats::map(heartbeats_map.as_fd(), queues)?,
            heartbeats_map,
            shared: Shared::map(MapHandle::try_from(&*skeleton.maps.bss_shared)?)?,
            idents: MapHandle::try_from(&*skeleton.maps.idents)?,
            live: Arc::new(LiveSettings::new(MapHandle::try_from(&*skeleton.maps.data_live)?, live)?),
        })
    }

    /// Says what happens to packets to `prefix`; replaces what was said before.
    pub fn set_route(&self, prefix: IpNet, route: Route) -> Result<()> {
        let value = route.to_bytes();
        match prefix {
            IpNet::V4(p) => self.routes.update(&layout::prefix4_to_bytes(p), &value, MapFlags::ANY),
            IpNet::V6(p) => self.routes6.update(&layout::prefix6_to_bytes(p), &value, MapFlags::ANY),
        }
        .map_err(Error::map(routes_of(prefix), format!("set {prefix}")))?;
        self.shared.routes_changed();
        Ok(())
    }

    /// Passes packets to `address`, one of this machine.
    pub fn set_local(&self, address: IpAddr) -> Result<()> {
        self.set_route(address.into(), Route::Local)
    }

    /// Forgets `prefix`; an error if it is not there.
    pub fn remove_route(&self, prefix: IpNet) -> Result<()> {
        match prefix {
            IpNet::V4(p) => self.routes.delete(&layout::prefix4_to_bytes(p)),
            IpNet::V6(p) => self.routes6.delete(&layout::prefix6_to_bytes(p)),
        }
        .map_err(Error::map(routes_of(prefix), format!("remove {prefix}")))?;
        self.shared.routes_changed();
        Ok(())
    }

    /// Says what happens to packets from `source` to a prefix whose route is [`Route::BySource`] of `selector`.
    pub fn set_source(&self, selector: u32, source: IpNet, route: Route) -> Result<()> {
        let value = route.to_bytes();
        match source {
            IpNet::V4(p) => {
                self.sources.update(&layout::source4_to_bytes(selector, p), &value, MapFlags::ANY)
            }
            IpNet::V6(p) => {
                self.sources6.update(&layout::source6_to_bytes(selector, p), &value, MapFlags::ANY)
            }
        }
        .map_err(Error::map("sources", format!("set {source}")))
    }

    /// Forgets `source` under `selector`; an error if it is not there.
    pub fn remove_source(&self, selector: u32, source: IpNet) -> Result<()> {
        match source {
            IpNet::V4(p) => self.sources.delete(&layout::source4_to_bytes(selector, p)),
            IpNet::V6(p) => self.sources6.delete(&layout::source6_to_bytes(selector, p)),
        }
        .map_err(Error::map("sources", format!("remove {source}")))
    }

    /// How many sources are set, under any selector.
    pub fn sources(&self) -> Result<usize> {
        let v4 = entries::<{ layout::SOURCE4_SIZE }, { Route::SIZE }>(&self.sources, "sources")?;
        let v6 = entries::<{ layout::SOURCE6_SIZE }, { Route::SIZE }>(&self.sources6, "sources6")?;
        Ok(v4.len() + v6.len())
    }

    /// All routes, local addresses included, in no order.
    pub fn routes(&self) -> Result<Vec<(IpNet, Route)>> {
        let mut routes = Vec::new();
        for (key, value) in entries(&self.routes, "routes")? {
            routes.extend(layout::prefix4_from_bytes(key).map(|p| (p.into(), Route::from_bytes(value))));
        }
        for (key, value) in entries(&self.routes6, "routes6")? {
            routes.extend(layout::prefix6_from_bytes(key).map(|p| (p.into(), Route::from_bytes(value))));
        }
        Ok(routes)
    }

    /// The hosts that have shown to be deaf, in no order.
    pub fn deaf_hosts(&self) -> Result<Vec<DeafHost>> {
        Ok(entries(&self.deaf, "deaf")?.into_iter().map(|(k, v)| DeafHost::from_bytes(k, v)).collect())
    }

    /// The maps `routes`, `routes6`, `sources` and `sources6`, for
    /// [`ClampProgram::load`](super::ClampProgram::load).
    pub fn route_maps(&self) -> [BorrowedFd<'_>; 4] {
        [self.routes.as_fd(), self.routes6.as_fd(), self.sources.as_fd(), self.sources6.as_fd()]
    }

    /// Sends the frames of `queue` to an AF_XDP socket, once its worker's heart beats.
    pub fn register_socket(&self, queue: u32, socket: &impl AsRawFd) -> Result<()> {
        self.xsks
            .update(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .map_err(Error::map("xsks", format!("register the socket of queue {queue}")))
    }

    /// Passes the frames of `queue` to the kernel from now on; no error if it did already.
    pub fn unregister_socket(&self, queue: u32) -> Result<()> {
        match self.xsks.delete(&queue.to_ne_bytes()) {
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::map("xsks", format!("remove the socket of queue {queue}"))),
        }
    }

    /// Where workers say that they are alive.
    pub fn heartbeats(&self) -> Arc<Heartbeats> {
        Arc::clone(&self.heartbeats)
    }

    /// The counters, summed over the CPUs.
    pub fn counters(&self) -> Result<Counters> {
        read_counters(&self.cpus, offset_of!(types::xf_cpu, counters))
    }

    /// Tells the program of a new MTU of its interface, bytes.
    pub fn set_lan_mtu(&self, mtu: u32) -> Result<()> {
        self.live
            .change(|live| live.lan_mtu = mtu)
            .map_err(Error::map("live", "set the MTU of the LAN interface"))
    }

    /// Tells the program the lowest MTUs of its routes, which spares it a look at what is no longer.
    pub fn set_least(&self, least: Least) -> Result<()> {
        self.live.change(|live| live.least = least).map_err(Error::map("live", "set the least MTU"))
    }

    /// Tells the program what its workers can take. Until then it redirects nothing.
    pub fn set_limits(&self, limits: FrameLimits) -> Result<()> {
        self.live.change(|live| live.limits = limits).map_err(Error::map("live", "set the longest frame"))
    }

    /// Has the program leave this to the kernel, and to [`LateProgram`](super::LateProgram).
    pub fn set_late(&self, late: Leave) -> Result<()> {
        self.live.set_late(late).map_err(Error::map("live", "set --redirect late"))
    }

    /// What may change while the program runs.
    pub fn live(&self) -> Arc<LiveSettings> {
        Arc::clone(&self.live)
    }

    /// Tells the program in which mode it is about to be attached.
    pub fn set_generic(&self, generic: bool) -> Result<()> {
        self.live.change(|live| live.generic = generic).map_err(Error::map("live", "set the mode"))
    }

    /// Runs the program on `frame` ([`sys::prog_run`]).
    pub fn run_once(&self, frame: &[u8]) -> io::Result<Run> {
        sys::prog_run(self.as_fd(), frame, &[])
    }
}

impl AsFd for LanProgram {
    /// The program.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.variant.as_fd()
    }
}

/// Signed on the other side.
pub(super) fn ns(time: Duration) -> u64 {
    time.as_nanos().min(i64::MAX as u128) as u64
}

/// `enum xf_df`.
pub(super) fn df_bits(df: Df) -> u32 {
    match df {
        Df::Clear => 0,
        Df::Oversize => 1,
        Df::Keep => 2,
    }
}

fn routes_of(prefix: IpNet) -> &'static str {
    match prefix {
        IpNet::V4(_) => "routes",
        IpNet::V6(_) => "routes6",
    }
}

/// The entries of a map at about this moment: each key once, those that come or go meanwhile perhaps.
fn entries<const K: usize, const V: usize>(
    map: &MapHandle,
    name: &'static str,
) -> Result<BTreeMap<[u8; K], [u8; V]>> {
    let mut entries = BTreeMap::new();
    // When the key it stands at is evicted the walk begins again: bounded, lest it never ends.
    for key in map.keys().take(2 * map.max_entries() as usize) {
        let value = map.lookup(&key, MapFlags::ANY).map_err(Error::map(name, "look an entry up"))?;
        // Gone since: somebody removed it.
        let Some(value) = value else { continue };
        if let (Ok(key), Ok(value)) = (key.try_into(), value.try_into()) {
            entries.insert(key, value);
        }
    }
    Ok(entries)
}

/// Those that the one entry of a per-CPU map has from offset `at` on, summed over the CPUs.
pub(super) fn read_counters(map: &MapHandle, at: usize) -> Result<Counters> {
    let per_cpu =
        map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(Error::map("counters", "read them"))?;
    let mut sum = Counters::default();
    for bytes in per_cpu.unwrap_or_default() {
        if let Some(counters) = bytes.get(at..at + Counters::SIZE).and_then(Counters::from_bytes) {
            sum += counters;
        }
    }
    Ok(sum)
}
