//! One worker per RX queue, with its socket and its hand-back.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Gateway, GatewayError, Shared};
use crate::config::{Choice, HandbackChoice, Plan};
use crate::handback::{self, AnyHandback, Chosen, Handback, HandbackConfig, Inject, Mixed, OpenError, Tap};
use crate::net::links::Link;
use crate::net::{Ethtool, ethtool, xdp_features};
use crate::packet::ether;
use crate::port::{Port, XskConfig, XskPort};
use crate::worker::{Beat, Turn, Worker, WorkerConfig, privileges};
use crate::xdp::{FrameLimits, XdpMode};

/// Frames of this length come from a LAN whose interface here has a lower MTU, too: most devices take them.
const USUAL_MTU: u32 = 1500;
/// What most NICs can be set to.
const JUMBO_MTU: u32 = 9216;
/// New queues are prepared for up to so many in all.
const MOST_QUEUES: u32 = 16;

/// What the workers of a gateway are made with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hall {
    /// Queues that the driver has without XDP.
    own_queues: u32,
    /// Cores that the workers of other interfaces have.
    taken: usize,
}

impl Gateway {
    /// `own_queues` is the number of queues without XDP; the workers of other interfaces have the first `taken` cores.
    pub(super) fn start_workers(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        own_queues: u32,
        taken: usize,
        say: &dyn Fn(&str),
    ) -> Result<(), GatewayError> {
        let queues = self.queues(plan)?;
        if plan.zero_copy == Choice::On && queues.iter().any(|queue| *queue >= own_queues) {
            return Err(GatewayError::LentQueues { interface: self.name().to_owned(), own_queues });
        }
        self.hall = Hall { own_queues, taken };
        for (position, &queue) in queues.iter().enumerate() {
            let why = self.start_worker(plan, shared, queue, position)?;
            if position == 0 {
                say(&format!("{}: hand-back {why}", self.name()));
            }
        }
        self.fill_reserve(plan, queues.iter().max().map_or(0, |last| last + 1));
        Ok(())
    }

    /// Starts workers for queues that were not there before. What cannot be had is said once, and what comes in on its
    /// queue passes as `no_worker`.
    pub(super) fn follow_queues(&mut self, plan: &Plan, shared: &Shared, say: &dyn Fn(&str)) {
        // What cannot be read now is read again a second later.
        let asked = Ethtool::open().and_then(|mut ethtool| ethtool.rx_channels(self.name()));
        let Ok(available) = asked else { return };
        for queue in queues_of(plan, available.unwrap_or(self.link.rx_queues)) {
            let known = self.workers.iter().any(|worker| worker.queue() == queue);
            if !known && !self.unserved.contains(&queue) {
                self.open_worker(plan, shared, queue, say);
            }
        }
    }

    /// Says so if frames may be longer than the workers can receive: their buffers are made at the start.
    pub(super) fn follow_mtu(&self, say: &dyn Fn(&str)) {
        let received = self.limits.receive.saturating_sub(ether::MAX_HEADER_LEN as u32);
        if self.link.mtu > received {
            say(&format!(
                "{}: warning: workers take packets of {received} bytes: longer ones that need one pass untouched \
                 (too_long); restart xdpfrag to serve them",
                self.name()
            ));
        }
    }

    /// Starts a worker when the capabilities of the start are given up; says what becomes of it.
    fn open_worker(&mut self, plan: &Plan, shared: &Shared, queue: u32, say: &dyn Fn(&str)) {
        let started = self.reserved(plan, queue).map_err(|error| error.to_string()).and_then(|reserved| {
            self.handbacks.insert(queue, reserved);
            let position = self.workers.len();
            privileges::opening(|| self.start_worker(plan, shared, queue, position))?
                .map_err(|error| error.to_string())
        });
        match started {
            Ok(_) => say(&format!("{}: queue {queue} is new and has a worker now", self.name())),
            Err(why) => {
                self.unserved.insert(queue);
                say(&format!(
                    "{}: warning: queue {queue} has no worker: {why}; what needs one on it passes untouched (no_worker); \
                     restart xdpfrag to serve it",
                    self.name()
                ));
            }
        }
    }

