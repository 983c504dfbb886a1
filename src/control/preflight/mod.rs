//! Looks before `run` leaps: everything that can be known without changing anything.

mod interface;
mod kind;
mod machine;
mod offloads;
mod slot;
mod stack;
mod tunnels;
mod virtio;
mod ways;

use ipnet::IpNet;

pub use machine::may_administer_network;
pub use ways::ways;

use super::finding::Finding;
use crate::config::{Choice, HandbackChoice, Mode, Notrack, Plan};
use crate::net::links;

/// What findings about the interface's place for an XDP program are called.
pub const XDP_SLOT: &str = "XDP slot";

/// What `run` is going to ask of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// SA MTUs of all prefixes, bytes; empty if not known yet.
    pub mtus: Vec<u16>,
    /// `--mtu auto`.
    pub auto: bool,
    /// `--handback`.
    pub handback: HandbackChoice,
    /// `--queues`; `None` for all.
    pub queues: Option<Vec<u32>>,
    /// `--cores`; `None` for the default.
    pub cores: Option<Vec<usize>>,
    /// `--mode`.
    pub mode: Mode,
    /// `--zero-copy`.
    pub zero_copy: Choice,
    /// Destinations in scope; empty for all.
    pub scope: Vec<IpNet>,
    /// `--notrack`.
    pub notrack: Notrack,
    /// An instance is about to start: one that serves the interface is in its way. Else it is as it should be.
    pub start: bool,
}

impl From<&Plan> for Options {
    /// For a start of this plan.
    fn from(plan: &Plan) -> Options {
        let by_hand = plan.treatment.scope.iter().map(|(prefix, _)| *prefix);
        Options {
            mtus: plan.treatment.scope.iter().map(|(_, rule)| rule.mtu).collect(),
            auto: plan.auto.is_some(),
            handback: plan.handback,
            queues: plan.queues.clone(),
            cores: plan.cores.clone(),
            mode: plan.mode,
            zero_copy: plan.zero_copy,
            scope: match &plan.auto {
                Some(auto) if auto.within.is_empty() => Vec::new(),
                Some(auto) => auto.within.iter().copied().chain(by_hand).collect(),
                None => by_hand.collect(),
            },
            notrack: plan.notrack,
            start: true,
        }
    }
}

/// Checks this machine and `interface`, in the network namespace of the calling thread.
///
/// What could not be looked at is a finding too.
pub fn check(interface: &str, options: &Options) -> Vec<Finding> {
    let mut findings = machine(options);
    findings.extend(self::interface(interface, options));
    findings
}

/// Checks what is the same for all interfaces.
pub fn machine(options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    machine::kernel(options, &mut findings);
    machine::privileges(&mut findings);
    machine::sockets(&mut findings);
    machine::tap(options, &mut findings);
    machine::cores(options, &mut findings);
    if options.auto {
        tunnels::check(&mut findings);
    }
    findings
}

/// Checks `name` alone.
pub fn interface(name: &str, options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    let link = match links::find(name) {
        Ok(Some(link)) => link,
        Ok(None) => {
            let why = format!("there is no interface {name} in this network namespace");
            findings.push(Finding::fatal("interface", why).remedy("ip -br link  # shows the names"));
            return findings;
        }
        Err(error) => {
            let why = format!("the kernel does not answer for {name}: {error}");
            findings.push(Finding::fatal("interface", why));
            return findings;
        }
    };
    if !kind::check(&link, &mut findings) {
        return findings;
    }
    interface::state(&link, &mut findings);
    findings.push(slot::check(&link, options.start));
    let queues = interface::queues(&link, options, &mut findings);
    machine::locked_memory(queues, &mut findings);
    interface::driver(&link, options, &mut findings);
    interface::mtu(&link, options, &mut findings);
    offloads::check(&link, options, queues, &mut findings);
    stack::check(&link, options, &mut findings);
    findings
}

/// Checks the SA MTUs of a plan that is to replace another on `interface`.
pub fn mtus(interface: &str, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    // An interface that is gone ends the run anyway.
    if let Ok(Some(link)) = links::find(interface) {
        interface::mtu(&link, &plan.into(), &mut findings);
    }
    findings
}
