//! `run`: preflight, gateways up, events until a signal, gateways down.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, select, tick, unbounded};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use super::conntrack::{self, Exemption};
use super::finding::{Finding, Level};
use super::gateway::{Gateway, GatewayError, Shared};
use super::preflight;
use crate::config::Plan;
use crate::net::addresses::{Changes, Monitor};
use crate::net::nft;
use crate::observe::server::{Server, ServerError};
use crate::observe::snapshot::Snapshot;
use crate::packet::{Idents, Tcp, Transform, ident};
use crate::worker::{Notifier, WorkerEnd};

/// Why `run` did not end as asked.
#[derive(Debug, Error)]
pub enum RunError {
    /// The preflight check found reasons to refuse. Nothing was changed.
    #[error("{}", lines(.0))]
    Refused(Vec<Finding>),
    /// A step of bringing a gateway up failed. What had been done is undone.
    #[error(transparent)]
    Setup(#[from] GatewayError),
    /// The statistics socket is taken.
    #[error(transparent)]
    Statistics(#[from] ServerError),
    /// A set-up call failed.
    #[error("{step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface has no worker left, or is gone itself.
    #[error("{0}")]
    Lost(String),
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

type Gateways = Arc<Mutex<Vec<Gateway>>>;

/// How forwarding ended.
#[derive(Debug)]
pub struct Ended {
    /// Taken when all frames were handed back.
    pub snapshot: Snapshot,
    /// `Ok` if a signal asked for the end.
    pub result: Result<(), RunError>,
}

/// Serves the plan's interfaces until SIGINT or SIGTERM, and leaves them as they were. `say` gets lines for
/// the user, the last of the start-up with the word `forwarding`.
///
/// # Errors
/// [`RunError`] if it could not begin to forward.
pub fn run(plan: &Plan, say: &dyn Fn(&str)) -> Result<Ended, RunError> {
    let mut running = Running::start(plan, say)?;
    let result = running.serve(say);
    Ok(Ended { snapshot: running.stop(), result })
}

struct Running {
    // Dropped before the gateways, whose counters it reads.
    server: Option<Server>,
    gateways: Gateways,
    signals: Receiver<i32>,
    changes: Receiver<Changes>,
    ended: Receiver<WorkerEnd>,
    exemptions: Vec<Exemption>,
    scope: Vec<IpNet>,
    /// Rules or policies have changed.
    rules: Receiver<()>,
    /// Fires when a reassembly time is over.
    interval: Receiver<Instant>,
    idents: Arc<Idents>,
    started: Instant,
}

impl Running {
    fn start(plan: &Plan, say: &dyn Fn(&str)) -> Result<Running, RunError> {
        // Before anything is changed, so that a signal during the start is not missed.
        let signals = signals().map_err(|source| RunError::System { step: "catching signals", source })?;
        for interface in &plan.interfaces {
            refuse_or_warn(interface, plan, say)?;
        }
        // Before the addresses are read, so that no change is missed.
        let changes = monitor().map_err(|source| RunError::System { step: "watching interfaces", source })?;
        let notifier = match plan.notify {
            true => {
                let open = Notifier::open();
                Some(Arc::new(open.map_err(|source| RunError::System { step: "--notify", source })?))
            }
            false => None,
        };
        let idents = Arc::new(Idents::partitioned(plan.id_partition));
        let transform =
            Transform { df: plan.treatment.df, tcp: plan.treatment.tcp, idents: Arc::clone(&idents) };
        let interval = tick(Duration::from_secs(ident::REASSEMBLY_SECS));
        let (end, ended) = unbounded();
        let shared = Shared { transform, notifier, ended: end };
        let gateways = plan
            .interfaces
            .iter()
            .map(|interface| Gateway::start(interface, plan, &shared, say))
            .collect::<Result<Vec<_>, _>>()?;
        let gateways: Gateways = Arc::new(Mutex::new(gateways));
        let rules = rules().map_err(|source| RunError::System { step: "watching nftables", source })?;
        let fragmented = plan.treatment.tcp == Tcp::Fragment;
        let exemption = |interface: &String| Exemption::new(interface, plan.notrack, fragmented);
        let mut exemptions: Vec<_> = plan.interfaces.iter().map(exemption).collect();
        let scope: Vec<_> = plan.treatment.scope.iter().map(|(prefix, _)| *prefix).collect();
        for exemption in &mut exemptions {
            exemption.follow(&scope, say);
        }
        let started = Instant::now();
        let observed = (Arc::clone(&gateways), Arc::clone(&idents));
        let server =
            Server::start(&plan.interfaces, move || snapshot(&lock(&observed.0), &observed.1, started))?;
        for warning in &plan.warnings {
            say(&format!("warning: {warning}"));
        }
        for (prefix, rule) in &plan.treatment.scope {
            let (family, mss) = match prefix {
                IpNet::V4(_) => ("IPv4", rule.mss4),
                IpNet::V6(_) => ("IPv6", rule.mss6),
            };
            let mss = mss.map_or("MSS left alone".into(), |mss| format!("MSS {mss}"));
            say(&format!("scope: {family} to {prefix}, SA MTU {}, {mss}", rule.mtu));
        }
        let served: Vec<_> = lock(&gateways).iter().map(Gateway::describe).collect();
        say(&format!("forwarding on {}", served.join(", ")));
        Ok(Running {
            server: Some(server),
            gateways,
            signals,
            changes,
            ended,
            exemptions,
            scope,
            rules,
            interval,
            idents,
            started,
        })
    }

    /// Handles what happens until a signal asks for the end.
    fn serve(&mut self, say: &dyn Fn(&str)) -> Result<(), RunError> {
        loop {
            select! {
                recv(self.signals) -> _ => return Ok(()),
                recv(self.ended) -> end => if let Ok(end) = end { self.worker_ended(&end, say)? },
                recv(self.interval) -> _ => self.end_interval(say),
                recv(self.rules) -> news => match news {
                    Ok(()) => self.exemptions.iter_mut().for_each(|one| one.follow(&self.scope, say)),
                    Err(_) => return Err(RunError::Lost("the kernel ended the watch on nftables".into())),
                },
                recv(self.changes) -> changes => match changes {
                    Ok(changes) => self.follow(changes, say)?,
                    Err(_) => return Err(RunError::Lost("the kernel ended the watch on interfaces".into())),
                },
            }
        }
    }

    /// Says so if identifications were used again while a receiver may have waited for fragments.
    fn end_interval(&self, say: &dyn Fn(&str)) {
        let before = self.idents.wrap_risk();
        self.idents.end_of_interval();
        match self.idents.wrap_risk() - before {
            0 => {}
            reused => say(&format!(
                "warning: {reused} IPv4 identifications were used again within {} s: a receiver that loses a \
                 fragment may mix datagrams; --tcp resegment needs none",
                ident::REASSEMBLY_SECS
            )),
        }
    }

    fn worker_ended(&self, end: &WorkerEnd, say: &dyn Fn(&str)) -> Result<(), RunError> {
        let WorkerEnd { interface, queue, result } = end;
        let cause = match result {
            Ok(()) => "was stopped".into(),
            Err(error) => error.to_string(),
        };
        let gateways = lock(&self.gateways);
        let Some(gateway) = gateways.iter().find(|gateway| gateway.name() == interface) else {
            return Ok(());
        };
        match gateway.worker_ended(*queue)? {
            0 => Err(RunError::Lost(format!("{interface}: no worker is left: queue {queue}: {cause}"))),
            left => {
                say(&format!(
                    "{interface}: the worker of queue {queue} ended ({cause}); its frames pass to the kernel \
                     untouched, {left} workers are left"
                ));
                Ok(())
            }
        }
    }

    fn follow(&mut self, changes: Changes, say: &dyn Fn(&str)) -> Result<(), RunError> {
        if changes.links {
            self.exemptions.iter_mut().for_each(|one| one.follow(&self.scope, say));
        }
        for gateway in lock(&self.gateways).iter_mut() {
            if changes.addresses {
                gateway.follow_addresses()?;
            }
            if changes.links && !gateway.follow_link(say)? {
                return Err(RunError::Lost(format!("{}: the interface is gone", gateway.name())));
            }
        }
        Ok(())
    }

    fn stop(mut self) -> Snapshot {
        self.server = None;
        let mut gateways = lock(&self.gateways);
        for gateway in gateways.iter_mut() {
            gateway.stop();
        }
        snapshot(&gateways, &self.idents, self.started)
    }
}

/// A worker that panics does so outside the lock; a statistics thread that does leaves nothing half done.
fn lock(gateways: &Gateways) -> MutexGuard<'_, Vec<Gateway>> {
    gateways.lock().unwrap_or_else(PoisonError::into_inner)
}

fn snapshot(gateways: &[Gateway], idents: &Idents, started: Instant) -> Snapshot {
    Snapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: started.elapsed().as_secs_f64(),
        idents_reused: idents.wrap_risk(),
        interfaces: gateways.iter().map(Gateway::snapshot).collect(),
    }
}

fn refuse_or_warn(interface: &str, plan: &Plan, say: &dyn Fn(&str)) -> Result<(), RunError> {
    let findings = preflight::check(interface, &plan.into());
    let (fatal, rest): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.level == Level::Fatal);
    if !fatal.is_empty() {
        return Err(RunError::Refused(fatal));
    }
    // The exemption speaks for itself, once it is tried.
    let warning = |finding: &&Finding| finding.level == Level::Warning && finding.what != conntrack::WHAT;
    for finding in rest.iter().filter(warning) {
        say(&format!("{interface}: warning: {finding}"));
    }
    Ok(())
}

