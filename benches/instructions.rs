//! Instructions per frame of the transform, counted by callgrind: the same on a busy machine.
//!
//! `make bench-instructions`; it fails where a count grew by more than 5 % since the last run.
#![allow(missing_docs, reason = "of what the macros make")]

use std::hint::black_box;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use xdpfrag::packet::{Outcome, Tcp, Transform};

#[allow(dead_code, reason = "the other bench uses the rest")]
mod common;

use common::{RULE, Slab, syn, tcp, transform_with, udp};

/// All that is made before counting starts.
fn prepared(policy: Tcp, frame: Vec<u8>) -> (Transform, Vec<u8>, Slab) {
    let (transform, mut slab) = (transform_with(policy), Slab::new());
    transform.apply(&frame, RULE, &mut slab);
    (transform, frame, slab)
}

#[library_benchmark]
#[bench::fragment_1500(prepared(Tcp::Fragment, udp(1500)))]
#[bench::fragment_9000(prepared(Tcp::Fragment, udp(9000)))]
#[bench::resegment_1500(prepared(Tcp::Resegment, tcp(1500)))]
#[bench::resegment_9000(prepared(Tcp::Resegment, tcp(9000)))]
#[bench::clear_df(prepared(Tcp::Fragment, udp(1422)))]
#[bench::clamp_mss(prepared(Tcp::Fragment, syn()))]
fn apply((transform, frame, mut slab): (Transform, Vec<u8>, Slab)) -> (Outcome, Transform, Vec<u8>, Slab) {
    let outcome = black_box(&transform).apply(black_box(&frame), RULE, &mut slab);
    // Given back, so that nothing is freed while counting.
    (black_box(outcome), transform, frame, slab)
}

library_benchmark_group!(name = packet, benchmarks = apply);

main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::default().soft_limits([(EventKind::Ir, 5.0)])),
    library_benchmark_groups = packet
);
