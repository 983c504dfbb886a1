//! The tc program at the LAN interface's egress.
//!
//! With tcx (Linux 6.6) it is held by a link, which goes with the process. Before that it is a
//! filter on the clsact qdisc, which stays after SIGKILL: [`detach_leftover`] removes it. One
//! that stays does no harm: it lowers the MSS by the last known routes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ErrorKind, MapHandle, TC_EGRESS, TcHook, TcHookBuilder};

use super::attach::program_name;
use super::error::Error;
use super::lan::read_counters;
use super::layout::Counters;
use super::log;
use super::skeleton::clamp::ClampSkelBuilder;
use super::sys::{self, Link, Run, TcxHook};
use crate::net::filters;

/// Name of the program in the kernel.
const NAME: &str = "xdpfrag_clamp";
/// Handle and priority of the filter, fixed so that a leftover one is found again.
const HANDLE: u32 = 1;
const PRIORITY: u32 = 0x7864;

/// How the program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By link.
    Tcx,
    /// As a filter of the clsact qdisc.
    Clsact,
}

impl Method {
    /// For messages.
    pub fn label(self) -> &'static str {
        match self {
            Method::Tcx => "tcx",
            Method::Clsact => "clsact",
        }
    }
}

/// The loaded program.
#[derive(Debug)]
pub struct ClampProgram {
    program: OwnedFd,
    counters: MapHandle,
}

impl ClampProgram {
    /// Loads the program with the maps of [`LanProgram::route_maps`](super::LanProgram::route_maps).
    pub fn load([routes, routes6, sources, sources6]: [BorrowedFd<'_>; 4]) -> Result<ClampProgram, Error> {
        log::captured(|| {
            let mut storage = MaybeUninit::uninit();
            let mut open = ClampSkelBuilder::default().open(&mut storage)?;
            open.maps.routes.reuse_fd(routes)?;
            open.maps.routes6.reuse_fd(routes6)?;
            open.maps.sources.reuse_fd(sources)?;
            open.maps.sources6.reuse_fd(sources6)?;
            let skeleton = open.load()?;
            Ok(ClampProgram {
                program: skeleton.progs.xdpfrag_clamp.as_fd().try_clone_to_owned()?,
                counters: MapHandle::try_from(&*skeleton.maps.counters)?,
            })
        })
        .map_err(Error::load(NAME))
    }

    /// Attaches the program to what the interface sends: with tcx, or with clsact where the
    /// kernel has none.
    pub fn attach(&self, ifindex: u32) -> Result<ClampLink, Error> {
        self.attach_with(ifindex, Method::Tcx).or_else(|error| match error {
            Error::Tc { source, .. } if source.kind() == ErrorKind::InvalidInput => {
                self.attach_with(ifindex, Method::Clsact)
            }
            error => Err(error),
        })
    }

    /// [`attach`](ClampProgram::attach) in the given way.
    pub fn attach_with(&self, ifindex: u32, method: Method) -> Result<ClampLink, Error> {
        let failed = |source: libbpf_rs::Error| Error::Tc {
            action: format!("attach the MSS clamp to the egress of interface {ifindex} ({})", method.label()),
            source,
        };
        let held = match method {
            Method::Tcx => Held::Link {
                link: Link::tcx(self.program.as_fd(), ifindex, TcxHook::Egress)
                    .map_err(|e| failed(e.into()))?,
            },
            Method::Clsact => {
                detach_leftover(ifindex)?;
                let created = sys::clsact_create(ifindex).map_err(|error| failed(error.into()))?;
                let mut filter =
                    Filter { ifindex, hook: hook(self.program.as_fd(), ifindex), created, attached: false };
                filter.hook.attach().map_err(failed)?;
                filter.attached = true;
                Held::Filter { _filter: filter }
            }
        };
        Ok(ClampLink { held, method })
    }

    /// The counters, summed over the CPUs: only [`Edit::Mss`](crate::packet::Edit::Mss) is in use.
    pub fn counters(&self) -> Result<Counters, Error> {
        read_counters(&self.counters, 0)
    }

    /// Runs the program on `frame` ([`sys::prog_run`]).
    pub fn run_once(&self, frame: &[u8]) -> io::Result<Run> {
        sys::prog_run(self.program.as_fd(), frame, &[])
    }
}

impl AsFd for ClampProgram {
    /// The program.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// The attached program: dropping it detaches, and removes the qdisc if `attach` made it and nobody else has a filter
/// there by now.
#[derive(Debug)]
pub struct ClampLink {
    held: Held,
    method: Method,
}

impl ClampLink {
    /// How it is attached.
    pub fn method(&self) -> Method {
        self.method
    }

    /// False if somebody detached it. Of a filter that is not known.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn is_attached(&self) -> io::Result<bool> {
        match &self.held {
            Held::Link { link } => Ok(link.program()?.is_some()),
            Held::Filter { .. } => Ok(true),
        }
    }
}

#[derive(Debug)]
enum Held {
    Link { link: Link },
    Filter { _filter: Filter },
}

#[derive(Debug)]
struct Filter {
    ifindex: u32,
    hook: TcHook,
    created: bool,
    attached: bool,
}

impl Drop for Filter {
    /// Errors are of no use here: the interface is gone, and the filter with it.
    fn drop(&mut self) {
        if self.attached {
            let _ = self.hook.detach();
        }
        if self.created && filters::on_clsact(self.ifindex).is_ok_and(|any| !any) {
            let _ = sys::clsact_destroy(self.ifindex);
        }
    }
}

/// Removes the clsact filter that a killed process left on the interface; true if there was one.
///
/// A clsact qdisc stays, empty: it costs nothing, and others may use it by now.
pub fn detach_leftover(ifindex: u32) -> Result<bool, Error> {
    // Neither query nor detach looks at the program, which TcHook wants to be given.
    let unused = io::stdin();
    let mut hook = hook(unused.as_fd(), ifindex);
    let Ok(id) = log::captured(|| hook.query()) else { return Ok(false) };
    if program_name(id).as_deref() != Some(NAME) {
        return Ok(false);
    }
    hook.detach().map(|()| true).map_err(|source| Error::Tc {
        action: format!("remove the MSS clamp from the egress of interface {ifindex}"),
        source,
    })
}

fn hook(program: BorrowedFd<'_>, ifindex: u32) -> TcHook {
    let ifindex = i32::try_from(ifindex).unwrap_or(i32::MAX);
    TcHookBuilder::new(program).ifindex(ifindex).handle(HANDLE).priority(PRIORITY).hook(TC_EGRESS)
}
