//! More datagrams per second than sockets can send: XDP live frames, out of the appliance's interface.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherparse::PacketBuilder;
use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder, ProgramInput};
use nix::net::if_::if_nametoindex;

use super::topology::{APPLIANCE, APPLIANCE_MAC, FAR, LAN_MAC, Lab};
use super::wire::{OBJECT, map};

/// `FLOWS` and `HEAD` of `bpf/lab.bpf.c`.
const FLOWS: u16 = 256;
const HEAD: usize = 42;
/// Fills a frame of 1500 bytes.
const PAYLOAD: [u8; 1472] = [0x5a; 1472];
/// Frames per system call.
const BATCH: u32 = 16384;
/// BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h.
const LIVE_FRAMES: u32 = 2;
/// Bytes of `struct xdp_md`, and where in it is ingress_ifindex.
const CONTEXT: usize = 24;
const INGRESS: usize = 12;

/// A generator of UDP datagrams of 1500 bytes with DF, 256 flows in turn.
#[derive(Debug)]
pub struct Flood {
    object: Object,
    _attached: Link,
}

impl Flood {
    /// Loads the generator for the appliance of `lab`.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN.
    pub fn new(lab: &Lab) -> Result<Flood> {
        let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
        let heads = map(&object, "heads")?;
        for flow in 0..FLOWS {
            let builder = PacketBuilder::ethernet2(mac(APPLIANCE_MAC)?, mac(LAN_MAC)?)
                .ipv4(APPLIANCE.octets(), FAR.octets(), 64)
                .udp(20_000 + flow, 7001);
            let mut frame = Vec::new();
            builder.write(&mut frame, &PAYLOAD)?;
            heads.update(&u32::from(flow).to_ne_bytes(), &frame[..HEAD], MapFlags::ANY)?;
        }
        // The kernel takes 20 ms longer per call with a program that is attached nowhere.
        let attached = lab.appliance.run(|| {
            let program = object.progs_mut().find(|program| program.name() == "lab_flood");
            Ok(program
                .context("the generator is missing")?
                .attach_xdp(i32::try_from(if_nametoindex("lo")?)?)?)
        })?;
        Ok(Flood { object, _attached: attached })
    }

    /// Sends for `duration` from the calling thread's core; returns how many datagrams.
    ///
    /// # Errors
    /// If the kernel has no live frames (before 5.18).
    pub fn run(&self, lab: &Lab, duration: Duration) -> Result<u64> {
        lab.appliance.run(|| {
            let program = self.object.progs_mut().find(|program| program.name() == "lab_flood");
            let program = program.context("the generator is missing")?;
            let mut frame = vec![0; HEAD];
            frame.extend_from_slice(&PAYLOAD);
            let mut context = [0; CONTEXT];
            context[4..8].copy_from_slice(&u32::try_from(frame.len())?.to_ne_bytes());
            context[INGRESS..INGRESS + 4].copy_from_slice(&if_nametoindex("lan0")?.to_ne_bytes());
            let end = Instant::now() + duration;
            let mut sent = 0;
            while Instant::now() < end {
                let mut context = context;
                program.test_run(ProgramInput {
                    context_in: Some(&mut context),
                    data_in: Some(&frame),
                    flags: LIVE_FRAMES,
                    repeat: BATCH,
                    ..ProgramInput::default()
                })?;
                sent += u64::from(BATCH);
            }
            Ok(sent)
        })
    }
}

/// Six bytes of a colon-separated address.
fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    match <[u8; 6]>::try_from(bytes) {
        Ok(mac) => Ok(mac),
        Err(bytes) => bail!("a hardware address has 6 bytes, not {}", bytes.len()),
    }
}
