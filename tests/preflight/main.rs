//! What netlink tells and what `check`, `stats` and `detach` make of it, in network namespaces made
//! for each test. Needs root.

mod judge;
mod kinds;

use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use xdpfrag::config::Mode;
use xdpfrag::control::finding::{Finding, Level};
use xdpfrag::control::preflight::{self, Options};
use xdpfrag::net::{Monitor, addresses, ethtool, links, xdp_features};
use xdpfrag::xdp::{IdentMap, LanConfig, LanProgram};

/// Runs `work` on a thread with a network namespace of its own, which ends with it. Child processes
/// that `work` starts are in that namespace as well.
fn in_namespace(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace: these tests need root");
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[track_caller]
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A veth pair eth1 and far, both up, with two RX queues.
fn eth1() -> links::Link {
    ip("link add eth1 numrxqueues 2 numtxqueues 2 type veth peer name far numrxqueues 2 numtxqueues 2");
    ip("link set eth1 up");
    ip("link set far up");
    links::find("eth1").unwrap().unwrap()
}

fn check(options: &Options) -> Vec<Finding> {
    preflight::check("eth1", options)
}

#[track_caller]
fn find(findings: &[Finding], level: Level, part: &str) -> Finding {
    let found = findings.iter().find(|finding| finding.level == level && finding.why.contains(part));
    found.unwrap_or_else(|| panic!("no {level:?} finding says '{part}': {findings:#?}")).clone()
}

fn xdpfrag(wrapper: &str, args: &str) -> Output {
    let mut words = wrapper.split_whitespace().chain([env!("CARGO_BIN_EXE_xdpfrag")]);
    Command::new(words.next().unwrap()).args(words).args(args.split_whitespace()).output().unwrap()
}

#[test]
fn a_veth_is_fit_and_described() {
    in_namespace(|| {
        let link = eth1();
        let far = links::find("far").unwrap().unwrap();
        assert_eq!((link.driver().as_deref(), link.lower, link.mtu), (Some("veth"), Some(far.index), 1500));
        assert!(link.up && link.carrier && link.ethernet && link.mac.is_some(), "{link:?}");
        assert_eq!(ethtool::rx_queues(&link), 2);
        if let Some(features) = xdp_features::xdp_features(link.index).unwrap() {
            assert!(features.native && !features.zero_copy, "{features:?}");
        }
        let findings = check(&Options { mtus: vec![1422], ..Options::default() });
        let fatal: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Fatal).collect();
        assert!(fatal.is_empty(), "{fatal:#?}");
        find(&findings, Level::Ok, "2, each gets a socket and a worker");
        assert_eq!(find(&findings, Level::Note, "CHECKSUM_PARTIAL").remedy.unwrap(), "ethtool -K far tx off");
    });
}

#[test]
fn what_the_interface_cannot_do_is_fatal_and_comes_with_a_command() {
    in_namespace(|| {
        let _ = eth1();
        let fatal = |options: Options, part: &str| find(&check(&options), Level::Fatal, part).remedy.unwrap();
        let queues = Options { queues: Some(vec![0, 2]), ..Options::default() };
        assert_eq!(fatal(queues, "queue 2, but eth1 has queues 0 to 1"), "ethtool -l eth1");
        ip("link set eth1 mtu 9000");
        // A veth has multi-buffer XDP; where the kernel does not tell, neither can `check`.
        let told = xdp_features::xdp_features(links::find("eth1").unwrap().unwrap().index).unwrap().is_some();
        let doubted = check(&Options::default()).iter().any(|finding| finding.why.contains("may refuse"));
        assert_eq!(doubted, !told);
        let jumbo = Options { mtus: vec![1422, 5000], ..Options::default() };
        assert!(fatal(jumbo, "SA MTU of 5000").contains("--mtu 3386"));
        let equal = check(&Options { mtus: vec![9000], ..Options::default() });
        find(&equal, Level::Warning, "nothing will be oversize");
        let some = check(&Options { queues: Some(vec![1]), ..Options::default() });
        find(&some, Level::Warning, "1 of 2 are served");
        ip("link set eth1 down");
        assert_eq!(fatal(Options::default(), "eth1 is down"), "ip link set dev eth1 up");
        let run = xdpfrag("", "run --iface eth1 --mtu 1422");
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(3), "{message}");
        assert!(message.contains("ip link set dev eth1 up"), "{message}");
    });
}

#[test]
fn a_busy_xdp_slot_names_the_program_and_how_to_find_its_process() {
    in_namespace(|| {
        let link = eth1();
        let config = LanConfig { sticky: Duration::ZERO, queues: 2, ..LanConfig::default() };
        let program = LanProgram::load(&config, &IdentMap::new().unwrap()).unwrap();
        let attached = program.attach(link.index, Mode::Native).unwrap();
        let busy = find(&check(&Options::default()), Level::Fatal, "has an XDP program already ('xdpfrag");
        assert!(busy.why.contains("native mode"), "{busy}");
        // Whose process nobody can ask here: it is not switched off by a command that was pasted.
        assert!(busy.remedy.unwrap().starts_with("bpftool prog show id "));
        assert_eq!(xdpfrag("", "run --iface eth1 --mtu 1422").status.code(), Some(3));
        drop(attached);
        // A process that another test is starting holds the link until its execve(2).
        let gone = || links::find("eth1").unwrap().is_some_and(|link| link.xdp.is_none());
        assert!((0..50).any(|_| gone() || {
            std::thread::sleep(Duration::from_millis(20));
            false
        }));
        find(&check(&Options::default()), Level::Ok, "no program is attached");
    });
}

