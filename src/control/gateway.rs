//! One LAN interface being served: brought up step by step, taken down in reverse.

mod error;
mod exchange;
mod late;
mod report;
mod slots;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;

use crossbeam::channel::Sender;
use ipnet::IpNet;

use super::scope::Applied;
use super::tunnels::{Found, Seen};
use crate::config::values::Mss;
use crate::config::{Auto, Plan, Scope, Treatment};
use crate::handback::{self, Chosen, Inject};
use crate::net::links::Link;
use crate::net::{addresses, ethtool, links};
use crate::packet::{Df, Tcp, Transform, Ways, ether};
use crate::worker::tap::Tap;
use crate::worker::{Notifier, Posted, Settings, Worker, WorkerEnd};
use crate::xdp::{
    Attached, ClampLink, ClampProgram, FrameLimits, IdentMap, LanConfig, LanProgram, LateLink, LateProgram,
    Least, XdpMode,
};

use late::Gro;
use workers::Hall;

pub use error::GatewayError;

/// Longest packet that a hand-back carries, bytes: so long are the fragments where an SA MTU is longer.
const LONGEST_MTU: u16 = (handback::inject::MAX_FRAME - ether::MAX_HEADER_LEN) as u16;

/// Why an interface is not served any more.
const GONE: &str = "the interface is gone";

/// What the gateways of a run share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What happens to packets, with one stock of identifications.
    pub transform: Transform,
    /// Where these are counted.
    pub ident_map: Arc<IdentMap>,
    /// `--notify`.
    pub notifier: Option<Arc<Notifier>>,
    /// Where frames are captured.
    pub tap: Arc<Tap>,
    /// Where each worker's last message goes.
    pub ended: Sender<WorkerEnd>,
}

/// A LAN interface that is being served.
///
/// Fields are dropped in the order of their declaration: first the XDP link, so that the kernel gets every
/// frame from then on, then the workers, which hand back what their rings still hold.
#[derive(Debug)]
pub struct Gateway {
    xdp: Option<Attached>,
    workers: Vec<Worker>,
    hall: Hall,
    /// What every worker can take.
    limits: FrameLimits,
    /// Live frames for queues that may come.
    reserve: Vec<Inject>,
    /// Queues for which no worker could be had.
    unserved: BTreeSet<u32>,
    late_link: Option<LateLink>,
    late: Option<LateProgram>,
    /// What GRO did when it was settled what is left to the kernel; `None` where nothing depends on it.
    gro: Option<Gro>,
    clamp_link: Option<ClampLink>,
    clamp: ClampProgram,
    program: LanProgram,
    link: Link,
    mode: XdpMode,
    handback: &'static str,
    /// Opened before the workers that they are for, by queue.
    handbacks: BTreeMap<u32, Chosen>,
    treatment: Arc<Treatment>,
    auto: Option<Auto>,
    /// Tells the programs what comes from this gateway itself.
    token: u64,
    /// What is in the maps.
    applied: Applied,
    /// What the workers go by.
    settings: Posted,
    /// What the scope was made of.
    found: Found,
    /// Given up: its interface or all of its workers are gone. What it counted stays.
    lost: bool,
}

impl Gateway {
    /// Loads the programs for `interface`, in the network namespace of the calling thread, and tells them their scope.
    /// Nothing is attached yet: the interface may be another instance's.
    ///
    /// # Errors
    /// [`GatewayError`]; everything done so far is undone.
    pub fn load(interface: &str, plan: &Plan, shared: &Shared) -> Result<Gateway, GatewayError> {
        let link = find(interface)?;
        let treatment = Arc::new(plan.treatment.clone());
        let base = LanConfig {
            flow_seed: shared.transform.idents.seed(),
            partition: shared.transform.idents.partition(),
            queues: link.rx_queues,
            lan_mtu: link.mtu,
            ..LanConfig::default()
        };
        let program = LanProgram::load(&exchange::constants(plan, base), &shared.ident_map)?;
        let clamp = ClampProgram::load(program.route_maps())?;
        let settings = Settings {
            notifier: shared.notifier.clone(),
            stall: plan.stall,
            ..Settings::new(shared.transform.clone(), Scope::default())
        };
        let mut gateway = Gateway {
            mode: XdpMode::Native,
            xdp: None,
            workers: Vec::new(),
            hall: Hall::default(),
            limits: FrameLimits { receive: u32::MAX, whole: u32::MAX },
            reserve: Vec::new(),
            unserved: BTreeSet::new(),
            late_link: None,
            late: None,
            gro: None,
            clamp_link: None,
            clamp,
            program,
            link,
            handback: "",
            handbacks: BTreeMap::new(),
            treatment,
            auto: plan.auto.clone(),
            token: random(),
            applied: Applied::default(),
            settings: Posted::new(settings),
            found: Found::default(),
            lost: false,
        };
        // Until it is known what meets these packets.
        gateway.apply(Scope::from(&plan.treatment).by(Ways::PASS))?;
        Ok(gateway)
    }

