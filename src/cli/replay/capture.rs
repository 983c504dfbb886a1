//! Capture files: which format, and classic pcap.

use std::borrow::Cow;
use std::io::{self, BufRead, Write};

use pcap_file::pcap::{PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, PcapError};

use super::pcapng;
use super::rewriter::Rewriter;

/// First four bytes of a pcapng file: the type of its section header, the same in either byte order.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Why a capture could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    /// Neither pcap nor pcapng.
    #[error("not a pcap or pcapng file ({0}); give a capture such as tcpdump -w writes")]
    Format(String),
    /// Not Ethernet.
    #[error(
        "link type {0:?} instead of ETHERNET; capture on the LAN interface itself, not on `any` or a tunnel"
    )]
    LinkType(DataLink),
    /// The file ends within a frame.
    #[error(
        "the file is cut short behind frame {frames}; keep the whole frames with: tcpdump -r IN -w WHOLE"
    )]
    Truncated {
        /// Whole frames before the end.
        frames: u64,
    },
    /// A length or type that makes no sense.
    #[error(
        "damaged behind frame {frames}: {what}; keep the frames before it with: tcpdump -c {frames} -r IN -w GOOD"
    )]
    Damaged {
        /// Frames before the damage.
        frames: u64,
        /// What is wrong.
        what: String,
    },
    /// The input cannot be read.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

impl CaptureError {
    /// A reading error behind frame number `frames`.
    pub(super) fn reading(error: PcapError, frames: u64) -> CaptureError {
        match error {
            PcapError::IncompleteBuffer => CaptureError::Truncated { frames },
            PcapError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                CaptureError::Truncated { frames }
            }
            PcapError::IoError(error) => CaptureError::Read(error),
            error => CaptureError::Damaged { frames, what: error.to_string() },
        }
    }

    /// An error in the file header.
    pub(super) fn opening(error: PcapError) -> CaptureError {
        match CaptureError::reading(error, 0) {
            CaptureError::Read(error) => CaptureError::Read(error),
            CaptureError::Truncated { .. } => CaptureError::Format("the file header is cut short".into()),
            error => CaptureError::Format(error.to_string()),
        }
    }

    /// An error of the output.
    pub(super) fn writing(error: PcapError) -> CaptureError {
        CaptureError::Write(match error {
            PcapError::IoError(error) => error,
            error => io::Error::other(error),
        })
    }
}

/// Copies the capture from `input` to `output` in its own format, its frames rewritten.
pub(super) fn rewrite<R: BufRead, W: Write>(
    mut input: R,
    output: W,
    rewriter: &mut Rewriter,
) -> Result<(), CaptureError> {
    let start = input.fill_buf().map_err(CaptureError::Read)?;
    if start.starts_with(&PCAPNG_MAGIC) {
        pcapng::rewrite(input, output, rewriter)
    } else {
        pcap(input, output, rewriter)
    }
}

fn pcap<R: BufRead, W: Write>(input: R, output: W, rewriter: &mut Rewriter) -> Result<(), CaptureError> {
    let mut reader = PcapReader::new(input).map_err(|error| match error {
        PcapError::InvalidField(_) => CaptureError::Format("it does not begin like one".into()),
        error => CaptureError::opening(error),
    })?;
    let header = reader.header();
    if header.datalink != DataLink::ETHERNET {
        return Err(CaptureError::LinkType(header.datalink));
    }
    let mut writer = PcapWriter::with_header(output, header).map_err(CaptureError::writing)?;
    let mut frames = 0;
    // Raw, since the checked form refuses frames that were longer than the snap length.
    while let Some(packet) = reader.next_raw_packet() {
        let packet = packet.map_err(|error| CaptureError::reading(error, frames))?;
        match rewriter.rewrite(&packet.data, packet.orig_len) {
            None => writer.write_raw_packet(&packet).map(drop).map_err(CaptureError::writing)?,
            Some(replacements) => {
                for frame in replacements.iter() {
                    let len = frame.len() as u32;
                    let replacement =
                        RawPcapPacket { incl_len: len, orig_len: len, data: Cow::Borrowed(frame), ..packet };
                    writer.write_raw_packet(&replacement).map_err(CaptureError::writing)?;
                }
            }
        }
        frames += 1;
    }
    writer.into_writer().flush().map_err(CaptureError::Write)
}
