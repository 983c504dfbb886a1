//! Why a capture could not be rewritten.

use std::io;

use super::compression::Compression;

/// Why a capture could not be rewritten. IN, OUT and NEW in a message are names of files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither pcap nor pcapng.
    #[error("not a pcap or pcapng file ({0}); give a capture such as tcpdump -w writes")]
    Format(&'static str),
    /// To be unpacked first.
    #[error("{0}")]
    Compressed(Compression),
    /// No frame is of a link type that is read.
    #[error(
        "link type {0} (https://www.tcpdump.org/linktypes.html) is not read; capture on an interface of Ethernet, IP or \
         PPP, or on `any`"
    )]
    LinkType(u16),
    /// Frames end with something that cannot be made anew.
    #[error(
        "frame check sequences of {bytes} bytes on link type {link_type} are not known; those of 4 on Ethernet are"
    )]
    CheckSequence {
        /// Their length, as the file has it.
        bytes: u32,
        /// The link type of the frames.
        link_type: u16,
    },
    /// The file ends within a record.
    #[error("the file is cut short after frame {frames}{}", remedy(*.frames))]
    Truncated {
        /// Whole frames before the end.
        frames: u64,
    },
    /// A length or number that makes no sense.
    #[error("damaged after frame {frames}: {what}{}", remedy(*.frames))]
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

/// How to keep the frames before a fault; `tcpdump -c` takes no 0.
fn remedy(frames: u64) -> String {
    match frames {
        0 => "; no frame can be kept".into(),
        _ => format!("; keep what is whole with: tcpdump -c {frames} -r IN -w NEW"),
    }
}