    /// Serves the interface; the workers of other interfaces have the first `taken` cores already. Answers how many
    /// workers this one has. `say` gets lines for the user.
    ///
    /// # Errors
    /// [`GatewayError`]; dropping the gateway undoes everything.
    pub fn start(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        taken: usize,
        say: &dyn Fn(&str),
    ) -> Result<usize, GatewayError> {
        let interface = self.name().to_owned();
        self.follow_addresses()?;
        let own_queues = ethtool::rx_queues(&self.link);
        // Attached while its map of sockets is empty, it passes everything. Some drivers change their
        // number of queues now (virtio-net), so that they are counted afterwards.
        let attached = self.program.attach(self.link.index, plan.mode)?;
        if let Some(why) = &attached.fallback {
            say(&format!(
                "{interface}: warning: generic XDP, because the driver cannot do it natively ({why})"
            ));
        }
        (self.mode, self.xdp) = (attached.mode, Some(attached));
        if let Some(limit) = self.limit(plan) {
            say(&limit);
        }
        if self.handback_for(plan) != plan.handback {
            say(&format!(
                "{interface}: warning: --handback inject instead of tap: generic XDP would see packets again that the \
                 kernel has not cut yet"
            ));
        }
        // Begun before where another instance served the interface.
        if self.late_link.is_none() || self.mode == XdpMode::Generic {
            self.start_late(plan, shared, say)?;
        }
        let live = self.program.live();
        shared.tap.on_change(move |captured| {
            if let Err(error) = live.keep_from_late(captured) {
                tracing::warn!("a capture cannot have what the kernel makes fit by itself: {error}");
            }
        });
        self.start_workers(plan, shared, own_queues, taken, say)?;
        self.attach_clamp(plan)?;
        if let Some(link) = &self.clamp_link {
            say(&format!("{interface}: MSS clamped on the way to the LAN ({})", link.method().label()));
        }
        Ok(self.workers.len())
    }

    /// Does what can be done while another instance serves the interface: opens hand-backs, and attaches the program
    /// behind GRO. It makes fit what comes while neither instance has its XDP program attached.
    ///
    /// # Errors
    /// As [`start`](Gateway::start).
    pub fn prepare(&mut self, plan: &Plan, shared: &Shared, say: &dyn Fn(&str)) -> Result<(), GatewayError> {
        self.follow_addresses()?;
        self.start_late(plan, shared, say)?;
        self.open_handbacks(plan)
    }

    /// Lowers the MSS on the way to the LAN, if `plan` has anything to lower.
    fn attach_clamp(&mut self, plan: &Plan) -> Result<(), GatewayError> {
        let clamped = plan.treatment.scope.iter().any(|(_, rule)| rule.mss4.or(rule.mss6).is_some());
        let wanted = clamped || plan.auto.as_ref().is_some_and(|auto| auto.mss != Mss::Off);
        if wanted && self.clamp_link.is_none() {
            self.clamp_link = Some(self.clamp.attach(self.link.index)?);
        }
        Ok(())
    }

    /// What `plan` asks for and generic XDP cannot do. Whoever names neither IPv6 nor --df keep has not asked for it.
    pub(super) fn limit(&self, plan: &Plan) -> Option<String> {
        let Treatment { scope, df, tcp } = &plan.treatment;
        let names_ipv6 = scope.iter().any(|(prefix, _)| prefix.addr().is_ipv6() && prefix.prefix_len() > 0);
        let asked = *tcp == Tcp::Resegment && (*df == Df::Keep || names_ipv6);
        (self.mode == XdpMode::Generic && asked).then(|| {
            format!(
                "{}: with generic XDP what may not be fragmented (IPv6, --df keep) is not resegmented either: a \
                 segment given back as it is would be seen again",
                self.name()
            )
        })
    }

    /// What is in scope at this moment.
    fn scope_now(&self) -> Scope {
        self.applied.scope().clone()
    }

    /// Destination prefixes in scope now.
    pub fn prefixes(&self) -> Vec<IpNet> {
        let scope = self.applied.scope().0.iter();
        let served = scope.filter(|(_, sources)| sources.values().any(Option::is_some));
        served.map(|(prefix, _)| *prefix).collect()
    }

    /// Name of the LAN interface.
    pub fn name(&self) -> &str {
        &self.link.name
    }

    /// Passes packets to the addresses that this machine has now.
    ///
    /// # Errors
    /// If they cannot be read, or a map is full; the call can be made again.
    pub fn follow_addresses(&mut self) -> Result<(), GatewayError> {
        let now = addresses::local().map_err(|source| self.unread(source))?;
        Ok(self.applied.follow_addresses(&self.program, now)?)
    }

