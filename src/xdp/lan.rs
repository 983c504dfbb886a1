//! The XDP program of a LAN interface and its maps.

use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use std::{io, result};

use ipnet::Ipv4Net;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::error::Error;
use super::heartbeat::Heartbeats;
use super::layout::{self, Counters, Live, Route};
use super::log;
use super::skeleton::xdpfrag::{XdpfragSkelBuilder, types};
use super::sys::{self, Run};
use crate::packet::Df;

type Result<T> = result::Result<T, Error>;

/// What is settled before the XDP program is loaded (`struct xf_config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanConfig {
    /// `--df`.
    pub df: Df,
    /// `--redirect all`.
    pub redirect_all: bool,
    /// A flow follows its oversize frame through the worker until it has been silent for this long;
    /// zero: it does not.
    pub sticky: Duration,
    /// Age of a heartbeat at which its worker counts as dead.
    pub stall: Duration,
    /// Keys the flow hash: random, so that a sender cannot aim at a slot.
    pub flow_seed: u64,
    /// RX queues of the interface.
    pub queues: u32,
    /// MTU of the interface at the start, bytes.
    pub lan_mtu: u32,
}

impl LanConfig {
    fn to_rodata(self) -> types::xf_config {
        // Signed on the other side.
        let ns = |time: Duration| time.as_nanos().min(i64::MAX as u128) as u64;
        types::xf_config {
            stall_ns: ns(self.stall),
            sticky_ns: ns(self.sticky),
            flow_seed: self.flow_seed,
            df: match self.df {
                Df::Clear => 0,
                Df::Oversize => 1,
                Df::Keep => 2,
            },
            redirect_all: self.redirect_all.into(),
        }
    }
}

/// A loaded XDP program with its maps. Owns everything; dropping it unloads what is not attached.
#[derive(Debug)]
pub struct LanProgram {
    program: OwnedFd,
    routes: MapHandle,
    xsks: MapHandle,
    counters: MapHandle,
    live: MapHandle,
    heartbeats: Arc<Heartbeats>,
    redirect_all: bool,
    lan_mtu: AtomicU32,
    generic: AtomicBool,
    max_frame: AtomicU32,
}

impl LanProgram {
    /// Loads the program. It does nothing before [`attach`](LanProgram::attach).
    pub fn load(config: &LanConfig) -> Result<LanProgram> {
        log::captured(|| LanProgram::load_quietly(config)).map_err(Error::load("xdpfrag"))
    }

    fn load_quietly(config: &LanConfig) -> libbpf_rs::Result<LanProgram> {
        let queues = config.queues.max(1);
        // The skeleton borrows it, and is left behind once the descriptors are copied.
        let mut storage = MaybeUninit::uninit();
        let mut open = XdpfragSkelBuilder::default().open(&mut storage)?;
        let missing = || io::Error::other("the BPF object has no .rodata");
        open.maps.rodata_data.as_deref_mut().ok_or_else(missing)?.cfg = config.to_rodata();
        open.maps.xsks.set_max_entries(queues)?;
        open.maps.heartbeats.set_max_entries(queues)?;
        let skeleton = open.load()?;
        let heartbeats = MapHandle::try_from(&*skeleton.maps.heartbeats)?;
        let program = LanProgram {
            program: skeleton.progs.xdpfrag.as_fd().try_clone_to_owned()?,
            routes: MapHandle::try_from(&*skeleton.maps.routes)?,
            xsks: MapHandle::try_from(&*skeleton.maps.xsks)?,
            counters: MapHandle::try_from(&*skeleton.maps.counters)?,
            live: MapHandle::try_from(&*skeleton.maps.data)?,
            heartbeats: Heartbeats::map(heartbeats.as_fd(), queues)?,
            redirect_all: config.redirect_all,
            lan_mtu: AtomicU32::new(config.lan_mtu),
            generic: AtomicBool::new(false),
            max_frame: AtomicU32::new(0),
        };
        program.write_live()?;
        Ok(program)
    }

