//! More frames per second than sockets can send: XDP live frames, out of the appliance's interface.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, ProgramInput};
use nix::net::if_::if_nametoindex;

use super::OBJECT;
use super::cores::take_core;
use super::workload::Workload;
use crate::lab::namespace::Namespace;
use crate::lab::topology::Lab;
use crate::lab::wire::map;

/// BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h.
const LIVE_FRAMES: u32 = 2;
/// Bytes of `struct xdp_md`, and where in it is ingress_ifindex.
const CONTEXT: usize = 24;
const INGRESS: usize = 12;
/// Calls of the program per system call, a multiple of the kernel's batch of 64: some 10 ms of flood.
const FLOOD_CALLS: u32 = 1 << 15;
/// The same when pacing, where most calls send nothing.
const PACED_CALLS: u32 = 1 << 18;
/// Longest frame.
const FRAME: usize = 1514;
/// Interval of [`Rate::Moderated`]: what drivers have by default (`ethtool -c`, rx-usecs) is 3 to 100 us.
pub const MODERATION: Duration = Duration::from_micros(50);
const SEQUENCES: u32 = 64;

/// Offered load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Frames per second, each when it is due.
    Even(f64),
    /// Frames per second, every [`MODERATION`] all that are due: as the interrupts of a NIC come.
    Moderated(f64),
    /// As many as one core can make.
    Flood,
}

/// What was offered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sent {
    /// Frames put on the wire.
    pub frames: u64,
    /// Frames that came too late to be made up for: the generator was not on its core.
    pub skipped: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Sends one workload at a time.
#[derive(Debug)]
pub struct Generator<'lab> {
    object: Object,
    control: MapHandle,
    appliance: &'lab Namespace,
    core: usize,
    burst: u32,
    templates: u32,
    _attached: Link,
}

impl<'lab> Generator<'lab> {
    /// Loads the generator for the appliance of `lab`; it will run on `core`.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN.
    pub fn new(lab: &'lab Lab, core: usize) -> Result<Generator<'lab>> {
        let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
        let control = map(&object, "generator")?;
        // The kernel takes 20 ms longer per call with a program that is attached nowhere.
        let attached = lab.appliance.run(|| {
            let program = object.progs_mut().find(|program| program.name() == "bench_send");
            let loopback = i32::try_from(if_nametoindex("lo")?)?;
            Ok(program.context("the generator is missing")?.attach_xdp(loopback)?)
        })?;
        Ok(Generator {
            object,
            control,
            appliance: &lab.appliance,
            core,
            burst: 1,
            templates: 0,
            _attached: attached,
        })
    }

    /// Makes `workload` what is sent from now on.
    ///
    /// # Errors
    /// If the kernel refuses a map update.
    pub fn load(&mut self, workload: Workload) -> Result<()> {
        let templates = workload.templates()?;
        let map = map(&self.object, "templates")?;
        for (index, template) in (0u32..).zip(&templates) {
            map.update(&index.to_ne_bytes(), &template.bytes()?, MapFlags::ANY)?;
        }
        self.burst = workload.burst();
        self.templates = u32::try_from(templates.len())?;
        Ok(())
    }

    /// Sends for `duration`.
    ///
    /// # Errors
    /// If no workload is loaded, or the kernel has no live frames (before 5.18).
    pub fn run(&self, rate: Rate, duration: Duration) -> Result<Sent> {
        ensure!(self.templates > 0, "no workload is loaded");
        self.appliance.run(|| {
            take_core(self.core)?;
            self.send(rate, duration)
        })
    }

    /// On a thread of its own, in the appliance, on the generator's core.
    fn send(&self, rate: Rate, duration: Duration) -> Result<Sent> {
        let program = self.object.progs_mut().find(|program| program.name() == "bench_send");
        let program = program.context("the generator is missing")?;
        let sequences = map(&self.object, "sequences")?;
        for flow in 0..SEQUENCES {
            sequences.update(&flow.to_ne_bytes(), &1u32.to_ne_bytes(), MapFlags::ANY)?;
        }
        let (rate_q30, interval, calls) = match rate {
            Rate::Flood => (0, 0, FLOOD_CALLS),
            Rate::Even(rate) => (q30(rate), 0, PACED_CALLS),
            Rate::Moderated(rate) => (q30(rate), MODERATION.as_nanos() as u64, PACED_CALLS),
        };
        ensure!(rate == Rate::Flood || rate_q30 > 0, "an offered load is above 0");
        let mut context = [0; CONTEXT];
        context[4..8].copy_from_slice(&u32::try_from(FRAME)?.to_ne_bytes());
        context[INGRESS..INGRESS + 4].copy_from_slice(&if_nametoindex("lan0")?.to_ne_bytes());
        self.control.update(&0u32.to_ne_bytes(), &self.start(rate_q30, interval)?, MapFlags::ANY)?;
        let start = Instant::now();
        while start.elapsed() < duration {
            let mut context = context;
            program.test_run(ProgramInput {
                context_in: Some(&mut context),
                data_in: Some(&[0; FRAME]),
                flags: LIVE_FRAMES,
                repeat: calls,
                ..ProgramInput::default()
            })?;
        }
        let elapsed = start.elapsed();
        let state = self.control.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?.context("an array entry")?;
        let word = |at: usize| -> Result<u64> { Ok(u64::from_ne_bytes(state[at..at + 8].try_into()?)) };
        Ok(Sent { frames: word(48)?, skipped: word(56)?, elapsed })
    }

    /// `struct bench_generator` at the start of a run.
    fn start(&self, rate_q30: u64, interval: u64) -> Result<Vec<u8>> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
        let now = Duration::from(now).as_nanos() as u64;
        let mut state = [rate_q30, now, interval].map(u64::to_ne_bytes).concat();
        state.extend([self.templates, self.burst, 0, 0].map(u32::to_ne_bytes).concat());
        state.extend([0u64; 3].map(u64::to_ne_bytes).concat());
        Ok(state)
    }
}

/// Frames per ns with 30 fractional bits.
fn q30(rate: f64) -> u64 {
    (rate * f64::from(1 << 30) / 1e9) as u64
}
