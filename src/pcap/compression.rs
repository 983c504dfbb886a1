//! Compressed files: which program unpacks them.

use std::fmt;

/// A compression, by the first bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    start: &'static [u8],
    name: &'static str,
    unpack: &'static str,
}

const KNOWN: [Compression; 5] = [
    Compression { start: &[0x1f, 0x8b], name: "gzip", unpack: "gzip -dc" },
    Compression { start: &[0x28, 0xb5, 0x2f, 0xfd], name: "zstd", unpack: "zstd -dc" },
    Compression { start: &[0x04, 0x22, 0x4d, 0x18], name: "lz4", unpack: "lz4 -dc" },
    // The first four of six bytes.
    Compression { start: &[0xfd, b'7', b'z', b'X'], name: "xz", unpack: "xz -dc" },
    Compression { start: b"BZh", name: "bzip2", unpack: "bzip2 -dc" },
];

/// The compression of a file that begins with `start`.
pub(super) fn of(start: &[u8]) -> Option<Compression> {
    KNOWN.into_iter().find(|known| start.starts_with(known.start))
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it is compressed with {}; unpack it on the way: {} IN | xdpfrag replay - OUT ...",
            self.name, self.unpack
        )
    }
}
