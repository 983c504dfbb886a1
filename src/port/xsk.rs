//! An AF_XDP socket on one RX queue: the only file that knows xsk-rs' receive side.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use thiserror::Error;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::chain::{Chain, Link};
use super::{BATCH, Port, Receipt, Received};
use crate::config::Choice;
use crate::frame::{Ledger, Lent, Pool, os_error};
use crate::xdp::Meta;

/// UMEM of one socket, bytes: what RLIMIT_MEMLOCK allows by default without CAP_IPC_LOCK.
pub const UMEM_BYTES: u64 = 8 << 20;

/// How a UMEM is cut into frames.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Bytes per frame. The kernel keeps 256 of them free before the packet (XDP_PACKET_HEADROOM), where the
    /// metadata lies.
    frame: u32,
    /// Longest packet in one of them.
    buffer: usize,
}

/// The kernel copies: small frames, as many as possible.
const COPIED: Cut = Cut { frame: 2048, buffer: 2048 - 256 };
/// The NIC writes, and some (igb, ixgbe) round the length of a buffer down to a KiB: 1500 bytes of 1792 would be cut off.
const ZERO_COPY: Cut = Cut { frame: 4096, buffer: 3072 };

impl Cut {
    fn of(zero_copy: Choice) -> Cut {
        if zero_copy == Choice::Off { COPIED } else { ZERO_COPY }
    }

    fn frames(self) -> u32 {
        (UMEM_BYTES / u64::from(self.frame)) as u32
    }

    /// Entries of the fill ring and of the RX ring.
    fn ring(self) -> u32 {
        self.frames() / 2
    }
}

/// The socket of an earlier process is released asynchronously.
const BIND_ATTEMPTS: u32 = 1500;
const BIND_PAUSE: Duration = Duration::from_millis(2);

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XskConfig {
    /// Interface, in the network namespace of the calling thread.
    pub interface: String,
    /// RX queue.
    pub queue: u32,
    /// Zero-copy, copy, or as the driver can; frames are fewer unless it is copy for certain.
    pub zero_copy: Choice,
    /// Longest frame to receive, Ethernet header included: the LAN interface's MTU and 22.
    pub max_frame: usize,
}

/// A socket could not be opened.
#[derive(Debug, Error)]
#[error("AF_XDP socket on {interface} queue {queue}: {step}: {source}{remedy}")]
pub struct XskError {
    /// Interface.
    pub interface: String,
    /// RX queue.
    pub queue: u32,
    step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
    remedy: &'static str,
}

/// An AF_XDP socket that receives.
#[derive(Debug)]
pub struct XskPort {
    rx: RxQueue,
    fill: FillQueue,
    // The other half of the socket. Not used; their memory belongs to it.
    _tx: TxQueue,
    _completion: CompQueue,
    umem: Umem,
    pool: Pool,
    /// One descriptor per frame, as xsk-rs lets nobody make one.
    descriptors: Vec<FrameDesc>,
    batch: Vec<FrameDesc>,
    refill: Vec<FrameDesc>,
    chain: Chain,
    invalid: u64,
    cut: Cut,
    zero_copy: bool,
    multi_buffer: bool,
}

impl XskPort {
    /// Opens and binds a socket and fills its fill ring, so that it may go into an xskmap at once.
    ///
    /// # Errors
    /// [`XskError`] names the step and the remedy.
    pub fn open(config: &XskConfig) -> Result<XskPort, XskError> {
        let mut attempt = 0;
        loop {
            match XskPort::open_once(config) {
                Err(error) if error.source.raw_os_error() == Some(libc::EBUSY) && attempt < BIND_ATTEMPTS => {
                    attempt += 1;
                    sleep(BIND_PAUSE);
                }
                result => return result,
            }
        }
    }

    fn open_once(config: &XskConfig) -> Result<XskPort, XskError> {
        // Asked for only where it is needed: many drivers have no zero-copy with it.
        if config.max_frame <= Cut::of(config.zero_copy).buffer {
            return XskPort::bind(config, false);
        }
        match XskPort::bind(config, true) {
            // XDP_USE_SG came with 6.6 (EINVAL before), and not to every zero-copy driver.
            Err(error) if matches!(error.source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                XskPort::bind(config, false)
            }
            result => result,
        }
    }