    /// The hand-back for a new queue: live frames were opened at the start, for that takes capabilities that are given up
    /// for good; a TAP device beside them can be opened at any time.
    fn reserved(&mut self, plan: &Plan, queue: u32) -> Result<Chosen, OpenError> {
        let config = self.handback_config(queue);
        match (self.reserve.pop(), self.handback_for(plan)) {
            (Some(inject), HandbackChoice::Auto | HandbackChoice::Tap) => {
                let handback = AnyHandback::Tap(Mixed::new(Tap::open(&config)?, inject));
                Ok(Chosen { handback, why: "tap, for a new queue".into() })
            }
            (Some(inject), _) => {
                Ok(Chosen { handback: AnyHandback::Inject(inject), why: "inject, for a new queue".into() })
            }
            (None, choice) => handback::choose(choice, &config),
        }
    }

    /// Opens what a new queue will need and can be had at the start only. What cannot is said when it is needed.
    fn fill_reserve(&mut self, plan: &Plan, available: u32) {
        if plan.handback == HandbackChoice::Veth {
            return;
        }
        for queue in
            queues_of(plan, self.link.rx_queues.min(MOST_QUEUES)).into_iter().filter(|q| *q >= available)
        {
            let Ok(inject) = Inject::open(&self.handback_config(queue)) else { return };
            self.reserve.push(inject);
        }
    }

    /// Opens hand-back and socket of `queue`, and starts its worker, which is the one at `position`. Answers why the
    /// hand-back was taken.
    fn start_worker(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        queue: u32,
        position: usize,
    ) -> Result<String, GatewayError> {
        let interface = self.name().to_owned();
        let Chosen { handback, why } = match self.handbacks.remove(&queue) {
            Some(chosen) if self.is_safe(&chosen.handback) => chosen,
            _ => handback::choose(self.handback_for(plan), &self.handback_config(queue))?,
        };
        self.handback = handback.name();
        let cores = plan.cores.clone().unwrap_or_else(default_cores);
        let lent = queue >= self.hall.own_queues;
        let zero_copy = if lent { Choice::Off } else { zero_copy(plan.zero_copy, &self.link) };
        // Longer frames come in several buffers, which not every driver can with zero-copy.
        let longest = if zero_copy == Choice::Off { self.longest_datagram() } else { self.longest_packet() };
        let port = XskPort::open(&XskConfig {
            interface: interface.clone(),
            queue,
            zero_copy,
            max_frame: longest as usize + ether::MAX_HEADER_LEN,
        })?;
        // One pair of limits for the interface: what every worker can take.
        self.limits = FrameLimits {
            receive: self.limits.receive.min(port.max_frame() as u32),
            whole: self.limits.whole.min(handback.max_frame() as u32),
        };
        self.program.set_limits(self.limits)?;
        // The worker owns the socket; the map needs it once more.
        let socket = port.as_fd().try_clone_to_owned();
        let spawn = |source| GatewayError::Spawn { interface: interface.clone(), queue, source };
        let socket = socket.map_err(spawn)?;
        let heartbeat = self.program.heartbeats().of(queue);
        let position_in_plan = plan.interfaces.iter().position(|name| *name == interface).unwrap_or(0);
        let turn = Turn::new(port, handback, shared.transform.clone(), Arc::clone(&self.treatment))
            .following(self.settings.followed())
            .tapped(Arc::clone(&shared.tap), position_in_plan as u32, queue);
        let worker = Worker::spawn(
            WorkerConfig {
                interface: interface.clone(),
                queue,
                core: (!cores.is_empty()).then(|| cores[(self.hall.taken + position) % cores.len()]),
                poll: plan.poll,
            },
            turn,
            move |beat: Beat| {
                if let Some(heartbeat) = &heartbeat {
                    heartbeat.served(beat.served_ns);
                    heartbeat.beat(beat.now_ns);
                }
            },
            shared.ended.clone(),
        )
        .map_err(spawn)?;
        self.workers.push(worker);
        self.program.register_socket(queue, &socket)?;
        Ok(why)
    }

