//! One worker per RX queue, with its socket and its hand-back.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Gateway, GatewayError, Shared};
use crate::config::{Choice, HandbackChoice, Plan};
use crate::handback::{self, AnyHandback, Chosen, Handback, HandbackConfig};
use crate::net::links::Link;
use crate::net::{ethtool, xdp_features};
use crate::packet::ether;
use crate::port::{Port, XskConfig, XskPort};
use crate::worker::{Beat, Turn, Worker, WorkerConfig};
use crate::xdp::{FrameLimits, XdpMode};

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
        let interface = self.name().to_owned();
        let queues = self.queues(plan)?;
        if plan.zero_copy == Choice::On && queues.iter().any(|queue| *queue >= own_queues) {
            return Err(GatewayError::LentQueues { interface, own_queues });
        }
        let cores = plan.cores.clone().unwrap_or_else(default_cores);
        let zero_copy = zero_copy(plan.zero_copy, &self.link);
        let position_in_plan = plan.interfaces.iter().position(|name| *name == interface).unwrap_or(0);
        let mut limits = FrameLimits { receive: u32::MAX, whole: u32::MAX };
        for (position, &queue) in queues.iter().enumerate() {
            let Chosen { handback, why } = match self.handbacks.remove(&queue) {
                Some(chosen) if self.is_safe(&chosen.handback) => chosen,
                _ => handback::choose(self.handback_for(plan), &self.handback_config(queue))?,
            };
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
            // One pair of limits for the interface: what every worker can take.
            limits = FrameLimits {
                receive: limits.receive.min(port.max_frame() as u32),
                whole: limits.whole.min(handback.max_frame() as u32),
            };
            self.program.set_limits(limits)?;
            // The worker owns the socket; the map needs it once more.
            let socket = port.as_fd().try_clone_to_owned();
            let spawn = |source| GatewayError::Spawn { interface: interface.clone(), queue, source };
            let socket = socket.map_err(spawn)?;
            let heartbeat = self.program.heartbeats().of(queue);
            let turn = Turn::new(port, handback, shared.transform.clone(), Arc::clone(&self.treatment))
                .following(self.settings.followed())
                .tapped(Arc::clone(&shared.tap), position_in_plan as u32, queue);
            let worker = Worker::spawn(
                WorkerConfig {
                    interface: interface.clone(),
                    queue,
                    core: (!cores.is_empty()).then(|| cores[(taken + position) % cores.len()]),
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
        }
        Ok(())
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
            max_datagram: self.link.mtu as usize + ether::MAX_HEADER_LEN,
            token: self.token,
        }
    }

    /// The queues to serve, of those that there are now.
    fn queues(&self, plan: &Plan) -> Result<Vec<u32>, GatewayError> {
        let available = ethtool::rx_queues(&self.link);
        let queues: Vec<u32> = match &plan.queues {
            None => (0..available).collect(),
            Some(listed) => listed.iter().copied().filter(|queue| *queue < available).collect(),
        };
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
        let longest = mtus.fold(self.link.mtu, u32::max) as usize + ether::MAX_HEADER_LEN;
        longest.min(handback::inject::MAX_FRAME)
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