#[test]
fn missing_privileges_and_btf_are_named() {
    in_namespace(|| {
        let _ = eth1();
        let run = xdpfrag("setpriv --bounding-set -bpf,-net_raw --", "run --iface eth1 --mtu 1422");
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(3), "{message}");
        assert!(message.contains("CAP_BPF") && message.contains("CAP_NET_RAW"), "{message}");
        assert!(!message.contains("CAP_NET_ADMIN"), "{message}");

        let detach = xdpfrag("setpriv --bounding-set -net_admin --", "detach --iface eth1");
        assert_eq!(detach.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&detach.stderr).contains("CAP_NET_ADMIN"));

        let hidden = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
        let run = Command::new("unshare")
            .args(["--mount", "sh", "-c", hidden, "sh", env!("CARGO_BIN_EXE_xdpfrag")])
            .args(["run", "--iface", "eth1", "--mtu", "1422"])
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(3), "{message}");
        assert!(message.contains("/sys/kernel/btf/vmlinux"), "{message}");
    });
}

/// A kernel without CONFIG_XDP_SOCKETS answers as this filter does.
#[test]
fn missing_sockets_are_named() {
    in_namespace(|| {
        let _ = eth1();
        assert!(check(&Options::default()).iter().all(|finding| finding.what != "AF_XDP"));
        let af_xdp = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_XDP as u64);
        let rule = SeccompRule::new(vec![af_xdp.unwrap()]).unwrap();
        let without = SeccompFilter::new(
            [(libc::SYS_socket, vec![rule])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EAFNOSUPPORT as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let without: BpfProgram = without.unwrap().try_into().unwrap();
        seccompiler::apply_filter(&without).unwrap();
        find(&check(&Options::default()), Level::Fatal, "CONFIG_XDP_SOCKETS");
    });
}

#[test]
fn detach_removes_what_is_ours_and_nothing_else() {
    in_namespace(|| {
        let link = eth1();
        ip(&format!("link add xdpfrag{:x}q0 type veth peer name xf", link.index));
        ip("link add xdpfrag-other type veth peer name other");
        let first = xdpfrag("", "detach --iface eth1");
        assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
        let said = String::from_utf8_lossy(&first.stdout).into_owned();
        assert!(said.contains(&format!("xdpfrag{:x}q0", link.index)), "{said}");
        let names: Vec<_> = links::all().unwrap().into_iter().map(|link| link.name).collect();
        assert!(names.contains(&"xdpfrag-other".into()) && names.contains(&"far".into()), "{names:?}");
        assert!(!names.contains(&"xf".into()), "{names:?}");
        let again = xdpfrag("", "detach --iface eth1");
        assert_eq!(String::from_utf8_lossy(&again.stdout), "nothing of xdpfrag is left on eth1\n");
    });
}

#[test]
fn stats_finds_no_instance_in_an_empty_namespace() {
    in_namespace(|| {
        let stats = xdpfrag("", "stats");
        let message = String::from_utf8_lossy(&stats.stderr).into_owned();
        assert_eq!(stats.status.code(), Some(1), "{message}");
        assert!(message.contains("no xdpfrag runs in this network namespace"), "{message}");
    });
}

#[test]
fn the_monitor_reports_addresses_and_links() {
    in_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        assert_eq!(monitor.changes().unwrap(), addresses::Changes::default());
        let _ = eth1();
        assert!(monitor.changes().unwrap().links);
        ip("address add 198.18.0.1/24 brd + dev eth1");
        ip("address add 198.18.0.2/24 dev eth1");
        let mut ready = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ready, PollTimeout::from(1000u16)), Ok(1));
        assert!(monitor.changes().unwrap().addresses);
        let own = || -> Vec<_> { addresses::local().unwrap().iter().map(ToString::to_string).collect() };
        assert_eq!(own()[..3], ["198.18.0.1", "198.18.0.2", "198.18.0.255"]);
        assert!(own()[3..].iter().all(|address| address.starts_with("fe80:")), "{:?}", own());
        ip("address add 2001:db8:5::1/64 dev eth1 nodad");
        // The kernel makes an IPv6 address known from a work queue.
        let mut told = || {
            let mut ready = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
            let polled = poll(&mut ready, PollTimeout::from(5000u16));
            polled == Ok(1) && monitor.changes().unwrap().addresses
        };
        assert!(told());
        assert!(own().contains(&"2001:db8:5::1".to_owned()), "{:?}", own());
        ip("address del 2001:db8:5::1/64 dev eth1");
        assert!(told());
        assert!(!own().contains(&"2001:db8:5::1".to_owned()), "{:?}", own());
    });
}
