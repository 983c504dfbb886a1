//! The calls that libbpf-rs 0.25 does not wrap: links with flags, BPF_PROG_RUN by file
//! descriptor, shared memory of a map, and the clsact qdisc.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use libbpf_rs::libbpf_sys;

/// An attached program: closing it, or the end of the process, detaches.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

/// How an XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver (`XDP_FLAGS_DRV_MODE`).
    Native,
    /// In the network stack (`XDP_FLAGS_SKB_MODE`).
    Generic,
}

impl XdpMode {
    /// `native` or `generic`.
    pub fn label(self) -> &'static str {
        match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }
}

/// Where a tc program is attached by link (tcx, Linux 6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcxHook {
    /// What the interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Link {
    /// Attaches an XDP program to the interface. Errors are the kernel's (`dev_xdp_attach()`).
    pub fn xdp(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> io::Result<Link> {
        let flags = match mode {
            XdpMode::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
        };
        Link::create(program, ifindex, libbpf_sys::BPF_XDP, flags)
    }

    /// Attaches a tc program behind those already there. EINVAL on kernels without tcx.
    pub fn tcx(program: BorrowedFd<'_>, ifindex: u32, hook: TcxHook) -> io::Result<Link> {
        let attach_type = match hook {
            TcxHook::Ingress => libbpf_sys::BPF_TCX_INGRESS,
            TcxHook::Egress => libbpf_sys::BPF_TCX_EGRESS,
        };
        Link::create(program, ifindex, attach_type, 0)
    }

    fn create(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<Link> {
        let ifindex = interface(ifindex)?;
        let opts = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
            flags,
            ..Default::default()
        };
        // SAFETY: `opts` is a whole bpf_link_create_opts of the stated size and lives through the call.
        let fd = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, attach_type, &opts) };
        check(fd)?;
        // SAFETY: the call made `fd` and nobody else knows it.
        Ok(Link { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Id of the program that runs by this link; `None` if it is on no interface any more: that is gone, or somebody
    /// detached it (BPF_LINK_DETACH).
    pub fn program(&self) -> io::Result<Option<u32>> {
        let mut info = libbpf_sys::bpf_link_info::default();
        let mut len = size_of::<libbpf_sys::bpf_link_info>() as u32;
        // SAFETY: `info` is a whole bpf_link_info of the stated length; the kernel writes no more than that.
        check(unsafe { libbpf_sys::bpf_link_get_info_by_fd(self.fd.as_raw_fd(), &mut info, &mut len) })?;
        // SAFETY: every link made here is of type XDP or TCX, whose part of the union begins with the ifindex; any
        // four bytes are a u32.
        let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
        Ok((ifindex != 0).then_some(info.prog_id))
    }

    /// Puts the program `new` in the place of `old`, in one step (XDP: Linux 5.9). EPERM if it is not `old` that is
    /// attached.
    pub fn replace(&self, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
        let opts = libbpf_sys::bpf_link_update_opts {
            sz: size_of::<libbpf_sys::bpf_link_update_opts>() as libbpf_sys::size_t,
            flags: libbpf_sys::BPF_F_REPLACE,
            old_prog_fd: old.as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: `opts` is a whole bpf_link_update_opts of the stated size and lives through the call.
        check(unsafe { libbpf_sys::bpf_link_update(self.fd.as_raw_fd(), new.as_raw_fd(), &opts) })
    }
}

/// Id of a loaded program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is a whole bpf_prog_info of the stated length, all zero: it asks for no array to be filled.
    check(unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut len) })?;
    Ok(info.id)
}

/// What a program did with a frame under BPF_PROG_RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its return value.
    pub action: u32,
    /// The frame afterwards; for XDP with the metadata in front.
    pub data: Vec<u8>,
}

/// Runs a program on `frame` (14 bytes at least) as received by the loopback device on queue 0, with this much of its
/// context set.
///
/// Maps are read and written as in a real run; the frame goes nowhere.
pub fn prog_run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8]) -> io::Result<Run> {
    let too_long = |_| io::Error::from_raw_os_error(libc::E2BIG);
    let mut data = vec![0; frame.len() + PROG_RUN_GROWTH];
    let mut opts = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: u32::try_from(frame.len()).map_err(too_long)?,
        data_out: data.as_mut_ptr().cast(),
        data_size_out: u32::try_from(data.len()).map_err(too_long)?,
        ctx_in: if context.is_empty() { ptr::null() } else { context.as_ptr().cast() },
        ctx_size_in: u32::try_from(context.len()).map_err(too_long)?,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: `opts` is a whole bpf_test_run_opts of the stated size; its three buffers have the
    // stated lengths and outlive the call; the kernel writes to `data_out` only.
    check(unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut opts) })?;
    data.truncate(opts.data_size_out as usize);
    Ok(Run { action: opts.retval, data })
}

/// A program may grow a frame by its headroom at most (XDP_PACKET_HEADROOM).
const PROG_RUN_GROWTH: usize = 256;

/// A mapped BPF array, as words that both sides read and write.
#[derive(Debug)]
pub struct SharedWords {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only given out as atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` words (at least one) of a `BPF_F_MMAPABLE` array.
    ///
    /// Fails with EINVAL if the array is smaller, to the page.
    pub fn map(array: BorrowedFd<'_>, words: usize) -> io::Result<SharedWords> {
        let len = words * size_of::<AtomicU64>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no other memory.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, array.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(base.cast()) {
            Some(base) => Ok(SharedWords { base, words }),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// The words.
    #[inline]
    pub fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: `base` is page-aligned and mapped for `words` words until drop; every bit pattern
        // is an AtomicU64, and what others write to the mapping is seen through atomics only.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: `map` made this mapping with this length, and no borrow of it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}

/// Makes the clsact qdisc of the interface; false if it was there.
pub fn clsact_create(ifindex: u32) -> io::Result<bool> {
    let mut hook = clsact(ifindex)?;
    // SAFETY: `hook` is a whole bpf_tc_hook of the stated size and lives through the call.
    match check(unsafe { libbpf_sys::bpf_tc_hook_create(&mut hook) }) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the clsact qdisc of the interface and all its filters.
pub fn clsact_destroy(ifindex: u32) -> io::Result<()> {
    let mut hook = clsact(ifindex)?;
    // SAFETY: as in `clsact_create`.
    check(unsafe { libbpf_sys::bpf_tc_hook_destroy(&mut hook) })
}

fn clsact(ifindex: u32) -> io::Result<libbpf_sys::bpf_tc_hook> {
    Ok(libbpf_sys::bpf_tc_hook {
        sz: size_of::<libbpf_sys::bpf_tc_hook>() as libbpf_sys::size_t,
        ifindex: interface(ifindex)?,
        attach_point: libbpf_sys::BPF_TC_INGRESS | libbpf_sys::BPF_TC_EGRESS,
        ..Default::default()
    })
}

fn interface(ifindex: u32) -> io::Result<i32> {
    i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

/// libbpf answers with a negative errno.
fn check(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
}
