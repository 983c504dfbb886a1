//! TCP header (RFC 9293 section 3.1).

use super::options;

/// Length of the header without options, bytes.
pub const HEADER_LEN: usize = 20;
/// Largest length of the header, bytes.
pub const MAX_HEADER_LEN: usize = 60;
/// Where the checksum stands in the header.
pub const CHECKSUM: usize = 16;

/// Flags, in the byte before the window.
pub const FIN: u8 = 0x01;
/// Opens a connection.
pub const SYN: u8 = 0x02;
/// Resets it.
pub const RST: u8 = 0x04;
/// Hand on at once.
pub const PSH: u8 = 0x08;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// Accurate ECN (RFC 9768), in the byte of the data offset.
const AE: u8 = 0x01;
/// Options of Accurate ECN: the two orders of its counters.
const ACCURATE_ECN: [u8; 2] = [172, 174];

/// A segment whose header is wholly there.
#[derive(Debug, Clone, Copy)]
pub struct TcpSegment<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
}

impl<'a> TcpSegment<'a> {
    /// The segment at the start of `bytes`; `None` if the data offset is below 5 or beyond `bytes`.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_LEN>()?;
        let options = bytes.get(HEADER_LEN..usize::from(header[12] >> 4) * 4)?;
        Some(TcpSegment { header, options })
    }

    /// Options, 0 to 40 bytes, their content unchecked.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// Header length, bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// True for SYN and SYN-ACK.
    #[inline]
    pub fn syn(&self) -> bool {
        self.flags() & SYN != 0
    }

    /// Flags.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.header[13]
    }

    /// True if the segment shows that its connection uses Accurate ECN (RFC 9768): by AE, or by the option.
    ///
    /// AE, CWR and ECE are one counter then, which every piece of the segment repeats (section 3.3.4). Nothing shows
    /// it where the counter is below 4 and there is no option: that looks like ECN of RFC 3168, and is taken for it.
    #[inline]
    pub fn accurate_ecn(&self) -> bool {
        self.header[12] & AE != 0 || options::find(self.options, &ACCURATE_ECN) == Some(true)
    }

    /// Sequence number of the first byte of data.
    #[inline]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[CHECKSUM], self.header[CHECKSUM + 1]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accurate_ecn_shows_by_ae_or_by_its_option() {
        let shows = |offset_and_ae: u8, options: [u8; 4]| {
            let mut bytes = [0; 24];
            bytes[12] = offset_and_ae;
            bytes[13] = CWR;
            bytes[20..].copy_from_slice(&options);
            TcpSegment::new_checked(&bytes).unwrap().accurate_ecn()
        };
        assert!(shows(0x51, [0; 4]) && shows(0x61, [1; 4]));
        assert!(shows(0x60, [172, 2, 1, 1]) && shows(0x60, [1, 1, 174, 2]));
        assert!(!shows(0x5e, [172, 2, 1, 1]), "the other reserved bits, and an option that is data");
        assert!(!shows(0x60, [173, 2, 1, 1]) && !shows(0x60, [0, 172, 2, 1]));
    }

    #[test]
    fn the_data_offset_is_held_against_what_is_there() {
        let mut bytes = [0; 24];
        for offset in 0..16u8 {
            bytes[12] = offset << 4;
            let view = TcpSegment::new_checked(&bytes);
            assert_eq!(view.is_some(), offset == 5 || offset == 6, "{offset}");
        }
        bytes[12] = 6 << 4;
        assert_eq!(TcpSegment::new_checked(&bytes).unwrap().options().len(), 4);
        assert!(TcpSegment::new_checked(&bytes[..23]).is_none());
    }
}
