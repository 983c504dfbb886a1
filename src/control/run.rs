//! `run`: preflight, gateways up, events until a signal, gateways down.

mod events;
#[cfg(test)]
mod flags;
mod follow;
mod reload;
pub mod scope;
mod takeover;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, never, select, tick, unbounded};
use signal_hook::consts::SIGHUP;
use thiserror::Error;

use super::capture::Captures;
use super::conntrack::{self, Exemption};
use super::finding::{Finding, Level};
use super::follow::Follower;
use super::gateway::{Gateway, GatewayError, Shared};
use super::publish::Published;
use super::tunnels::Seen;
use super::{preflight, service};
use crate::config::{Notrack, Plan};
use crate::ipsec::scope::Table;
use crate::net::addresses::Changes;
use crate::observe::request::Outcome;
use crate::observe::server::ServerError;
use crate::observe::snapshot::Snapshot;
use crate::packet::{Idents, Tcp, Transform, ident};
use crate::worker::tap::Tap;
use crate::worker::{Notifier, WorkerEnd, privileges};
use crate::xdp::IdentMap;
use takeover::Predecessors;

pub use reload::Source;

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
    /// The address of `--metrics` cannot be had.
    #[error(
        "--metrics {address}: {source}; give an address of this machine and a free port, such as 127.0.0.1:9435"
    )]
    Metrics {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file of `--capture` cannot be written.
    #[error("--capture {path}: {why}", path = path.display())]
    Capture {
        /// What was asked for.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No instance can be replaced; the one that runs goes on.
    #[error("--replace: {0}")]
    Replace(String),
    /// A set-up call failed.
    #[error("{step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No interface is left to serve: the last has no worker left, or is gone itself.
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

/// Serves the plan's interfaces until SIGINT or SIGTERM, and leaves them as they were; on SIGHUP reads the plan
/// again from `source`. `say` gets lines for the user, the last of the start-up with the word `forwarding`.
///
/// # Errors
/// [`RunError`] if it could not begin to forward.
pub fn run(plan: &Plan, source: Source<'_>, say: &dyn Fn(&str)) -> Result<Ended, RunError> {
    let mut running = Running::start(plan, say)?;
    let result = running.serve(source, say);
    Ok(Ended { snapshot: running.stop(), result })
}

struct Running {
    // Dropped before the gateways, whose counters it reads.
    published: Option<Published>,
    gateways: Gateways,
    signals: Receiver<i32>,
    changes: Receiver<Changes>,
    /// Changes that could not be looked at, and when to try again.
    unread: Changes,
    again: Receiver<Instant>,
    follower: Follower,
    /// What has been said to be in scope, one per gateway.
    said: Vec<Table>,
    plan: Plan,
    ended: Receiver<WorkerEnd>,
    /// One per gateway.
    exemptions: Vec<Exemption>,
    /// Fires when a reassembly time is over.
    interval: Receiver<Instant>,
    shared: Shared,
    idents: Arc<Idents>,
    /// What `--notify` needs, used or not.
    notifier: io::Result<Arc<Notifier>>,
    started: Instant,
    /// The instance that takes over, and waits for the interfaces.
    successor: Option<UnixStream>,
}

impl Running {
    fn start(plan: &Plan, say: &dyn Fn(&str)) -> Result<Running, RunError> {
        // Before anything is changed, so that a signal during the start is not missed.
        let signals =
            events::signals().map_err(|source| RunError::System { step: "catching signals", source })?;
        let predecessors = Predecessors::find(plan)?;
        for interface in &plan.interfaces {
            refuse_or_warn(interface, plan, predecessors.serve(interface), say)?;
        }
        // Before the addresses are read, so that no change is missed.
        let changes =
            events::monitor().map_err(|source| RunError::System { step: "watching interfaces", source })?;
        let mut follower = Follower::start(plan).map_err(|source| RunError::System {
            step: match plan.auto {
                Some(_) => {
                    "--mtu auto: watching the kernel's IPsec (XFRM: modprobe xfrm_user; needs CAP_NET_ADMIN)"
                }
                None => "watching routes and rules (needs CAP_NET_ADMIN)",
            },
            source,
        })?;
        // Even without `--notify`, for a reload may ask for it when nobody may open it any more.
        let notifier = Notifier::open().map(Arc::new);
        let notifies =
            asked(plan, &notifier).map_err(|source| RunError::System { step: "--notify", source })?;
        let map = IdentMap::new().map(Arc::new).map_err(|error| RunError::System {
            step: "making the map of identifications",
            source: io::Error::other(error),
        })?;
        let counters = Arc::clone(&map);
        let idents = Arc::new(Idents::shared(plan.id_partition, counters));
        let transform =
            Transform { df: plan.treatment.df, tcp: plan.treatment.tcp, idents: Arc::clone(&idents) };
        let interval = tick(Duration::from_secs(ident::REASSEMBLY_SECS));
        let (end, ended) = unbounded();
        let tap = Arc::new(Tap::default());
        let captures = Captures::new(Arc::clone(&tap), &plan.interfaces);
        if let Some(path) = &plan.capture {
            captures.to_file(path)?;
        }
        let shared = Shared { transform, ident_map: map, notifier: notifies, tap, ended: end };
        let load = |interface: &String| Gateway::load(interface, plan, &shared);
        let mut gateways = plan.interfaces.iter().map(load).collect::<Result<Vec<_>, GatewayError>>()?;
        // What cannot be read now is read after the start, and said then.
        let _ = follower.look(plan, |tunnels, machine| {
            let exempt = conntrack::Exempt::new();
            let seen = Seen { tunnels, machine, exempt: &exempt, tap: plan.handback.may_be_tap() };
            gateways.iter_mut().try_for_each(|gateway| gateway.follow(&seen))
        });
        for (gateway, interface) in gateways.iter_mut().zip(&plan.interfaces) {
            if predecessors.serve(interface) {
                gateway.prepare(plan, &shared, say)?;
            }
        }
        predecessors.let_go(say)?;
        let mut workers = 0;
        for gateway in &mut gateways {
            workers += gateway.start(plan, &shared, workers, say)?;
        }
        let gateways: Gateways = Arc::new(Mutex::new(gateways));
        let fragmented = plan.treatment.tcp == Tcp::Fragment;
        let exemption = |interface: &String| Exemption::new(interface, plan.notrack, fragmented);
        let exemptions = plan.interfaces.iter().map(exemption).collect();
        let started = Instant::now();
        let observed = (Arc::clone(&gateways), Arc::clone(&idents));
        // All is open; threads that start from here on have no more than is kept.
        if let Err(error) = privileges::lower_but_loading() {
            say(&format!("warning: privileges are kept that are needed no more: {error}"));
        }
        let published =
            Published::start(plan, captures, move || snapshot(&lock(&observed.0), &observed.1, started))?;
        if let Some(line) = published.describe() {
            say(&line);
        }
        for warning in &plan.warnings {
            say(&format!("warning: {warning}"));
        }
        for line in scope::lines(plan) {
            say(&line);
        }
        let mut running = Running {
            published: Some(published),
            gateways,
            signals,
            changes,
            unread: Changes::default(),
            again: never(),
            follower,
            said: vec![Table::default(); plan.interfaces.len()],
            plan: plan.clone(),
            ended,
            exemptions,
            interval,
            shared,
            idents,
            notifier,
            started,
            successor: None,
        };
        running.follow_machine(say);
        let forwarding = running.describe();
        say(&forwarding);
        service::ready(&forwarding);
        Ok(running)
    }

    /// Handles what happens until a signal asks for the end.
    fn serve(&mut self, source: Source<'_>, say: &dyn Fn(&str)) -> Result<(), RunError> {
        let watchdog = service::due();
        let programs = tick(follow::RETRY);
        let reloads = self.published.as_ref().map_or_else(never, |published| published.reloads.clone());
        let successors = self.published.as_ref().map_or_else(never, |published| published.successors.clone());
        loop {
            select! {
                recv(self.signals) -> signal => match signal {
                    Ok(SIGHUP) => drop(self.reload(source, say)),
                    _ => return Ok(()),
                },
                recv(reloads) -> client => if let Ok(client) = client {
                    // A client that is gone knows where the log is.
                    let _ = client.send(self.reload(source, say));
                },
                recv(successors) -> client => if let Ok(client) = client {
                    say("replaced by another instance, which takes over");
                    self.successor = Some(client);
                    return Ok(());
                },
                recv(self.ended) -> end => if let Ok(end) = end { self.worker_ended(&end, say)? },
                recv(watchdog) -> _ => if lock(&self.gateways).iter().all(Gateway::beats) { service::alive() },
                recv(self.interval) -> _ => self.end_interval(say),
                recv(self.follower.news) -> news => match news {
                    Ok(()) => self.follower.changed(),
                    Err(_) => return Err(RunError::Lost("the kernel ended the watch on tunnels".into())),
                },
                recv(self.follower.pace.due) -> _ => self.follow_machine(say),
                recv(programs) -> _ => self.follow_programs(say)?,
                recv(self.again) -> _ => self.follow(Changes::default(), say)?,
                recv(self.follower.rules) -> news => match news {
                    Ok(()) => self.follower.rules_changed(),
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

    fn worker_ended(&mut self, end: &WorkerEnd, say: &dyn Fn(&str)) -> Result<(), RunError> {
        let WorkerEnd { interface, queue, result } = end;
        let cause = match result {
            // Told to end: at the end, or for another to take its place.
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        };
        let left = match lock(&self.gateways).iter().find(|gateway| gateway.name() == interface) {
            Some(gateway) if gateway.serves() => gateway.worker_ended(*queue, say),
            _ => return Ok(()),
        };
        if left == 0 {
            return self.give_up(interface, &format!("no worker is left: queue {queue}: {cause}"), say);
        }
        say(&format!(
            "{interface}: warning: the worker of queue {queue} ended ({cause}); its frames pass to the kernel untouched, \
             {left} workers are left"
        ));
        Ok(())
    }

    /// Leaves the interface to the kernel, and goes on with the others.
    ///
    /// # Errors
    /// If there is none.
    fn give_up(&mut self, interface: &str, why: &str, say: &dyn Fn(&str)) -> Result<(), RunError> {
        let mut gateways = lock(&self.gateways);
        let pairs = gateways.iter_mut().zip(&mut self.exemptions);
        for (gateway, exemption) in pairs.filter(|(gateway, _)| gateway.name() == interface) {
            gateway.give_up();
            // In place of the one that may have a table, which goes with it.
            *exemption = Exemption::new(interface, Notrack::Off, false);
        }
        if !gateways.iter().any(Gateway::serves) {
            return Err(RunError::Lost(format!("{interface}: {why}")));
        }
        drop(gateways);
        say(&format!(
            "{interface}: warning: {why}: it is not served any more, the other interfaces are; a restart serves it again"
        ));
        service::status(&self.describe());
        Ok(())
    }

    /// What is served, in one line.
    fn describe(&self) -> String {
        let gateways = lock(&self.gateways);
        let served: Vec<_> =
            gateways.iter().filter(|gateway| gateway.serves()).map(Gateway::describe).collect();
        format!("forwarding on {}", served.join(", "))
    }

    fn stop(mut self) -> Snapshot {
        service::stopping();
        self.published = None;
        let mut gateways = lock(&self.gateways);
        if let Some(mut successor) = self.successor.take() {
            gateways.iter_mut().for_each(Gateway::release);
            self.exemptions.clear();
            // It waits for a socket or a device that is there a moment longer.
            let outcome = Outcome { ok: true, message: "the interfaces are free".into() };
            // A successor that is gone has said so where it was started; this instance was told to end.
            let _ = serde_json::to_writer(&successor, &outcome).map(|()| successor.flush());
        }
        gateways.iter_mut().for_each(Gateway::stop);
        snapshot(&gateways, &self.idents, self.started)
    }
}

/// The notifier, if `plan` asks for it.
fn asked(plan: &Plan, notifier: &io::Result<Arc<Notifier>>) -> io::Result<Option<Arc<Notifier>>> {
    match (plan.notify, notifier) {
        (false, _) => Ok(None),
        (true, Ok(notifier)) => Ok(Some(Arc::clone(notifier))),
        (true, Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
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

/// `taken_over` from an instance whose program is in the XDP slot until then.
fn refuse_or_warn(
    interface: &str,
    plan: &Plan,
    taken_over: bool,
    say: &dyn Fn(&str),
) -> Result<(), RunError> {
    let mut findings = preflight::check(interface, &plan.into());
    findings.retain(|finding| !(taken_over && finding.what == preflight::XDP_SLOT));
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