    /// The longest packet to be prepared for where that costs something.
    fn longest_packet(&self) -> u32 {
        self.link.mtu.max(USUAL_MTU)
    }

    /// The same where it costs nothing: the MTU may be raised while it runs.
    fn longest_datagram(&self) -> u32 {
        self.link.mtu.max(JUMBO_MTU)
    }

    /// False for a way back on which generic XDP would see packets again that the kernel has not cut yet.
    fn is_safe(&self, handback: &AnyHandback) -> bool {
        self.mode == XdpMode::Native || !matches!(handback, AnyHandback::Tap(_))
    }

    /// What `plan` asks for, if it goes with the mode that the driver has.
    pub(super) fn handback_for(&self, plan: &Plan) -> HandbackChoice {
        match (plan.handback, self.mode) {
            (HandbackChoice::Tap | HandbackChoice::Auto, XdpMode::Generic) => HandbackChoice::Inject,
            (choice, _) => choice,
        }
    }

    /// Opens what hand-backs can be had beside those of the instance that serves the interface now: live frames, and
    /// TAP devices. A veth pair has a name, which is that one's. What is missing is opened at the start.
    ///
    /// # Errors
    /// If there is no queue.
    pub(super) fn open_handbacks(&mut self, plan: &Plan) -> Result<(), GatewayError> {
        let choice = match plan.handback {
            HandbackChoice::Veth => return Ok(()),
            HandbackChoice::Auto => HandbackChoice::Tap,
            asked => asked,
        };
        for queue in self.queues(plan)? {
            let Ok(chosen) = handback::choose(choice, &self.handback_config(queue)) else { break };
            self.handbacks.insert(queue, chosen);
        }
        Ok(())
    }

    fn handback_config(&self, queue: u32) -> HandbackConfig {
        HandbackConfig {
            interface: self.name().to_owned(),
            ifindex: self.link.index,
            queue,
            max_frame: self.longest_output(),
            max_datagram: self.longest_datagram() as usize + ether::MAX_HEADER_LEN,
            token: self.token,
        }
    }

    /// The queues to serve, of those that there are now.
    fn queues(&self, plan: &Plan) -> Result<Vec<u32>, GatewayError> {
        let available = ethtool::rx_queues(&self.link);
        let queues = queues_of(plan, available);
        match queues.is_empty() {
            true => Err(GatewayError::NoQueue { interface: self.name().to_owned(), available }),
            false => Ok(queues),
        }
    }

    /// Longest frame that a worker may have to hand back: a fragment, or a frame that fits, as it came. Neither is
    /// longer than what it receives, so that an SA MTU that grows needs no more than the LAN's MTU.
    /// What is longer than any hand-back can carry stays with the XDP program.
    fn longest_output(&self) -> usize {
        let mtus = self.treatment.scope.iter().map(|(_, rule)| u32::from(rule.mtu));
        let longest = mtus.fold(self.longest_packet(), u32::max) as usize + ether::MAX_HEADER_LEN;
        longest.min(handback::inject::MAX_FRAME)
    }
}

/// The queues to serve of those that are `available`.
fn queues_of(plan: &Plan, available: u32) -> Vec<u32> {
    match &plan.queues {
        None => (0..available).collect(),
        Some(listed) => listed.iter().copied().filter(|queue| *queue < available).collect(),
    }
}

/// `asked`, but for certain where the driver says (Linux 6.3) that it has none.
fn zero_copy(asked: Choice, link: &Link) -> Choice {
    match xdp_features::xdp_features(link.index) {
        Ok(Some(features)) if asked == Choice::Auto && !features.zero_copy => Choice::Off,
        _ => asked,
    }
}

/// The cores this process may use, from the last one down: interrupts favour the first.
fn default_cores() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().map(|core| core.id).rev().collect()
}
