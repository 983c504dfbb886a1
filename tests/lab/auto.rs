//! `--mtu auto` where the kernel has no SA: what is not in a tunnel is not touched. `tests/vm/auto.rs` has tunnels.

use std::thread;
use std::time::{Duration, Instant};

use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{Daemon, FAR, LabConfig, Narrow};

use crate::support::{PORT, binary, by_their_way, deliver, lab, mixed, received, stop};

#[test]
fn without_a_tunnel_everything_passes_untouched() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = Daemon::start(&lab.gateway, binary(), &["--mtu", "auto", "--json"]).unwrap();
    let text = lab.gateway.output("timeout", &["10", env!("CARGO_BIN_EXE_xdpfrag"), "stats"]).unwrap();
    assert!(text.contains("no tunnel: everything passes untouched"), "{text}");
    let fits = Flow::new((FAR, PORT), vec![1394; 50]).run(&lab.appliance, &lab.far).unwrap();
    assert!(fits.complete(), "{fits:?}");
    let oversize = Flow::new((FAR, PORT), vec![1472; 50]).run(&lab.appliance, &lab.far).unwrap();
    assert_eq!(oversize.intact, 0, "the kernel refuses it, as it does without xdpfrag");
    let interface = stop(daemon);
    assert!(interface.auto && interface.routes.is_empty());
    assert_eq!(
        (interface.xdp["out_of_scope"] >= 100, interface.xdp_edits["df"], received(&interface)),
        (true, 0, 0)
    );
}

#[test]
fn a_policy_without_an_sa_serves_nobody() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let policy = "xfrm policy add src 198.18.1.0/24 dst 198.18.2.0/24 dir out \
                  tmpl src 198.18.2.1 dst 198.18.2.2 proto esp reqid 1 mode tunnel";
    if let Err(error) = lab.gateway.ip(policy) {
        return crate::support::skip(&format!("no XFRM: {error:#}"));
    }
    let daemon = Daemon::start(&lab.gateway, binary(), &["--mtu", "auto", "--json"]).unwrap();
    let sent = Flow::new((FAR, PORT), vec![1472, 100]).run(&lab.appliance, &lab.far).unwrap();
    assert_eq!(sent.intact, 0, "{sent:?}");
    // It goes while xdpfrag runs.
    lab.gateway.ip("xfrm policy flush").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !Flow::new((FAR, PORT), vec![100]).run(&lab.appliance, &lab.far).unwrap().complete() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(50));
    }
    let interface = stop(daemon);
    assert_eq!((interface.routes.len(), interface.xdp_edits["df"], received(&interface)), (0, 0, 0));
}

#[test]
fn a_prefix_by_hand_is_served_without_a_tunnel() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let flags = ["--mtu", "auto", "--dst", "198.18.2.0/24=1422", "--json"];
    let daemon = Daemon::start(&lab.gateway, binary(), &flags).unwrap();
    deliver(&lab, mixed(300));
    let interface = stop(daemon);
    let [route] = interface.routes.as_slice() else { panic!("{interface:?}") };
    assert_eq!(
        (route.prefix.as_str(), route.mtu, route.via.as_deref()),
        ("198.18.2.0/24", 1422, Some("--dst"))
    );
    assert!(by_their_way(Narrow::Gateway, &interface) > 0, "{interface:?}");
}

/// `--mtu 1422` alone serves everything: where policies ask for less, the log says so.
#[test]
fn a_scope_wider_than_the_policies_is_a_warning() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let policy = "xfrm policy add src 198.18.1.0/24 dst 198.18.2.0/24 dir out \
                  tmpl src 198.18.2.1 dst 198.18.2.2 proto esp reqid 1 mode tunnel";
    if let Err(error) = lab.gateway.ip(policy) {
        return crate::support::skip(&format!("no XFRM: {error:#}"));
    }
    let log = |flags: &[&str]| {
        Daemon::start(&lab.gateway, binary(), &[flags, &["--json"]].concat()).unwrap().stop().unwrap().stderr
    };
    let wide = log(&["--mtu", "1422"]);
    assert!(wide.contains("scope: all IPv4 packets that are forwarded, SA MTU 1422, MSS 1382"), "{wide}");
    assert!(wide.contains("--mtu auto, or --dst 198.18.2.0/24"), "{wide}");
    let narrow = log(&["--mtu", "1422", "--dst", "198.18.2.0/24"]);
    assert!(
        narrow.contains("scope: IPv4 packets to 198.18.2.0/24") && !narrow.contains("--mtu auto"),
        "{narrow}"
    );
    let auto = log(&["--mtu", "auto", "--dst", "198.18.0.0/16"]);
    assert!(auto.contains("scope: packets to 198.18.0.0/16 that go into an IPsec tunnel"), "{auto}");
}