    fn bind(config: &XskConfig, multi_buffer: bool) -> Result<XskPort, XskError> {
        let error = |step, source: io::Error| XskError {
            interface: config.interface.clone(),
            queue: config.queue,
            step,
            remedy: remedy(source.raw_os_error(), config.zero_copy),
            source,
        };
        let cut = Cut::of(config.zero_copy);
        let shape = || -> Result<_, Box<dyn std::error::Error>> {
            let umem = UmemConfig::builder()
                .frame_size(FrameSize::new(cut.frame)?)
                .fill_queue_size(QueueSize::new(cut.ring())?)
                .comp_queue_size(QueueSize::new(64)?)
                .build()?;
            Ok((
                umem,
                QueueSize::new(cut.ring())?,
                QueueSize::new(64)?,
                config.interface.parse::<Interface>()?,
            ))
        };
        let (umem_config, rx_size, tx_size, interface) =
            shape().map_err(|cause| error("configuring", io::Error::other(cause.to_string())))?;
        let frames = NonZeroU32::new(cut.frames()).expect("not zero");
        let (umem, descriptors) = Umem::new(umem_config, frames, false)
            .map_err(|cause| error("registering its memory", os_error(&cause)))?;
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags.set(BindFlags::XDP_USE_SG, multi_buffer);
        flags.set(BindFlags::XDP_ZEROCOPY, config.zero_copy == Choice::On);
        flags.set(BindFlags::XDP_COPY, config.zero_copy == Choice::Off);
        let socket_config = SocketConfig::builder()
            .rx_queue_size(rx_size)
            .tx_queue_size(tx_size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        // SAFETY: the contract concerns UMEMs shared by several sockets; this one has a single socket.
        let (tx, rx, rings) = unsafe { Socket::new(socket_config, &umem, &interface, config.queue) }
            .map_err(|cause| error("binding", os_error(&cause)))?;
        let (fill, completion) =
            rings.ok_or_else(|| error("binding", io::Error::other("a new UMEM without rings")))?;
        let max_frame = if multi_buffer { config.max_frame } else { config.max_frame.min(cut.buffer) };
        let mut port = XskPort {
            zero_copy: zero_copy(rx.fd().as_raw_fd())
                .map_err(|source| error("reading XDP_OPTIONS", source))?,
            rx,
            fill,
            _tx: tx,
            _completion: completion,
            umem,
            pool: Pool::new(cut.frames()),
            descriptors,
            batch: vec![FrameDesc::default(); BATCH],
            refill: Vec::with_capacity(cut.ring() as usize),
            chain: Chain::new(max_frame),
            invalid: 0,
            cut,
            multi_buffer,
        };
        port.refill();
        Ok(port)
    }

    /// True if jumbo frames can arrive in several buffers (XDP_USE_SG).
    pub fn multi_buffer(&self) -> bool {
        self.multi_buffer
    }

    /// The bytes of a received buffer and the metadata before them; `None` for a descriptor that points
    /// outside its frame.
    fn received<'a>(umem: &'a Umem, descriptor: &'a FrameDesc, cut: Cut) -> Option<(&'a [u8], Option<Meta>)> {
        let at = descriptor.addr() % cut.frame as usize;
        let len = descriptor.lengths().data();
        if at < Meta::SIZE || at + len > cut.frame as usize {
            return None;
        }
        // SAFETY: the pool said that the frame was lent to the kernel and is ours again, and the check
        // above says that the bytes lie within it.
        let bytes = unsafe { umem.data(descriptor) }.contents();
        let start = bytes.as_ptr().expose_provenance() - Meta::SIZE;
        // SAFETY: `at` leaves room for the metadata in the same frame of the same mapping, whose pointer
        // came from mmap(2); nobody writes to the frame while it is ours.
        let before = unsafe { &*std::ptr::with_exposed_provenance::<[u8; Meta::SIZE]>(start) };
        Some((bytes, Meta::before_frame(before)))
    }
}

