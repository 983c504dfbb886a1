//! Datagrams per second through one router core: plain forwarding, nftables and xdpfrag in turn, in one run.
//!
//! UDP, 1500 bytes, DF, 256 flows. Core 0 makes the datagrams, core 1 does all the router's work and counts
//! what arrives at the far side. `plain` forwards without fragmenting, to a link of 1500 bytes; the other two
//! make two fragments of each datagram for a link of 1422.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xdpfrag::lab::{Daemon, Flood, LAN, Lab, LabConfig, Rules};

const REPEATS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(200);
const MEASURE: Duration = Duration::from_secs(1);
/// What is queued when the flood ends arrives within this.
const DRAIN: Duration = Duration::from_millis(50);
const SENDER_CORE: usize = 0;
const ROUTER_CORE: usize = 1;

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Plain,
    Nftables,
    Xdpfrag,
}

fn main() -> Result<()> {
    // `cargo test --benches` runs it too, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() || std::thread::available_parallelism()?.get() < 2 {
        println!("lab: skipped, it needs root and two cores");
        return Ok(());
    }
    let methods = [Method::Plain, Method::Nftables, Method::Xdpfrag];
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..REPEATS {
        for (method, rates) in methods.into_iter().zip(&mut rates) {
            rates.push(measure(method)?);
        }
    }
    let [plain, nftables, xdpfrag] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates
    });
    println!(
        "UDP 1500 bytes DF, 256 flows, delivered per second by one router core ({REPEATS} interleaved repeats)"
    );
    println!("{:<44} {:>9} {:>19} {:>9}", "", "median", "min - max", "of plain");
    for (name, rates) in [
        ("plain forwarding, not fragmented", &plain),
        ("nftables DF clear, fragmented to 1422", &nftables),
        ("xdpfrag, fragmented to 1422", &xdpfrag),
    ] {
        let [low, median, high] = [0, REPEATS / 2, REPEATS - 1].map(|index| rates[index]);
        let ratio = median / plain[REPEATS / 2];
        println!("{name:<44} {median:>9.0} {:>19} {ratio:>9.2}", format!("{low:.0} - {high:.0}"));
    }
    println!("xdpfrag / nftables {:.2}", xdpfrag[REPEATS / 2] / nftables[REPEATS / 2]);
    Ok(())
}

/// Datagrams per second that reach the far side whole under flood.
fn measure(method: Method) -> Result<f64> {
    let sa_mtu = if method == Method::Plain { 1500 } else { 1422 };
    let lab = Lab::new(&LabConfig { sa_mtu, ..LabConfig::default() })?;
    lab.far_wire.set(Rules { sink: true, ..Rules::default() })?;
    give_eth1_its_core(&lab)?;
    let daemon = match method {
        Method::Plain => None,
        Method::Nftables => {
            lab.clear_df_with_nftables()?;
            None
        }
        Method::Xdpfrag => {
            let core = ROUTER_CORE.to_string();
            let arguments = ["--mtu", "1422", "--cores", &core];
            Some(Daemon::start(&lab.gateway, Path::new(env!("CARGO_BIN_EXE_xdpfrag")), &arguments)?)
        }
    };
    let flood = Flood::new(&lab)?;
    flood_from_core(&flood, &lab, WARM_UP)?;
    thread::sleep(DRAIN);
    lab.far_wire.reset()?;
    let start = Instant::now();
    flood_from_core(&flood, &lab, MEASURE)?;
    let elapsed = start.elapsed();
    thread::sleep(DRAIN);
    let far = lab.far_wire.seen()?;
    if let Some(daemon) = daemon {
        daemon.stop()?;
    }
    let count =
        |wanted| far.lengths.iter().find(|(length, _)| *length == wanted).map_or(0, |(_, count)| *count);
    // A datagram has arrived when it came whole or both its fragments did.
    let delivered = count(1500) + count(1420).min(count(100));
    ensure!(delivered > 0, "nothing arrived at the far side: {far:?}");
    Ok(delivered as f64 / elapsed.as_secs_f64())
}

/// Floods from the sender's core. The pinned thread ends here: children must not inherit its affinity.
fn flood_from_core(flood: &Flood, lab: &Lab, duration: Duration) -> Result<u64> {
    let pinned = || {
        pin(Pid::from_raw(0), SENDER_CORE)?;
        flood.run(lab, duration)
    };
    thread::scope(|scope| scope.spawn(pinned).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Lets a kernel thread of its own, on the router's core, receive from eth1: otherwise veth does
/// the router's work on the sender's core.
fn give_eth1_its_core(lab: &Lab) -> Result<()> {
    let before = threads()?;
    lab.gateway.output("ethtool", &["-K", LAN, "gro", "on"])?;
    let script = format!("mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/{LAN}/threaded");
    lab.gateway.output("unshare", &["--mount", "sh", "-c", &script])?;
    let new: Vec<i32> = threads()?.difference(&before).copied().collect();
    ensure!(!new.is_empty(), "the kernel made no NAPI thread for {LAN}");
    new.into_iter().try_for_each(|pid| pin(Pid::from_raw(pid), ROUTER_CORE))
}

/// Kernel threads that receive from an interface named eth1.
fn threads() -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the two reads.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&format!("napi/{LAN}-")) {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn pin(pid: Pid, core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(pid, &cores).with_context(|| format!("cannot pin {pid} to core {core}"))
}
