//! ns per frame of the transform beside a copy of the same bytes, into the same buffers.
//!
//! `cargo bench --bench transform`. The buffers rotate through a slab that is larger than
//! L1 and fits L2 (256 KiB): a batch of 64 frames, two fragments each.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use xdpfrag::packet::{Df, Idents, Reason, Rule, Sink, Tcp, Transform, Verdict};

const SLOT: usize = 2048;
const SLOTS: usize = 128;

/// Lends the slots of a preallocated slab in turn.
struct Slab {
    bytes: Box<[u8]>,
    next: usize,
}

impl Slab {
    fn new() -> Self {
        Slab { bytes: vec![0; SLOT * SLOTS].into(), next: 0 }
    }
}

impl Sink for Slab {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        frames <= SLOTS && len <= SLOT
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        let start = self.next * SLOT;
        self.next = (self.next + 1) % SLOTS;
        &mut self.bytes[start..start + len]
    }
}

/// Ethernet, IPv4 with DF and ID 0, and `payload`. No field that the transform reads is left out.
fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    let sum: u32 = header.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    frame.extend(header);
    frame.extend(payload);
    frame
}

fn udp(len: usize) -> Vec<u8> {
    let mut payload = vec![0x5a; len - 28];
    let header = [0x30, 0x39, 0x30, 0x3a, ((len - 20) >> 8) as u8, (len - 20) as u8, 0x12, 0x34];
    payload.splice(0..0, header);
    frame(17, &payload)
}

fn syn() -> Vec<u8> {
    let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let mut segment = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xff, 0x12, 0x34, 0, 0];
    segment.extend(options);
    frame(6, &segment)
}

fn transform(c: &mut Criterion) {
    let rule = Rule { mtu: 1422, mss4: Some(1382), mss6: None };
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::default()) };
    let mut slab = Slab::new();
    let mut group = c.benchmark_group("transform");
    group.throughput(Throughput::Elements(1));

    let oversize = udp(1500);
    group.bench_function("memcpy 1514", |b| {
        b.iter(|| {
            let frame = black_box(oversize.as_slice());
            let out = slab.push(frame.len());
            out.copy_from_slice(frame);
            black_box(out.as_ptr());
        })
    });
    for (name, frame, reason, frames) in [
        ("fragment 1500 to 1422", oversize, Reason::Fragmented, 2),
        ("clear DF of 1422", udp(1422), Reason::Fits, 1),
        ("clamp MSS of a SYN", syn(), Reason::Fits, 1),
    ] {
        let outcome = transform.apply(&frame, rule, &mut slab);
        assert_eq!((outcome.verdict, outcome.frames), (Verdict::Forward(reason), frames), "{name}");
        group.bench_function(name, |b| {
            b.iter(|| {
                let outcome = transform.apply(black_box(&frame), rule, &mut slab);
                black_box((outcome, slab.bytes.as_ptr()));
            })
        });
    }
    group.finish();
}

criterion_group!(benches, transform);
criterion_main!(benches);