    /// Says what happens to packets to `prefix`; replaces what was said before.
    pub fn set_route(&self, prefix: Ipv4Net, route: Route) -> Result<()> {
        self.routes
            .update(&layout::prefix_to_bytes(prefix), &route.to_bytes(), MapFlags::ANY)
            .map_err(Error::map("routes", format!("set {prefix}")))
    }

    /// Passes packets to `address`, one of this machine.
    pub fn set_local(&self, address: Ipv4Addr) -> Result<()> {
        self.set_route(address.into(), Route::Local)
    }

    /// Forgets `prefix`; an error if it is not there.
    pub fn remove_route(&self, prefix: Ipv4Net) -> Result<()> {
        self.routes
            .delete(&layout::prefix_to_bytes(prefix))
            .map_err(Error::map("routes", format!("remove {prefix}")))
    }

    /// All routes, local addresses included, in no order.
    pub fn routes(&self) -> Result<Vec<(Ipv4Net, Route)>> {
        let mut routes = Vec::new();
        for key in self.routes.keys() {
            let value =
                self.routes.lookup(&key, MapFlags::ANY).map_err(Error::map("routes", "look a prefix up"))?;
            // Gone since: somebody removed it.
            let Some(value) = value else { continue };
            if let (Ok(key), Ok(value)) = (key.try_into(), value.try_into())
                && let Some(prefix) = layout::prefix_from_bytes(key)
            {
                routes.push((prefix, Route::from_bytes(value)));
            }
        }
        Ok(routes)
    }

    /// The `routes` map, for [`ClampProgram::load`](super::ClampProgram::load).
    pub fn routes_fd(&self) -> BorrowedFd<'_> {
        self.routes.as_fd()
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
        read_counters(&self.counters)
    }

    /// Tells the program of a new MTU of its interface, bytes.
    pub fn set_lan_mtu(&self, mtu: u32) -> Result<()> {
        self.lan_mtu.store(mtu, Ordering::Relaxed);
        self.write_live().map_err(Error::map("live", "set the MTU of the LAN interface"))
    }

    /// Tells the program the longest frame that a worker can take, bytes, Ethernet header included.
    /// Until then it redirects none.
    pub fn set_max_frame(&self, bytes: u32) -> Result<()> {
        self.max_frame.store(bytes, Ordering::Relaxed);
        self.write_live().map_err(Error::map("live", "set the longest frame"))
    }

    /// Tells the program in which mode it is about to be attached.
    pub(super) fn set_generic(&self, generic: bool) -> Result<()> {
        self.generic.store(generic, Ordering::Relaxed);
        self.write_live().map_err(Error::map("live", "set the mode"))
    }

    fn write_live(&self) -> libbpf_rs::Result<()> {
        let live = Live {
            lan_mtu: self.lan_mtu.load(Ordering::Relaxed),
            generic: self.generic.load(Ordering::Relaxed),
            max_frame: self.max_frame.load(Ordering::Relaxed),
        };
        self.live.update(&0u32.to_ne_bytes(), &live.to_bytes(), MapFlags::ANY)
    }

    pub(super) fn redirects_all(&self) -> bool {
        self.redirect_all
    }

    /// Runs the program on `frame` ([`sys::prog_run`]).
    pub fn run_once(&self, frame: &[u8]) -> io::Result<Run> {
        sys::prog_run(self.program.as_fd(), frame)
    }
}

impl AsFd for LanProgram {
    /// The program.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// The one entry of a per-CPU `counters` map, summed over the CPUs.
pub(super) fn read_counters(map: &MapHandle) -> Result<Counters> {
    let per_cpu =
        map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(Error::map("counters", "read them"))?;
    let mut sum = Counters::default();
    for bytes in per_cpu.unwrap_or_default() {
        if let Some(counters) = Counters::from_bytes(&bytes) {
            sum += counters;
        }
    }
    Ok(sum)
}
