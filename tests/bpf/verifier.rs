//! How much work the programs are to the kernel's verifier: it is part of every start and reload.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use xdpfrag::packet::Df;
use xdpfrag::xdp::{ClampProgram, IdentMap, LanConfig, LanProgram, Leave, Patience};

use crate::gateway::*;
use crate::late::behind;

/// Instructions that the verifier went through, of some million a second. A program whose states multiply takes many
/// times as many: 125,000 and 0.2 s they once were.
const BOUND: u64 = 45_000;

/// The same, of the program behind GRO: 170,000 they once were.
const BOUND_BEHIND: u64 = 100_000;

fn verified(program: impl AsFd) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("verified_insns:"));
    line.unwrap_or_else(|| panic!("{info}")).trim().parse().unwrap()
}

#[test]
fn no_variant_is_long_in_the_verifier() {
    if skipped("no_variant_is_long_in_the_verifier") {
        return;
    }
    let deaf_only = Some(Patience::default());
    for config in [
        CONFIG,
        LanConfig { sticky: Duration::ZERO, ..CONFIG },
        LanConfig { redirect_all: true, ..CONFIG },
        LanConfig { resegment: true, deaf_only, ..CONFIG },
        LanConfig { resegment: true, df: Df::Keep, ..CONFIG },
        LanConfig { df: Df::Oversize, ..CONFIG },
    ] {
        let lan = LanProgram::load(&config, &IdentMap::new().unwrap()).unwrap();
        let clamp = ClampProgram::load(lan.route_maps()).unwrap();
        let (lan, clamp) = (verified(&lan), verified(&clamp));
        println!("{lan} and {clamp} instructions: {config:?}");
        assert!(lan < BOUND && clamp < BOUND, "{lan}, {clamp}: {config:?}");
    }
}

#[test]
fn nor_is_the_program_behind_gro() {
    if skipped("nor_is_the_program_behind_gro") || without_tcx("nor_is_the_program_behind_gro") {
        return;
    }
    let all = Leave { tcp: true, whole: true, fitting: true, oversize: true, marked: true };
    for leave in [all, Leave { tcp: false, ..all }, Leave { tcp: true, ..Leave::NOTHING }] {
        for df in [Df::Clear, Df::Oversize] {
            let behind = behind(Gateway::without_worker(CONFIG), |late| (late.leave, late.df) = (leave, df));
            let instructions = verified(&behind.program);
            println!("{instructions} instructions: {df:?} {leave:?}");
            assert!(instructions < BOUND_BEHIND, "{instructions}: {df:?} {leave:?}");
        }
    }
}
