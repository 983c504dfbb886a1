//! `--redirect late` and `--handback tap` in front of ESP: what was merged is cut to the SA MTU before the kernel
//! encrypts it.

use std::time::Duration;

use xdpfrag::lab::traffic::tcp::{Direction, Transfer};

use crate::esp;
use crate::gateways::Gateways;
use crate::sa::{Esp, Route, Tunnel};

const MTU: u16 = 1422;
const PORT: u16 = 7004;
/// Enough for GRO to find something to merge.
const BYTES: u64 = 1 << 19;

const LATE: [&str; 2] = ["--redirect", "late"];
const TAP: [&str; 4] = ["--redirect", "oversize", "--handback", "tap"];

/// The program behind GRO needs tcx, Linux 6.6.
fn old_kernel() -> bool {
    std::env::var("XDPFRAG_VM").is_ok_and(|kernel| kernel == "6.1")
}

fn carry(route: Route, flags: &[&str]) {
    let tunnel = Tunnel { route, esp: Esp::CbcSha256, nat_t: true, outer: 4, copy_df: true };
    let gateways = Gateways::new(4, Some(tunnel)).unwrap();
    esp::before(&gateways, MTU);
    let [one, two] = &gateways.sites;
    let daemons = gateways.sites.each_ref().map(|site| {
        // As in the field; the lab switches it off with all other offloads.
        site.router.output("ethtool", &["-K", "eth1", "gro", "on"]).unwrap();
        site.serve(MTU, &[&["--tcp", "resegment"], flags].concat()).unwrap()
    });
    for site in &gateways.sites {
        site.capture.reset();
        site.wire.reset().unwrap();
    }
    for direction in [Direction::Upload, Direction::Download] {
        let deadline = Duration::from_secs(120);
        let transfer = Transfer { to: (two.address, PORT).into(), bytes: BYTES, direction, deadline };
        let report = transfer.run(&one.appliance, &two.appliance).unwrap();
        assert!(report.complete(), "{direction:?} {report:?}");
        // 1460 less the time stamps: neither side does as it is told.
        assert_eq!((report.client_mss, report.server_mss), (1448, 1448), "{report:?}");
    }
    for (site, daemon) in gateways.sites.iter().zip(daemons) {
        let wan = site.capture.wan();
        assert!(wan.esp > 350 && wan.longest <= 1500 && wan.longest > 1500 - 16, "{wan:?}");
        assert_eq!((wan.fragments, wan.clear), (0, 0), "{wan:?}");
        let wire = site.wire.seen().unwrap();
        assert!(wire.too_big == 0 && wire.fragments == 0, "{wire:?}");
        let ended = daemon.stop().unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        let interface = &ended.snapshot.expect("--json").interfaces[0];
        println!("{}: {:?}", site.router.name(), interface.late);
        let worker = &interface.workers[0];
        if flags == TAP {
            assert_eq!(interface.handback, "tap");
            assert!(worker.reasons["resegmented"] > 300, "{interface:?}");
            continue;
        }
        if old_kernel() {
            // The best that there is without.
            assert_eq!(interface.handback, "tap", "{}", ended.stderr);
            let said = "--redirect oversize instead of late: it needs tcx, which Linux has since 6.6";
            assert!(ended.stderr.contains(said), "{}", ended.stderr);
            assert!(worker.reasons["resegmented"] > 300, "{interface:?}");
            continue;
        }
        assert!(
            ended.stderr.contains("and so is oversize TCP, which the kernel then cuts"),
            "{}",
            ended.stderr
        );
        let late = &interface.late;
        // GRO merges into packets of at most 64 KiB.
        assert!(late["lowered"] > 0 && late["lowered"] + late["cut"] >= BYTES >> 16, "{interface:?}");
        assert_eq!(late["lost"] + late["refused"] + late["checksum"], 0, "{interface:?}");
        assert_eq!(worker.received, 0, "{interface:?}");
    }
}

#[test]
fn late_by_policy() {
    carry(Route::Policy, &LATE);
}

#[test]
fn late_over_an_interface() {
    carry(Route::Interface, &LATE);
}

/// One packet of up to 64 KB, which XFRM cuts before it encrypts.
#[test]
fn tap_by_policy() {
    carry(Route::Policy, &TAP);
}

#[test]
fn tap_over_an_interface() {
    carry(Route::Interface, &TAP);
}
