//! AF_XDP ports behind the real XDP program, and whole workers, in private network namespaces. Needs root.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, unbounded};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use xdpfrag::config::{Choice, HandbackChoice, Mode, Poll, Scope, Treatment};
use xdpfrag::handback::{HandbackConfig, choose};
use xdpfrag::net::private_ns::PrivateNs;
use xdpfrag::packet::{Df, Idents, Partition, Reason, Rule, Tcp, Transform};
use xdpfrag::port::{Port, XskConfig, XskPort};
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::worker::{Posted, Settings, Turn, Worker, WorkerConfig, WorkerEnd};
use xdpfrag::xdp::layout::Route;
use xdpfrag::xdp::{Attached, FrameLimits, IdentMap, LanConfig, LanProgram};

const RULE: Rule = Rule::new(1422, Some(1382), None);
const STALL: Duration = Duration::from_millis(100);

fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}

fn sh(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A host 198.18.1.2, a gateway with `lan0` 198.18.1.1 and `wan0` 198.18.2.1, and a far side 198.18.2.2.
struct Lab {
    host: PrivateNs,
    gateway: PrivateNs,
    far: PrivateNs,
}

impl Lab {
    fn new(lan_mtu: u32) -> Lab {
        let lab = Lab {
            host: PrivateNs::new().unwrap(),
            gateway: PrivateNs::new().unwrap(),
            far: PrivateNs::new().unwrap(),
        };
        let pid = std::process::id();
        let fd = |ns: &PrivateNs| format!("/proc/{pid}/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ns.as_fd()));
        let (host, far) = (fd(&lab.host), fd(&lab.far));
        lab.gateway
            .run(|| {
                sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; echo 1 >/proc/sys/net/ipv4/ip_forward");
                sh(&format!(
                    "ip link add lan0 mtu {lan_mtu} address 02:00:00:00:00:01 type veth peer name eth0 \
                     mtu {lan_mtu} address 02:00:00:00:00:02 netns {host}
                     ip link add wan0 mtu {lan_mtu} address 02:00:00:00:00:03 type veth peer name eth0 \
                     mtu {lan_mtu} address 02:00:00:00:00:04 netns {far}
                     ip addr add 198.18.1.1/24 dev lan0; ip addr add 198.18.2.1/24 dev wan0
                     ip link set lan0 up; ip link set wan0 up
                     ip neigh add 198.18.2.2 lladdr 02:00:00:00:00:04 dev wan0
                     ip neigh add 198.18.1.2 lladdr 02:00:00:00:00:02 dev lan0"
                ));
            })
            .unwrap();
        for (ns, near, gateway, mac) in
            [(&lab.host, "198.18.1.2", "198.18.1.1", 1), (&lab.far, "198.18.2.2", "198.18.2.1", 3)]
        {
            ns.run(|| {
                sh(&format!(
                    "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
                     ip addr add {near}/24 dev eth0; ip link set eth0 up; ip link set lo up
                     ip neigh add {gateway} lladdr 02:00:00:00:00:0{mac} dev eth0
                     ip route add default via {gateway}; ethtool -K eth0 tx off gro off tso off >/dev/null"
                ));
            })
            .unwrap();
        }
        lab
    }

    /// In the host: a socket that sends DF datagrams to the far side.
    fn sender(&self) -> UdpSocket {
        self.host
            .run(|| {
                let socket = UdpSocket::bind("198.18.1.2:4000").unwrap();
                socket.connect("198.18.2.2:5000").unwrap();
                socket
            })
            .unwrap()
    }

    fn receiver(&self) -> UdpSocket {
        self.far
            .run(|| {
                let socket = UdpSocket::bind("198.18.2.2:5000").unwrap();
                setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                socket
            })
            .unwrap()
    }
}

/// The XDP program on `lan0` of the calling thread's namespace with a socket on its queue 0.
fn attach(lan_mtu: u32, redirect_all: bool) -> (LanProgram, Attached, XskPort) {
    let config = XskConfig {
        interface: "lan0".into(),
        queue: 0,
        zero_copy: Choice::Auto,
        max_frame: lan_mtu as usize + 22,
    };
    let port = XskPort::open(&config).unwrap();
    let program = LanProgram::load(
        &LanConfig {
            df: Df::Clear,
            redirect_all,
            resegment: false,
            deaf_only: None,
            sticky: Duration::ZERO,
            stall: STALL,
            flow_seed: 1,
            partition: Partition::WHOLE,
            queues: 1,
            lan_mtu,
        },
        &IdentMap::new().unwrap(),
    )
    .unwrap();
    program.set_route("198.18.2.0/24".parse().unwrap(), Route::Tunnel(RULE)).unwrap();
    let attached = program.attach(if_nametoindex("lan0").unwrap(), Mode::Native).unwrap();
    program.set_limits(FrameLimits { receive: port.max_frame() as u32, whole: lan_mtu + 22 }).unwrap();
    program.register_socket(0, &port.as_fd()).unwrap();
    (program, attached, port)
}

fn payload(len: usize, number: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
    for (byte, mark) in bytes.iter_mut().zip((number as u32).to_be_bytes()) {
        *byte = mark;
    }
    bytes
}

/// Receives until `count` frames came, as (payload behind Ethernet, IPv4 and UDP, rule).
fn receive(port: &mut XskPort, count: usize) -> Vec<(Vec<u8>, Option<Rule>)> {
    let mut frames = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(2);
    while frames.len() < count && Instant::now() < deadline {
        let receipt = port.receive(64, |frame| {
            let age = frame.meta.map(|meta| monotonic_ns() - meta.rx_ns);
            assert!(age.is_some_and(|age| age < 2_000_000_000), "{age:?}");
            frames.push((frame.bytes[42..].to_vec(), frame.meta.map(|meta| meta.rule)));
        });
        assert_eq!(receipt.truncated, 0);
        port.refill();
        let ledger = port.ledger();
        assert!(ledger.balanced() && ledger.held == 0, "{ledger:?}");
        if receipt.frames == 0 {
            port.wait(Duration::from_millis(20)).unwrap();
        }
    }
    frames
}

#[test]
fn oversize_frames_come_with_their_metadata() {
    if !root("port") {
        return;
    }
    let lab = Lab::new(1500);
    let sender = lab.sender();
    let (program, _attached, mut port) = lab.gateway.run(|| attach(1500, false)).unwrap();
    let heartbeat = program.heartbeats().of(0).unwrap();
    for number in 0..3000 {
        heartbeat.beat(monotonic_ns());
        let sent = payload(1400 + number % 73, number);
        sender.send(&sent).unwrap();
        assert_eq!(receive(&mut port, 1), [(sent, Some(RULE))], "frame {number}");
    }
    assert_eq!(program.counters().unwrap().reason(Reason::Oversize), 3000);
    assert_eq!(port.drops().unwrap(), 0);
    let ledger = port.ledger();
    // 8 MiB of pages: it was not told that the driver has no zero-copy.
    assert_eq!((ledger.total, ledger.tx), (2048, 0));
}

#[test]
fn jumbo_frames_come_in_one_piece() {
    if !root("jumbo port") {
        return;
    }
    let lab = Lab::new(9000);
    let sender = lab.sender();
    let (program, _attached, mut port) = lab.gateway.run(|| attach(9000, false)).unwrap();
    assert_eq!(port.max_frame(), if port.multi_buffer() { 9022 } else { 1792 });
    let heartbeat = program.heartbeats().of(0).unwrap();
    for (number, len) in [1395, 1749, 1750, 1751, 3541, 3542, 3543, 4096, 8000, 8972].into_iter().enumerate()
    {
        heartbeat.beat(monotonic_ns());
        let sent = payload(len, number);
        sender.send(&sent).unwrap();
        let received = receive(&mut port, 1);
        assert_eq!(received.len(), 1, "{len} bytes; drops {:?}", port.drops());
        assert!(received[0].0 == sent && received[0].1 == Some(RULE), "{len} bytes changed");
    }
}

#[test]
fn a_busy_queue_and_a_missing_one_are_named() {
    if !root("busy port") {
        return;
    }
    let lab = Lab::new(1500);
    lab.gateway
        .run(|| {
            let config =
                XskConfig { interface: "lan0".into(), queue: 0, zero_copy: Choice::Off, max_frame: 1522 };
            let _port = XskPort::open(&config).unwrap();
            let error = XskPort::open(&config).unwrap_err().to_string();
            assert!(error.contains("lan0 queue 0") && error.contains("holds this queue"), "{error}");
            let error = XskPort::open(&XskConfig { queue: 7, ..config.clone() }).unwrap_err().to_string();
            assert!(error.contains("queue 7") && error.contains("ethtool -l"), "{error}");
            let gone = XskConfig { interface: "eth9".into(), ..config.clone() };
            let error = XskPort::open(&gone).unwrap_err().to_string();
            assert!(error.contains("eth9") && error.contains("no such interface"), "{error}");
        })
        .unwrap();
}

/// A worker on `lan0`, and the far end of its last message.
fn worker(
    port: XskPort,
    program: &LanProgram,
    handback: HandbackChoice,
    poll: Poll,
) -> (Worker, Receiver<WorkerEnd>) {
    let ifindex = if_nametoindex("lan0").unwrap();
    let config = HandbackConfig {
        interface: "lan0".into(),
        ifindex,
        queue: 0,
        max_frame: 1444,
        max_datagram: 1444,
        token: 0,
    };
    let handback = choose(handback, &config).unwrap().handback;
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::default()) };
    let treatment = Arc::new(Treatment {
        scope: vec![("198.18.2.0/24".parse().unwrap(), RULE)],
        df: Df::Clear,
        tcp: Tcp::Fragment,
    });
    let settings = Settings { stall: STALL, ..Settings::new(transform.clone(), Scope::from(&*treatment)) };
    let turn = Turn::new(port, handback, transform, treatment).following(Posted::new(settings).followed());
    let heartbeat = program.heartbeats().of(0).unwrap();
    let config = WorkerConfig { interface: "lan0".into(), queue: 0, core: Some(0), poll };
    let (sender, receiver) = unbounded();
    (Worker::spawn(config, turn, move |beat| heartbeat.beat(beat.now_ns), sender).unwrap(), receiver)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn forwards(handback: HandbackChoice, poll: Poll, lan_mtu: u32, longest: usize) {
    let lab = Lab::new(lan_mtu);
    let (sender, receiver) = (lab.sender(), lab.receiver());
    let (program, _attached, worker, ended) = lab
        .gateway
        .run(|| {
            let (program, attached, port) = attach(lan_mtu, true);
            let (worker, ended) = worker(port, &program, handback, poll);
            (program, attached, worker, ended)
        })
        .unwrap();
    let heartbeat = program.heartbeats().of(0).unwrap();
    wait_for("the worker is alive", || heartbeat.last() != 0);
    let mut buffer = vec![0; 65536];
    let count = 2000;
    for number in 0..count {
        let sent = payload(4 + number * 31 % longest, number);
        sender.send(&sent).unwrap();
        if number % 32 == 31 {
            for number in number - 31..=number {
                let len =
                    receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("datagram {number}: {error}"));
                assert!(
                    buffer[..len] == payload(4 + number * 31 % longest, number),
                    "datagram {number} changed"
                );
            }
        }
    }
    let rest = count % 32;
    (0..rest).for_each(|_| assert!(receiver.recv(&mut buffer).is_ok()));
    wait_for("everything is counted", || worker.counters().frames() == count as u64);
    worker.stop();
    let end = ended.recv_timeout(Duration::from_secs(2)).unwrap();
    assert!(end.result.is_ok(), "{:?}", end.result);
    assert_eq!(heartbeat.last(), 0, "the XDP program passes frames from now on");
    let snapshot = worker.snapshot();
    wait_for("the thread has ended", || !worker.alive());
    assert_eq!(snapshot.received, count as u64);
    assert_eq!(snapshot.reasons["fits"] + snapshot.reasons["fragmented"], count as u64);
    assert!(snapshot.reasons["fragmented"] > 0 && snapshot.reasons["fits"] > 0);
    assert_eq!((snapshot.socket_drops, snapshot.handback_errors), (0, 0));
    let latency = snapshot.latency.unwrap();
    assert_eq!(latency.count, count as u64);
    eprintln!("{handback:?} {poll:?} MTU {lan_mtu}: {latency:?}");
    // The kernel forwards what fits once the worker has gone.
    sender.send(b"after").unwrap();
    assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);
}

