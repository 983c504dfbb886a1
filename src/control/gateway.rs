//! One LAN interface being served: brought up step by step, taken down in reverse.

mod report;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, RwLock};

use crossbeam::channel::Sender;
use ipnet::IpNet;
use thiserror::Error;

use super::scope::Applied;
use super::tunnels::{self, Found, Tunnels};
use crate::config::values::Mss;
use crate::config::{Auto, Choice, Force, Plan, Redirect, Scope, Treatment};
use crate::handback::{self, Chosen, Handback, HandbackConfig, OpenError};
use crate::net::links::Link;
use crate::net::{Ethtool, addresses, ethtool, links, xdp_features};
use crate::packet::{Tcp, Transform, ether};
use crate::port::{Port, XskConfig, XskError, XskPort};
use crate::worker::tap::Tap;
use crate::worker::{Notifier, Turn, Worker, WorkerConfig, WorkerEnd};
use crate::xdp::{
    AttachError, Attached, ClampLink, ClampProgram, Error as XdpError, FrameLimits, LanConfig, LanProgram,
    LateConfig, LateLink, LateProgram, Method, Patience, XdpMode,
};

/// A gateway could not be brought up; what had been done is undone.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// Reading the interface or its addresses failed.
    #[error("cannot read the state of {interface}: {source}")]
    Netlink {
        /// LAN interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface went away since the preflight check.
    #[error("there is no interface {0} any more")]
    Gone(String),
    /// A queue that the interface does not have.
    #[error("--queues: {interface} has {available} RX queues now that XDP is attached, none of those listed")]
    NoQueue {
        /// LAN interface.
        interface: String,
        /// RX queues in use.
        available: u32,
    },
    /// Queues that the driver gives back with the XDP program, zero-copy sockets or not: virtio_net (7.3) then keeps
    /// using their freed buffers (`virtnet_xsk_pool_disable`).
    #[error(
        "--zero-copy on: {interface} has {own_queues} queues of its own, and more only while XDP is attached, where \
         zero-copy can crash the kernel; use --zero-copy auto, or serve its own with --queues"
    )]
    LentQueues {
        /// LAN interface.
        interface: String,
        /// RX queues without XDP.
        own_queues: u32,
    },
    /// Attaching the XDP program.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Loading or feeding a BPF program.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// Opening a hand-back.
    #[error(transparent)]
    Handback(#[from] OpenError),
    /// Opening an AF_XDP socket.
    #[error(transparent)]
    Socket(#[from] XskError),
    /// Starting a worker.
    #[error("cannot start the worker of {interface} queue {queue}: {source}")]
    Spawn {
        /// LAN interface.
        interface: String,
        /// RX queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Longest packet that a hand-back carries, bytes: so long are the fragments where an SA MTU is longer.
const LONGEST_MTU: u16 = (handback::inject::MAX_FRAME - ether::MAX_HEADER_LEN) as u16;

/// What the gateways of a run share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What happens to packets, with one stock of identifications.
    pub transform: Transform,
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
    late_link: Option<LateLink>,
    late: Option<LateProgram>,
    clamp_link: Option<ClampLink>,
    clamp: ClampProgram,
    program: LanProgram,
    link: Link,
    mode: XdpMode,
    handback: &'static str,
    pub(super) treatment: Arc<Treatment>,
    pub(super) auto: Option<Auto>,
    /// What is in the maps.
    applied: Applied,
    /// The same for workers that get frames without metadata.
    scope: Arc<RwLock<Scope>>,
    /// `--mtu auto`: the tunnels behind the scope.
    found: Found,
}

impl Gateway {
    /// Serves `interface`, in the network namespace of the calling thread. `say` gets lines for the user.
    ///
    /// # Errors
    /// [`GatewayError`]; everything done so far is undone.
    pub fn start(
        interface: &str,
        plan: &Plan,
        shared: &Shared,
        say: &dyn Fn(&str),
    ) -> Result<Gateway, GatewayError> {
        let link = find(interface)?;
        let treatment = Arc::new(plan.treatment.clone());
        let program = LanProgram::load(&LanConfig {
            df: plan.treatment.df,
            redirect_all: plan.redirect == Redirect::All,
            resegment: plan.treatment.tcp == Tcp::Resegment,
            deaf_only: (plan.force == Force::Deaf).then(Patience::default),
            sticky: plan.sticky,
            stall: plan.stall,
            flow_seed: random(),
            queues: link.rx_queues,
            lan_mtu: link.mtu,
        })?;
        let clamp = ClampProgram::load(program.route_maps())?;
        let own_queues = ethtool::rx_queues(&link);
        // Attached while its map of sockets is empty, it passes everything. Some drivers change their
        // number of queues now (virtio-net), so that they are counted afterwards.
        let attached = program.attach(link.index, plan.mode)?;
        if let Some(why) = &attached.fallback {
            say(&format!("{interface}: generic XDP, because the driver cannot do it natively ({why})"));
        }
        if attached.mode == XdpMode::Generic && plan.treatment.tcp == Tcp::Resegment {
            say(&format!(
                "{interface}: with generic XDP what may not be fragmented (IPv6, --df keep) is not resegmented \
                 either: a segment given back as it is would be seen again"
            ));
        }
        let mut gateway = Gateway {
            mode: attached.mode,
            xdp: Some(attached),
            workers: Vec::new(),
            late_link: None,
            late: None,
            clamp_link: None,
            clamp,
            program,
            link,
            handback: "",
            treatment,
            auto: plan.auto.clone(),
            applied: Applied::default(),
            scope: Arc::default(),
            found: Found::default(),
        };
        gateway.follow_addresses()?;
        gateway.apply(Scope::from(&plan.treatment))?;
        if plan.redirect == Redirect::Late {
            gateway.start_late(plan, say)?;
        }
        gateway.start_workers(plan, shared, own_queues, say)?;
        gateway.attach_clamp(plan)?;
        if let Some(link) = &gateway.clamp_link {
            say(&format!("{interface}: MSS clamped on the way to the LAN ({})", link.method().label()));
        }
        Ok(gateway)
    }

    /// Lowers the MSS on the way to the LAN, if `plan` has anything to lower.
    pub(super) fn attach_clamp(&mut self, plan: &Plan) -> Result<(), GatewayError> {
        let clamped = plan.treatment.scope.iter().any(|(_, rule)| rule.mss4.or(rule.mss6).is_some());
        let wanted = clamped || plan.auto.as_ref().is_some_and(|auto| auto.mss != Mss::Off);
        if wanted && self.clamp_link.is_none() {
            self.clamp_link = Some(self.clamp.attach(self.link.index)?);
        }
        Ok(())
    }

    /// Leaves oversize TCP to GRO and the kernel, if they can; else the workers do it.
    fn start_late(&mut self, plan: &Plan, say: &dyn Fn(&str)) -> Result<(), GatewayError> {
        let instead = |why: &str| {
            say(&format!("{}: --redirect oversize instead of late: {why}", self.name()));
        };
        if self.mode == XdpMode::Generic {
            instead("generic XDP runs behind GRO");
            return Ok(());
        }
        // Asked with a program that every kernel loads: the verifier of those without tcx refuses the other one.
        if let Err(error) = self.clamp.attach_with(self.link.index, Method::Tcx) {
            instead(&format!("it needs tcx, which Linux has since 6.6: {error}"));
            return Ok(());
        }
        let config = LateConfig {
            ifindex: self.link.index,
            sticky: plan.sticky,
            flow_seed: random(),
            token: random(),
            deaf_only: plan.force == Force::Deaf,
        };
        let program = LateProgram::load(config, &self.program);
        match program.and_then(|program| Ok((program.attach()?, program))) {
            Ok((link, program)) => {
                (self.late_link, self.late) = (Some(link), Some(program));
                self.program.set_late(true)?;
                say(&format!("{}: oversize TCP is left to GRO, and cut behind it", self.name()));
                let features = Ethtool::open().and_then(|mut ethtool| ethtool.active_features(self.name()));
                if features.is_ok_and(|features| !features.contains("rx-gro")) {
                    say(&format!(
                        "{0}: GRO is off: nothing is merged, and every segment cut by itself; mend it with: \
                         ethtool -K {0} gro on",
                        self.name()
                    ));
                }
            }
            Err(error) => instead(&error.to_string()),
        }
        Ok(())
    }

    /// What is in scope at this moment.
    pub(super) fn scope_now(&self) -> Scope {
        self.applied.scope().clone()
    }

    /// `own_queues` is the number of queues without XDP.
    fn start_workers(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        own_queues: u32,
        say: &dyn Fn(&str),
    ) -> Result<(), GatewayError> {
        let interface = self.name().to_owned();
        let available = ethtool::rx_queues(&self.link);
        let queues: Vec<u32> = match &plan.queues {
            None => (0..available).collect(),
            Some(listed) => listed.iter().copied().filter(|queue| *queue < available).collect(),
        };
        if queues.is_empty() {
            return Err(GatewayError::NoQueue { interface, available });
        }
        if plan.zero_copy == Choice::On && queues.iter().any(|queue| *queue >= own_queues) {
            return Err(GatewayError::LentQueues { interface, own_queues });
        }
        let cores = plan.cores.clone().unwrap_or_else(default_cores);
        let zero_copy = zero_copy(plan.zero_copy, &self.link);
        for (position, &queue) in queues.iter().enumerate() {
            let Chosen { handback, why } = handback::choose(
                plan.handback,
                &HandbackConfig {
                    interface: interface.clone(),
                    ifindex: self.link.index,
                    queue,
                    max_frame: self.longest_output(),
                },
            )?;
            if position == 0 {
                say(&format!("{interface}: hand-back {why}"));
            }
            self.handback = handback.name();
            let port = XskPort::open(&XskConfig {
                interface: interface.clone(),
                queue,
                zero_copy: if queue < own_queues { zero_copy } else { Choice::Off },
                max_frame: self.link.mtu as usize + ether::MAX_HEADER_LEN,
            })?;
            self.program.set_limits(FrameLimits {
                receive: port.max_frame() as u32,
                whole: handback.max_frame() as u32,
            })?;
            // The worker owns the socket; the map needs it once more.
            let socket = port.as_fd().try_clone_to_owned();
            let spawn = |source| GatewayError::Spawn { interface: interface.clone(), queue, source };
            let socket = socket.map_err(spawn)?;
            let heartbeat = self.program.heartbeats().of(queue);
            let mut turn = Turn::new(port, handback, shared.transform.clone(), Arc::clone(&self.treatment))
                .following(Arc::clone(&self.scope));
            let position_in_plan = plan.interfaces.iter().position(|name| *name == interface).unwrap_or(0);
            turn = turn.tapped(Arc::clone(&shared.tap), position_in_plan as u32, queue);
            if let Some(notifier) = &shared.notifier {
                turn = turn.notifying(Arc::clone(notifier));
            }
            let worker = Worker::spawn(
                WorkerConfig {
                    interface: interface.clone(),
                    queue,
                    core: (!cores.is_empty()).then(|| cores[position % cores.len()]),
                    poll: plan.poll,
                    stall: plan.stall,
                },
                turn,
                move |now| {
                    if let Some(heartbeat) = &heartbeat {
                        heartbeat.beat(now);
                    }
                },
                shared.ended.clone(),
            )
            .map_err(spawn)?;
            self.workers.push(worker);
            self.program.register_socket(queue, &socket)?;
        }
        Ok(())
    }

    /// Longest frame that a worker may have to hand back: a fragment, or a frame that fits, as it came. Neither is
    /// longer than what it receives, so that an SA MTU that grows needs no more than the LAN's MTU.
    /// What is longer than any hand-back can carry stays with the XDP program.
    fn longest_output(&self) -> usize {
        let mtus = self.treatment.scope.iter().map(|(_, rule)| u32::from(rule.mtu));
        let longest = mtus.fold(self.link.mtu, u32::max) as usize + ether::MAX_HEADER_LEN;
        longest.min(handback::inject::MAX_FRAME)
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
    /// If they cannot be read, or the map is full.
    pub fn follow_addresses(&mut self) -> Result<(), GatewayError> {
        let now = addresses::local().map_err(|source| self.unread(source))?;
        Ok(self.applied.follow_addresses(&self.program, now)?)
    }

    /// Changes what is in scope, under traffic.
    ///
    /// # Errors
    /// If a map is full.
    pub fn apply(&mut self, scope: Scope) -> Result<(), GatewayError> {
        self.applied.apply(&self.program, &scope)?;
        let mut shared = self.scope.write().unwrap_or_else(PoisonError::into_inner);
        if *shared != scope {
            *shared = scope;
        }
        Ok(())
    }

    /// With `--mtu auto`, serves `tunnels` from now on; answers what is different, a line each.
    ///
    /// # Errors
    /// If the kernel does not answer for a route, or a map is full.
    pub fn follow_tunnels(&mut self, tunnels: &Tunnels) -> Result<Vec<String>, GatewayError> {
        let Some(auto) = &self.auto else { return Ok(Vec::new()) };
        let found = tunnels.scope(&self.link, auto, &self.treatment, LONGEST_MTU);
        let found = found.map_err(|source| self.unread(source))?;
        self.apply(found.scope.clone())?;
        let changes = tunnels::changes(&self.found.table, &found.table);
        self.found = found;
        Ok(changes)
    }

    fn unread(&self, source: io::Error) -> GatewayError {
        GatewayError::Netlink { interface: self.name().to_owned(), source }
    }

    /// Takes note of a changed MTU of the interface; `false` if the interface is gone.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn follow_link(&mut self, say: &dyn Fn(&str)) -> Result<bool, GatewayError> {
        let link = match find(self.name()) {
            Err(GatewayError::Gone(_)) => return Ok(false),
            link => link?,
        };
        if link.index != self.link.index {
            return Ok(false);
        }
        if link.mtu != self.link.mtu {
            say(&format!("{}: MTU is {} now, was {}", link.name, link.mtu, self.link.mtu));
            self.program.set_lan_mtu(link.mtu)?;
        }
        self.link = link;
        Ok(true)
    }

    /// Passes the frames of a worker that has ended to the kernel. Answers how many workers are left.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn worker_ended(&self, queue: u32) -> Result<usize, GatewayError> {
        self.program.unregister_socket(queue)?;
        Ok(self.workers.iter().filter(|worker| worker.queue() != queue && worker.alive()).count())
    }

    /// Detaches, lets the workers hand back what their rings still hold, and waits for them. The counters
    /// are final then.
    pub fn stop(&mut self) {
        self.xdp = None;
        for worker in &self.workers {
            worker.stop();
        }
        for worker in &mut self.workers {
            worker.join();
        }
        self.late_link = None;
        self.clamp_link = None;
    }
}

/// 64 bits that nobody else can guess: the keys of a `RandomState` come from the kernel.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// `asked`, but for certain where the driver says (Linux 6.3) that it has none.
fn zero_copy(asked: Choice, link: &Link) -> Choice {
    match xdp_features::xdp_features(link.index) {
        Ok(Some(features)) if asked == Choice::Auto && !features.zero_copy => Choice::Off,
        _ => asked,
    }
}

fn find(interface: &str) -> Result<Link, GatewayError> {
    match links::find(interface) {
        Ok(Some(link)) => Ok(link),
        Ok(None) => Err(GatewayError::Gone(interface.to_owned())),
        Err(source) => Err(GatewayError::Netlink { interface: interface.to_owned(), source }),
    }
}

/// The cores this process may use, from the last one down: interrupts favour the first.
fn default_cores() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().map(|core| core.id).rev().collect()
}
