//! A lab per test, at most two at a time, and a loud skip where there is no root.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use xdpfrag::lab::traffic::tcp::{Direction, Report, Transfer};
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{Daemon, FAR, LAN, Lab, LabConfig, Namespace, Narrow};
use xdpfrag::observe::snapshot::InterfaceSnapshot;

/// Labs at a time: the sockets at both ends and the workers of two already fill two cores.
const LIMIT: usize = 2;
static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The port that the tests' flows go to.
pub(crate) const PORT: u16 = 7001;

/// A lab and its places among those that run.
pub(crate) struct Place(Lab, usize);

impl Deref for Place {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        free(self.1);
    }
}

fn free(places: usize) {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= places;
    // Some wait for one, some for all.
    FREED.notify_all();
}

/// Builds a lab when there is room, or says that the test is skipped.
pub(crate) fn lab(config: LabConfig) -> Option<Place> {
    lab_in(1, config)
}

/// The same with no other lab beside it: what it does to the cores would disturb one.
pub(crate) fn lab_alone(config: LabConfig) -> Option<Place> {
    lab_in(LIMIT, config)
}

fn lab_in(places: usize, config: LabConfig) -> Option<Place> {
    if !nix::unistd::geteuid().is_root() {
        skip("network namespaces need root");
        return None;
    }
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let full = |running: &mut usize| *running + places > LIMIT;
    *FREED.wait_while(running, full).unwrap_or_else(PoisonError::into_inner) += places;
    match Lab::new(&config) {
        Ok(lab) => Some(Place(lab, places)),
        Err(error) => {
            free(places);
            panic!("no lab: {error:#}")
        }
    }
}

/// Says on the real standard error, and in the list that `make test` prints at its end, that the
/// running test did not test anything.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let line = format!("SKIPPED lab {test}: {reason}\n");
    let mut told = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("XDPFRAG_SKIPPED") {
        let file = OpenOptions::new().create(true).append(true).open(list);
        told = told.and(file.and_then(|mut file| file.write_all(line.as_bytes())));
    }
    told.expect("a skipped test must be told");
}

/// The binary under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_xdpfrag"))
}

/// `xdpfrag run --iface eth1 --mtu 1422 ARGS` in the lab's gateway, forwarding.
pub(crate) fn forward(lab: &Lab, args: &[&str]) -> Daemon {
    let all = [&["--mtu", "1422", "--json"], args].concat();
    Daemon::start(&lab.gateway, binary(), &all).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Ends `xdpfrag run` with SIGINT and returns its last snapshot.
pub(crate) fn stop(daemon: Daemon) -> InterfaceSnapshot {
    let ended = daemon.stop().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    let snapshot = ended.snapshot.unwrap_or_else(|| panic!("no snapshot: {}", ended.stderr));
    let [interface] = <[_; 1]>::try_from(snapshot.interfaces).expect("one interface");
    assert_eq!(interface.name, LAN);
    interface
}

/// Frames that the workers received.
pub(crate) fn received(interface: &InterfaceSnapshot) -> u64 {
    interface.workers.iter().map(|worker| worker.received).sum()
}

/// How many packets the workers forwarded for a reason.
pub(crate) fn forwarded(interface: &InterfaceSnapshot, reason: &str) -> u64 {
    interface.workers.iter().map(|worker| worker.reasons[reason]).sum()
}

/// Oversize packets that were not cut into segments, by the way that the lab's gateway has for them; insists that none
/// went another way.
pub(crate) fn by_their_way(narrow: Narrow, interface: &InterfaceSnapshot) -> u64 {
    let edited = interface.xdp["edited"] + forwarded(interface, "edited");
    let fragmented = forwarded(interface, "fragmented");
    let (way, others) = match narrow {
        Narrow::Gateway => (edited, fragmented),
        Narrow::Beyond => (fragmented, edited),
    };
    assert_eq!(others + forwarded(interface, "handed_whole"), 0, "{narrow:?}: {interface:?}");
    way
}

/// Payload lengths of a mixed flow: short, around the SA MTU, and up to 1472, not in order.
pub(crate) fn mixed(count: usize) -> Vec<usize> {
    (0..count)
        .map(|number| [1472, 60, 1394, 1395, 1400 + number % 73, 8 + number % 1465][number % 6])
        .collect()
}

/// Datagrams per second of [`deliver`]: on two cores, which every sender and receiver here shares with the gateway, rings
/// have room for them.
const RATE: u32 = 4000;

/// Sends a flow through the lab and insists that all of it arrives whole, in order.
pub(crate) fn deliver(lab: &Lab, sizes: Vec<usize>) {
    let flow = Flow { rate: RATE, ..Flow::new((FAR, PORT), sizes) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete() && tally.reordered == 0, "{tally:?}");
}

/// Waits until a worker that stood still serves oversize datagrams again.
pub(crate) fn until_one_arrives(lab: &Lab) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let one = Flow { quiet: Duration::from_millis(50), ..Flow::new((FAR, PORT), vec![1472]) };
    while !one.run(&lab.appliance, &lab.far).unwrap().complete() {
        assert!(Instant::now() < deadline, "nothing oversize is served any more");
    }
}

/// Carries 4 MB and returns the report, complete or not.
pub(crate) fn carry(lab: &Lab, direction: Direction) -> Report {
    carry_to(lab, FAR.into(), direction)
}

/// The same to either address of the far host.
pub(crate) fn carry_to(lab: &Lab, to: IpAddr, direction: Direction) -> Report {
    let deadline = Duration::from_secs(20);
    Transfer { to: (to, PORT).into(), bytes: 4 << 20, direction, deadline }
        .run(&lab.appliance, &lab.far)
        .unwrap_or_else(|error| panic!("{direction:?}: {error:#}"))
}

/// A counter of /proc/net/snmp in `namespace`, such as `Tcp` `RetransSegs`.
pub(crate) fn snmp(namespace: &Namespace, protocol: &str, field: &str) -> u64 {
    let text = namespace.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?)).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let place = names.split(' ').position(|name| name == field).expect("the kernel counts it");
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

/// A counter of the TcpExt line of /proc/net/netstat in `namespace`.
pub(crate) fn tcp_ext(namespace: &Namespace, field: &str) -> u64 {
    let text = namespace.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?)).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let place = names.split(' ').position(|name| name == field).expect("the kernel counts it");
    values.split(' ').nth(place).unwrap().parse().unwrap()
}
