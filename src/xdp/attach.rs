//! Attaching the XDP program to its interface by BPF link.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{Xdp, XdpFlags};
use nix::net::if_::if_indextoname;

use super::error::Error;
use super::lan::LanProgram;
use super::sys::{Link, XdpMode, program_id};
use crate::config::Mode;

/// An attached XDP program: dropping it, or the end of the process, detaches.
#[derive(Debug)]
pub struct Attached {
    pub(super) link: Link,
    /// LAN interface.
    pub(super) interface: String,
    /// In the driver or in the stack.
    pub mode: XdpMode,
    /// Why native mode was not to be had, if `--mode auto` took generic mode instead.
    pub fallback: Option<String>,
}

/// The XDP program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Another program is there, and is not replaced.
    #[error(
        "{interface} has an XDP program already: {name} (id {id}); end what runs it, or remove it with \
         `ip link set dev {interface} xdp off` (`bpftool net` shows what it is; if a link holds it: \
         `bpftool link list`)"
    )]
    Busy {
        /// LAN interface.
        interface: String,
        /// The other program's id.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The driver cannot, at least as the interface is set up.
    #[error("{interface} does not take an XDP program in {mode} mode: {reason}")]
    Unsupported {
        /// LAN interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// Errno and remedy.
        reason: String,
    },
    /// `--redirect all` with generic mode.
    #[error(
        "{interface}: --redirect all needs native XDP{}: in generic mode the program would see every frame \
         that was handed back again, without end; use --redirect oversize",
        .why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default()
    )]
    RedirectAll {
        /// LAN interface.
        interface: String,
        /// Why native mode was not to be had.
        why: Option<String>,
    },
    /// There is no such interface, or no permission, or something rarer.
    #[error("cannot attach the XDP program to {interface}: {source}{}", permission(.source))]
    Other {
        /// LAN interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// One that is attached could not be replaced.
    #[error("{interface} keeps its XDP program, the kernel does not take another one for it: {source}")]
    Replace {
        /// LAN interface.
        interface: String,
        /// The kernel's answer, or the driver's.
        source: io::Error,
    },
    /// The program could not be loaded, or told its mode.
    #[error(transparent)]
    Program(#[from] Error),
}

impl LanProgram {
    /// Attaches the program to the interface; it goes when [`Attached`] is dropped.
    pub fn attach(&self, ifindex: u32, mode: Mode) -> Result<Attached, AttachError> {
        let interface = match if_indextoname(ifindex) {
            Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
            // The kernel's own answer would be EINVAL.
            _ => {
                let source = io::Error::from_raw_os_error(libc::ENODEV);
                return Err(AttachError::Other { interface: format!("interface {ifindex}"), source });
            }
        };
        match mode {
            Mode::Native => self.attach_as(XdpMode::Native, ifindex, &interface, None),
            Mode::Generic => self.attach_as(XdpMode::Generic, ifindex, &interface, None),
            Mode::Auto => match self.attach_as(XdpMode::Native, ifindex, &interface, None) {
                Err(AttachError::Unsupported { reason, .. }) => {
                    self.attach_as(XdpMode::Generic, ifindex, &interface, Some(reason))
                }
                other => other,
            },
        }
    }

    /// True if the program is on the interface by `attached`. Whoever may administer BPF can detach a link of others, or
    /// have it run another program.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn is_attached(&self, attached: &Attached) -> io::Result<bool> {
        Ok(attached.link.program()? == Some(program_id(self.as_fd())?))
    }

    fn attach_as(
        &self,
        mode: XdpMode,
        ifindex: u32,
        interface: &str,
        fallback: Option<String>,
    ) -> Result<Attached, AttachError> {
        let interface = interface.to_owned();
        if mode == XdpMode::Generic && self.config().redirect_all {
            return Err(AttachError::RedirectAll { interface, why: fallback });
        }
        self.set_generic(mode == XdpMode::Generic)?;
        let source = match Link::xdp(self.as_fd(), ifindex, mode) {
            Ok(link) => return Ok(Attached { link, interface, mode, fallback }),
            Err(error) => error,
        };
        if let Some(libc::EBUSY | libc::EEXIST) = source.raw_os_error()
            && let Some((id, name)) = occupant(self, ifindex)
        {
            return Err(AttachError::Busy { interface, id, name });
        }
        match remedy(&source) {
            Some(remedy) => Err(AttachError::Unsupported {
                interface,
                mode: mode.label(),
                reason: format!("{source}; {remedy}"),
            }),
            None => Err(AttachError::Other { interface, source }),
        }
    }
}

/// Id and name of the XDP program on the interface, in whatever mode.
fn occupant(program: &LanProgram, ifindex: u32) -> Option<(u32, String)> {
    let found = Xdp::new(program.as_fd()).query(i32::try_from(ifindex).ok()?, XdpFlags::NONE).ok()?;
    let ids = [found.prog_id, found.drv_prog_id, found.hw_prog_id, found.skb_prog_id];
    let id = ids.into_iter().find(|id| *id != 0)?;
    Some((id, program_name(id).unwrap_or_else(|| "unknown".to_owned())))
}

/// The name of a loaded program.
pub(super) fn program_name(id: u32) -> Option<String> {
    let info = ProgInfoIter::default().find(|info| info.id == id)?;
    Some(CStr::to_string_lossy(&info.name).into_owned())
}

/// What to do about an errno by which drivers say that they cannot (`dev_xdp_attach()`, `ndo_bpf`).
fn remedy(source: &io::Error) -> Option<&'static str> {
    match source.raw_os_error()? {
        libc::EOPNOTSUPP => Some(
            "the driver has no native XDP, or not with the offloads in use (LRO: `ethtool -K DEV lro off`)",
        ),
        libc::EINVAL | libc::ERANGE | libc::E2BIG | libc::EMSGSIZE => Some(
            "usually its MTU is too large for the driver's XDP (`ip link set DEV mtu 1500`) or LRO is on (`ethtool -K DEV lro off`)",
        ),
        libc::ENOSPC | libc::ENOMEM => Some(
            "usually the driver has too few queues for XDP: reduce them with `ethtool -L DEV combined N`, on a veth those of its peer too",
        ),
        _ => None,
    }
}

fn permission(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; it needs the capability CAP_NET_ADMIN",
        _ => "",
    }
}