impl AsFd for XskPort {
    /// For the xskmap.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket lives as long as its queues, which self owns.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}

impl Port for XskPort {
    fn receive<F: FnMut(Received<'_>)>(&mut self, limit: usize, mut each: F) -> Receipt {
        let XskPort { rx, umem, pool, batch, chain, invalid, cut, .. } = self;
        let mut receipt = Receipt::default();
        let limit = limit.min(batch.len());
        // SAFETY: `umem` is the one that the socket was made with.
        let count = unsafe { rx.consume(&mut batch[..limit]) };
        for descriptor in &batch[..count] {
            let index = descriptor.addr() as u64 / u64::from(cut.frame);
            let Ok(frame) = pool.reclaim(index, Lent::Fill) else {
                *invalid += 1;
                continue;
            };
            let more = descriptor.has_more_frames();
            match XskPort::received(umem, descriptor, *cut) {
                None => *invalid += 1,
                Some((bytes, meta)) if !more && !chain.open() => {
                    each(Received { bytes, meta });
                    receipt.frames += 1;
                }
                Some((bytes, meta)) => match chain.add(bytes, meta, more) {
                    Link::More => {}
                    Link::TooLong => receipt.truncated += 1,
                    Link::Complete => {
                        let (bytes, meta) = chain.frame();
                        each(Received { bytes, meta });
                        receipt.frames += 1;
                    }
                },
            }
            pool.put(frame);
        }
        receipt
    }

    fn refill(&mut self) {
        let room = self.fill.nb_free(BATCH as u32) as usize;
        // Single frames are not worth a store to the ring that the kernel reads.
        if room >= BATCH || self.pool.ledger().fill == 0 {
            self.refill.clear();
            for _ in 0..room.min(self.cut.ring() as usize) {
                let Some(frame) = self.pool.take() else { break };
                let index = self.pool.lend(frame, Lent::Fill);
                self.refill.push(self.descriptors[index as usize]);
            }
            // SAFETY: the descriptors are this UMEM's, and the pool lends each frame once. All of them
            // fit: this thread is the only producer, and `room` was free.
            unsafe { self.fill.produce(&self.refill) };
        }
        if self.fill.needs_wakeup() {
            // A failing wake-up is no loss: the next turn repeats it, and `wait` reports a dead device.
            let _ = self.rx.poll(0);
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }

    fn drops(&self) -> io::Result<u64> {
        // xsk_notifier() leaves ENETDOWN there when the device goes, which poll(2) does not tell.
        match getsockopt(&self.as_fd(), sockopt::SocketError)? {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        let kernel = self.rx.fd().xdp_statistics()?;
        Ok(kernel.rx_dropped() + kernel.rx_ring_full() + kernel.rx_invalid_descs() + self.invalid)
    }

    fn max_frame(&self) -> usize {
        self.chain.max_frame()
    }

    fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    fn umem_bytes(&self) -> u64 {
        UMEM_BYTES
    }

    fn ledger(&self) -> Ledger {
        self.pool.ledger()
    }
}

fn zero_copy(socket: i32) -> io::Result<bool> {
    let mut options = 0u32;
    let mut len = size_of_val(&options) as libc::socklen_t;
    // SAFETY: XDP_OPTIONS writes a struct xdp_options, one u32, and `len` says so.
    let result = unsafe {
        libc::getsockopt(socket, libc::SOL_XDP, libc::XDP_OPTIONS, (&raw mut options).cast(), &raw mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(options & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

fn remedy(errno: Option<i32>, zero_copy: Choice) -> &'static str {
    match errno {
        Some(libc::EBUSY) => {
            "; another AF_XDP socket holds this queue: end its program, or choose other --queues"
        }
        Some(libc::EOPNOTSUPP | 524) if zero_copy == Choice::On => {
            "; the driver has no zero-copy (or none with this MTU): use --zero-copy auto"
        }
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "; its 8 MiB are more than RLIMIT_MEMLOCK leaves: needs CAP_IPC_LOCK or a higher `ulimit -l`"
        }
        Some(libc::EPERM | libc::EACCES) => "; needs CAP_NET_RAW and CAP_NET_ADMIN (CAP_IPC_LOCK for memory)",
        Some(libc::ENODEV | libc::ENXIO) => "; no such interface, or it has no such queue: see `ethtool -l`",
        Some(libc::EINVAL) => "; no such queue (see `ethtool -l`), or the interface is down",
        Some(libc::ENETDOWN) => "; set the interface up: `ip link set dev IF up`",
        Some(libc::EAFNOSUPPORT) => "; this kernel was built without AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "",
    }
}
