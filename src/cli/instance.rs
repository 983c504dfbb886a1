//! Which running instance a command is for.

use std::collections::BTreeMap;

use anyhow::Context;

use super::Failure;
use crate::observe::client;

/// The interface asked for, or one of the only instance.
pub(super) fn find(asked: Option<&str>) -> Result<String, Failure> {
    asked.map_or_else(the_only_instance, |interface| Ok(interface.to_owned()))
}

/// An interface of the only instance in this network namespace.
fn the_only_instance() -> Result<String, Failure> {
    let interfaces = client::interfaces().context("cannot list the sockets of this network namespace")?;
    let [first, others @ ..] = interfaces.as_slice() else {
        let message =
            "no xdpfrag runs in this network namespace; start one with: xdpfrag run --iface IF --mtu BYTES";
        return Err(Failure::Running(anyhow::anyhow!(message)));
    };
    if others.is_empty() {
        return Ok(first.clone());
    }
    // One instance may serve several interfaces. One that does not answer counts as another.
    let instances: BTreeMap<_, _> = interfaces
        .iter()
        .map(|interface| (client::fetch(interface).map(|snapshot| snapshot.pid).ok(), interface))
        .collect();
    match instances.len() {
        1 => Ok(first.clone()),
        _ => Err(Failure::Usage(format!(
            "several instances run in this network namespace; choose one with --iface: {}",
            interfaces.join(", ")
        ))),
    }
}
