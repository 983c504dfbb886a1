//! Hand-backs and AF_XDP ports against a real kernel, in private network namespaces. Needs root.

use std::io::{self, BufRead as _, BufReader};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use libbpf_rs::query::ProgInfoIter;
use nix::net::if_::{if_nameindex, if_nametoindex};
use nix::sys::socket::{setsockopt, sockopt};
use xdpfrag::config::HandbackChoice;
use xdpfrag::handback::{
    Flushed, Handback, HandbackConfig, HandbackError, Inject, OpenError, Tap, Veth, choose,
};
use xdpfrag::net::private_ns::PrivateNs;
use xdpfrag::packet::Sink;
use xdpfrag::xdp::Method;

/// They count the machine's BPF programs, and measure.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The turn of this test, or `None` without root.
fn root(test: &str) -> Option<MutexGuard<'static, ()>> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

const LAN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// `lan0` with 198.18.1.1/24 and its peer `host0`, in the namespace of the calling thread.
fn lan(mtu: u32) -> HandbackConfig {
    ip(&format!("link add lan0 mtu {mtu} address 02:00:00:00:00:01 type veth peer name host0 mtu {mtu}"));
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    ip("addr add 198.18.1.1/24 dev lan0");
    ip("link set lan0 up");
    ip("link set host0 up");
    let ifindex = if_nametoindex("lan0").unwrap();
    HandbackConfig {
        interface: "lan0".into(),
        ifindex,
        queue: 0,
        max_frame: mtu as usize + 22,
        max_datagram: mtu as usize + 22,
        token: 0,
    }
}

fn udp_frame(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC)
        .ipv4([198, 18, 1, 2], [198, 18, 1, 1], 64)
        .udp(4000, 5000);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn payload(len: usize, number: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
    for (byte, mark) in bytes.iter_mut().zip((number as u32).to_be_bytes()) {
        *byte = mark;
    }
    bytes
}

fn receiver() -> UdpSocket {
    let socket = UdpSocket::bind("198.18.1.1:5000").unwrap();
    // A whole batch waits here until the flush returns.
    setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

fn push(handback: &mut impl Sink, frame: &[u8]) {
    assert!(handback.reserve(1, frame.len()), "no room");
    handback.push(frame.len()).copy_from_slice(frame);
}

/// All of it goes, and none of it is lost.
fn flush(handback: &mut impl Handback) {
    assert_eq!(handback.flush(), Flushed { lost: 0, result: Ok(()) });
    assert_eq!(handback.pending(), 0);
}

/// Every payload from 0 to `longest` bytes arrives as it was sent, in order.
fn every_size_arrives(handback: &mut impl Handback, longest: usize) {
    let socket = receiver();
    let mut buffer = vec![0; 65536];
    let sizes: Vec<usize> = (0..=longest).collect();
    for batch in sizes.chunks(48) {
        for size in batch {
            push(handback, &udp_frame(&payload(*size, *size)));
        }
        assert_eq!(handback.pending(), batch.len());
        flush(handback);
        for size in batch {
            let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
            assert!(buffer[..len] == payload(*size, *size), "{size} bytes came as {len} or changed");
        }
    }
    assert!(handback.ledger().balanced());
}

/// 10,000 frames in uneven batches are counted exactly. Returns the median time of a flush of 64.
fn ten_thousand_arrive(handback: &mut impl Handback) -> Duration {
    let socket = receiver();
    let mut buffer = [0; 2048];
    let (mut sent, mut received) = (0, 0);
    let mut times = Vec::new();
    for batch in [64, 1, 7, 200].into_iter().cycle() {
        let batch = batch.min(10_000 - sent);
        if batch == 0 {
            break;
        }
        for number in sent..sent + batch {
            push(handback, &udp_frame(&payload(if number % 2 == 0 { 1394 } else { 70 }, number)));
        }
        sent += batch;
        let start = Instant::now();
        flush(handback);
        if batch == 64 {
            times.push(start.elapsed());
        }
        for number in received..sent {
            let len = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..len] == payload(len, number), "frame {number} of {sent}");
        }
        received = sent;
    }
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock, "a frame too many");
    assert_eq!(received, 10_000);
    times.sort();
    times[times.len() / 2]
}

