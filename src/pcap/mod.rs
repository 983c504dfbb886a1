//! Capture files, pcap and pcapng: what `replay` reads and writes, and what `capture` writes.
//!
//! A file is read as tcpdump and Wireshark read it, by a few rules. Only what is needed is looked at: the link type, the
//! lengths and the frame. All else, such as options, names and comments, is copied byte for byte, so that nothing in it
//! can be wrong. Every length is checked against what is there. Memory holds a few hundred kilobytes, or the longest
//! record; nothing is allocated per frame.
//!
//! ```text
//! input      bytes of the file, as many at a time as a record has
//!   │ classic    pcap: file header, records
//!   │ ng         pcapng: sections, interfaces, blocks
//!   ▼
//! rewriter   scope and transform, frame by frame; counts
//!   │ link       from the link type to the IP packet
//!   ▼
//! output     the record as it was, or as many as the frame became
//! ```
//!
//! [`writer`] makes pcapng from frames.
//!
//! Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, pcap-savefile(5),
//! <https://www.tcpdump.org/linktypes.html>.

mod classic;
mod compression;
mod counts;
mod error;
mod input;
mod link;
mod ng;
mod order;
mod output;
mod rewriter;
pub mod writer;

use std::io::{Read, Write};

pub use counts::Counts;
pub use error::Error;
pub use input::Watch;
pub use rewriter::Rewriter;

use input::Input;
use output::Output;

/// Longest record or block that is read, bytes: as much as libpcap and Wireshark take.
const MAX_RECORD: usize = 16 << 20;

/// First four bytes of a pcapng file: the type of its section header, the same in either byte order.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Copies the capture from `input` to `output` in its own format, its frames rewritten; `watch` is told how far it got.
///
/// # Errors
/// If the input is no capture or a damaged one, or if either cannot be used. Whatever was written until then is the
/// beginning of a capture.
pub fn rewrite<R: Read, W: Write>(
    input: R,
    output: W,
    rewriter: &mut Rewriter,
    watch: Watch<'_>,
) -> Result<(), Error> {
    let mut input = Input::new(input, watch);
    let mut output = Output::new(output);
    let start = input.peek(SECTION_HEADER.len())?;
    if start.starts_with(&SECTION_HEADER) {
        ng::rewrite(&mut input, &mut output, rewriter)?;
    } else if let Some(compression) = compression::of(start) {
        return Err(Error::Compressed(compression));
    } else {
        classic::rewrite(&mut input, &mut output, rewriter)?;
    }
    if let Some(link_type) = rewriter.nothing_read() {
        return Err(Error::LinkType(link_type));
    }
    output.finish()
}
