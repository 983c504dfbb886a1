//! `check` as a whole: its verdict, its exit code, and that it judges what `run` would be started with.

use std::fs;

use serde_json::Value;
use xdpfrag::net::{links, xdp_features, xfrm};

use super::kinds::made;
use super::{eth1, in_namespace, ip, xdpfrag};

fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

/// A veth pair with all that a gateway needs.
fn gateway() {
    let _ = eth1();
    sysctl("ipv4/conf/all/forwarding", "1");
    sysctl("ipv6/conf/all/forwarding", "0");
}

/// Exit code and report.
#[track_caller]
fn judged(flags: &str) -> (i32, Value) {
    let output = xdpfrag("", &format!("check {flags} --json"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().unwrap(), report)
}

/// Asserts the verdict and its exit code, and returns what the finding of this level says.
#[track_caller]
fn verdict(flags: &str, code: i32, verdict: &str, part: &str) -> Value {
    let (exit, report) = judged(flags);
    assert_eq!((exit, &report["verdict"]), (code, &verdict.into()), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["why"].as_str().unwrap().contains(part));
    found.unwrap_or_else(|| panic!("nothing says '{part}': {report:#}")).clone()
}

#[test]
fn go_warnings_no() {
    in_namespace(|| {
        gateway();
        verdict("--iface eth1 --mtu 1422", 0, "go", "eth1 is up");
        verdict("--iface eth1", 0, "go", "eth1 is up");
        sysctl("ipv4/conf/eth1/forwarding", "0");
        verdict("--iface eth1 --mtu 1422", 4, "warnings", "IPv4 forwarding is off on eth1");
        let text = xdpfrag("", "check --iface eth1 --mtu 1422");
        let said = String::from_utf8_lossy(&text.stderr).into_owned();
        assert!(text.status.code() == Some(4) && said.contains("with warnings"), "{said}");
        ip("link set eth1 down");
        verdict("--iface eth1 --mtu 1422", 3, "no", "eth1 is down");
    });
}

#[test]
fn the_flags_of_run_are_judged() {
    in_namespace(|| {
        gateway();
        // Kernels tell since 6.3.
        if xdp_features::xdp_features(links::find("eth1").unwrap().unwrap().index).unwrap().is_some() {
            verdict("--iface eth1 --mtu 1422 --zero-copy on", 3, "no", "but --zero-copy on asks for more");
            if made("br0 type bridge") {
                ip("link set br0 up");
                verdict("--iface br0 --mtu 1422 --mode native", 3, "no", "but --mode native asks for more");
            }
        }
        verdict("--iface eth1 --mtu 1422 --cores 4095", 3, "no", "--cores names core 4095");
        // What does not go together is refused as `run` refuses it.
        for flags in ["--redirect late --mode generic", "--redirect all --mode generic", "--iface eth1"] {
            let check = xdpfrag("", &format!("check --iface eth1 --mtu 1422 {flags}"));
            let run = xdpfrag("", &format!("run --iface eth1 --mtu 1422 {flags}"));
            assert_eq!((check.status.code(), run.status.code()), (Some(2), Some(2)), "{flags}");
            assert_eq!(check.stderr, run.stderr, "{flags}");
        }
        // A whole command line of `run` can be judged.
        let all =
            "--notify --sticky 0 --stall 200 --log json --force deaf --poll busy --metrics 127.0.0.1:9435";
        verdict(&format!("--iface eth1 --mtu 1422 {all}"), 0, "go", "eth1 is up");
    });
}

#[test]
fn a_file_with_several_interfaces_is_judged() {
    in_namespace(|| {
        gateway();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lan.toml");
        let file = |text: &str| fs::write(&path, text).unwrap();
        let flags = format!("--config {}", path.display());
        file("iface = ['eth1', 'far']\nmtu = 1422\nlog = 'json'\n");
        let (code, report) = judged(&flags);
        assert_eq!((code, &report["interfaces"]), (0, &serde_json::json!(["eth1", "far"])), "{report:#}");
        let about = |what: &str| -> Vec<Value> {
            let findings = report["findings"].as_array().unwrap().iter();
            findings
                .filter(|finding| finding["what"] == what)
                .map(|finding| finding["interface"].clone())
                .collect()
        };
        assert_eq!(about("kernel"), [Value::Null], "the machine is judged once");
        assert_eq!(about("XDP slot"), ["eth1", "far"]);
        file("iface = ['eth1', 'eth9']\nmtu = 1000\nqueues = '7'\n");
        verdict(&flags, 3, "no", "no interface eth9");
        verdict(&flags, 3, "no", "queue 7, but eth1 has");
        assert_eq!(
            verdict(&format!("{flags} --iface eth1 --queues all"), 4, "warnings", "below 1280")["what"],
            "settings"
        );
        file("iface = ['eth1']\nmtu = 67\n");
        let wrong = xdpfrag("", &format!("check {flags}"));
        let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(wrong.status.code() == Some(2) && said.contains("lan.toml:2:7: mtu"), "{said}");
    });
}

#[test]
fn ipv6_forwarding_matters_where_there_is_ipv6() {
    in_namespace(|| {
        gateway();
        let (_, report) = judged("--iface eth1 --mtu 1422");
        assert!(!report.to_string().contains("IPv6 forwarding"), "{report:#}");
        verdict(
            "--iface eth1 --mtu 1422 --dst 2001:db8:2::/48",
            4,
            "warnings",
            "2001:db8:2::/48 is in scope, but IPv6",
        );
        verdict(
            "--iface eth1 --mtu auto --dst 2001:db8:2::/48",
            4,
            "warnings",
            "2001:db8:2::/48 is in scope, but IPv6",
        );
        // As from a router's advertisement.
        ip("address add 2001:db8:1::7/64 dev eth1 nodad valid_lft 3600 preferred_lft 3600");
        verdict("--iface eth1 --mtu 1422", 0, "go", "eth1 is up");
        ip("address add 2001:db8:1::1/64 dev eth1 nodad");
        let off = verdict(
            "--iface eth1 --mtu 1422",
            4,
            "warnings",
            "this machine has 2001:db8:1::1 there, but IPv6",
        );
        assert_eq!(off["remedy"], "sysctl -w net.ipv6.conf.all.forwarding=1");
        sysctl("ipv6/conf/all/forwarding", "1");
        verdict("--iface eth1 --mtu 1422", 0, "go", "eth1 is up");
    });
}

#[test]
fn a_scope_wider_than_the_tunnels_is_a_warning() {
    in_namespace(|| {
        gateway();
        let template = "tmpl src 198.51.100.1 dst 198.51.100.2 proto esp reqid 1 mode tunnel";
        ip(&format!("xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out if_id 42 {template}"));
        let wide = verdict("--iface eth1 --mtu 1422", 4, "warnings", "routed into a tunnel");
        assert_eq!(wide["what"], "scope");
        verdict("--iface eth1 --mtu 1422 --dst 10.2.0.0/16", 0, "go", "eth1 is up");
        ip(&format!("xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out {template}"));
        verdict(
            "--iface eth1 --mtu 1422",
            4,
            "warnings",
            "--mtu auto, or --dst 10.2.0.0/16 and --dst CIDR for each",
        );
    });
}

#[test]
fn policies_are_read_with_direction_protocol_and_ports() {
    in_namespace(|| {
        let template = "tmpl src 198.51.100.2 dst 198.51.100.1 proto esp mode tunnel";
        let selector = "src 10.2.0.0/16 dst 10.1.0.0/16 proto udp sport 1701 dport 4500";
        for direction in ["in", "fwd", "out"] {
            ip(&format!("xfrm policy add {selector} dir {direction} {template}"));
        }
        let policies = xfrm::all_policies().unwrap();
        assert_eq!(policies.len(), 3, "{policies:?}");
        for policy in &policies {
            assert_eq!(
                (policy.protocol, policy.src_port.0, policy.dst_port),
                (17, 1701, (4500, u16::MAX)),
                "{policy:?}"
            );
        }
        let out = xfrm::policies().unwrap();
        assert!(matches!(&out[..], [policy] if policy.outbound && policy.upper), "{out:?}");
    });
}
