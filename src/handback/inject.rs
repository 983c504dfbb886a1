//! Hand-back by BPF_PROG_RUN with live frames (Linux 5.18): one system call makes the stack receive a
//! whole batch on the LAN interface.
//!
//! The transform writes straight into a mmapped BPF array; `bpf/inject.bpf.c` copies slot after slot into
//! the frames that `bpf_test_run_xdp_live` makes, and passes them.
//!
//! A call for more than one frame takes the one mutex of the machine's XDP dispatcher twice (`bpf_prog_change_xdp()` in
//! `bpf_prog_test_run_xdp()`). Whoever attaches or detaches XDP anywhere on the machine holds it for an RCU grace
//! period, and so long the call may sleep: `handback_peak_ns` of `stats --json` is the longest one of late.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use libbpf_rs::libbpf_sys;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use nix::errno::Errno;

use super::skeleton::inject::InjectSkelBuilder;
use super::{Flushed, Handback, HandbackConfig, HandbackError, OpenError, bpf_error};
use crate::frame::{Ledger, Region};
use crate::net::private_ns::PrivateNs;
use crate::packet::Sink;
use crate::xdp::sys::{Link, SharedWords, XdpMode};

/// Slots: more than a worker collects before it flushes.
const SLOTS: usize = 512;
/// `struct slot`: the length and its padding in front of the frame.
const HEADER: usize = 16;
/// Words of `struct inject_state`.
const STATE_WORDS: usize = 6;
/// The word `padding`.
const PADDING: usize = 5;
const SMALL_SLOT: usize = 2048;
const LARGE_SLOT: usize = 4096;
/// Shortest live frame: ETH_HLEN.
const SHORTEST: usize = 14;
/// Longest live frame: one page less `struct xdp_page_head`, the headroom and `struct skb_shared_info`.
pub const MAX_FRAME: usize = 3408;
/// Frames that the kernel makes at once, of at most 256 (TEST_XDP_MAX_BATCH). It allocates the pages of a call's first
/// batch and recycles them for the next ones: at full load 64 at once carry a tenth more than 256.
const KERNEL_BATCH: usize = 64;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 2;

/// Live-frames hand-back of one worker, with a program and maps of its own.
#[derive(Debug)]
pub struct Inject {
    slots: Region,
    /// `struct inject_state`.
    state: SharedWords,
    max_frame: usize,
    context: libbpf_sys::xdp_md,
    /// What a live frame is before the program writes it, see [`Inject::initial`].
    longest: Box<[u8]>,
    program: OwnedFd,
    /// Slots that are filled.
    filled: usize,
    /// Slots that the kernel took.
    taken: usize,
    /// Of the others, those that hold no frame.
    padding: usize,
    /// The program's count of them, as of the last flush.
    padded: u64,
    /// Runs that placed no frame, as of the last flush.
    failed: u64,
    // The last fields, so that they are dropped last. A program that is attached nowhere costs 20 ms per
    // call, because the kernel then patches its XDP dispatcher each time; attached in a namespace of its
    // own it is in nobody's way.
    _attached: Link,
    _ns: PrivateNs,
}

impl Inject {
    /// Loads the program and attaches it to the loopback of a private network namespace.
    ///
    /// # Errors
    /// [`OpenError`]; `EINVAL` from the trial run on a kernel before 5.18.
    pub fn open(config: &HandbackConfig) -> Result<Inject, OpenError> {
        let step = |step| config.failed(step);
        let max_frame = config.frames_up_to("inject", MAX_FRAME)?;
        let slot_size = if max_frame + HEADER > SMALL_SLOT { LARGE_SLOT } else { SMALL_SLOT };
        let Loaded { program, slots, state } =
            load(slot_size, max_frame).map_err(step("loading the live-frames program"))?;
        let ns = PrivateNs::new().map_err(step("making a private network namespace"))?;
        let attached = ns
            .run(|| attach_to_loopback(&program))
            .and_then(|link| link)
            .map_err(step("attaching the live-frames program"))?;
        let context = libbpf_sys::xdp_md {
            ingress_ifindex: config.ifindex,
            rx_queue_index: config.queue,
            ..libbpf_sys::xdp_md::default()
        };
        let mut inject = Inject {
            slots,
            state,
            max_frame,
            context,
            longest: vec![0; max_frame].into_boxed_slice(),
            program,
            filled: 0,
            taken: 0,
            padding: 0,
            padded: 0,
            failed: 0,
            _attached: attached,
            _ns: ns,
        };
        inject.probe().map_err(step("a trial run of live frames"))?;
        Ok(inject)
    }

