//! Every case of small domains.

use xdpfrag::packet::{Df, Edit, Edits, Reason, Verdict};

use crate::support::{DF, Fragment, MF, Packet, UDP, apply, pattern, reassemble};

/// Every length around every MTU from the smallest, with the three extremes of options.
#[test]
fn lengths_and_mtus() {
    for options in [vec![], vec![0x94, 4, 0, 0], [0x94, 4, 0, 0].repeat(10), vec![1; 40]] {
        let copied = if options.contains(&0x94) { options.len() } else { 0 };
        for mtu in 68..=100 {
            for total in 20 + options.len()..=320 {
                let payload = pattern(total - 20 - options.len());
                let packet = Packet { options: options.clone(), ..Packet::new(UDP, payload) };
                let (outcome, frames) = apply(Df::Oversize, mtu as u16, None, &packet.frame());
                if total <= mtu {
                    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fits));
                    assert_eq!((outcome.edits, frames), (Edits::NONE, vec![packet.frame()]));
                    continue;
                }
                assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fragmented), "{total} at {mtu}");
                let parts: Vec<_> = frames.iter().map(|frame| Fragment::of(frame, 14)).collect();
                assert_eq!(reassemble(&parts, 0), (packet.payload.clone(), true), "{total} at {mtu}");
                // As few as RFC 791 allows: all but the last are full.
                let mut header = packet.header_len();
                for part in &parts[..parts.len() - 1] {
                    assert_eq!(part.payload.len(), (mtu - header) / 8 * 8, "{total} at {mtu}");
                    header = 20 + copied;
                }
                assert!(parts[parts.len() - 1].payload.len() <= mtu - header, "{total} at {mtu}");
            }
        }
    }
}

/// Every value of the flags and offset field, under every policy.
#[test]
fn flags_and_policies() {
    for policy in [Df::Clear, Df::Oversize, Df::Keep] {
        for field in 0..=u16::MAX {
            let packet = Packet { id: 5, flags_offset: field, ..Packet::new(UDP, pattern(96)) };
            let df = field & DF != 0;
            let (outcome, frames) = apply(policy, 116, None, &packet.frame());
            let clears = df && policy == Df::Clear;
            let expected =
                Packet { flags_offset: if clears { field & !DF } else { field }, ..packet.clone() };
            assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fits), "{field:#x}");
            assert_eq!(outcome.edits.contains(Edit::Df), clears, "{field:#x}");
            assert_eq!(frames, [expected.frame()], "{field:#x}");

            let (outcome, frames) = apply(policy, 115, None, &packet.frame());
            let offset = field & 0x1fff;
            let reason = outcome.verdict.reason();
            if df && policy == Df::Keep {
                assert_eq!((outcome.verdict, reason), (Verdict::Pass(Reason::DfKept), reason));
                assert_eq!(frames, [packet.frame()]);
            } else if usize::from(offset) * 8 + 116 > 65_535 {
                assert_eq!(outcome.verdict, Verdict::Pass(Reason::Malformed), "{field:#x}");
                assert_eq!(frames, [packet.frame()]);
            } else {
                assert_eq!(reason, Reason::Fragmented, "{field:#x}");
                assert_eq!(outcome.edits.contains(Edit::Df), df);
                assert_eq!(outcome.edits.contains(Edit::Id), df && field & (MF | 0x1fff) == 0);
                let fields: Vec<_> = frames.iter().map(|f| Fragment::of(f, 14).flags_offset).collect();
                let kept = field & !DF;
                assert_eq!(fields, [(kept & 0x8000) | MF | offset, (kept & 0xe000) | (offset + 11)]);
            }
        }
    }
}

/// An MTU below the smallest counts as the smallest, on either side of it.
#[test]
fn mtus_below_the_smallest() {
    for mtu in 0..68 {
        for len in 0..120 {
            let frame = Packet::udp(len).frame();
            let (outcome, frames) = apply(Df::Clear, mtu, None, &frame);
            let (at_68, expected) = apply(Df::Clear, 68, None, &frame);
            assert_eq!((outcome, frames), (at_68, expected), "{len} bytes of data at {mtu}");
            let reason = if len + 28 > 68 { Reason::Fragmented } else { Reason::Fits };
            assert_eq!(outcome.verdict, Verdict::Forward(reason));
        }
    }
}

/// The largest datagram at the smallest MTU with the longest header.
#[test]
fn the_largest_datagram() {
    let options = [0x94, 4, 0, 0].repeat(10);
    let packet = Packet { options, ..Packet::new(UDP, pattern(65_535 - 60)) };
    let (outcome, frames) = apply(Df::Clear, 0, None, &packet.frame());
    assert_eq!(usize::from(outcome.frames), (65_535usize - 60).div_ceil(8));
    let parts: Vec<_> = frames.iter().map(|frame| Fragment::of(frame, 14)).collect();
    assert_eq!(reassemble(&parts, 0), (packet.payload, true));
}
