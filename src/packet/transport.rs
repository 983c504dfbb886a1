//! Edits of the TCP or UDP header: the MSS of a SYN, and a checksum left to hardware.
//!
//! A frame from a veth or virtio neighbour may come with `CHECKSUM_PARTIAL`: its checksum
//! field holds the folded, uncomplemented sum of the pseudo-header, for the NIC to finish.
//! The mark itself is lost on the way through XDP, so the frame must be finished here.
//!
//! It is told from a finished frame by that value. A valid checksum equals it for one frame
//! in 2^16 by chance, hence the full sum is verified before it is replaced; the rest pay one
//! comparison. A frame that was damaged on a wire behind an intact Ethernet FCS, and whose
//! wrong checksum happens to be that value (2^-16 of those), would be taken for unfinished.

use super::ipv4::{Ipv4Packet, TCP, UDP};
use super::reason::{Edit, Edits};
use super::tcp::{self, TcpSegment};
use super::{checksum, mss};

/// Length of the UDP header, bytes, and where the checksum stands in it.
const UDP_HEADER_LEN: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// What to change in the transport header of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderEdits {
    /// Position in the IP payload, and the finished checksum.
    checksum: Option<(usize, u16)>,
    /// MSS limit.
    mss: Option<u16>,
}

impl HeaderEdits {
    /// The edits that `packet` is due, under an MSS limit of `mss`.
    #[inline]
    pub(super) fn of(packet: &Ipv4Packet<'_>, mss: Option<u16>) -> Self {
        let mut edits = HeaderEdits { checksum: None, mss: None };
        match packet.protocol() {
            TCP => {
                edits.checksum = unfinished(packet, tcp::CHECKSUM);
                // Behind the first fragment the bytes are data, whatever they look like.
                if packet.offset() == 0 && TcpSegment::new_checked(packet.payload()).is_some_and(|t| t.syn())
                {
                    edits.mss = mss;
                }
            }
            UDP if declared_len(packet.payload()) == Some(packet.payload().len()) => {
                edits.checksum = unfinished(packet, UDP_CHECKSUM);
            }
            _ => {}
        }
        edits
    }

    /// True if there is nothing to do.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.checksum.is_none() && self.mss.is_none()
    }

    /// Applies them to `payload`: the packet's IP payload, or as much as its header.
    #[cold]
    pub(super) fn apply(&self, payload: &mut [u8]) -> Edits {
        let mut done = Edits::NONE;
        if let Some((at, value)) = self.checksum {
            payload[at..at + 2].copy_from_slice(&value.to_be_bytes());
            done.insert(Edit::Checksum);
        }
        if self.mss.is_some_and(|limit| mss::clamp(payload, limit)) {
            done.insert(Edit::Mss);
        }
        done
    }
}

/// The length field of a UDP header.
#[inline]
fn declared_len(datagram: &[u8]) -> Option<usize> {
    let header = datagram.first_chunk::<UDP_HEADER_LEN>()?;
    Some(usize::from(u16::from_be_bytes([header[4], header[5]])))
}

/// The finished value for the checksum at `at` in the payload, if it was left unfinished.
/// Never of a fragment: the sum goes over a whole datagram, and the kernel finishes it
/// before it fragments (`ip_fragment`).
#[inline]
fn unfinished(packet: &Ipv4Packet<'_>, at: usize) -> Option<(usize, u16)> {
    let payload = packet.payload();
    let field = u16::from_be_bytes(*payload.get(at..)?.first_chunk()?);
    // The payload is shorter than the total length, a u16.
    let len = payload.len() as u16;
    let pseudo = checksum::pseudo_header(packet.source(), packet.destination(), packet.protocol(), len);
    if field != pseudo || packet.is_fragment() { None } else { finish(payload, at, pseudo) }
}

#[cold]
fn finish(payload: &[u8], at: usize, pseudo: u16) -> Option<(usize, u16)> {
    // The field holds `pseudo`: summing the payload adds the pseudo-header once, as the NIC does.
    let sum = checksum::sum(payload);
    if checksum::add(sum, pseudo) == 0xffff {
        return None; // verifies as it stands
    }
    // 0 would mean "no checksum" to UDP; TCP does not mind (Linux CSUM_MANGLED_0).
    Some((at, if sum == 0xffff { 0xffff } else { !sum }))
}
