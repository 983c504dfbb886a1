//! The least that can be done with a frame at eth1: what bounds everything else.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder};
use nix::net::if_::if_nametoindex;

use super::OBJECT;
use super::sink::sums;
use crate::lab::topology::{LAN, Lab};
use crate::lab::wire::map;

/// An XDP program at eth1 that xdpfrag has no part in. It goes when this is dropped.
#[derive(Debug)]
pub struct Bare {
    object: Object,
    _link: Link,
}

impl Bare {
    /// Every frame is dropped, and counted.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN, or if eth1 has an XDP program.
    pub fn dropping(lab: &Lab) -> Result<Bare> {
        Bare::attach(lab, "bench_drop", None)
    }

    /// Every frame passes.
    ///
    /// # Errors
    /// As [`Bare::dropping`].
    pub fn passing(lab: &Lab) -> Result<Bare> {
        Bare::attach(lab, "bench_pass", None)
    }

    /// A tc program of this object, loaded and nowhere attached.
    ///
    /// # Errors
    /// If there is none with this name.
    pub fn behind(&self, name: &str) -> Result<OwnedFd> {
        let program = self.object.progs().find(|program| program.name() == name);
        Ok(program.context("a program is missing")?.as_fd().try_clone_to_owned()?)
    }

    /// Every frame goes to an AF_XDP socket of eth1's queue 0.
    ///
    /// # Errors
    /// As [`Bare::dropping`], or if `socket` is none.
    pub fn redirecting(lab: &Lab, socket: BorrowedFd<'_>) -> Result<Bare> {
        Bare::attach(lab, "bench_socket", Some(socket))
    }

    fn attach(lab: &Lab, name: &str, socket: Option<BorrowedFd<'_>>) -> Result<Bare> {
        let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
        if let Some(socket) = socket {
            let value = u32::try_from(socket.as_raw_fd())?.to_ne_bytes();
            map(&object, "sockets")?.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY)?;
        }
        let link = lab.gateway.run(|| {
            let program = object.progs_mut().find(|program| program.name() == name);
            let index = i32::try_from(if_nametoindex(LAN)?)?;
            Ok(program.context("a program is missing")?.attach_xdp(index)?)
        })?;
        Ok(Bare { object, _link: link })
    }

    /// Frames dropped so far.
    ///
    /// # Errors
    /// If the kernel refuses a map look-up.
    pub fn dropped(&self) -> Result<u64> {
        let [packets, ..] = sums::<8>(&map(&self.object, "seen")?, 0)?;
        Ok(packets)
    }
}