/// Both of the above; says and answers that time.
fn delivers(name: &str, handback: &mut impl Handback) -> Duration {
    every_size_arrives(handback, 1472);
    let median = ten_thousand_arrive(handback);
    eprintln!("{name}: a flush of 64 frames took {median:?} (median)");
    median
}

/// Devices are as they were, and so many programs that redirect.
fn leaves_nothing(links: &[String], programs_before: usize) {
    eventually("the devices are gone", || interfaces() == links);
    eventually("the programs are gone", || programs("redirect") == programs_before);
}

fn programs(name: &str) -> usize {
    ProgInfoIter::default().filter(|program| program.name.to_str() == Ok(name)).count()
}

fn interfaces() -> Vec<String> {
    let names = if_nameindex().unwrap();
    names.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect()
}

/// The kernel frees what a closed descriptor held a moment later.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn inject_delivers_every_size_and_every_frame() {
    let Some(_turn) = root("inject") else { return };
    PrivateNs::new()
        .unwrap()
        .run(|| {
            let before = programs("inject");
            let config = lan(1500);
            let mut handback = Inject::open(&config).unwrap();
            assert_eq!(interfaces(), ["lo", "host0", "lan0"], "the gateway sees nothing new");
            assert_eq!(programs("inject"), before + 1);
            let median = delivers("inject", &mut handback);
            // Attached nowhere, a call takes 20 ms and more.
            assert!(median < Duration::from_millis(2), "{median:?}");
            drop(handback);
            eventually("the program is gone", || programs("inject") == before);
        })
        .unwrap();
}

/// The kernel makes 64 frames at once: no group of frames is torn apart, and what fills up the 64 is no frame.
#[test]
fn inject_keeps_the_fragments_of_a_datagram_in_one_kernel_batch() {
    let Some(_turn) = root("inject groups") else { return };
    PrivateNs::new()
        .unwrap()
        .run(|| {
            let mut handback = Inject::open(&lan(1500)).unwrap();
            let socket = receiver();
            let mut buffer = [0; 2048];
            for (group, slots) in
                [(1, 512), (2, 512), (5, 512 - 7 * 4), (33, 512 - 8 * 31), (64, 512), (200, 400)]
            {
                let mut frames = 0;
                while handback.reserve(group, 100) {
                    for _ in 0..group {
                        let frame = udp_frame(&payload(30, frames));
                        handback.push(frame.len()).copy_from_slice(&frame);
                        frames += 1;
                    }
                }
                assert_eq!(
                    (frames, handback.pending()),
                    (slots / group * group, frames),
                    "groups of {group}"
                );
                flush(&mut handback);
                for number in 0..frames {
                    let len = socket.recv(&mut buffer).unwrap();
                    assert!(buffer[..len] == payload(30, number), "frame {number} of groups of {group}");
                }
                assert!(handback.ledger().balanced());
            }
            assert!(!handback.reserve(513, 100));
            flush(&mut handback);
        })
        .unwrap();
}

#[test]
fn inject_delivers_jumbo_frames_up_to_its_limit() {
    let Some(_turn) = root("inject jumbo") else { return };
    PrivateNs::new()
        .unwrap()
        .run(|| {
            let mut config = lan(3386);
            let mut handback = Inject::open(&config).unwrap();
            every_size_arrives(&mut handback, 3386 - 28);
            // A queue that the device does not have is no reason to fail.
            config.queue = 5;
            every_size_arrives(&mut Inject::open(&config).unwrap(), 100);
            config.max_frame += 1;
            assert!(matches!(Inject::open(&config), Err(OpenError::TooLong { limit: 3408, .. })));
        })
        .unwrap();
}

#[test]
fn veth_delivers_every_size_and_every_frame_and_leaves_nothing() {
    let Some(_turn) = root("veth") else { return };
    PrivateNs::new()
        .unwrap()
        .run(|| {
            let before = programs("redirect");
            let config = lan(1500);
            let links = interfaces();
            let mut handback = Veth::open(&config).unwrap();
            assert_eq!(interfaces().len(), links.len() + 1);
            delivers("veth", &mut handback);
            drop(handback);
            leaves_nothing(&links, before);
            // At once again: the same name, the same queue.
            drop(Veth::open(&config).unwrap());
        })
        .unwrap();
}

