//! Emulated NICs in the place of eth1, of drivers that have native XDP, several queues and, on new kernels, zero-copy:
//! frames get through, and `check`, `run` and `stats` say how.
//!
//! `boot` puts them in, each with a NIC of virtio at the other end of its cable, and tells them by MAC address.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xdpfrag::config::Mode;
use xdpfrag::lab::topology::link;
use xdpfrag::lab::traffic::ping::ping;
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{Daemon, Namespace, Rules, Wire};
use xdpfrag::net::links;
use xdpfrag::observe::snapshot::Snapshot;
use xdpfrag::packet::Df;
use xdpfrag::xdp::{AttachError, IdentMap, LanConfig, LanProgram};

use crate::esp::{BINARY, LONG_QUIET, QUIET};

const PORT: u16 = 7001;
/// Hosts at the far end.
const HOSTS: u8 = 12;
/// The gateway's address on their network.
const GATEWAY: &str = "198.19.255.1";

/// A NIC and the one at the other end of its cable.
struct Nic {
    driver: &'static str,
    mac: &'static str,
    peer: &'static str,
}

const IGB: Nic = Nic { driver: "igb", mac: "52:54:00:00:00:01", peer: "52:54:00:00:01:01" };
const VIRTIO: Nic = Nic { driver: "virtio_net", mac: "52:54:00:00:00:02", peer: "52:54:00:00:01:02" };

/// Appliance and router, with the NICs between them, and a far side behind a link that is as narrow as a tunnel.
struct Lab {
    appliance: Namespace,
    router: Namespace,
    far: Namespace,
}

impl Lab {
    fn new(nic: &Nic) -> Result<Lab> {
        for module in ["virtio_net", nic.driver] {
            Command::new("modprobe").arg(module).status()?;
        }
        let [appliance, router, far] = ["appliance", "router", "far"].map(Namespace::new);
        let lab = Lab { appliance: appliance?, router: router?, far: far? };
        for (mac, namespace, name) in [(nic.mac, &lab.router, "eth1"), (nic.peer, &lab.appliance, "lan0")] {
            let found = with_mac(mac)?;
            let mut ip = Command::new("ip");
            ip.args(["link", "set", "dev", &found, "netns"]).arg(namespace.path()).args(["name", name]);
            ensure!(ip.status()?.success(), "{found} does not move");
            namespace.ip(&format!("link set {name} up"))?;
        }
        // Whole frames with finished checksums, as they come from a wire.
        lab.appliance.output("ethtool", &["-K", "lan0", "tx", "off"])?;
        link([(&lab.router, "wan0", "02:00:00:00:02:01"), (&lab.far, "far0", "02:00:00:00:02:02")], 1, 1422)?;
        lab.appliance.ip("addr add 198.18.1.2/24 dev lan0")?;
        lab.appliance.ip("route add default via 198.18.1.1")?;
        lab.router.ip("addr add 198.18.1.1/24 dev eth1")?;
        lab.router.ip(&format!("addr add {GATEWAY}/16 dev wan0"))?;
        lab.router.sysctl("ipv4/ip_forward", "1")?;
        for host in hosts() {
            lab.far.ip(&format!("addr add {host}/16 dev far0"))?;
        }
        lab.far.ip(&format!("route add default via {GATEWAY}"))?;
        // It hears no ICMP 3/4. The program stays with the interface.
        Wire::attach(&lab.appliance, "lan0", Rules { deaf: true, ..Rules::default() })?;
        lab.appliance.sysctl("ipv4/ping_group_range", "0 0")?;
        lab.wait_for_carrier()?;
        lab.wait_for_path()?;
        Ok(lab)
    }

    fn wait_for_carrier(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for (namespace, name) in [(&self.router, "eth1"), (&self.appliance, "lan0")] {
            while !namespace.ip(&format!("-br link show {name}"))?.contains("LOWER_UP") {
                if Instant::now() > deadline {
                    bail!("{name} has no carrier");
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Neighbours are found and every host answers.
    fn wait_for_path(&self) -> Result<()> {
        for host in hosts() {
            let answered = |_| Ok(ping(&self.appliance, host, 1, Duration::ZERO)?[0]);
            let found = (0..10).map(answered).find(|answer: &Result<bool>| !matches!(answer, Ok(false)));
            ensure!(found.context("no answer")??, "{host} does not answer");
        }
        Ok(())
    }

    /// Oversize datagrams to every host: how many arrived, of how many.
    fn send(&self, quiet: Duration) -> (u64, u64) {
        let flows = hosts().map(|host| {
            let flow = Flow { rate: 500, quiet, ..Flow::new((host, PORT), vec![1472, 1472, 800, 1472]) };
            flow.run(&self.appliance, &self.far).unwrap()
        });
        flows.fold((0, 0), |(intact, sent), tally| (intact + tally.intact, sent + tally.sent))
    }

    /// The number of queues in use.
    fn combined(&self) -> u32 {
        let channels = self.router.output("ethtool", &["-l", "eth1"]).unwrap();
        let combined = channels.lines().rev().find_map(|line| line.strip_prefix("Combined:")).unwrap();
        combined.trim().parse().unwrap()
    }

    /// The text of a finding of `check`.
    fn check(&self, what: &str) -> Result<String> {
        check(&self.router, "eth1", what)
    }
}

fn check(namespace: &Namespace, interface: &str, what: &str) -> Result<String> {
    let arguments = ["check", "--iface", interface, "--mtu", "1422", "--json"];
    // Its exit code says what else it found.
    let output = namespace.run(|| Ok(std::process::Command::new(BINARY).args(arguments).output()?))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let findings = report["findings"].as_array().context("findings")?;
    let finding = findings.iter().find(|finding| finding["what"] == what).context(what.to_owned())?;
    Ok(finding["why"].to_string())
}

impl Drop for Lab {
    /// A NIC goes back to where it came from only some time after its namespace: bring it there for the next test.
    fn drop(&mut self) {
        for (namespace, name) in [(&self.router, "eth1"), (&self.appliance, "lan0")] {
            // At worst the next test says that there is no such NIC.
            let _moved = namespace.ip(&format!("link set {name} down netns 1"));
        }
    }
}

/// Each has another bit of its address set: the NIC hashes addresses with a random key, and sends all of them to one
/// queue only if all these bits count the same.
fn hosts() -> impl Iterator<Item = Ipv4Addr> {
    (0..HOSTS).map(|bit| Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 0)) | 1 << bit))
}

fn with_mac(mac: &str) -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("address")).is_ok_and(|address| address.trim() == mac) {
            return Ok(path.file_name().context("a name")?.to_string_lossy().into_owned());
        }
    }
    bail!("no NIC has {mac}")
}

