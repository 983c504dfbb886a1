//! `check` on bonds, bridges, VLANs and veths with too many queues: each a real device, and what it says is what the
//! kernel does. Debian's kernels have all of them (`make vm-test`); here some may be missing.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use xdpfrag::config::Mode;
use xdpfrag::control::finding::{Finding, Level};
use xdpfrag::control::preflight::{self, Options};
use xdpfrag::net::{Ethtool, links};
use xdpfrag::xdp::{AttachError, IdentMap, LanConfig, LanProgram};

use super::{check, eth1, find, in_namespace, ip};

/// Makes a virtual device, or says on the real standard error and in the list of `make test` that this kernel has none.
pub(crate) fn made(device: &str) -> bool {
    let output = Command::new("ip").args(["link", "add"]).args(device.split_whitespace()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return true;
    }
    assert!(said.contains("Unknown device type") || said.contains("not supported"), "{device}: {said}");
    let line = format!("SKIPPED preflight: this kernel cannot make: {device}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(list) = std::env::var_os("XDPFRAG_SKIPPED") {
        let mut list = fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        list.write_all(line.as_bytes()).unwrap();
    }
    false
}

fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

fn on(interface: &str) -> Vec<Finding> {
    preflight::check(interface, &Options::default())
}

fn program(queues: u32) -> LanProgram {
    let config = LanConfig { sticky: Duration::ZERO, queues, ..LanConfig::default() };
    LanProgram::load(&config, &IdentMap::new().unwrap()).unwrap()
}

fn says_nothing_about(findings: &[Finding], part: &str) {
    assert!(findings.iter().all(|finding| !finding.why.contains(part)), "'{part}': {findings:#?}");
}

#[test]
fn a_bridge_and_its_port() {
    in_namespace(|| {
        let _ = eth1();
        if !made("br0 type bridge") {
            return;
        }
        ip("link set br0 up");
        ip("link set eth1 master br0");
        // The bridge routes, not its port.
        sysctl("ipv4/conf/eth1/forwarding", "0");
        sysctl("ipv4/conf/br0/forwarding", "1");
        let port = check(&Options::default());
        find(&port, Level::Warning, "eth1 is a bridge port");
        find(&port, Level::Ok, "on for br0");
        sysctl("ipv4/conf/br0/forwarding", "0");
        find(&check(&Options::default()), Level::Warning, "IPv4 forwarding is off on br0");

        let bridge = find(&on("br0"), Level::Warning, "br0 is a bridge: no native XDP");
        assert_eq!(bridge.remedy.unwrap(), "xdpfrag run --iface eth1 --dst CIDR ...");
        let refused =
            program(1).attach(links::find("br0").unwrap().unwrap().index, Mode::Native).unwrap_err();
        assert!(matches!(refused, AttachError::Unsupported { .. }), "{refused}");
    });
}

#[test]
fn no_program_goes_below_another() {
    in_namespace(|| {
        let link = eth1();
        if !made("br0 type bridge") {
            return;
        }
        ip("link set br0 up");
        ip("link set eth1 master br0");
        let above = program(1).attach(links::find("br0").unwrap().unwrap().index, Mode::Generic).unwrap();
        let finding =
            find(&check(&Options::default()), Level::Fatal, "br0, which eth1 belongs to, has an XDP program");
        assert_eq!(finding.remedy.unwrap(), "ip -d link show dev br0");
        let refused = program(2).attach(link.index, Mode::Auto).unwrap_err();
        assert!(refused.to_string().contains("File exists"), "{refused}");
        drop(above);
        ip("link set eth1 nomaster");
        find(&check(&Options::default()), Level::Ok, "no program is attached");
    });
}