#[test]
fn veth_delivers_without_tcx_as_well() {
    let Some(_turn) = root("veth with clsact") else { return };
    let in_namespace = || {
        let mut config = lan(3836);
        config.max_frame = 3836;
        let links = interfaces();
        let mut handback = Veth::open_with(&config, Some(Method::Clsact)).unwrap();
        every_size_arrives(&mut handback, 3836 - 46);
        drop(handback);
        eventually("the pair is gone", || interfaces() == links);
        let too_long = Veth::open(&HandbackConfig { max_frame: 3841, ..config });
        assert!(matches!(too_long, Err(OpenError::TooLong { limit: 3840, .. })));
    };
    PrivateNs::new().unwrap().run(in_namespace).unwrap();
}

#[test]
fn a_lost_device_is_fatal() {
    let Some(_turn) = root("lost device") else { return };
    PrivateNs::new()
        .unwrap()
        .run(|| {
            let config = lan(1500);
            let mut inject = Inject::open(&config).unwrap();
            let mut veth = Veth::open(&config).unwrap();
            ip(&format!("link del xdpfrag{:x}q0", config.ifindex));
            push(&mut veth, &udp_frame(b"x"));
            assert!(matches!(veth.flush().result, Err(HandbackError::Fatal(_))), "veth");
            assert_eq!(veth.pending(), 1);
            veth.discard();
            assert_eq!(veth.pending(), 0);
            assert!(veth.ledger().balanced());
            ip("link del lan0");
            push(&mut inject, &udp_frame(b"x"));
            assert!(matches!(inject.flush().result, Err(HandbackError::Fatal(_))), "inject");
            assert_eq!(inject.pending(), 1);
        })
        .unwrap();
}

#[test]
fn tap_delivers_every_size_and_every_frame_and_leaves_nothing() {
    let Some(_turn) = root("tap") else { return };
    PrivateNs::new()
        .unwrap()
        .run(|| {
            let before = programs("redirect");
            let config = lan(1500);
            let links = interfaces();
            let mut handback = Tap::open(&config).unwrap();
            // Of another instance that takes over.
            let other = Tap::open(&config).unwrap();
            assert_eq!(interfaces().len(), links.len() + 2);
            delivers("tap", &mut handback);
            drop((handback, other));
            leaves_nothing(&links, before);
        })
        .unwrap();
}

#[test]
fn a_packet_that_the_kernel_refuses_is_lost_alone_and_a_lost_tap_is_fatal() {
    let Some(_turn) = root("refused") else { return };
    let in_namespace = || {
        let config = lan(1500);
        let mut tap = Tap::open(&config).unwrap();
        let socket = receiver();
        push(&mut tap, &udp_frame(b"one"));
        // Shorter than an Ethernet header.
        push(&mut tap, &[0; 13]);
        push(&mut tap, &udp_frame(b"another"));
        assert_eq!(tap.flush(), Flushed { lost: 1, result: Ok(()) });
        let mut buffer = [0; 64];
        assert_eq!((socket.recv(&mut buffer).unwrap(), socket.recv(&mut buffer).unwrap()), (3, 7));
        let device = format!("xdpfrag{:x}t0", config.ifindex);
        ip(&format!("link set {device} down"));
        push(&mut tap, &udp_frame(b"later"));
        assert!(matches!(tap.flush().result, Err(HandbackError::Transient(_))));
        assert_eq!(tap.pending(), 1);
        ip(&format!("link set {device} up"));
        assert_eq!(tap.flush(), Flushed { lost: 0, result: Ok(()) });
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
        ip(&format!("link del {device}"));
        push(&mut tap, &udp_frame(b"x"));
        assert!(matches!(tap.flush().result, Err(HandbackError::Fatal(_))));
        assert_eq!(tap.pending(), 1);
        tap.discard();
        assert_eq!(tap.pending(), 0);
        assert!(tap.ledger().balanced());
    };
    PrivateNs::new().unwrap().run(in_namespace).unwrap();
}

