//! More than can be carried: nothing stalls, nothing is lost without a counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use etherparse::PacketBuilder;
use nix::errno::Errno;
use serde_json::Value;
use xdpfrag::lab::bench::{Generator, Rate, Workload};
use xdpfrag::lab::traffic::ping::ping;
use xdpfrag::lab::{APPLIANCE, FAR, Lab, LabConfig, Namespace, Rules};
use xdpfrag::observe::snapshot::InterfaceSnapshot;

use super::raw::{RawSocket, before_all_others, ethernet};
use super::remote::{ROUTER, logins};
use super::{long, note, running};
use crate::footprint::resident_kib;
use crate::support::{deliver, forward, lab, lab_alone, mixed, stop};

/// What is queued when the flood ends is through after this.
const DRAIN: Duration = Duration::from_millis(500);
/// Bytes of IPv4 and UDP headers.
const HEADERS: usize = 28;
/// To the router, meanwhile.
const LOGINS: usize = 10;
/// Of the router and of the far host, while the workers have too much to do.
const PING_INTERVAL: Duration = Duration::from_millis(10);

/// One kind of frame, of which there is too much.
struct Load {
    /// Length of the IPv4 packets.
    bytes: usize,
    /// What brings them to a worker.
    arguments: &'static [&'static str],
    /// The reason under which the XDP program counts them, and a worker.
    reasons: [&'static str; 2],
    /// What becomes of each.
    parts: u64,
}

const OVERSIZE: [&str; 2] = ["oversize", "fragmented"];
/// Without `--redirect all` the kernel alone carries what fits.
const FITS: [&str; 2] = ["all", "fits"];
const LOADS: [Load; 4] = [
    // A frame of 64 bytes with its checksum.
    Load { bytes: 46, arguments: &["--redirect", "all"], reasons: FITS, parts: 1 },
    Load { bytes: 512, arguments: &["--redirect", "all"], reasons: FITS, parts: 1 },
    Load { bytes: 1500, arguments: &[], reasons: OVERSIZE, parts: 2 },
    // 8980 bytes in fragments of 1400.
    Load { bytes: 9000, arguments: &[], reasons: OVERSIZE, parts: 7 },
];

#[test]
fn twice_what_a_worker_can_carry_is_accounted_for_to_the_packet_and_control_traffic_passes() {
    for load in LOADS {
        let lan_mtu = load.bytes.max(1500) as u32;
        let Some(lab) = lab_alone(LabConfig { lan_mtu, ..LabConfig::beyond() }) else { return };
        lab.far_wire.set(Rules { sink: true, ..Rules::default() }).unwrap();
        let (here, there) = cores();
        let core = there.to_string();
        let daemon = forward(&lab, &[&["--cores", &core], load.arguments].concat());
        let _hog = Hog::on(there);
        let frame = datagram(load.bytes);
        // What it can carry it shows under all that can be sent.
        let flood = send(&lab, here, &frame, None, Duration::from_millis(500));
        thread::sleep(DRAIN);
        let before = Account::of(&lab);
        let capacity = before.interface.workers[0].received as f64 / flood.elapsed.as_secs_f64();

        let rate = 2.0 * capacity;
        let time = Duration::from_secs(if long() { 5 } else { 1 });
        let resident = resident_kib(daemon.pid());
        let sent = send(&lab, here, &frame, Some(rate), time);
        thread::sleep(DRAIN);
        let after = Account::of(&lab);
        let lost = after.balances(&before, &load, sent.frames);
        let Control { router, far, slowest } = control_traffic(&lab, here, &frame, rate, time);
        let grown = resident_kib(daemon.pid()).saturating_sub(resident);

        // As soon as it is over everything is as before.
        lab.far_wire.set(Rules::default()).unwrap();
        thread::sleep(DRAIN);
        deliver(&lab, mixed(500));
        stop(daemon);
        note(&format!(
            "{} bytes at twice the {capacity:.0} per second that a worker carries: {} sent, {lost}; pings at the same \
             load: {router} to the router and {far} to the far host unanswered; the slowest of {LOGINS} logins to the \
             router took {:.0} ms; memory +{grown} KiB",
            load.bytes,
            sent.frames,
            slowest.as_secs_f64() * 1000.0
        ));
        assert!(grown <= 256, "{grown} KiB");
        let pings = (time.as_secs_f64() / PING_INTERVAL.as_secs_f64()) as usize;
        // A busy machine's own rings are full now and then. What goes to the far host is the worker's with --redirect all.
        let allowed = if long() { pings / 50 } else { pings / 2 };
        assert!(router <= allowed, "{router} of {pings} pings of the router unanswered");
        assert!(far <= allowed || load.reasons == FITS, "{far} of {pings} pings of the far host unanswered");
    }
}