#[test]
fn a_bond_and_its_members() {
    in_namespace(|| {
        let _ = eth1();
        if !made("bond0 type bond mode active-backup") {
            return;
        }
        let bare = find(&on("bond0"), Level::Fatal, "bond0 is a bond");
        assert!(bare.remedy.unwrap().contains("has none yet"));
        ip("link set eth1 down");
        ip("link set eth1 master bond0");
        ip("link set eth1 up");
        ip("link set bond0 up");
        says_nothing_about(&check(&Options::default()), "member");
        ip("link add eth2 type veth peer name far2");
        ip("link set eth2 master bond0");
        let bond = find(&on("bond0"), Level::Fatal, "AF_XDP sees its members' queues");
        assert_eq!(bond.remedy.unwrap(), "xdpfrag run --iface eth1 --iface eth2 ...");
        let member = find(&check(&Options::default()), Level::Note, "eth1 is a member of the bond bond0");
        assert_eq!(member.remedy.unwrap(), "xdpfrag run --iface eth1 --iface eth2 ...");
        // A member of a bond takes the program, as `check` says.
        program(2).attach(links::find("eth1").unwrap().unwrap().index, Mode::Native).unwrap();
        if made("link bond0 name bond0.7 type vlan id 7") {
            ip("link set bond0.7 up");
            sysctl("ipv4/conf/bond0/forwarding", "1");
            sysctl("ipv4/conf/bond0.7/forwarding", "0");
            let findings = check(&Options::default());
            find(&findings, Level::Warning, "IPv4 forwarding is off on bond0.7:");
            find(&findings, Level::Warning, "redirected frames for bond0.7 would lose theirs");
        }
    });
}

#[test]
fn a_vlan_and_its_parent() {
    in_namespace(|| {
        let _ = eth1();
        if !made("link eth1 name eth1.7 type vlan id 7") {
            return;
        }
        ip("link set eth1.7 up");
        let vlan = find(&on("eth1.7"), Level::Warning, "eth1.7 is a VLAN on eth1: no native XDP");
        assert_eq!(vlan.remedy.unwrap(), "xdpfrag run --iface eth1 ...");
        let refused =
            program(1).attach(links::find("eth1.7").unwrap().unwrap().index, Mode::Native).unwrap_err();
        assert!(matches!(refused, AttachError::Unsupported { .. }), "{refused}");
        let parent = find(
            &check(&Options::default()),
            Level::Warning,
            "redirected frames for eth1.7 would lose theirs",
        );
        assert_eq!(parent.remedy.unwrap(), "ethtool -K far txvlan off");
    });
}

#[test]
fn a_dummy_has_no_native_xdp() {
    in_namespace(|| {
        if !made("dummy0 type dummy") {
            return;
        }
        ip("link set dummy0 up");
        let findings = on("dummy0");
        let says = |part: &str| findings.iter().any(|finding| finding.why.contains(part));
        // Kernels tell since 6.3.
        assert!(says("generic XDP only") || says("does not tell what its drivers can do"), "{findings:#?}");
        let refused =
            program(1).attach(links::find("dummy0").unwrap().unwrap().index, Mode::Native).unwrap_err();
        assert!(matches!(refused, AttachError::Unsupported { .. }), "{refused}");
    });
}

#[test]
fn a_veth_whose_peer_sends_on_more_queues_takes_no_native_xdp() {
    in_namespace(|| {
        ip("link add eth1 numrxqueues 2 numtxqueues 2 type veth peer name far numrxqueues 2 numtxqueues 4");
        ip("link set eth1 up");
        ip("link set far up");
        let index = links::find("eth1").unwrap().unwrap().index;
        assert_eq!(Ethtool::open().unwrap().tx_channels("far").unwrap(), Some(4));
        let auto =
            find(&check(&Options::default()), Level::Warning, "far sends on 4 queues, eth1 receives on 2");
        assert_eq!(auto.remedy.as_deref(), Some("ethtool -L far tx 2"));
        let native = Options { mode: Mode::Native, ..Options::default() };
        find(&check(&native), Level::Fatal, "a veth takes no native XDP then");
        let refused = program(2).attach(index, Mode::Native).unwrap_err();
        assert!(matches!(refused, AttachError::Unsupported { .. }), "{refused}");

        // The remedy mends it.
        let remedy = auto.remedy.unwrap();
        let mut words = remedy.split_whitespace();
        assert!(Command::new(words.next().unwrap()).args(words).status().unwrap().success());
        says_nothing_about(&check(&native), "far sends");
        program(2).attach(index, Mode::Native).unwrap();
    });
}