#[test]
fn workers_forward_by_inject() {
    if root("worker with inject") {
        forwards(HandbackChoice::Inject, Poll::Adaptive, 1500, 1468);
    }
}

#[test]
fn workers_forward_by_veth() {
    if root("worker with veth") {
        forwards(HandbackChoice::Veth, Poll::Wait, 1500, 1468);
    }
}

#[test]
fn workers_forward_jumbo_frames() {
    if root("worker with jumbo frames") {
        forwards(HandbackChoice::Inject, Poll::Busy, 9000, 8968);
    }
}

#[test]
fn a_worker_whose_interface_goes_says_so() {
    if !root("lost interface") {
        return;
    }
    let lab = Lab::new(1500);
    let (program, attached, worker, ended) = lab
        .gateway
        .run(|| {
            let (program, attached, port) = attach(1500, false);
            let (worker, ended) = worker(port, &program, HandbackChoice::Inject, Poll::Wait);
            (program, attached, worker, ended)
        })
        .unwrap();
    lab.gateway.run(|| sh("ip link del lan0")).unwrap();
    let end = ended.recv_timeout(Duration::from_secs(2)).unwrap();
    let error = end.result.unwrap_err();
    assert!(error.to_string().contains("socket: Network is down"), "{error}");
    assert_eq!((end.interface.as_str(), end.queue), ("lan0", 0));
    drop((worker, attached, program));
}
