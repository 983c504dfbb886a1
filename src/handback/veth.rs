//! Hand-back by AF_XDP TX into a veth pair whose stack end redirects to the LAN interface's ingress.
//!
//! The socket's end lives in a private network namespace: when the process ends, in whatever way, the
//! namespace goes and the pair with it. The only file that knows xsk-rs' transmit side.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::pair::{FAR_NAME, VethPair};
use super::redirect::attach_redirect;
use super::{Flushed, Handback, HandbackConfig, OpenError};
use crate::frame::{Frame, Ledger, Lent, Pool, os_error};
use crate::net::private_ns::PrivateNs;
use crate::packet::Sink;
use crate::xdp::Method;
use crate::xdp::sys::Link;

/// UMEM frames, and the size of both rings: so everything fits them.
const FRAMES: u32 = 512;
/// Bytes that xsk-rs leaves free in front of a packet (XDP_PACKET_HEADROOM).
const HEADROOM: usize = 256;
const SMALL_FRAME: usize = 2048;
const LARGE_FRAME: usize = 4096;
/// Longest frame in one UMEM frame of one page.
pub const MAX_FRAME: usize = LARGE_FRAME - HEADROOM;
/// A sendto(2) moves at least one frame, mostly 32 (`max_tx_budget`).
const KICKS: usize = FRAMES as usize / 32 + 16;

/// AF_XDP and veth hand-back of one worker.
#[derive(Debug)]
pub struct Veth {
    tx: TxQueue,
    completion: CompQueue,
    // The other half of the socket; their memory belongs to it.
    _rx: RxQueue,
    _fill: FillQueue,
    umem: Umem,
    pool: Pool,
    /// One descriptor per frame; the length is that of the packet in it.
    descriptors: Vec<FrameDesc>,
    batch: Vec<FrameDesc>,
    staged: VecDeque<Frame>,
    /// Frames in the TX ring, without those of which the kernel said that it dropped them.
    queued: usize,
    /// How many of them, the oldest, were given up.
    forgotten: usize,
    frame_size: usize,
    max_frame: usize,
    // The last fields, so that they go after the socket.
    _redirect: Option<Link>,
    _pair: VethPair,
    _ns: PrivateNs,
}

impl Veth {
    /// Makes the pair, attaches the redirect, and binds the socket.
    ///
    /// # Errors
    /// [`OpenError`] names the step.
    pub fn open(config: &HandbackConfig) -> Result<Veth, OpenError> {
        Veth::open_with(config, None)
    }

    /// [`open`](Veth::open) with the redirect attached in the given way; `None` takes tcx, and clsact
    /// on kernels without it.
    ///
    /// # Errors
    /// [`OpenError`] names the step.
    pub fn open_with(config: &HandbackConfig, method: Option<Method>) -> Result<Veth, OpenError> {
        let step = |step| config.failed(step);
        let max_frame = config.frames_up_to("veth", MAX_FRAME)?;
        let ns = PrivateNs::new().map_err(step("making a private network namespace"))?;
        // In hexadecimal, to fit IFNAMSIZ; `xdpfrag detach` knows it again.
        let name = format!("xdpfrag{:x}q{:x}", config.ifindex, config.queue);
        let mut pair = VethPair::create(&name, max_frame as u32, &ns).map_err(step("making a veth pair"))?;
        let redirect =
            attach_redirect(pair.ifindex, config, method).map_err(step("attaching the redirect program"))?;
        pair.up(&ns).map_err(step("setting the veth pair up"))?;
        let frame_size = if max_frame + HEADROOM > SMALL_FRAME { LARGE_FRAME } else { SMALL_FRAME };
        let (umem, descriptors, rings) = ns
            .run(|| bind(frame_size as u32))
            .and_then(|bound| bound)
            .map_err(step("binding an AF_XDP socket to the veth pair"))?;
        let (tx, rx, fill, completion) = rings;
        Ok(Veth {
            tx,
            completion,
            _rx: rx,
            _fill: fill,
            umem,
            pool: Pool::new(FRAMES),
            batch: Vec::with_capacity(descriptors.len()),
            descriptors,
            staged: VecDeque::with_capacity(FRAMES as usize),
            queued: 0,
            forgotten: 0,
            frame_size,
            max_frame,
            _redirect: redirect,
            _pair: pair,
            _ns: ns,
        })
    }

    /// Puts what is staged into the TX ring, as far as it has room: it has an entry for every frame there is, but some
    /// may hold frames that came back already ([`observe`](Veth::observe)).
    fn submit(&mut self) {
        let room = self.tx.nb_free_exact() as usize;
        self.batch.clear();
        for frame in self.staged.drain(..room.min(self.staged.len())) {
            let index = self.pool.lend(frame, Lent::Tx);
            self.batch.push(self.descriptors[index as usize]);
        }
        // SAFETY: the descriptors are this UMEM's and the pool lent each frame once; all of them fit.
        unsafe { self.tx.produce(&self.batch) };
        self.queued += self.batch.len();
    }

