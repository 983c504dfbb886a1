//! What a sink takes whole, for the kernel to cut (GSO): TCP segments (`tcp_gso_segment()`) and UDP datagrams
//! (`udp4_ufo_fragment()`).

/// A TCP segment of which the checksums are known to be right, as a piece of what the kernel is to cut into segments
/// of its own: from here on nobody looks at the checksums that it came with.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Ethernet header to TCP options. The IP header has no options and no extension headers.
    pub headers: &'a [u8],
    /// Where the IP header starts in `headers`.
    pub ip_at: usize,
    /// Where the TCP header starts in `headers`.
    pub tcp_at: usize,
    /// What is behind the headers, one byte at least.
    pub data: &'a [u8],
    /// Most data per segment behind the gateway, bytes (`gso_size`).
    pub share: usize,
}

/// A UDP datagram, of which the checksum is known to be right or is left to hardware, for the kernel to cut into IP
/// fragments.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Ethernet header and IP packet, without padding.
    pub frame: &'a [u8],
    /// Where the IP header, which has no options, starts in `frame`.
    pub ip_at: usize,
    /// Its identification from now on. DF goes.
    pub id: u16,
    /// Payload of each fragment but the last, bytes (`gso_size`): a multiple of 8.
    pub share: usize,
    /// Sum of the pseudo-header.
    pub pseudo: u16,
}

/// What a sink says to a [`Segment`] or a [`Datagram`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gathered {
    /// It is among the output now, as one frame.
    Taken,
    /// There is no room for it.
    Full,
    /// The sink takes it as ordinary frames only.
    Refused,
}

impl Segment<'_> {
    /// True if the segment fits the SA MTU as it is.
    pub fn fits(&self) -> bool {
        self.data.len() <= self.share
    }
}