    /// Changes what is in scope, under traffic. Workers serve both scopes before the XDP program changes from one to the
    /// other: a driver without metadata leaves it to them to know what the program sent a frame for.
    ///
    /// # Errors
    /// If a map is full; the call can be made again, and workers serve both until then.
    pub fn apply(&mut self, scope: Scope) -> Result<(), GatewayError> {
        let now = self.settings.now();
        let changes = *now.scope != scope || now.before.is_some();
        let after = Settings { scope: Arc::new(scope), before: None, ..now };
        if changes {
            // Not waited for: each worker looks before it takes the next frames.
            let before = Some(Arc::new(self.applied.scope().clone()));
            self.settings.change(Settings { before, ..after.clone() });
        }
        let (old, new) = (least(self.applied.scope()), least(&after.scope));
        self.program.set_least(Least { any: old.any.min(new.any), worked: old.worked.min(new.worked) })?;
        self.applied.apply(&self.program, &after.scope)?;
        self.program.set_least(new)?;
        if changes {
            self.settings.change(after);
        }
        Ok(())
    }

    /// Serves what is in scope of the machine as it was `seen`, by the ways that it leaves.
    ///
    /// # Errors
    /// If the kernel does not answer for a route, or a map is full.
    pub fn follow(&mut self, seen: &Seen<'_>) -> Result<(), GatewayError> {
        let found = self.find(seen, self.auto.as_ref(), &self.treatment)?;
        self.apply(found.scope.clone())?;
        self.found = found;
        Ok(())
    }

    fn find(
        &self,
        seen: &Seen<'_>,
        auto: Option<&Auto>,
        treatment: &Treatment,
    ) -> Result<Found, GatewayError> {
        // Not known before the workers have theirs.
        let tap = self.mode == XdpMode::Native && matches!(self.handback, "" | "tap");
        let seen = Seen { tap: seen.tap && tap, ..*seen };
        let handed_back = self.limits.whole.saturating_sub(ether::MAX_HEADER_LEN as u32);
        let longest = u32::from(LONGEST_MTU).min(handed_back) as u16;
        seen.scope(&self.link, auto, treatment, longest).map_err(|source| self.unread(source))
    }

    /// What the scope was made of.
    pub fn found(&self) -> &Found {
        &self.found
    }

    fn unread(&self, source: io::Error) -> GatewayError {
        GatewayError::Netlink { interface: self.name().to_owned(), source }
    }

    /// Takes note of a changed MTU, offloads or queues of the interface; answers why the interface cannot be served any
    /// more, if it cannot.
    ///
    /// # Errors
    /// If it cannot be read, or the program cannot be told; the call can be made again.
    pub fn follow_link(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        say: &dyn Fn(&str),
    ) -> Result<Option<String>, GatewayError> {
        let Some(link) = self.current()? else { return Ok(Some(GONE.to_owned())) };
        if link.mtu != self.link.mtu {
            self.program.set_lan_mtu(link.mtu)?;
            say(&format!("{}: MTU is {} now, was {}", link.name, link.mtu, self.link.mtu));
        }
        let raised = link.mtu > self.link.mtu;
        self.link = link;
        if raised {
            self.follow_mtu(say);
        }
        self.follow_device(plan, shared, say)
    }

    /// The interface as it is now; `None` if it is gone, another one of its name included.
    fn current(&self) -> Result<Option<Link>, GatewayError> {
        match find(self.name()) {
            Err(GatewayError::Gone(_)) => Ok(None),
            link => Ok(Some(link?).filter(|link| link.index == self.link.index)),
        }
    }

    /// Passes the frames of a worker that has ended to the kernel. Answers how many workers are left.
    pub fn worker_ended(&self, queue: u32, say: &dyn Fn(&str)) -> usize {
        if let Err(error) = self.program.unregister_socket(queue) {
            // The XDP program finds its heart silent all the same.
            say(&format!("{}: warning: {error}", self.name()));
        }
        self.workers.iter().filter(|worker| worker.queue() != queue && worker.alive()).count()
    }

    /// True until the interface is given up.
    pub fn serves(&self) -> bool {
        !self.lost
    }

    /// Gives the interface up, and keeps what was counted.
    pub fn give_up(&mut self) {
        self.lost = true;
        self.release();
    }

    /// Detaches, and tells the workers to hand back what their rings still hold and to end: their sockets are closed
    /// a moment later.
    pub fn release(&mut self) {
        self.xdp = None;
        for worker in &self.workers {
            worker.stop();
        }
        self.late_link = None;
        self.clamp_link = None;
    }

    /// The same, and waits for the workers. The counters are final then.
    pub fn stop(&mut self) {
        self.release();
        for worker in &mut self.workers {
            worker.join();
        }
    }
}

fn least(scope: &Scope) -> Least {
    Least { any: scope.least_mtu(), worked: scope.least_worked_mtu() }
}

/// 64 bits that nobody else can guess: the keys of a `RandomState` come from the kernel.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn find(interface: &str) -> Result<Link, GatewayError> {
    match links::find(interface) {
        Ok(Some(link)) => Ok(link),
        Ok(None) => Err(GatewayError::Gone(interface.to_owned())),
        Err(source) => Err(GatewayError::Netlink { interface: interface.to_owned(), source }),
    }
}