    /// Runs the program once on an empty slot: nothing reaches the stack.
    fn probe(&mut self) -> io::Result<()> {
        self.slots.slot_mut(0)[..HEADER].fill(0);
        self.set_next(0);
        match self.run(1) {
            // The device has no such queue any more; which one it is matters to nobody but RPS.
            Err(Errno::EINVAL) if self.context.rx_queue_index != 0 => {
                self.context.rx_queue_index = 0;
                self.run(1)?;
            }
            result => result?,
        }
        (self.failed, self.padded) = (self.failures(), self.padded_slots());
        Ok(())
    }

    /// What `frames` live frames are before the program writes them. The kernel copies it into each page of its pool, of
    /// which a call gets [`KERNEL_BATCH`] at least, and bpf_xdp_adjust_tail() clears the bytes by which it lengthens a
    /// frame: nothing is copied for nothing where there are fewer frames than pages.
    fn initial(&self, frames: usize) -> &[u8] {
        if frames <= KERNEL_BATCH { &self.longest[..SHORTEST] } else { &self.longest }
    }

    fn run(&mut self, frames: usize) -> Result<(), Errno> {
        let len = self.initial(frames).len() as u32;
        self.context.data_end = len;
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
            data_in: self.initial(frames).as_ptr().cast(),
            data_size_in: len,
            ctx_in: (&raw const self.context).cast(),
            ctx_size_in: size_of::<libbpf_sys::xdp_md>() as u32,
            repeat: frames as i32,
            flags: LIVE_FRAMES,
            batch_size: frames.min(KERNEL_BATCH) as u32,
            ..libbpf_sys::bpf_test_run_opts::default()
        };
        // SAFETY: `options` points to memory that outlives the call, with its true sizes. The program
        // writes to the mapped state only, of which no borrow exists now.
        match unsafe { libbpf_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &raw mut options) } {
            0 => Ok(()),
            error => Err(Errno::from_raw(-error)),
        }
    }

    /// `state.next`: the slots that the program went through.
    fn next(&self) -> usize {
        self.state.as_slice()[0].load(Relaxed) as usize
    }

    fn set_next(&self, slot: usize) {
        self.state.as_slice()[0].store(slot as u64, Relaxed);
    }

    /// Runs that placed no frame: `no_slot`, `bad_len`, `no_tail` and `no_store`.
    fn failures(&self) -> u64 {
        self.state.as_slice()[1..PADDING].iter().map(|word| word.load(Relaxed)).sum()
    }

    /// Slots without a frame that the program went through.
    fn padded_slots(&self) -> u64 {
        self.state.as_slice()[PADDING].load(Relaxed)
    }

    /// False for a slot that only fills up a kernel batch.
    fn holds_frame(&self, slot: usize) -> bool {
        self.slots.slot(slot)[..4] != [0; 4]
    }

    /// Fills the next slot with a frame of `len` bytes; 0 makes none.
    fn fill(&mut self, len: usize) -> &mut [u8] {
        let slot = self.slots.slot_mut(self.filled);
        self.filled += 1;
        let (header, frame) = slot.split_at_mut(HEADER);
        header[..4].copy_from_slice(&(len as u32).to_ne_bytes());
        &mut frame[..len]
    }
}

impl Sink for Inject {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        // The kernel receives a batch as a whole. Fragments of one datagram in two batches might end up
        // further apart than a receiver tolerates (net.ipv4.ipfrag_max_dist, 64), with another worker's
        // in between.
        let left = KERNEL_BATCH - self.filled % KERNEL_BATCH;
        let padding = if left < frames && frames <= KERNEL_BATCH { left } else { 0 };
        if len > self.max_frame || self.filled + padding + frames > SLOTS {
            return false;
        }
        for _ in 0..padding {
            self.fill(0);
        }
        self.padding += padding;
        true
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        self.fill(len)
    }
}

