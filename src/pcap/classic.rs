//! pcap: a file header, then records (draft-ietf-opsawg-pcap).

use std::io::{Read, Write};

use super::input::Input;
use super::link::Link;
use super::order::Order;
use super::output::{Form, Output, Record};
use super::rewriter::Rewriter;
use super::{Error, MAX_RECORD};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Of Alexey Kuznetsov's libpcap: interface, protocol and packet type follow the lengths.
const PATCHED: u32 = 0xa1b2_cd34;

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const PATCHED_RECORD_HEADER: usize = 24;

/// Longest frame that libpcap takes, whatever the snap length, bytes.
const MAX_FRAME: usize = 262_144;

/// In the word of the link type: bits 28 to 31 are the length of the frame check sequence in units of 16 bits.
const FCS_PRESENT: u32 = 1 << 26;

pub(super) fn rewrite<R: Read, W: Write>(
    input: &mut Input<'_, R>,
    output: &mut Output<W>,
    rewriter: &mut Rewriter,
) -> Result<(), Error> {
    let file = input.peek(FILE_HEADER)?;
    let Some(header) = file.first_chunk::<FILE_HEADER>() else {
        return Err(Error::Format("it is shorter than a file header"));
    };
    let (order, head) =
        [(MICROSECONDS, RECORD_HEADER), (NANOSECONDS, RECORD_HEADER), (PATCHED, PATCHED_RECORD_HEADER)]
            .into_iter()
            .find_map(|(magic, head)| Some((Order::of(header, magic)?, head)))
            .ok_or(Error::Format("it does not begin like one"))?;
    if order.u16(header, 4) != Some(2) || order.u16(header, 6).is_none_or(|minor| minor < 4) {
        return Err(Error::Format("its version is not 2.4"));
    }
    let word = |at| order.u32(header, at).unwrap_or_default();
    let max = MAX_FRAME.max(MAX_RECORD.min(word(16) as usize));
    let number = word(20) as u16;
    let fcs = if word(20) & FCS_PRESENT == 0 { 0 } else { (word(20) >> 28) as usize * 2 };
    if !matches!((fcs, number), (0, _) | (4, 1)) {
        return Err(Error::CheckSequence { bytes: fcs as u32, link_type: number });
    }
    output.copy(header)?;
    input.consume(FILE_HEADER);

    let form = Form { order, head, captured_at: Some(8), original_at: 12, block: false };
    let link = Link::new(number);
    loop {
        let frames = rewriter.frames();
        let bytes = input.peek(head)?;
        let (Some(captured), Some(original)) = (order.u32(bytes, 8), order.u32(bytes, 12)) else {
            return if bytes.is_empty() { Ok(()) } else { Err(Error::Truncated { frames }) };
        };
        let captured = captured as usize;
        if captured > max {
            let what = format!("a frame of {captured} bytes, more than the {max} that there can be");
            return Err(Error::Damaged { frames, what });
        }
        let len = head + captured;
        let raw = input.peek(len)?.get(..len).ok_or(Error::Truncated { frames })?;
        match link {
            Some(link) => {
                let record = Record { form, raw, captured, original, fcs, options: [&[]; 2] };
                rewriter.rewrite(link, &record, output)?;
            }
            None => rewriter.unread(number, raw, output)?,
        }
        input.consume(len);
    }
}
