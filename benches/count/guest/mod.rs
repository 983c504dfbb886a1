//! Inside the VM: runs every row, tells the plugin when to count, and leaves what the WAN saw in the shared directory.

mod life;
mod marks;
mod methods;
mod site;
mod traffic;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xdpfrag::lab::Daemon;
use xdpfrag::packet::Way;

use crate::record::{Guest, Record};
use marks::tell;
use methods::{METHODS, Method, Rules, Tunnel};
use site::Sites;
use traffic::Traffic;

/// How often a row is counted; the figure is the median.
const RUNS: usize = 3;

/// What the host asks for.
pub(crate) struct Order {
    pub(crate) aesni: bool,
    pub(crate) short: bool,
    /// Only rows that have one of these in their name.
    pub(crate) only: Vec<String>,
    pub(crate) binary: PathBuf,
    pub(crate) against: Option<PathBuf>,
}

impl Order {
    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| row.contains(part.as_str()))
    }

    /// Ours and the other one, with what the names of its rows end in.
    fn binaries(&self) -> impl Iterator<Item = (&Path, &'static str)> {
        let ours = std::iter::once((self.binary.as_path(), ""));
        ours.chain(self.against.as_deref().map(|binary| (binary, "@against")))
    }
}

/// Where the rows go.
struct Results {
    file: File,
    /// After the first tunnel is up, which loads the cipher.
    guest: Option<Guest>,
}

impl Results {
    /// New sites, so that no row depends on those before it.
    fn sites(&mut self, tunnel: Tunnel) -> Result<Sites> {
        let sites = Sites::new(tunnel)?;
        if self.guest.is_none() {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
            let cipher = driver(&fs::read_to_string("/proc/crypto")?).context("no AES-GCM")?;
            let guest = Guest { release, cipher };
            self.add(&guest)?;
            self.guest = Some(guest);
        }
        Ok(sites)
    }

    fn add(&mut self, record: &impl serde::Serialize) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(record)?)?;
        Ok(())
    }
}

pub(crate) fn run(order: &Order) -> Result<()> {
    let shared =
        PathBuf::from(std::env::var_os("XDPFRAG_VM_SHARED").context("not in a VM of tests/vm/boot")?);
    let kernel = std::env::var("XDPFRAG_VM").context("XDPFRAG_VM")?;
    marks::prepare(&shared, order.aesni)?;
    marks::work_for("bench");
    let mut results = Results { file: File::create(shared.join("rows"))?, guest: None };
    for tunnel in Tunnel::ALL {
        for method in METHODS.iter().filter(|method| method.tunnels.contains(&tunnel)) {
            for (binary, suffix) in order.binaries().take(if method.flags.is_some() { 2 } else { 1 }) {
                let traffic = traffic(order, method, tunnel);
                if !traffic.is_empty() {
                    let sites = results.sites(tunnel)?;
                    row_set(&sites, tunnel, method, &traffic, (binary, suffix), &kernel, &mut results)?;
                }
            }
        }
    }
    for (binary, suffix) in order.binaries() {
        life::count(binary, suffix, order, &mut results)?;
    }
    Ok(())
}

/// The driver of the SAs: of those of the name the one with the highest priority.
fn driver(crypto: &str) -> Option<String> {
    let entries = crypto.split("\n\n").filter_map(|entry| {
        let field = |name: &str| {
            let mut fields = entry.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
        };
        (field("name")? == "rfc4106(gcm(aes))").then_some(())?;
        Some((field("priority")?.parse::<u32>().ok()?, field("driver")?.to_owned()))
    });
    entries.max().map(|(_, driver)| driver)
}

fn traffic(order: &Order, method: &Method, tunnel: Tunnel) -> Vec<Traffic> {
    let all = method.traffic.iter().copied();
    all.filter(|traffic| !order.short || method.is_short(tunnel, *traffic))
        .filter(|traffic| order.wants(&name(tunnel, method, *traffic)))
        .collect()
}

fn name(tunnel: Tunnel, method: &Method, traffic: Traffic) -> String {
    format!("{}/{}/{}", tunnel.name(), method.name, traffic.name())
}