/// The sender's core, on which the router's part of the kernel runs as well, and the worker's.
fn cores() -> (usize, usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, .., last] = &cores[..] else { panic!("a sender and a worker need a core each: {cores:?}") };
    (first.id, last.id)
}

/// Takes a core away for four fifths of the time: no sender on one core alone makes twice as many frames as a worker
/// that has another for itself can carry.
struct Hog {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hog {
    fn on(core: usize) -> Hog {
        let over = Arc::new(AtomicBool::new(false));
        let thread = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                assert!(core_affinity::set_for_current(CoreId { id: core }), "core {core}");
                before_all_others().expect("real-time scheduling");
                while !over.load(Ordering::Acquire) {
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_millis(4) {
                        std::hint::spin_loop();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        Hog { over, thread: Some(thread) }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A hog that could not be one has said so; the test finds no overload then.
            let _ = thread.join();
        }
    }
}

/// A whole frame to a port of the far host where nobody listens, from one of the appliance.
fn datagram(bytes: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(APPLIANCE.octets(), FAR.octets(), 64).udp(9, 9);
    builder.write(&mut packet, &vec![0x40; bytes - HEADERS]).unwrap();
    // DF.
    packet[6] |= 0x40;
    let mut frame = [ethernet(0x0800), packet].concat();
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    frame
}

struct Sent {
    frames: u64,
    elapsed: Duration,
}

/// Sends `frame` from the appliance, so many per second, or as many as it can.
fn send(lab: &Lab, core: usize, frame: &[u8], rate: Option<f64>, time: Duration) -> Sent {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(lab, core, frame, rate, &over));
        thread::sleep(time);
        over.store(true, Ordering::Release);
        sender.join().unwrap()
    })
}

fn send_until(lab: &Lab, core: usize, frame: &[u8], rate: Option<f64>, over: &AtomicBool) -> Sent {
    let work = || {
        assert!(core_affinity::set_for_current(CoreId { id: core }), "core {core}");
        let wire = RawSocket::open("lan0")?;
        let (start, mut frames) = (Instant::now(), 0);
        while !over.load(Ordering::Acquire) {
            let due = rate.map_or(frames + 64, |rate| (start.elapsed().as_secs_f64() * rate) as u64);
            while frames < due {
                match wire.send(frame) {
                    // The interface counts what its ring does not take.
                    Ok(()) | Err(Errno::ENOBUFS) => frames += 1,
                    Err(errno) => return Err(errno.into()),
                }
            }
            if rate.is_some() {
                thread::sleep(Duration::from_micros(100));
            }
        }
        Ok(Sent { frames, elapsed: start.elapsed() })
    };
    lab.appliance.run(work).unwrap()
}

/// What became of control traffic.
struct Control {
    /// Pings without an answer: of the router, and of the far host.
    router: usize,
    far: usize,
    /// The login to the router that took longest.
    slowest: Duration,
}

/// Pings and logins while `frame` is sent; the router's address is to be found by ARP first.
fn control_traffic(lab: &Lab, core: usize, frame: &[u8], rate: f64, time: Duration) -> Control {
    let over = AtomicBool::new(false);
    let count = (time.as_secs_f64() / PING_INTERVAL.as_secs_f64()) as u16;
    lab.far_wire.set(Rules::default()).unwrap();
    let control = thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(lab, core, frame, Some(rate), &over));
        thread::sleep(Duration::from_millis(100));
        lab.appliance.ip("neigh del 198.18.1.1 dev lan0").unwrap();
        let pings = [ROUTER, FAR]
            .map(|to| scope.spawn(move || ping(&lab.appliance, to, count, PING_INTERVAL).unwrap()));
        let logins = logins(lab, LOGINS);
        let [router, far] =
            pings.map(|ping| ping.join().unwrap().iter().filter(|answered| !**answered).count());
        over.store(true, Ordering::Release);
        assert!(sender.join().unwrap().frames > 0);
        let took = logins.into_iter().map(|login| login.expect("a login to the router"));
        Control { router, far, slowest: took.max().expect("logins") }
    });
    let found = lab.appliance.ip("neigh show 198.18.1.1 dev lan0").unwrap();
    assert!(found.contains("lladdr"), "no answer to ARP: {found:?}");
    control
}