/// While the near end is down the device drops frame after frame, which the kernel tells one by one.
#[test]
fn veth_counts_the_frames_that_its_device_drops() {
    let Some(_turn) = root("veth losses") else { return };
    let in_namespace = || {
        let mut config = lan(1500);
        // The longest queue number that is left: the name still fits.
        config.queue = 0xff;
        let mut handback = Veth::open(&config).unwrap();
        let near = format!("xdpfrag{:x}qff", config.ifindex);
        let flush_out = |handback: &mut Veth, frames: usize| {
            for _ in 0..frames {
                push(handback, &udp_frame(b"lost"));
            }
            let (mut lost, mut failed) = (0, 0);
            while handback.pending() > 0 {
                let before = handback.pending();
                let flushed = handback.flush();
                let taken = before - handback.pending();
                assert!(taken > 0 && flushed.lost == taken, "{flushed:?}, {taken} taken");
                lost += flushed.lost;
                failed += usize::from(flushed.result.is_err());
            }
            assert!(lost == frames && handback.ledger().balanced(), "{lost} of {frames}");
            failed
        };
        ip(&format!("link set {near} down"));
        assert!(flush_out(&mut handback, 256) > 0, "no call gets through 256 frames");
        flush_out(&mut handback, 1);
        // The kernel gives the entries of the ring back later than the memory.
        flush_out(&mut handback, 300);
        flush_out(&mut handback, 512);
        // What was given up is nobody's loss.
        for _ in 0..100 {
            push(&mut handback, &udp_frame(b"given up"));
        }
        assert!(handback.flush().result.is_err());
        handback.discard();
        assert_eq!(handback.pending(), 0);
        for _ in 0..3 {
            push(&mut handback, &udp_frame(b"lost"));
        }
        let mut lost = 0;
        while handback.pending() > 0 {
            lost += handback.flush().lost;
        }
        assert_eq!(lost, 3);
        ip(&format!("link set {near} up"));
        let socket = receiver();
        push(&mut handback, &udp_frame(b"x"));
        flush(&mut handback);
        assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 1);
    };
    PrivateNs::new().unwrap().run(in_namespace).unwrap();
}

#[test]
fn auto_takes_live_frames_here() {
    let Some(_turn) = root("auto") else { return };
    PrivateNs::new()
        .unwrap()
        .run(|| {
            let mut config = lan(1500);
            let chosen = choose(HandbackChoice::Auto, &config).unwrap();
            assert_eq!(chosen.handback.name(), "tap", "{}", chosen.why);
            drop(chosen);
            config.max_frame = 3500;
            let chosen = choose(HandbackChoice::Auto, &config).unwrap();
            assert_eq!(chosen.handback.name(), "veth");
            assert!(chosen.why.contains("3408"), "{}", chosen.why);
            drop(chosen);
            config.max_frame = 9022;
            let error = choose(HandbackChoice::Auto, &config).unwrap_err();
            assert!(error.to_string().contains("9022"), "{error}");
        })
        .unwrap();
}

/// The process that the next test kills: holds every hand-back on `lan0` until its end.
#[test]
fn hold_all_hand_backs() {
    if std::env::var_os("XDPFRAG_TEST_HOLD").is_none() {
        return;
    }
    let ifindex = if_nametoindex("lan0").unwrap();
    let config = HandbackConfig {
        interface: "lan0".into(),
        ifindex,
        queue: 0,
        max_frame: 1522,
        max_datagram: 1522,
        token: 0,
    };
    let _held = (Inject::open(&config).unwrap(), Veth::open(&config).unwrap(), Tap::open(&config).unwrap());
    println!("\nholding");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn nothing_is_left_after_sigkill() {
    let Some(_turn) = root("SIGKILL") else { return };
    let in_namespace = || {
        let before = (programs("inject"), programs("redirect"));
        lan(1500);
        let links = interfaces();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hold_all_hand_backs", "--nocapture"])
            .env("XDPFRAG_TEST_HOLD", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        assert!(output.lines().any(|line| line.unwrap() == "holding"), "the child opened all");
        assert_eq!((programs("inject"), programs("redirect")), (before.0 + 1, before.1 + 2));
        assert_eq!(interfaces().len(), links.len() + 2);
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the devices are gone", || interfaces() == links);
        eventually("the programs are gone", || (programs("inject"), programs("redirect")) == before);
    };
    PrivateNs::new().unwrap().run(in_namespace).unwrap();
}
