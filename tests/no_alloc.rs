//! The transform and the worker's turn allocate nothing, whatever the frame, and `replay` nothing for a longer file.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use xdpfrag::config::Treatment;
use xdpfrag::handback::MemHandback;
use xdpfrag::packet::{Df, Idents, Reason, Rule, Sink, Tcp, Transform, Verdict};
use xdpfrag::pcap::{self, Rewriter};
use xdpfrag::port::MemPort;
use xdpfrag::worker::Turn;
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::xdp::Meta;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting the calls of each thread.
struct Counting;

// SAFETY: every call goes to `System` with the caller's arguments; the counter is a
// thread-local without destructor or lazy initialisation, so that counting cannot allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with this `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Buffer(Box<[u8]>);

impl Sink for Buffer {
    fn reserve(&mut self, _: usize, len: usize) -> bool {
        len <= self.0.len()
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[..len]
    }
}

/// Untagged IPv4 with DF, `ihl` words of header, `total` bytes of packet; TCP with a SYN and MSS 1460.
fn frame(protocol: u8, ihl: u8, total: u16) -> Vec<u8> {
    let mut frame = vec![0; 14 + usize::from(total)];
    frame[12] = 8;
    let [high, low] = total.to_be_bytes();
    frame[14..24].copy_from_slice(&[0x40 | ihl, 0, high, low, 0, 0, 0x40, 0, 64, protocol]);
    let payload = &mut frame[14 + usize::from(ihl) * 4..];
    payload[12..14].copy_from_slice(&[0x60, 2]);
    payload[20..24].copy_from_slice(&[2, 4, 5, 0xb4]);
    frame
}

/// A segment whose checksum is left to hardware, so that it needs no sum here.
fn segment(total: u16) -> Vec<u8> {
    let mut frame = frame(6, 5, total);
    frame[14 + 20 + 13] = 0x18;
    frame[14 + 20 + 12] = 0x50;
    // Both addresses are 0.
    frame[14 + 20 + 16..][..2].copy_from_slice(&(total - 20 + 6).to_be_bytes());
    frame
}

/// The same payload as [`frame`]'s behind an IPv6 header.
fn ipv6(protocol: u8, total: u16) -> Vec<u8> {
    let mut ipv6 = vec![0; 54];
    ipv6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    ipv6[18..20].copy_from_slice(&(total - 40).to_be_bytes());
    ipv6[20] = protocol;
    ipv6.extend(&frame(protocol, 5, total - 20)[34..]);
    ipv6
}

#[test]
fn the_transform_does_not_allocate() {
    let transform = Transform { df: Df::Clear, tcp: Tcp::Resegment, idents: Arc::new(Idents::default()) };
    let mut sink = Buffer(vec![0; 2048].into());
    let cases = [
        (frame(17, 5, 1500), Verdict::Forward(Reason::Fragmented)),
        (frame(17, 15, 9000), Verdict::Forward(Reason::Fragmented)),
        (frame(6, 5, 1500), Verdict::Forward(Reason::KeptFlags)),
        (segment(1500), Verdict::Forward(Reason::Resegmented)),
        (segment(65_535), Verdict::Forward(Reason::Resegmented)),
        (ipv6(6, 1500), Verdict::Pass(Reason::KeptFlags)),
        (ipv6(6, 64), Verdict::Forward(Reason::Fits)),
        (ipv6(17, 1500), Verdict::Pass(Reason::Ipv6TooBig)),
        (frame(6, 5, 44), Verdict::Forward(Reason::Fits)),
        (frame(17, 5, 1422), Verdict::Forward(Reason::Fits)),
        (vec![0; 60], Verdict::Pass(Reason::NotIp)),
        (vec![0; 4096], Verdict::Drop(Reason::HandbackFull)),
    ];
    let before = ALLOCATIONS.get();
    for (frame, verdict) in &cases {
        for mss4 in [None, Some(1382)] {
            let outcome = transform.apply(frame, Rule::new(1422, mss4, mss4), &mut sink);
            assert_eq!(outcome.verdict, *verdict);
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);

    drop(std::hint::black_box(vec![1u8]));
    assert!(ALLOCATIONS.get() > before, "the counter counts");
}

#[test]
fn a_turn_does_not_allocate() {
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::default()) };
    let treatment = Arc::new(Treatment { scope: Vec::new(), df: Df::Clear, tcp: Tcp::Fragment });
    let port = MemPort::new(128, 1792, 9022);
    let mut turn = Turn::new(port, MemHandback::new(256, 2048).counting(), transform, treatment);
    let rule = Rule::new(1422, Some(1382), None);
    let frames = [frame(17, 5, 1500), frame(6, 5, 44), frame(17, 15, 9000), frame(17, 5, 1422), vec![0; 60]];
    // The first look at the clock reads a file.
    monotonic_ns();
    let before = ALLOCATIONS.get();
    for number in 0..1000 {
        for frame in &frames {
            let meta = (number % 3 != 0).then(|| Meta { rx_ns: monotonic_ns(), rule });
            assert!(turn.port_mut().deliver(frame, meta));
        }
        assert_eq!(turn.turn().unwrap().received, frames.len());
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert!(turn.counters().count(Reason::Fragmented) > 1000);
}

#[test]
fn a_longer_capture_takes_no_more_memory() {
    let rule = Rule::new(1422, Some(1382), None);
    let everything = ["0.0.0.0/0", "::/0"].map(|prefix| (prefix.parse().unwrap(), rule));
    let treatment = Treatment { scope: everything.into(), df: Df::Clear, tcp: Tcp::Resegment };
    let frames = [
        frame(17, 5, 1500),
        segment(1500),
        segment(9000),
        frame(6, 5, 44),
        ipv6(6, 64),
        vec![0; 60],
        vec![0; 4096],
    ];
    let capture = |rounds: usize| {
        let mut file: Vec<u8> = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, 1]
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        for frame in frames.iter().cycle().take(rounds * frames.len()) {
            file.extend(
                [0, 0, frame.len() as u32, frame.len() as u32]
                    .iter()
                    .flat_map(|word: &u32| word.to_ne_bytes()),
            );
            file.extend(frame);
        }
        file
    };
    let allocations = [capture(100), capture(1000)].map(|file| {
        let mut rewriter = Rewriter::new(&treatment);
        let before = ALLOCATIONS.get();
        pcap::rewrite(&file[..], std::io::sink(), &mut rewriter, &mut |_| ()).unwrap();
        let counts = rewriter.counts();
        assert!(
            counts.reason(Reason::Fragmented) >= 100 && counts.reason(Reason::Resegmented) >= 200,
            "{counts:?}"
        );
        ALLOCATIONS.get() - before
    });
    assert_eq!(allocations[0], allocations[1]);
}
