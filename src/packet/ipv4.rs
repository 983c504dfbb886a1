//! IPv4 header (RFC 791 section 3.1).

use std::net::Ipv4Addr;

use super::checksum;

/// Don't Fragment, in the flags and offset field.
pub const DF: u16 = 0x4000;
/// More Fragments.
pub const MF: u16 = 0x2000;
/// Fragment offset, in units of 8 bytes.
pub const OFFSET: u16 = 0x1fff;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of the authentication header (RFC 4302).
pub const AH: u8 = 51;

/// Length of the header without options, bytes.
pub const HEADER_LEN: usize = 20;
/// Largest length of the options, bytes.
pub const MAX_OPTIONS: usize = 40;

/// A packet whose header is whole and whose total length is there.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4Packet<'a> {
    /// The packet at the start of `bytes`; what follows its total length (Ethernet padding)
    /// is no part of it.
    ///
    /// `None` unless version is 4, IHL at least 5 and IHL ≤ total length ≤ `bytes`.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_LEN>()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let packet = bytes.get(..usize::from(u16::from_be_bytes([header[2], header[3]])))?;
        if header[0] >> 4 != 4 {
            return None;
        }
        let options = packet.get(HEADER_LEN..header_len)?;
        let payload = packet.get(header_len..)?;
        Some(Ipv4Packet { header, options, payload })
    }

    /// The header without options.
    #[inline]
    pub fn header(&self) -> &'a [u8; HEADER_LEN] {
        self.header
    }

    /// Options, 0 to 40 bytes, their content unchecked.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The data, by the header's lengths.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Header length, bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Total length, bytes.
    #[inline]
    pub fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Identification.
    #[inline]
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Flags and fragment offset: [`DF`], [`MF`], [`OFFSET`] and the reserved bit.
    #[inline]
    pub fn flags_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// True if DF is set.
    #[inline]
    pub fn df(&self) -> bool {
        self.flags_offset() & DF != 0
    }

    /// Where the payload belongs in the datagram, bytes.
    #[inline]
    pub fn offset(&self) -> usize {
        usize::from(self.flags_offset() & OFFSET) * 8
    }

    /// True if more than this packet makes up the datagram.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_offset() & (MF | OFFSET) != 0
    }

    /// True if a cut may give the packet another identification: DF says that the sender's has no meaning (RFC 6864).
    ///
    /// Not in a fragment, whose identification must match that of the others. Not in front of an authentication
    /// header, which covers the identification (RFC 4302 section 3.3.3.1.1.1): the receiver would drop the datagram.
    #[inline]
    pub fn id_may_change(&self) -> bool {
        self.df() && !self.is_fragment() && self.protocol() != AH
    }

    /// Protocol number.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Header checksum.
    #[inline]
    pub fn header_checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[10], self.header[11]])
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[12], self.header[13], self.header[14], self.header[15])
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[16], self.header[17], self.header[18], self.header[19])
    }

    /// The flags and offset field without DF, and the checksum updated for it.
    #[inline]
    pub fn without_df(&self) -> (u16, u16) {
        let (old, new) = (self.flags_offset(), self.flags_offset() & !DF);
        (new, checksum::update(self.header_checksum(), old, new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 192.0.2.1 to 192.0.2.2, IHL 6, total length 32.
    const PACKET: [u8; 36] = [
        0x46, 0, 0, 32, 0x12, 0x34, 0x60, 0x05, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 1, 0, //
        1, 2, 3, 4, 5, 6, 7, 8, 0xee, 0xee, 0xee, 0xee,
    ];

    #[test]
    fn lengths_come_from_the_header() {
        let packet = Ipv4Packet::new_checked(&PACKET).unwrap();
        assert_eq!(packet.options(), [1, 1, 1, 0]);
        assert_eq!(packet.payload(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((packet.header_len(), packet.total_len(), packet.id()), (24, 32, 0x1234));
        assert_eq!((packet.df(), packet.is_fragment(), packet.offset()), (true, true, 40));
        assert_eq!(packet.destination(), Ipv4Addr::new(192, 0, 2, 2));
    }

    #[test]
    fn inconsistent_headers_are_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = PACKET;
            bytes[at] = byte;
            Ipv4Packet::new_checked(&bytes).is_some()
        };
        assert!(with(0, 0x45) && with(3, 24) && with(3, 36));
        assert!(!with(0, 0x66), "version");
        assert!(!with(0, 0x44), "IHL below 5");
        assert!(!with(0, 0x49), "IHL beyond the total length");
        assert!(!with(3, 23), "total length below IHL");
        assert!(!with(3, 37), "total length beyond the frame");
        assert!(Ipv4Packet::new_checked(&PACKET[..19]).is_none());
    }

    #[test]
    fn clearing_df_keeps_the_header_sum() {
        let mut bytes = PACKET;
        for stored in 0..=u16::MAX {
            [bytes[6], bytes[7]] = [0x60, 0x05];
            [bytes[10], bytes[11]] = stored.to_be_bytes();
            let packet = Ipv4Packet::new_checked(&bytes).unwrap();
            let (before, (field, sum)) = (checksum::sum(&bytes[..24]), packet.without_df());
            assert_eq!(field, 0x2005);
            [bytes[6], bytes[7]] = field.to_be_bytes();
            [bytes[10], bytes[11]] = sum.to_be_bytes();
            assert_eq!(checksum::sum(&bytes[..24]), before, "{stored:#x}");
        }
    }
}
