//! A loaded XDP program with routes, a heartbeat, and a socket in its slot if asked.

use std::fs;
use std::num::NonZeroU32;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use xdpfrag::packet::{Df, Edit, Partition, Reason, Rule};
use xdpfrag::xdp::{ClampProgram, Counters, FrameLimits, IdentMap, LanConfig, LanProgram, Method, Route};
use xsk_rs::config::{LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use crate::frames::ROUTER;
use crate::frames6::ROUTER6;

pub(crate) const MTU: u16 = 1422;
pub(crate) const MSS: u16 = 1382;
pub(crate) const MSS6: u16 = 1362;
/// Longest frame that the worker takes.
pub(crate) const MAX_FRAME: u32 = 9000;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_REDIRECT: u32 = 4;

pub(crate) const CONFIG: LanConfig = LanConfig {
    df: Df::Clear,
    redirect_all: false,
    resegment: false,
    deaf_only: None,
    sticky: Duration::from_millis(200),
    // Time for a test on an emulated, busy machine.
    stall: Duration::from_secs(5),
    flow_seed: 0x1234_5678_9abc_def0,
    partition: Partition::WHOLE,
    queues: 1,
    lan_mtu: 1500,
};

/// Says so and answers true if this process may not load and attach BPF programs.
pub(crate) fn skipped(test: &str) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let caps = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    let caps = caps.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let missing: Vec<_> =
        [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_PERFMON", 38), ("CAP_BPF", 39)]
            .into_iter()
            .filter_map(|(name, bit)| (caps >> bit & 1 == 0).then_some(name))
            .collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: {test}: needs {}", missing.join(", "));
    }
    !missing.is_empty()
}

/// Says so and answers true if this kernel has no tcx, without which nothing runs behind GRO.
pub(crate) fn without_tcx(test: &str) -> bool {
    private_netns();
    let lan = LanProgram::load(&CONFIG, &IdentMap::new().unwrap()).unwrap();
    let clamp = ClampProgram::load(lan.route_maps()).unwrap();
    // A link where it can be, else a filter: it goes with the namespace.
    let attached = clamp.attach(if_nametoindex("lo").unwrap()).unwrap();
    let missing = attached.method() == Method::Clsact;
    if missing {
        eprintln!("SKIPPED: {test}: this kernel has no tcx (Linux 6.6)");
    }
    missing
}

/// Moves this thread into a network namespace of its own, loopback up. It goes with the thread.
pub(crate) fn private_netns() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a private network namespace");
    ip("link set lo up");
}

/// `ip ARGS` in the thread's namespace.
pub(crate) fn ip(args: &str) {
    let done = Command::new("ip").args(args.split_whitespace()).output().expect("ip(8) is installed");
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// What the program did with one frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) action: u32,
    pub(crate) reason: Reason,
    pub(crate) edits: Vec<Edit>,
    pub(crate) data: Vec<u8>,
}

pub(crate) struct Gateway {
    pub(crate) program: LanProgram,
    pub(crate) idents: Arc<IdentMap>,
    /// Keeps the AF_XDP socket open.
    _socket: Option<XdpSocket>,
}

type XdpSocket = (Umem, TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

impl Gateway {
    /// 198.18.0.0/15 and 2001:db8:f::/48 go into the tunnel, 198.18.0.1 and 2001:db8:f::1 are the router; no worker.
    pub(crate) fn without_worker(config: LanConfig) -> Gateway {
        let idents = Arc::new(IdentMap::new().unwrap());
        let program = LanProgram::load(&config, &idents).unwrap();
        let rule = Rule::new(MTU, Some(MSS), None);
        program.set_route("198.18.0.0/15".parse().unwrap(), Route::Tunnel(rule)).unwrap();
        program.set_local(ROUTER.into()).unwrap();
        let rule = Rule::new(MTU, None, Some(MSS6));
        program.set_route("2001:db8:f::/48".parse().unwrap(), Route::Tunnel(rule)).unwrap();
        program.set_local(ROUTER6.into()).unwrap();
        program.set_limits(FrameLimits { receive: MAX_FRAME, whole: MAX_FRAME }).unwrap();
        Gateway { program, idents, _socket: None }
    }

    /// With an AF_XDP socket in the slot of queue 0, and a worker that was alive just now.
    pub(crate) fn with_worker(config: LanConfig) -> Gateway {
        private_netns();
        let mut gateway = Gateway::without_worker(config);
        let (umem, _) = Umem::new(UmemConfig::default(), NonZeroU32::new(16).unwrap(), false).unwrap();
        let config =
            SocketConfig::builder().libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD).build();
        // SAFETY: the UMEM has no other socket on this device and queue; no frame is ever submitted.
        #[allow(unsafe_code)]
        let socket = unsafe { Socket::new(config, &umem, &"lo".parse().unwrap(), 0) };
        let (tx, rx, rings) = socket.expect("an AF_XDP socket on loopback");
        gateway.program.register_socket(0, rx.fd()).unwrap();
        gateway._socket = Some((umem, tx, rx, rings));
        gateway.beat(now_ns());
        gateway
    }

    pub(crate) fn beat(&self, ns: u64) {
        self.program.heartbeats().of(0).unwrap().beat(ns);
    }

    /// Runs the program once. Exactly one reason is counted.
    pub(crate) fn send(&self, frame: &[u8]) -> Seen {
        let before = self.program.counters().unwrap();
        let run = self.program.run_once(frame).unwrap();
        let after = self.program.counters().unwrap();
        assert_eq!(after.frames(), before.frames() + 1);
        let counted = |count: &dyn Fn(&Counters) -> u64| count(&after) - count(&before) == 1;
        let reason = Reason::ALL.iter().copied().find(|reason| counted(&|c| c.reason(*reason))).unwrap();
        let edits = Edit::ALL.iter().copied().filter(|edit| counted(&|c| c.edit(*edit))).collect();
        Seen { action: run.action, reason, edits, data: run.data }
    }

    /// Asserts that `frame` is passed as it is, and counted by nobody yet: the program behind GRO does that.
    #[track_caller]
    pub(crate) fn passes_uncounted(&self, frame: &[u8]) {
        let before = self.program.counters().unwrap();
        let run = self.program.run_once(frame).unwrap();
        assert_eq!((run.action, run.data == frame), (XDP_PASS, true));
        assert_eq!(self.program.counters().unwrap(), before);
    }

    /// Asserts that `frame` is passed for `reason`, not one byte changed.
    #[track_caller]
    pub(crate) fn passes_untouched(&self, frame: &[u8], reason: Reason) {
        let seen = self.send(frame);
        assert_eq!((seen.action, seen.reason, &seen.edits[..]), (XDP_PASS, reason, &[][..]));
        assert!(seen.data == frame, "changed: {:02x?}", seen.data);
    }
}
