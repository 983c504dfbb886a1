//! The XDP program and the Rust transform agree, byte for byte, on what the program edits or passes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use xdpfrag::packet::{self, Df, Edit, Idents, Reason, Rule, Sink, Tcp, Transform, Verdict};
use xdpfrag::xdp::{LanConfig, Meta, Route};

use crate::frames::{DF, Frame, MF};
use crate::frames6::{AUTHENTICATION, DESTINATION, Frame6, HOP_BY_HOP, ROUTING, extension, fragment};
use crate::gateway::*;

/// Per policy.
const FRAMES: u64 = 16_000;
const RULE: Rule = Rule::new(MTU, Some(MSS), Some(MSS6));

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    /// An option list, a whole number of words, of pieces that are now and then malformed.
    fn options(&mut self) -> Vec<u8> {
        let mut list = Vec::new();
        let end = self.below(41);
        while list.len() < end {
            match self.below(8) {
                0 | 1 => list.push(1),
                2..=4 => list.extend([2, 4, self.pick(&[0, 5, 5, 0x23]), self.byte()]),
                5 => list.extend([3, 3, 7]),
                6 => list.extend([8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
                _ => list.extend([self.byte(), self.pick(&[0, 1, 2, 3, 4, 41]), self.byte()]),
            }
        }
        if self.below(8) == 0 {
            let code = [29, self.pick(&[3, 4, 8, 16, 41]), 1, 1, 0, 0, 0, 0];
            let at = self.below(list.len() + 1);
            list.splice(at..at, code);
        }
        list.resize(list.len().min(40).next_multiple_of(4), 0);
        list
    }

    /// Flags, options and data of a TCP segment.
    fn segment(&mut self) -> (u8, Vec<u8>, usize) {
        let flags = self.pick(&[0x02, 0x02, 0x12, 0x10, 0x18, 0x99, 0xc2, 0x14, 0x30]);
        let options = self.options();
        (flags, options, self.pick(&[0, 0, 1, 7, 1360, 1380, 1400]))
    }

    fn tags(&mut self) -> Vec<(u16, u16)> {
        [(0x88a8, 7), (0x8100, 5), (0x8100, 1)][self.pick(&[0, 1, 1, 2, 3, 3, 3])..].to_vec()
    }

    fn ipv4(&mut self) -> Vec<u8> {
        let mut frame = if self.below(3) == 0 {
            let around = self.pick(&[60, 400, 1422, 1500]);
            Frame::udp(around - 32 + self.below(33))
        } else {
            let (flags, options, data) = self.segment();
            Frame::tcp(flags, &options, data)
        };
        if frame.protocol == 6 && self.below(6) == 0 {
            let unfinished = frame.pseudo_sum();
            frame.payload[16..18].copy_from_slice(&unfinished.to_be_bytes());
        }
        frame.tags = self.tags();
        frame.frag_off = self.pick(&[DF, DF, DF, 0, MF, MF | DF, 3, DF | 185]);
        if self.below(6) == 0 {
            frame.ip_options = self.pick(&[[1u8; 4], [0x94, 4, 0, 0], [7, 4, 4, 0], [7, 9, 4, 0]]).to_vec();
        }
        frame.padding = self.pick(&[0, 0, 0, 1, 18]);
        frame.bytes()
    }

    fn ipv6(&mut self) -> Vec<u8> {
        let mut frame = if self.below(3) == 0 {
            let around = self.pick(&[80, 400, 1422, 1500]);
            Frame6::udp(around - 32 + self.below(33))
        } else {
            let (flags, options, data) = self.segment();
            Frame6::tcp(flags, &options, data)
        };
        if frame.protocol == 6 && self.below(6) == 0 {
            let unfinished = frame.pseudo_sum();
            frame.payload[16..18].copy_from_slice(&unfinished.to_be_bytes());
        }
        frame.tags = self.tags();
        for _ in 0..self.pick(&[0, 0, 0, 1, 1, 2, 3, 6, 7]) {
            let header = match self.below(6) {
                0 => fragment(self.pick(&[0, 1, 8, 0xfff9])),
                1 => (AUTHENTICATION, vec![0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9]),
                n => {
                    extension([HOP_BY_HOP, ROUTING, DESTINATION, DESTINATION][n - 2], 8 * (1 + self.below(4)))
                }
            };
            frame.extensions.push(header);
        }
        frame.padding = self.pick(&[0, 0, 0, 1, 18]);
        frame.bytes()
    }

    /// A frame of either family, now and then damaged or cut short.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        let mut bytes = if self.below(2) == 0 { self.ipv4() } else { self.ipv6() };
        for _ in 0..self.pick(&[0, 0, 0, 1, 1, 3]) {
            let at = self.below(bytes.len().min(120));
            bytes[at] = self.byte();
        }
        if self.below(20) == 0 {
            bytes.truncate(14 + self.below(bytes.len() - 13));
        }
        bytes
    }
}

#[derive(Default)]
struct Frames(Vec<Vec<u8>>);

