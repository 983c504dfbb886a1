//! Other constants for an XDP program that is attached and works.
//!
//! What is in `.rodata` the verifier folds into the program, which costs a frame nothing; the price is that a change
//! needs another program. It is loaded with every map of the one that runs, so that counters, sockets, heartbeats,
//! routes, flows and deaf hosts go on, and takes its place on the link in one step: each frame sees one or the other.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{io, result};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject};

use super::attach::{AttachError, Attached};
use super::error::Error;
use super::lan::{LanConfig, LanProgram};
use super::log;
use super::skeleton::xdpfrag::{OpenXdpfragMaps, XdpfragSkel, XdpfragSkelBuilder};
use super::sys::XdpMode;

/// The XDP program with constants of its own, on the maps of a [`LanProgram`].
#[derive(Debug)]
pub struct Variant {
    pub(super) program: OwnedFd,
    pub(super) config: LanConfig,
}

/// Loads the program with the constants of `config`, after `maps` had a say.
pub(super) fn load<'a>(
    config: &LanConfig,
    storage: &'a mut MaybeUninit<OpenObject>,
    maps: impl FnOnce(&mut OpenXdpfragMaps<'a>) -> libbpf_rs::Result<()>,
) -> libbpf_rs::Result<XdpfragSkel<'a>> {
    let mut open = XdpfragSkelBuilder::default().open(storage)?;
    let missing = || io::Error::other("the BPF object has no .rodata");
    open.maps.rodata_data.as_deref_mut().ok_or_else(missing)?.cfg = config.to_rodata();
    maps(&mut open.maps)?;
    open.load()
}

impl LanProgram {
    /// What is settled in the program that is, or may be, attached. `lan_mtu` is that of the start.
    pub fn config(&self) -> &LanConfig {
        &self.variant.config
    }

    /// Loads the program with the constants of `config`, but the same queues, on the maps of this one, to take its place
    /// where it is attached. Nothing changes before [`exchange`](LanProgram::exchange).
    ///
    /// # Errors
    /// If it does not go with generic mode, or the kernel refuses it.
    pub fn variant(&self, attached: &Attached, config: LanConfig) -> result::Result<Variant, AttachError> {
        if attached.mode == XdpMode::Generic && config.redirect_all {
            let (interface, why) = (attached.interface.clone(), attached.fallback.clone());
            return Err(AttachError::RedirectAll { interface, why });
        }
        let load = || {
            let mut storage = MaybeUninit::uninit();
            let skeleton = load(&config, &mut storage, |maps| {
                maps.routes.reuse_fd(self.routes.as_fd())?;
                maps.routes6.reuse_fd(self.routes6.as_fd())?;
                maps.sources.reuse_fd(self.sources.as_fd())?;
                maps.sources6.reuse_fd(self.sources6.as_fd())?;
                maps.deaf.reuse_fd(self.deaf.as_fd())?;
                maps.warned.reuse_fd(self.warned.as_fd())?;
                maps.flows.reuse_fd(self.flows.as_fd())?;
                maps.pairs.reuse_fd(self.pairs.as_fd())?;
                maps.xsks.reuse_fd(self.xsks.as_fd())?;
                maps.heartbeats.reuse_fd(self.heartbeats_map.as_fd())?;
                maps.cpus.reuse_fd(self.cpus.as_fd())?;
                maps.idents.reuse_fd(self.idents.as_fd())?;
                maps.bss_shared.reuse_fd(self.shared.as_fd())?;
                maps.data_live.reuse_fd(self.live.map.as_fd())
            })?;
            Ok(Variant { program: skeleton.progs.xdpfrag.as_fd().try_clone_to_owned()?, config })
        };
        Ok(log::captured(load).map_err(Error::load("xdpfrag"))?)
    }

    /// Puts `variant` in the place of the attached program and returns that one: each frame is treated by one of them,
    /// and none by neither.
    ///
    /// # Errors
    /// If the kernel refuses, as a driver may; the program of before stays then.
    pub fn exchange(
        &mut self,
        attached: &Attached,
        variant: Variant,
    ) -> result::Result<Variant, AttachError> {
        let replaced = attached.link.replace(self.as_fd(), variant.program.as_fd());
        replaced.map_err(|source| AttachError::Replace { interface: attached.interface.clone(), source })?;
        Ok(std::mem::replace(&mut self.variant, variant))
    }

    /// Makes every flow one that went to its worker at `now_ns` (CLOCK_MONOTONIC), and keeps to that way until it is
    /// silent for [`LanConfig::sticky`]. For when `--redirect all` ends, which takes no note of flows: else what
    /// still waits for a worker would be overtaken.
    pub fn hold_flows(&self, now_ns: u64) -> result::Result<(), Error> {
        self.shared.hold_flows();
        // `pairs` holds two stamps (`struct xf_pair_stamps`).
        for (map, name, stamps) in [(&self.flows, "flows", 1), (&self.pairs, "pairs", 2)] {
            let count = map.max_entries();
            let slots: Vec<u8> = (0..count).flat_map(u32::to_ne_bytes).collect();
            // XF_STAMP of any queue.
            let values = (now_ns << 8 | 0xff).to_ne_bytes().repeat(stamps * count as usize);
            let updated = map.update_batch(&slots, &values, count, MapFlags::ANY, MapFlags::ANY);
            updated.map_err(Error::map(name, "have every flow keep to its worker"))?;
        }
        Ok(())
    }
}

impl Variant {
    /// Its constants.
    pub fn config(&self) -> &LanConfig {
        &self.config
    }
}

impl AsFd for Variant {
    /// The program.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