impl Handback for Inject {
    fn flush(&mut self) -> Flushed {
        if self.pending() == 0 {
            return Flushed { lost: 0, result: Ok(()) };
        }
        let first = self.taken;
        self.set_next(first);
        let result = self.run(self.filled - first);
        // A run that a signal interrupts has handed over the frames it went through.
        let taken = self.next().min(self.filled) - first;
        let padding = (self.padded_slots() - self.padded) as usize;
        let mut lost = (self.failures() - self.failed) as usize;
        if result == Err(Errno::ENOMEM) {
            let freed = first + taken - freed(taken, self.filled - first)..first + taken;
            lost += freed.filter(|slot| self.holds_frame(*slot)).count();
        }
        (self.failed, self.padded) = (self.failures(), self.padded_slots());
        self.taken += taken;
        self.padding -= padding;
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        }
        Flushed { lost: lost.min(taken - padding), result: result.map_err(HandbackError::from) }
    }

    fn pending(&self) -> usize {
        self.filled - self.taken - self.padding
    }

    fn discard(&mut self) {
        (self.taken, self.filled, self.padding) = (0, 0, 0);
    }

    fn capacity(&self) -> usize {
        SLOTS
    }

    fn max_frame(&self) -> usize {
        self.max_frame
    }

    fn reap(&mut self) {}

    /// The stack receives the frames within the call (`xdp_recv_frames`).
    fn synchronous(&self) -> bool {
        true
    }

    fn ledger(&self) -> Ledger {
        let (total, held) = (SLOTS as u32, self.filled as u32);
        Ledger { total, free: total - held, held, ..Ledger::default() }
    }
}

/// Of the `taken` slots that the program went through before ENOMEM, of `all`: how many of the last ones the kernel freed
/// as frames. Without memory for the skbs of a batch, xdp_recv_frames() frees all of it, when the program has seen the
/// last frame of it. Without memory for a page the batch ends early, and the kernel receives what there is of it; if
/// that was to be the first page of a batch the batch before is taken for freed here, because nothing tells the two apart.
fn freed(taken: usize, all: usize) -> usize {
    match taken % KERNEL_BATCH {
        0 => taken.min(KERNEL_BATCH),
        rest if taken == all => rest,
        _ => 0,
    }
}

struct Loaded {
    program: OwnedFd,
    slots: Region,
    state: SharedWords,
}

fn load(slot_size: usize, max_frame: usize) -> io::Result<Loaded> {
    let mut object = MaybeUninit::uninit();
    let mut open = InjectSkelBuilder::default().open(&mut object).map_err(bpf_error)?;
    open.maps.slots.set_value_size(slot_size as u32).map_err(bpf_error)?;
    open.maps.slots.set_max_entries(SLOTS as u32).map_err(bpf_error)?;
    let constants = open.maps.rodata_data.as_deref_mut();
    constants.ok_or_else(|| io::Error::other("the program has no constants"))?.max_frame = max_frame as u32;
    let skel = open.load().map_err(bpf_error)?;
    // The kernel keeps program and maps for as long as somebody holds them; the rest of the object can go.
    Ok(Loaded {
        program: skel.progs.inject.as_fd().try_clone_to_owned()?,
        slots: Region::map(skel.maps.slots.as_fd(), SLOTS, slot_size)?,
        state: SharedWords::map(skel.maps.bss.as_fd(), STATE_WORDS)?,
    })
}

/// Attaches `program` to the loopback of the thread's network namespace, for as long as the link lives.
fn attach_to_loopback(program: &OwnedFd) -> io::Result<Link> {
    Link::xdp(program.as_fd(), nix::net::if_::if_nametoindex("lo")?, XdpMode::Generic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_memory_for_skbs_a_whole_kernel_batch_is_lost() {
        // Nothing was begun.
        assert_eq!(freed(0, 200), 0);
        // The last frame of a batch was seen.
        assert_eq!((freed(64, 200), freed(128, 200)), (64, 64));
        assert_eq!((freed(200, 200), freed(3, 3)), (8, 3));
        // The batch ended early: no page.
        assert_eq!((freed(70, 200), freed(2, 3)), (0, 0));
    }
}