impl Sink for Frames {
    fn reserve(&mut self, _frames: usize, _len: usize) -> bool {
        true
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        self.0.push(vec![0xdd; len]);
        self.0.last_mut().unwrap()
    }
}

/// What the transform may answer to what the program sent to a worker as oversize.
fn is_the_workers(told: Verdict, df: Df) -> bool {
    match told {
        Verdict::Forward(reason) => reason != Reason::Fits,
        // IPv6 that turned out not to be resegmented, after a look at all of it.
        Verdict::Pass(Reason::KeptFlags | Reason::KeptSigned | Reason::KeptChecksum) => true,
        Verdict::Pass(Reason::Ipv6TooBig) => true,
        Verdict::Pass(Reason::DfKept) => df == Df::Keep,
        _ => false,
    }
}

fn compare(df: Df, tcp: Tcp, seed: u64) {
    let gateway = Gateway::with_worker(LanConfig {
        df,
        resegment: tcp == Tcp::Resegment,
        sticky: Duration::ZERO,
        stall: Duration::from_secs(600),
        lan_mtu: 65_535,
        ..CONFIG
    });
    for everything in ["0.0.0.0/0", "::/0", "198.18.0.0/15", "2001:db8:f::/48"] {
        gateway.program.set_route(everything.parse().unwrap(), Route::Tunnel(RULE)).unwrap();
    }
    let transform = Transform { df, tcp, idents: Arc::new(Idents::with_seed(seed)) };
    let mut random = Random(seed);
    let mut told = BTreeMap::<Reason, u64>::new();
    let mut workers = BTreeMap::<Reason, u64>::new();
    let mut lowered = [0, 0];
    for n in 0..FRAMES {
        let frame = random.frame();
        let seen = gateway.send(&frame);
        let mut out = Frames::default();
        let did = transform.apply(&frame, RULE, &mut out);
        let edits: Vec<_> = did.edits.iter().collect();
        let context = || format!("df {df:?}, {tcp:?}, frame {n}: {seen:02x?}\n{did:?}\n{frame:02x?}");
        *told.entry(seen.reason).or_default() += 1;
        match seen.reason {
            // The router's own address or a link-local one, reached by a random byte.
            Reason::Local | Reason::OutOfScope => assert!(seen.data == frame),
            Reason::Oversize => {
                assert!(seen.data[Meta::SIZE..] == frame && is_the_workers(did.verdict, df), "{}", context());
                *workers.entry(did.verdict.reason()).or_default() += 1;
            }
            Reason::Unfinished => {
                assert!(seen.data[Meta::SIZE..] == frame, "{}", context());
                assert_eq!(did.verdict, Verdict::Forward(Reason::Fits), "{}", context());
                assert!(edits.contains(&Edit::Checksum) && edits.contains(&Edit::Mss), "{}", context());
            }
            // The program leaves a checksum that hardware was to finish, in a packet that needs no
            // other edit of TCP, to the kernel.
            Reason::Fits if edits.contains(&Edit::Checksum) => {
                assert!(!edits.contains(&Edit::Mss), "{}", context());
                assert!(!seen.edits.contains(&Edit::Mss), "{}", context());
            }
            reason => {
                assert_eq!(did.verdict.reason(), reason, "{}", context());
                assert_eq!(did.frames, 1, "{}", context());
                assert_eq!(edits, seen.edits, "{}", context());
                assert!(out.0[0] == seen.data, "{}\n{:02x?}", context(), out.0);
                let v6 = packet::parse(&frame).is_ok_and(|(_, packet)| packet.destination().is_ipv6());
                lowered[usize::from(v6)] += u64::from(edits.contains(&Edit::Mss));
            }
        }
    }
    eprintln!("df {df:?}, {tcp:?}: {told:?}, workers {workers:?}, MSS lowered in {lowered:?}");
    let mut expected = vec![Reason::Fits, Reason::NotIp, Reason::Group, Reason::Malformed];
    expected.extend([Reason::Oversize, Reason::Unfinished, Reason::Ipv6TooBig]);
    for reason in expected {
        assert!(told.get(&reason).is_some_and(|count| *count >= 20), "too few of {reason:?}: {told:?}");
    }
    if tcp == Tcp::Resegment {
        for reason in [Reason::Resegmented, Reason::KeptFlags, Reason::KeptChecksum] {
            assert!(workers.get(&reason).is_some_and(|n| *n >= 20), "too few of {reason:?}: {workers:?}");
        }
    }
    assert!(lowered.iter().all(|count| *count >= 200), "MSS lowered only {lowered:?} times");
}

#[test]
fn xdp_and_rust_agree() {
    if skipped("xdp_and_rust_agree") {
        return;
    }
    for (n, df) in [Df::Clear, Df::Oversize, Df::Keep].into_iter().enumerate() {
        compare(df, Tcp::Fragment, n as u64);
        compare(df, Tcp::Resegment, 100 + n as u64);
    }
}
