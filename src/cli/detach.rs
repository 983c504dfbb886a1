//! `detach`: removes what a killed instance may have left on an interface, and nothing else.

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{Failure, output};
use crate::config::values;
use crate::control::preflight;
use crate::net::links::{self, Link};
use crate::observe::client;
use crate::xdp::clamp;

/// The flags of `detach`.
#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// LAN interface to clean
    #[arg(long, value_name = "IF", value_parser = values::interface)]
    iface: String,

    /// Print what was removed as JSON
    #[arg(long)]
    json: bool,
}

/// `detach --json`.
#[derive(Serialize)]
struct Report<'a> {
    interface: &'a str,
    removed: Vec<String>,
}

pub(super) fn detach(args: &DetachArgs) -> Result<(), Failure> {
    let name = args.iface.as_str();
    let link = links::find(name)
        .with_context(|| format!("the kernel does not answer for {name}"))?
        .ok_or_else(|| Failure::Unfit(format!("there is no interface {name} here; see: ip -br link")))?;
    if !preflight::may_administer_network() {
        return Err(Failure::Unfit(format!(
            "CAP_NET_ADMIN is missing; try: sudo xdpfrag detach --iface {name}"
        )));
    }
    let served = client::interfaces().context("cannot list the sockets of this network namespace")?;
    if served.iter().any(|interface| interface == name) {
        let message = format!(
            "an instance serves {name}: end it first, its process is shown by: xdpfrag stats --iface {name}"
        );
        return Err(Failure::Usage(message));
    }
    let mut removed = Vec::new();
    if clamp::detach_leftover(link.index).map_err(anyhow::Error::new)? {
        removed.push(format!("the MSS clamp at the egress of {name}"));
    }
    for device in links::all().context("cannot list the interfaces")? {
        if is_handback_of(&device, link.index) {
            links::delete(device.index).with_context(|| format!("cannot delete {}", device.name))?;
            removed.push(format!("the hand-back device {}", device.name));
        }
    }
    if args.json {
        return output::print_json(&Report { interface: name, removed });
    }
    match removed.is_empty() {
        true => output::print(&format!("nothing of xdpfrag is left on {name}\n")),
        false => output::print(&format!("removed from {name}: {}\n", removed.join(", "))),
    }
}

/// A veth that `run` made for a queue of the interface with this index: `xdpfrag<index>q<queue>`, in hexadecimal.
fn is_handback_of(device: &Link, index: u32) -> bool {
    let queue = device.name.strip_prefix(&format!("xdpfrag{index:x}q")).unwrap_or_default();
    device.is("veth") && u32::from_str_radix(queue, 16).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_veths_of_this_interface_are_ours() {
        let device =
            |name: &str, kind: &str| Link { name: name.into(), kind: Some(kind.into()), ..Link::default() };
        assert!(is_handback_of(&device("xdpfrag7q0", "veth"), 7));
        assert!(is_handback_of(&device("xdpfrag186a0qa", "veth"), 100_000));
        assert!(!is_handback_of(&device("xdpfrag7q0", "dummy"), 7));
        assert!(!is_handback_of(&device("xdpfrag71q0", "veth"), 7));
        assert!(!is_handback_of(&device("xdpfrag7q", "veth"), 7));
        assert!(!is_handback_of(&device("xdpfrag-lan", "veth"), 7));
    }
}