/// All counters on the way.
struct Account {
    /// Refused by the ring of the LAN interface.
    lan_drops: u64,
    interface: InterfaceSnapshot,
    /// Refused on the way out.
    wan_drops: u64,
    /// Arrived at the far side.
    arrived: u64,
}

impl Account {
    fn of(lab: &Lab) -> Account {
        Account {
            lan_drops: tx_drops(&lab.appliance, "lan0"),
            interface: running(lab),
            wan_drops: tx_drops(&lab.gateway, "wan0"),
            arrived: lab.far_wire.seen().unwrap().packets,
        }
    }

    /// Holds that every frame sent since `before` is somewhere, and says where.
    fn balances(&self, before: &Account, load: &Load, sent: u64) -> String {
        let [worker, earlier] = [self, before].map(|account| &account.interface.workers[0]);
        let since = |of: fn(&Account) -> u64| of(self) - of(before);
        let [seen, made] = [
            self.interface.xdp[load.reasons[0]] - before.interface.xdp[load.reasons[0]],
            worker.reasons[load.reasons[1]] - earlier.reasons[load.reasons[1]],
        ];
        let failed = |reason: &str| worker.reasons[reason] - earlier.reasons[reason];
        let lost = failed("handback_full") + failed("handback_error");
        let [received, queue, handed_back] = [
            worker.received - earlier.received,
            worker.socket_drops - earlier.socket_drops,
            worker.handed_back - earlier.handed_back,
        ];
        let [refused, beyond, arrived] =
            [since(|all| all.lan_drops), since(|all| all.wan_drops), since(|all| all.arrived)];
        let told = format!(
            "{refused} refused by the interface's ring, {queue} by the socket's, {lost} by the hand-back; {arrived} \
             packets at the far side, {beyond} refused by the WAN's ring"
        );
        assert!(queue > 0, "no overload: {told}");
        assert_eq!(sent, seen + refused, "sent {sent}: {told}");
        assert_eq!(seen, received + queue, "{told}");
        assert_eq!(received, made + lost, "{told}");
        assert_eq!(handed_back, load.parts * made, "{told}");
        assert_eq!(handed_back, arrived + beyond, "{told}");
        told
    }
}

/// As many frames as a core can make, in front of a router that has the other for itself.
#[test]
fn a_flood_is_accounted_for_to_the_packet() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let mut generator = Generator::new(&lab, 0).unwrap();
    generator.load(Workload::Udp1500).unwrap();
    lab.far_wire.set(Rules { sink: true, ..Rules::default() }).unwrap();
    let daemon = forward(&lab, &[]);
    let before = Account::of(&lab);
    let sent = generator.run(Rate::Flood, Duration::from_secs(if long() { 10 } else { 2 })).unwrap().frames;
    thread::sleep(DRAIN);
    let after = Account::of(&lab);
    lab.far_wire.set(Rules::default()).unwrap();
    deliver(&lab, mixed(500));
    stop(daemon);
    // Live frames that the ring refuses are not counted by the appliance, whose program made them.
    let seen = after.interface.xdp["oversize"];
    let told = after.balances(&before, &LOADS[2], seen + (after.lan_drops - before.lan_drops));
    note(&format!("Flood: {sent} frames of 1500 bytes sent, {seen} seen by the XDP program, {told}"));
    assert!(sent >= seen, "{sent} sent, {seen} seen");
}

/// Packets that an interface could not send.
fn tx_drops(namespace: &Namespace, interface: &str) -> u64 {
    let json = namespace.output("ip", &["-s", "-j", "link", "show", interface]).unwrap();
    let links: Value = serde_json::from_str(&json).unwrap();
    links[0]["stats64"]["tx"]["dropped"].as_u64().expect("ip counts drops")
}
