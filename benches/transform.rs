//! ns per frame of the transform, beside a copy of the same bytes and beside what other libraries
//! offer for the same fragments, all into the same buffers.
//!
//! `cargo bench --bench transform`. The buffers rotate through a slab that is larger than
//! L1 and fits L2 (256 KiB): a batch of 64 frames, two fragments each.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use xdpfrag::packet::{Reason, Sink, Tcp, Verdict};

#[allow(dead_code, reason = "the other bench uses the rest")]
mod common;
mod others;

use common::{RULE, Slab, syn, tcp, transform_with, udp};

fn transform(c: &mut Criterion) {
    let mut slab = Slab::new();
    let mut group = c.benchmark_group("transform");
    group.throughput(Throughput::Elements(1));

    for len in [1500, 9000] {
        let frame = udp(len);
        group.bench_function(format!("memcpy {}", frame.len()), |b| {
            b.iter(|| {
                // Where a frame is longer than a buffer: into as many as it takes.
                for part in black_box(frame.as_slice()).chunks(1514) {
                    let out = slab.push(part.len());
                    out.copy_from_slice(part);
                    black_box(out.as_ptr());
                }
            })
        });
    }
    for (name, policy, frame, reason, frames) in [
        ("fragment 1500 to 1422", Tcp::Fragment, udp(1500), Reason::Fragmented, 2),
        ("fragment 9000 to 1422", Tcp::Fragment, udp(9000), Reason::Fragmented, 7),
        ("resegment 1500 to 1422", Tcp::Resegment, tcp(1500), Reason::Resegmented, 2),
        ("resegment 9000 to 1422", Tcp::Resegment, tcp(9000), Reason::Resegmented, 7),
        ("clear DF of 1422", Tcp::Fragment, udp(1422), Reason::Fits, 1),
        ("clamp MSS of a SYN", Tcp::Fragment, syn(), Reason::Fits, 1),
    ] {
        let transform = transform_with(policy);
        let outcome = transform.apply(&frame, RULE, &mut slab);
        assert_eq!((outcome.verdict, outcome.frames), (Verdict::Forward(reason), frames), "{name}");
        group.bench_function(name, |b| {
            b.iter(|| {
                let outcome = transform.apply(black_box(&frame), RULE, &mut slab);
                black_box((outcome, slab.lent()));
            })
        });
    }
    for (len, fragments) in [(1500, 2), (9000, 7)] {
        let frame = udp(len);
        assert_eq!(others::etherparse(&frame, 1422, &mut slab), fragments);
        group.bench_function(format!("etherparse: fragment {len} to 1422"), |b| {
            b.iter(|| black_box((others::etherparse(black_box(&frame), 1422, &mut slab), slab.lent())))
        });
        let mut smoltcp = others::Smoltcp::new(1422);
        assert_eq!(smoltcp.fragment(&frame, &mut slab), fragments);
        group.bench_function(format!("smoltcp: fragment {len} to 1422"), |b| {
            b.iter(|| black_box((smoltcp.fragment(black_box(&frame), &mut slab), slab.lent())))
        });
    }
    group.finish();
}

criterion_group!(benches, transform);
criterion_main!(benches);
