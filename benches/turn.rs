//! ns per frame of whole turns over memory: delivery into the port, receive, transform, hand-back,
//! counters and latency. What AF_XDP and the kernel's receive path cost comes on top.
//!
//! `cargo bench --bench turn`

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use xdpfrag::config::Treatment;
use xdpfrag::handback::MemHandback;
use xdpfrag::packet::{Df, Idents, Rule, Tcp, Transform};
use xdpfrag::port::{BATCH, MemPort, Port};
use xdpfrag::worker::Turn;
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::xdp::Meta;

const RULE: Rule = Rule::new(1422, Some(1382), None);

fn datagram(packet: usize) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([198, 18, 1, 2], [198, 18, 2, 2], 64).udp(4000, 5000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0xa5; packet - 28]).expect("a Vec takes everything");
    frame
}

fn port() -> MemPort {
    MemPort::new(512, 1792, 1792)
}

fn deliver(port: &mut MemPort, frame: &[u8]) {
    let meta = Meta { rx_ns: monotonic_ns(), rule: RULE };
    for _ in 0..BATCH {
        assert!(port.deliver(frame, Some(meta)));
    }
}

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    group.throughput(Throughput::Elements(BATCH as u64));
    let frame = datagram(1500);
    let mut alone = port();
    group.bench_function("delivery alone", |bencher| {
        bencher.iter(|| {
            deliver(&mut alone, &frame);
            alone.receive(BATCH, |_| ());
            alone.refill();
        });
    });
    for (name, packet) in [("fits 84", 84), ("fits 1422", 1422), ("fragment 1500 to 1422", 1500)] {
        let frame = datagram(packet);
        let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::default()) };
        let treatment = Arc::new(Treatment { scope: Vec::new(), df: Df::Clear, tcp: Tcp::Fragment });
        let mut turn = Turn::new(port(), MemHandback::new(512, 2048).counting(), transform, treatment);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                deliver(turn.port_mut(), &frame);
                // A full batch may leave more behind it: it is handed back by the next turn.
                let received = turn.turn().map(|progress| progress.received);
                assert_eq!(received, Ok(BATCH));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, turns);
criterion_main!(benches);
