//! Small captures of every form, and the same with bytes changed.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::laws;

const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

/// An IPv4 packet of so many bytes, of TCP or of a protocol that is not looked at.
fn packet(len: u16, protocol: u8) -> Vec<u8> {
    let [high, low] = len.to_be_bytes();
    let mut packet =
        vec![0x45, 0, high, low, 0, 7, 0x40, 0, 64, protocol, 0, 0, 198, 18, 0, 1, 198, 51, 100, 1];
    // Ports, sequence numbers, a header of 20 bytes with ACK, and content.
    packet.extend([0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    packet.resize(len.into(), 0x55);
    packet
}

fn u32s(big: bool, words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| if big { word.to_be_bytes() } else { word.to_le_bytes() }).collect()
}

fn u16s(big: bool, words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| if big { word.to_be_bytes() } else { word.to_le_bytes() }).collect()
}

fn pcap(big: bool, magic: u32, link: u32, extra: usize, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = u32s(big, &[magic]);
    file.extend(u16s(big, &[2, 4]));
    file.extend(u32s(big, &[0, 0, 65_535, link]));
    for frame in frames {
        file.extend(u32s(big, &[1, 2, frame.len() as u32, frame.len() as u32]));
        file.resize(file.len() + extra, 0);
        file.extend(frame);
    }
    file
}

fn block(big: bool, kind: u32, body: &[&[u8]]) -> Vec<u8> {
    let mut body = body.concat();
    body.resize(body.len().next_multiple_of(4), 0);
    let len = body.len() as u32 + 12;
    [u32s(big, &[kind, len]), body, u32s(big, &[len])].concat()
}

fn section(big: bool, link: u16, frame: &[u8]) -> Vec<u8> {
    let len = frame.len() as u32;
    let flags = [u16s(big, &[2, 4]), u32s(big, &[1]), u16s(big, &[0, 0])].concat();
    let mut padded = frame.to_vec();
    padded.resize(frame.len().next_multiple_of(4), 0);
    [
        block(big, 0x0a0d_0d0a, &[&u32s(big, &[0x1a2b_3c4d]), &u16s(big, &[1, 0]), &[0xff; 8]]),
        block(big, 1, &[&u16s(big, &[link, 0]), &u32s(big, &[0]), &u16s(big, &[13, 1]), &[4, 0, 0, 0]]),
        block(big, 6, &[&u32s(big, &[0, 1, 2, len, len]), &padded, &flags]),
        block(big, 2, &[&u16s(big, &[0, 1]), &u32s(big, &[1, 2, len, len]), frame]),
        block(big, 3, &[&u32s(big, &[len]), frame]),
        block(big, 5, &[&[0; 12]]),
    ]
    .concat()
}

/// One of each form.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let ethernet = |packet: Vec<u8>| [&ETHERNET[..], &packet].concat();
    let frames = || vec![ethernet(packet(700, 253)), ethernet(packet(1200, 6)), ethernet(packet(60, 17))];
    let behind = |header: &[u8]| vec![[header, &packet(700, 253)].concat()];
    vec![
        ("micro", pcap(false, 0xa1b2_c3d4, 1, 0, &frames())),
        ("nano_big", pcap(true, 0xa1b2_3c4d, 1, 0, &frames())),
        ("patched", pcap(false, 0xa1b2_cd34, 1, 8, &frames())),
        ("fcs", pcap(false, 0xa1b2_c3d4, 0x2400_0001, 0, &frames())),
        ("raw", pcap(false, 0xa1b2_c3d4, 101, 0, &behind(&[]))),
        ("null", pcap(false, 0xa1b2_c3d4, 0, 0, &behind(&[2, 0, 0, 0]))),
        ("sll", pcap(false, 0xa1b2_c3d4, 113, 0, &behind(&[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0, 8, 0]))),
        (
            "sll2",
            pcap(
                true,
                0xa1b2_c3d4,
                276,
                0,
                &behind(&[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0, 0, 0, 2, 0, 0]),
            ),
        ),
        ("ppp", pcap(false, 0xa1b2_c3d4, 9, 0, &behind(&[0xff, 3, 0, 0x21]))),
        ("sections", [section(false, 1, &frames()[0]), section(true, 1, &frames()[1])].concat()),
        ("no_link", section(true, 101, &packet(700, 253))),
    ]
}

/// A seed with some bytes changed, put in or taken out, most of them in the headers of files, blocks and records.
pub(crate) fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff)], 0..4, any::<bool>());
    (any::<Index>(), prop::collection::vec(change, 0..6)).prop_map(|(seed, changes)| {
        let mut bytes = seed.get(&seeds()).1.clone();
        for (at, byte, how, early) in changes {
            let at = at.index(if early { bytes.len().min(140) } else { bytes.len() } + 1);
            match how {
                0 => bytes.insert(at, byte),
                1 | 2 if at < bytes.len() => bytes[at] = byte,
                _ => drop(bytes.drain(at..bytes.len().min(at + 3))),
            }
        }
        bytes
    })
}

#[test]
fn beginnings_of_every_form() {
    for (name, bytes) in seeds() {
        // Every length in the headers that a file begins with, and some of those in the frames.
        for len in (0..bytes.len().min(160)).chain((160..bytes.len()).step_by(23)) {
            // The message of a panic names neither.
            let law = std::panic::catch_unwind(|| laws::capture(&bytes[..len]));
            assert!(law.is_ok(), "the first {len} bytes of {name}");
        }
    }
}
