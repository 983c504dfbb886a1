//! The tc program behind GRO at the LAN interface's ingress (`--redirect late`, `bpf/late.bpf.c`).
//!
//! Held by a tcx link (Linux 6.6): it goes with the process. Kernels without tcx are refused, because a
//! clsact filter would stay after SIGKILL and go on cutting.

use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{io, result};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::error::Error;
use super::lan::LanProgram;
use super::lan::df_bits;
use super::layout::Leave;
use super::log;
use super::skeleton::late::LateSkelBuilder;
use super::skeleton::late::types::{self, __sk_buff, xf_cpu};
use super::sys::{self, Link, Run, TcxHook};
use crate::packet::{Df, Late, Partition};

type Result<T> = result::Result<T, Error>;

/// Name of the program in the kernel.
const NAME: &str = "xdpfrag_late";

/// What is settled before the program is loaded (`struct late_config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateConfig {
    /// LAN interface.
    pub ifindex: u32,
    /// What it does.
    pub leave: Leave,
    /// Keys the hash of hosts ([`Idents::seed`](crate::packet::Idents::seed)): random, so that a sender cannot aim at a slot.
    pub seed: u64,
    /// Which identifications packets get.
    pub partition: Partition,
    /// Tells the program's own packets: random, so that nothing else looks like them.
    pub token: u64,
    /// `--force deaf`.
    pub deaf_only: bool,
    /// `--df`.
    pub df: Df,
}

/// The loaded program.
#[derive(Debug)]
pub struct LateProgram {
    program: OwnedFd,
    cpus: MapHandle,
    ifindex: u32,
    leave: Leave,
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
    /// Loads the program with the maps of `lan`, the counters of packets and of identifications among them.
    pub fn load(config: LateConfig, lan: &LanProgram) -> Result<LateProgram> {
        log::captured(|| {
            let mut storage = MaybeUninit::uninit();
            let mut open = LateSkelBuilder::default().open(&mut storage)?;
            let missing = || io::Error::other("the BPF object has no .rodata");
            open.maps.rodata_data.as_deref_mut().ok_or_else(missing)?.cfg = types::late_config {
                flow_seed: config.seed,
                token: config.token,
                ifindex: config.ifindex,
                leave: config.leave.bits(),
                deaf_only: config.deaf_only.into(),
                df: df_bits(config.df),
                ident_bits: config.partition.bits(),
                ident_part: config.partition.low().into(),
            };
            let [routes, routes6, sources, sources6] = lan.route_maps();
            open.maps.routes.reuse_fd(routes)?;
            open.maps.routes6.reuse_fd(routes6)?;
            open.maps.sources.reuse_fd(sources)?;
            open.maps.sources6.reuse_fd(sources6)?;
            open.maps.deaf.reuse_fd(lan.deaf.as_fd())?;
            open.maps.cpus.reuse_fd(lan.cpus.as_fd())?;
            open.maps.bss_shared.reuse_fd(lan.shared.as_fd())?;
            open.maps.idents.reuse_fd(lan.idents.as_fd())?;
            let skeleton = open.load()?;
            Ok(LateProgram {
                program: skeleton.progs.xdpfrag_late.as_fd().try_clone_to_owned()?,
                cpus: MapHandle::try_from(&*skeleton.maps.cpus)?,
                ifindex: config.ifindex,
                leave: config.leave,
            })
        })
        .map_err(Error::load(NAME))
    }

    /// What it does.
    pub fn leaves(&self) -> Leave {
        self.leave
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
        let per_cpu = self.cpus.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY);
        for bytes in per_cpu.map_err(Error::map("cpus", "read them"))?.unwrap_or_default() {
            let (words, _) = bytes.get(offset_of!(xf_cpu, late)..).unwrap_or_default().as_chunks();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum += u64::from_ne_bytes(*word);
            }
        }
        Ok(sums)
    }

    /// Runs the program on `frame` ([`sys::prog_run`]), which comes like that.
    pub fn run_once(&self, frame: &[u8], came: Came) -> io::Result<Run> {
        sys::prog_run(self.program.as_fd(), frame, &came.to_context())
    }
}

/// How a packet comes to the program, but for its bytes (`struct __sk_buff`); by default for the first time, and alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Came {
    /// `cb`, in which the program's own packets carry what it has to know.
    pub cb: [u32; 5],
    /// `gso_segs`: how many GRO has merged.
    pub merged: u32,
    /// `gso_size`: bytes of data in each but the last of them.
    pub share: u32,
}

impl Came {
    fn to_context(self) -> [u8; size_of::<__sk_buff>()] {
        let mut context = [0; size_of::<__sk_buff>()];
        for (at, words) in [
            (offset_of!(__sk_buff, cb), &self.cb[..]),
            (offset_of!(__sk_buff, gso_segs), &[self.merged]),
            (offset_of!(__sk_buff, gso_size), &[self.share]),
        ] {
            for (to, word) in context[at..].chunks_exact_mut(size_of::<u32>()).zip(words) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
        }
        context
    }
}

impl AsFd for LateProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
