//! TCP segments that a sink takes whole, for the kernel to cut (GSO, `tcp_gso_segment()`).

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

/// What a sink says to a [`Segment`].
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
