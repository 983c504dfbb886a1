//! The XDP program and the Rust transform agree, byte for byte, on what the program edits or passes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use xdpfrag::packet::{Df, Edit, Idents, Reason, Rule, Sink, Tcp, Transform, Verdict};
use xdpfrag::xdp::{LanConfig, Route};

use crate::frames::{DF, Frame, MF};
use crate::gateway::*;

const FRAMES: u64 = 6000;
const RULE: Rule = Rule { mtu: MTU, mss4: Some(MSS), mss6: None };

/// splitmix64.
struct Random(u64);

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
        list.resize(list.len().min(40).next_multiple_of(4), 0);
        list
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut frame = if self.below(3) == 0 {
            let around = self.pick(&[60, 400, 1422, 1500]);
            Frame::udp(around - 32 + self.below(33))
        } else {
            let flags = self.pick(&[0x02, 0x02, 0x12, 0x10, 0x18, 0xc2]);
            let data = self.pick(&[0, 0, 1, 7, 1360, 1380, 1400]);
            let options = self.options();
            Frame::tcp(flags, &options, data)
        };
        frame.tags = [(0x88a8, 7), (0x8100, 5), (0x8100, 1)][self.pick(&[0, 1, 1, 2, 3, 3, 3])..].to_vec();
        frame.frag_off = self.pick(&[DF, DF, DF, 0, MF, MF | DF, 3, DF | 185]);
        if self.below(6) == 0 {
            frame.ip_options = self.pick(&[[1u8; 4], [0x94, 4, 0, 0], [7, 4, 4, 0], [7, 9, 4, 0]]).to_vec();
        }
        frame.padding = self.pick(&[0, 0, 0, 1, 18]);
        let mut bytes = frame.bytes();
        for _ in 0..self.pick(&[0, 0, 0, 1, 1, 3]) {
            let at = self.below(bytes.len().min(100));
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

fn compare(df: Df, seed: u64) {
    let gateway =
        Gateway::without_worker(LanConfig { df, sticky: Duration::ZERO, lan_mtu: 65_535, ..CONFIG });
    gateway.program.set_route("0.0.0.0/0".parse().unwrap(), Route::Tunnel(RULE)).unwrap();
    let transform = Transform { df, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(seed)) };
    let mut random = Random(seed);
    let mut told = BTreeMap::<Reason, u64>::new();
    let (mut lowered, mut unfinished) = (0, 0);
    for n in 0..FRAMES {
        let frame = random.frame();
        let seen = gateway.send(&frame);
        let mut out = Frames::default();
        let did = transform.apply(&frame, RULE, &mut out);
        let edits: Vec<_> = did.edits.iter().collect();
        let context = || format!("df {df:?}, frame {n}: {seen:02x?}\n{did:?}\n{frame:02x?}");
        *told.entry(seen.reason).or_default() += 1;
        match seen.reason {
            // The router's own address, reached by a random byte.
            Reason::Local => assert_eq!(seen.data, frame),
            // The program leaves a checksum that hardware was to finish to the kernel.
            Reason::Fits if edits.contains(&Edit::Checksum) => unfinished += 1,
            Reason::NoWorker => {
                assert_eq!(seen.data, frame, "{}", context());
                let fragmented = did.verdict == Verdict::Forward(Reason::Fragmented);
                let to_finish = edits.contains(&Edit::Checksum);
                assert!(fragmented || to_finish, "{}", context());
            }
            reason => {
                assert_eq!(did.verdict.reason(), reason, "{}", context());
                assert_eq!(did.frames, 1, "{}", context());
                assert_eq!(edits, seen.edits, "{}", context());
                assert!(out.0[0] == seen.data, "{}\n{:02x?}", context(), out.0);
                lowered += u64::from(edits.contains(&Edit::Mss));
            }
        }
    }
    eprintln!("df {df:?}: {told:?}, MSS lowered in {lowered}, unfinished {unfinished}");
    for reason in [Reason::Fits, Reason::NotIp, Reason::Group, Reason::Malformed] {
        assert!(told.get(&reason).is_some_and(|count| *count >= 20), "too few of {reason:?}: {told:?}");
    }
    assert!(lowered >= 300, "MSS lowered only {lowered} times");
}

#[test]
fn xdp_and_rust_agree() {
    if skipped("xdp_and_rust_agree") {
        return;
    }
    compare(Df::Clear, 1);
    compare(Df::Oversize, 2);
    compare(Df::Keep, 3);
}
