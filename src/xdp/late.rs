//! The tc program behind GRO at the LAN interface's ingress (`--redirect late`).
//!
//! Held by a tcx link (Linux 6.6): it goes with the process. Kernels without tcx are refused, because a
//! clsact filter would stay after SIGKILL and go on cutting.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use std::{io, result};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::error::Error;
use super::lan::LanProgram;
use super::log;
use super::skeleton::late::{LateSkelBuilder, types};
use super::sys::{self, Link, Run, TcxHook};
use crate::packet::Late;

type Result<T> = result::Result<T, Error>;

/// Name of the program in the kernel.
const NAME: &str = "xdpfrag_late";

/// What is settled before the program is loaded (`struct late_config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateConfig {
    /// LAN interface.
    pub ifindex: u32,
    /// A flow takes the way through the backlog until this long after its last segment that was cut.
    pub sticky: Duration,
    /// Keys the flow hash: random, so that a sender cannot aim at a slot.
    pub flow_seed: u64,
    /// Tells the program's own packets: random, so that nothing else looks like them.
    pub token: u64,
    /// `--force deaf`.
    pub deaf_only: bool,
}

/// The loaded program.
#[derive(Debug)]
pub struct LateProgram {
    program: OwnedFd,
    counters: MapHandle,
    ifindex: u32,
}

/// The attached program: dropping it, or the end of the process, detaches.
#[derive(Debug)]
pub struct LateLink {
    link: Link,
}

impl LateLink {
    /// False if somebody detached it.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn is_attached(&self) -> io::Result<bool> {
        Ok(self.link.program()?.is_some())
    }
}

impl LateProgram {
    /// Loads the program with the maps of `lan`.
    pub fn load(config: LateConfig, lan: &LanProgram) -> Result<LateProgram> {
        log::captured(|| {
            let mut storage = MaybeUninit::uninit();
            let mut open = LateSkelBuilder::default().open(&mut storage)?;
            let missing = || io::Error::other("the BPF object has no .rodata");
            open.maps.rodata_data.as_deref_mut().ok_or_else(missing)?.cfg = types::late_config {
                // Signed on the other side.
                sticky_ns: config.sticky.as_nanos().min(i64::MAX as u128) as u64,
                flow_seed: config.flow_seed,
                token: config.token,
                ifindex: config.ifindex,
                deaf_only: config.deaf_only.into(),
            };
            let [routes, routes6, sources, sources6] = lan.route_maps();
            open.maps.routes.reuse_fd(routes)?;
            open.maps.routes6.reuse_fd(routes6)?;
            open.maps.sources.reuse_fd(sources)?;
            open.maps.sources6.reuse_fd(sources6)?;
            open.maps.deaf.reuse_fd(lan.deaf_map())?;
            let skeleton = open.load()?;
            Ok(LateProgram {
                program: skeleton.progs.xdpfrag_late.as_fd().try_clone_to_owned()?,
                counters: MapHandle::try_from(&*skeleton.maps.late_counters)?,
                ifindex: config.ifindex,
            })
        })
        .map_err(Error::load(NAME))
    }

    /// Attaches the program to what the interface has received.
    ///
    /// # Errors
    /// EINVAL on kernels without tcx.
    pub fn attach(&self) -> Result<LateLink> {
        let ifindex = self.ifindex;
        let link = Link::tcx(self.program.as_fd(), ifindex, TcxHook::Ingress);
        Ok(LateLink {
            link: link.map_err(|source| Error::Tc {
                action: format!("attach {NAME} to the ingress of interface {ifindex} (tcx)"),
                source: source.into(),
            })?,
        })
    }

    /// Packets per [`Late`], in its order, summed over the CPUs.
    pub fn counters(&self) -> Result<[u64; Late::COUNT]> {
        let mut sums = [0; Late::COUNT];
        let per_cpu = self.counters.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY);
        for bytes in per_cpu.map_err(Error::map("late_counters", "read them"))?.unwrap_or_default() {
            let (words, _) = bytes.as_chunks();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum += u64::from_ne_bytes(*word);
            }
        }
        Ok(sums)
    }

    /// Runs the program on `frame` ([`sys::prog_run`]).
    pub fn run_once(&self, frame: &[u8]) -> io::Result<Run> {
        sys::prog_run(self.program.as_fd(), frame)
    }
}

impl AsFd for LateProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
