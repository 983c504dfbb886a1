//! Blocks of pcapng in memory, in the byte order of this machine (draft-ietf-opsawg-pcapng sections 4.1 to 4.3).

use std::time::Duration;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

const ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

const END: u16 = 0;
const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const DROPCOUNT: u16 = 4;
const IF_TSRESOL: u16 = 9;
/// Time stamps are in 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Adds the header that a file begins with.
pub fn section(blocks: &mut Vec<u8>) {
    block(blocks, SECTION, |body| {
        body.extend(ORDER_MAGIC.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        // Its length is not known.
        body.extend([0xff; 8]);
    });
}

/// Adds an Ethernet interface; the first is number 0.
pub fn interface(blocks: &mut Vec<u8>, name: &str, description: &str, snaplen: u32) {
    block(blocks, INTERFACE, |body| {
        body.extend(ETHERNET.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        body.extend(snaplen.to_ne_bytes());
        option(body, IF_NAME, name.as_bytes());
        option(body, IF_DESCRIPTION, description.as_bytes());
        option(body, IF_TSRESOL, &[NANOSECONDS]);
        option(body, END, &[]);
    });
}

/// A frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Number of its interface.
    pub interface: u32,
    /// Time since 1970.
    pub time: Duration,
    /// Bytes that it had.
    pub length: usize,
    /// Those of them that are kept.
    pub bytes: &'a [u8],
    /// For people.
    pub comment: &'a str,
    /// Frames that are missing before it.
    pub missed: u64,
}

/// Adds a frame.
pub fn frame(blocks: &mut Vec<u8>, frame: &Frame<'_>) {
    // In the year 2554 it begins anew.
    let time = frame.time.as_nanos() as u64;
    block(blocks, PACKET, |body| {
        for word in [
            frame.interface,
            (time >> 32) as u32,
            time as u32,
            frame.bytes.len() as u32,
            u32::try_from(frame.length).unwrap_or(u32::MAX),
        ] {
            body.extend(word.to_ne_bytes());
        }
        body.extend_from_slice(frame.bytes);
        pad(body);
        option(body, COMMENT, frame.comment.as_bytes());
        if frame.missed > 0 {
            option(body, DROPCOUNT, &frame.missed.to_ne_bytes());
        }
        option(body, END, &[]);
    });
}

fn block(blocks: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = blocks.len();
    blocks.extend(kind.to_ne_bytes());
    blocks.extend([0; 4]);
    body(blocks);
    let length = ((blocks.len() - start + 4) as u32).to_ne_bytes();
    blocks.extend(length);
    blocks[start + 4..][..4].copy_from_slice(&length);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // What is longer than the field can say is for people, and is cut.
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend_from_slice(value);
    pad(body);
}

/// Blocks begin at a multiple of four, and so does what stands in them.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}