/// All rows of one method by one binary.
fn row_set(
    sites: &Sites,
    tunnel: Tunnel,
    method: &Method,
    traffic: &[Traffic],
    (binary, suffix): (&Path, &str),
    kernel: &str,
    results: &mut Results,
) -> Result<()> {
    let rules: Vec<_> = method.rules.iter().map(|rules: &Rules| rules.text(kernel, tunnel)).collect();
    sites.rules(&rules.join("\n"))?;
    for gro in [false, true] {
        let group: Vec<_> = traffic.iter().filter(|traffic| traffic.gro() == gro).collect();
        if group.is_empty() {
            continue;
        }
        sites.gro(gro)?;
        let daemon = method.flags.map(|flags| serve(sites, binary, flags)).transpose()?;
        for traffic in group {
            let row = format!("{}{suffix}", name(tunnel, method, *traffic));
            let mut record = count(sites, *traffic, row, !method.wakes_worker(*traffic))?;
            record.spins = method.spins(*traffic);
            results.add(&record)?;
        }
        if let Some(daemon) = daemon {
            let ended = daemon.stop()?;
            ensure!(ended.status.success(), "{}: {}", method.name, ended.stderr);
            // The other binary may choose otherwise, or have no ways.
            if let Some(way) = method.way.filter(|_| suffix.is_empty()) {
                ensure!(
                    chose(&ended.stderr, way),
                    "{}: not by way of {}: {}",
                    method.name,
                    way.label(),
                    ended.stderr
                );
            }
        }
    }
    Ok(())
}

/// Whether `run` said once by which way datagrams go, and that it is this one.
fn chose(log: &str, way: Way) -> bool {
    let said: Vec<_> =
        log.lines().filter_map(|line| line.split_once(&format!("way to {}: ", site::REMOTE))).collect();
    matches!(said[..], [(_, said)] if said.starts_with(way.label()))
}

/// Flags that `run` always has: emulated workers are slow, and a late heartbeat would pass their frames by.
const ALWAYS: [&str; 6] = ["--mtu", site::MTU, "--dst", site::REMOTE, "--stall", "10000"];

fn serve(sites: &Sites, binary: &Path, flags: &[&str]) -> Result<Daemon> {
    Daemon::start(&sites.near.router, binary, &[&ALWAYS, flags].concat())
}

fn count(sites: &Sites, traffic: Traffic, row: String, first: bool) -> Result<Record> {
    println!("{row}");
    let address = std::net::Ipv4Addr::new(198, 18, 2, 2);
    let mut flow = traffic.open(&sites.near.appliance, &sites.far.appliance, address)?;
    come_first(first)?;
    let seen = sites.observe(|| flow.run()).with_context(|| row.clone())?;
    let mut delivered = 0;
    for run in 0..RUNS {
        quiet();
        // Warms up: caches of routes, windows and timers of TCP.
        flow.run().with_context(|| row.clone())?;
        tell("start");
        delivered = flow.run().with_context(|| row.clone())?;
        tell(&format!("stop {row}#{run}"));
    }
    come_first(false)?;
    let record = Record {
        row,
        delivered,
        wan: [seen.packets, seen.bytes],
        esp_fragments: seen.esp_fragments,
        reassembled: seen.reassembled,
        runs: RUNS,
        spins: false,
    };
    Ok(record)
}

/// Puts this thread before the workers, which have the lowest real-time priority, or among the ordinary ones again.
fn come_first(first: bool) -> Result<()> {
    let this = std::process::id().to_string();
    let arguments = if first {
        ["--rr", "--reset-on-fork", "--pid", "2"]
    } else {
        ["--other", "--reset-on-fork", "--pid", "0"]
    };
    let status = Command::new("chrt").args(arguments).arg(this).status()?;
    ensure!(status.success(), "chrt (util-linux) fails");
    Ok(())
}

/// Lets what was begun before end: timers, RCU, page pools that the kernel looks for once a second. Nobody waits for it,
/// since the clock of an idle machine goes on to its next event.
fn quiet() {
    std::thread::sleep(std::time::Duration::from_secs(3));
}