/// True on the kernels whose drivers have zero-copy for this NIC.
fn new_kernel() -> bool {
    std::env::var("XDPFRAG_VM").is_ok_and(|kernel| kernel == "7")
}

fn forwards(nic: &Nic, arguments: &[&str], zero_copy: bool) {
    let lab = Lab::new(nic).unwrap();
    assert_eq!(
        lab.send(QUIET / 8),
        (u64::from(HOSTS), 4 * u64::from(HOSTS)),
        "without xdpfrag only what fits arrives"
    );
    let driver = lab.check("driver").unwrap();
    assert!(driver.contains(nic.driver), "{driver}");
    // Drivers tell since 6.3.
    if !driver.contains("does not tell") {
        assert!(driver.contains("native XDP"), "{driver}");
        assert_eq!(driver.contains("zero-copy AF_XDP"), new_kernel(), "{driver}");
    }
    let own_queues = lab.combined();
    // By workers, all of it: what the kernel can do alone says nothing of sockets and queues.
    let always = ["--mtu", "1422", "--redirect", "oversize", "--stall", "10000", "--json"];
    let daemon = Daemon::start(&lab.router, Path::new(BINARY), &[&always, arguments].concat()).unwrap();
    // Drivers restart their NIC for XDP.
    lab.wait_for_carrier().unwrap();
    lab.wait_for_path().unwrap();
    let sent = lab.send(LONG_QUIET);
    let stats = lab.router.output(BINARY, &["stats", "--json"]).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&stats).unwrap();
    let interface = &snapshot.interfaces[0];
    assert_eq!(sent, (4 * u64::from(HOSTS), 4 * u64::from(HOSTS)), "{interface:#?}");
    assert_eq!(interface.mode, "native");
    for worker in &interface.workers {
        assert_eq!(worker.zero_copy, zero_copy && worker.queue < own_queues, "{interface:?}");
    }
    assert_eq!(lab.combined(), interface.workers.len() as u32, "a worker per queue in use");
    let busy = interface.workers.iter().filter(|worker| worker.received > 0).count();
    println!("{}: {} queues, {busy} had frames, zero-copy {zero_copy}", nic.driver, interface.workers.len());
    assert!(interface.workers.len() > 1 && busy > 1, "{interface:?}");
    let ended = daemon.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let said = format!("native XDP{}", if zero_copy { ", zero-copy" } else { "" });
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}

#[test]
fn igb() {
    forwards(&IGB, &[], new_kernel());
}

#[test]
fn igb_in_copy_mode() {
    forwards(&IGB, &["--zero-copy", "off"], false);
}

#[test]
fn virtio() {
    forwards(&VIRTIO, &[], new_kernel());
}

#[test]
fn virtio_in_copy_mode() {
    forwards(&VIRTIO, &["--zero-copy", "off"], false);
}

/// What `check` says of a host's offloads is what the driver does.
#[test]
fn virtio_offloads() {
    let lab = Lab::new(&VIRTIO).unwrap();
    let controlled = lab.check("offloads").unwrap();
    assert!(controlled.contains("native XDP switches what the host merges"), "{controlled}");
    let stuck = check(&lab.appliance, "lan0", "offloads").unwrap();
    assert!(stuck.contains("does not let this driver switch that off"), "{stuck}");
    for (namespace, name, taken) in [(&lab.router, "eth1", true), (&lab.appliance, "lan0", false)] {
        let attached = namespace.run(|| {
            let program = LanProgram::load(
                &LanConfig { sticky: Duration::ZERO, queues: 1, ..LanConfig::default() },
                &IdentMap::new().unwrap(),
            )?;
            let index = links::find(name)?.context(name)?.index;
            Ok(program.attach(index, Mode::Native).map(drop))
        });
        let attached = attached.unwrap();
        match taken {
            true => attached.unwrap(),
            false => {
                let refused = attached.unwrap_err();
                assert!(matches!(refused, AttachError::Unsupported { .. }), "{refused}");
            }
        }
    }
}