    /// Notes what the kernel took from the TX ring, the last of it `dropped` frames (one or none). Returns how many
    /// frames that was, without those that were given up.
    fn observe(&mut self, dropped: usize) -> usize {
        // The kernel moves its end of the ring on when it has sent a frame, but not for one that it dropped
        // (`sent_frame` of __xsk_generic_xmit()): that shows with the next one sent, or when it finds no more.
        let queued = self.in_ring().min(self.queued.saturating_sub(dropped));
        let gone = self.queued - queued;
        let fresh = gone.saturating_sub(self.forgotten);
        (self.queued, self.forgotten) = (queued, self.forgotten.saturating_sub(gone));
        fresh
    }

    /// Entries of the TX ring that the kernel has not given back.
    fn in_ring(&mut self) -> usize {
        FRAMES as usize - self.tx.nb_free_exact() as usize
    }

    /// Has the kernel send what is staged until the TX ring is empty, and counts the frames that it drops on the way.
    fn kick(&mut self) -> Flushed {
        let (mut lost, mut errno) = (0, Errno::EAGAIN);
        for _ in 0..KICKS {
            self.observe(0);
            self.submit();
            if self.in_ring() == 0 {
                break;
            }
            if !self.tx.needs_wakeup() {
                continue;
            }
            match send(self.tx.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
                // The budget of one call is used up.
                Ok(_) | Err(Errno::EAGAIN) => {}
                // The device dropped a frame, the last one that it took; nobody waits for one that was given up.
                Err(Errno::EBUSY) => lost += self.observe(1).min(1),
                Err(Errno::ENOBUFS | Errno::EINTR) => errno = Errno::ENOBUFS,
                Err(fatal) => return Flushed { lost, result: Err(fatal.into()) },
            }
        }
        self.observe(0);
        let done = self.queued == 0 && self.staged.is_empty();
        Flushed { lost, result: if done { Ok(()) } else { Err(errno.into()) } }
    }
}

impl Sink for Veth {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        if self.pool.free() < frames {
            self.reap();
        }
        len <= self.max_frame && self.pool.free() >= frames
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        let frame = self.pool.take().expect("the caller reserved the frame");
        let descriptor = &mut self.descriptors[frame.index() as usize];
        self.staged.push_back(frame);
        // SAFETY: the frame was free, so neither the kernel nor anybody else uses its memory.
        let mut data = unsafe { self.umem.data_mut(descriptor) };
        data.cursor().set_pos(len);
        let bytes = data.contents_mut();
        let (start, capacity) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the same bytes; they belong to the UMEM, which outlives the borrow of self, and not to
        // the temporary `data`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start, capacity) };
        &mut bytes[..len]
    }
}

impl Handback for Veth {
    fn flush(&mut self) -> Flushed {
        let flushed = self.kick();
        self.reap();
        flushed
    }

    fn pending(&self) -> usize {
        self.staged.len() + self.queued - self.forgotten
    }

    fn discard(&mut self) {
        while let Some(frame) = self.staged.pop_front() {
            self.pool.put(frame);
        }
        // What is in the TX ring is the kernel's, which may send it yet.
        self.forgotten = self.queued;
    }

    fn capacity(&self) -> usize {
        FRAMES as usize
    }

    fn max_frame(&self) -> usize {
        self.max_frame
    }

    fn reap(&mut self) {
        self.batch.resize(FRAMES as usize, FrameDesc::default());
        // SAFETY: the completion ring is that of the socket made with `umem`.
        let count = unsafe { self.completion.consume(&mut self.batch) };
        for descriptor in &self.batch[..count] {
            let index = descriptor.addr() / self.frame_size;
            // An address that was not lent would be a kernel bug; ignoring it keeps the ledger true.
            if let Ok(frame) = self.pool.reclaim(index as u64, Lent::Tx) {
                self.pool.put(frame);
            }
        }
    }

    fn ledger(&self) -> Ledger {
        self.pool.ledger()
    }
}

type Rings = (TxQueue, RxQueue, FillQueue, CompQueue);

/// Binds a socket to the far end, in the namespace of the calling thread.
fn bind(frame_size: u32) -> io::Result<(Umem, Vec<FrameDesc>, Rings)> {
    let configure = || -> Result<_, Box<dyn std::error::Error>> {
        let ring = QueueSize::new(FRAMES)?;
        let umem = UmemConfig::builder()
            .frame_size(FrameSize::new(frame_size)?)
            .fill_queue_size(QueueSize::new(64)?)
            .comp_queue_size(ring)
            .build()?;
        let socket = SocketConfig::builder()
            .rx_queue_size(QueueSize::new(64)?)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        Ok((umem, socket, FAR_NAME.parse::<Interface>()?))
    };
    let (umem_config, socket_config, interface) =
        configure().map_err(|error| io::Error::other(error.to_string()))?;
    let frames = NonZeroU32::new(FRAMES).expect("not zero");
    let (umem, descriptors) = Umem::new(umem_config, frames, false).map_err(|error| os_error(&error))?;
    // SAFETY: the contract concerns UMEMs shared by several sockets; this one has a single socket.
    let (tx, rx, rings) =
        unsafe { Socket::new(socket_config, &umem, &interface, 0) }.map_err(|error| os_error(&error))?;
    let (fill, completion) = rings.ok_or_else(|| io::Error::other("a new UMEM without rings"))?;
    Ok((umem, descriptors, (tx, rx, fill, completion)))
}
