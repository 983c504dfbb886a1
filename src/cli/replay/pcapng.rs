//! pcapng: every block is copied byte for byte, but for the packet blocks whose frame is rewritten.
//!
//! Block layouts are those of draft-ietf-opsawg-pcapng sections 4.1, 4.3 and 4.4.

use std::borrow::Cow;
use std::io::{BufRead, Write};

use pcap_file::pcapng::{PcapNgReader, PcapNgWriter, RawBlock};
use pcap_file::{DataLink, Endianness};

use super::capture::CaptureError;
use super::rewriter::Rewriter;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Interface, timestamp (two words), captured and original length.
const ENHANCED_HEADER: usize = 20;

/// Type, length, and length again.
const BLOCK_FRAMING: u32 = 12;

pub(super) fn rewrite<R: BufRead, W: Write>(
    input: R,
    output: W,
    rewriter: &mut Rewriter,
) -> Result<(), CaptureError> {
    let mut reader = PcapNgReader::new(input).map_err(CaptureError::opening)?;
    let mut section = reader.section().clone();
    // Unknown: the length of a section changes with its frames.
    section.section_length = -1;
    let mut writer = PcapNgWriter::with_section_header(output, section).map_err(CaptureError::writing)?;
    let mut frames = 0;
    while let Some(block) = reader.next_raw_block() {
        let block = block.map_err(|error| CaptureError::reading(error, frames))?;
        let block = RawBlock { body: Cow::Owned(block.body.into_owned()), ..block };
        let words = Words(reader.section().endianness);
        let interface = |index: u32| {
            let interfaces = reader.interfaces();
            let found = interfaces.get(index as usize).ok_or_else(|| CaptureError::Damaged {
                frames,
                what: format!("interface {index} is not described"),
            })?;
            match found.linktype {
                DataLink::ETHERNET => Ok(found.snaplen),
                other => Err(CaptureError::LinkType(other)),
            }
        };
        let damaged = |what: &str| CaptureError::Damaged { frames, what: what.to_owned() };
        let packet = match block.type_ {
            ENHANCED_PACKET => {
                let packet = enhanced(&block.body, words).ok_or_else(|| damaged("packet block too short"))?;
                interface(packet.interface)?;
                Some(packet)
            }
            SIMPLE_PACKET => {
                let snaplen = interface(0)?;
                Some(simple(&block.body, words, snaplen).ok_or_else(|| damaged("packet block too short"))?)
            }
            PACKET => {
                return Err(damaged("obsolete Packet Block; convert it with: editcap -F pcapng IN NEW"));
            }
            _ => None,
        };
        let replacements = packet.and_then(|packet| {
            frames += 1;
            rewriter.rewrite(packet.frame, packet.original_len).map(|frames| (packet.header, frames))
        });
        match replacements {
            None if block.type_ == SECTION_HEADER => {
                let mut body = block.body.into_owned();
                if let Some(length) = body.get_mut(8..16) {
                    length.fill(0xff);
                }
                let block = RawBlock { body: Cow::Owned(body), ..block };
                writer.write_raw_block(&block).map_err(CaptureError::writing)?;
            }
            None => {
                writer.write_raw_block(&block).map_err(CaptureError::writing)?;
            }
            Some((header, replacements)) => {
                for frame in replacements.iter() {
                    let block = packet_block(block.type_, header, frame, words);
                    writer.write_raw_block(&block).map_err(CaptureError::writing)?;
                }
            }
        }
    }
    writer.into_inner().flush().map_err(CaptureError::Write)
}

/// A frame within a packet block.
struct Packet<'a> {
    interface: u32,
    /// What stays the same in front of the lengths: interface and timestamp, or nothing.
    header: &'a [u8],
    original_len: u32,
    frame: &'a [u8],
}

fn enhanced(body: &[u8], words: Words) -> Option<Packet<'_>> {
    let captured = words.read(body, 12)?;
    Some(Packet {
        interface: words.read(body, 0)?,
        header: &body[..12],
        original_len: words.read(body, 16)?,
        frame: body.get(ENHANCED_HEADER..)?.get(..captured as usize)?,
    })
}

/// A simple packet block does not say how much was captured: the snap length does, 0 for everything.
fn simple(body: &[u8], words: Words, snaplen: u32) -> Option<Packet<'_>> {
    let original_len = words.read(body, 0)?;
    let limit = if snaplen == 0 { original_len } else { snaplen };
    let frame = body.get(4..)?.get(..original_len.min(limit) as usize)?;
    Some(Packet { interface: 0, header: &[], original_len, frame })
}

/// A packet block of the same kind around another frame, without options: they described the old one.
fn packet_block(kind: u32, header: &[u8], frame: &[u8], words: Words) -> RawBlock<'static> {
    let len = frame.len() as u32;
    let mut body = header.to_vec();
    if kind == ENHANCED_PACKET {
        body.extend(words.bytes(len));
    }
    body.extend(words.bytes(len));
    body.extend_from_slice(frame);
    body.resize(body.len().next_multiple_of(4), 0);
    let total = body.len() as u32 + BLOCK_FRAMING;
    RawBlock { type_: kind, initial_len: total, body: Cow::Owned(body), trailer_len: total }
}

/// 32-bit words in the byte order of a section.
#[derive(Clone, Copy)]
struct Words(Endianness);

impl Words {
    fn read(self, bytes: &[u8], at: usize) -> Option<u32> {
        let word = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(match self.0 {
            Endianness::Big => u32::from_be_bytes(word),
            Endianness::Little => u32::from_le_bytes(word),
        })
    }

    fn bytes(self, word: u32) -> [u8; 4] {
        match self.0 {
            Endianness::Big => word.to_be_bytes(),
            Endianness::Little => word.to_le_bytes(),
        }
    }
}
