//! The program that makes what a device of ours receives a frame of the LAN interface.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{TC_INGRESS, TcHookBuilder};

use super::skeleton::redirect::RedirectSkelBuilder;
use super::{HandbackConfig, bpf_error};
use crate::xdp::Method;
use crate::xdp::sys::{Link, TcxHook};

/// Redirects what `device` receives to the ingress of the LAN interface: by a tcx link (Linux 6.6), or by a clsact
/// filter, which goes with the device.
pub(super) fn attach_redirect(
    device: u32,
    config: &HandbackConfig,
    method: Option<Method>,
) -> io::Result<Option<Link>> {
    let mut object = MaybeUninit::uninit();
    let mut open = RedirectSkelBuilder::default().open(&mut object).map_err(bpf_error)?;
    let constants = open.maps.rodata_data.as_deref_mut();
    let constants = constants.ok_or_else(|| io::Error::other("the program has no constants"))?;
    (constants.lan_ifindex, constants.token) = (config.ifindex, config.token);
    let skel = open.load().map_err(bpf_error)?;
    let program = skel.progs.redirect.as_fd();
    if method != Some(Method::Clsact) {
        match Link::tcx(program, device, TcxHook::Ingress) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && method.is_none() => {}
            link => return link.map(Some),
        }
    }
    let mut builder = TcHookBuilder::new(program);
    let mut hook = builder.ifindex(device as i32).handle(1).priority(1).hook(TC_INGRESS);
    hook.create().and_then(|mut hook| hook.attach()).map_err(bpf_error)?;
    Ok(None)
}