/// SIGINT and SIGTERM as messages. The thread lives as long as the process.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (send, receive) = bounded(1);
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if send.send(signal).is_err() {
                break;
            }
        }
    })?;
    Ok(receive)
}

/// Changes of rules and policies as messages. The thread lives as [`monitor`]'s does.
fn rules() -> io::Result<Receiver<()>> {
    let mut monitor = nft::Monitor::open()?;
    // One message may wait: it stands for all that has changed until it is read.
    let (send, receive) = bounded(1);
    thread::Builder::new().name("rules".into()).spawn(move || {
        while monitor.wait().is_ok() {
            if let Err(TrySendError::Disconnected(())) = send.try_send(()) {
                break;
            }
        }
    })?;
    Ok(receive)
}

/// Changes of addresses and interfaces as messages. The thread lives until the receiver is dropped and
/// something changes once more, or as long as the process.
fn monitor() -> io::Result<Receiver<Changes>> {
    let mut monitor = Monitor::open()?;
    let (send, receive) = unbounded();
    let watch = move |send: &Sender<Changes>| -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if send.send(monitor.changes()?).is_err() {
                return Ok(());
            }
        }
    };
    // The error closes the channel, which ends the run: nobody would know of new addresses.
    thread::Builder::new().name("monitor".into()).spawn(move || {
        let mut watch = watch;
        watch(&send)
    })?;
    Ok(receive)
}
