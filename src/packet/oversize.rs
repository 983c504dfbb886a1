//! An oversize IPv4 packet that is not cut into segments, by the way of its route.
//!
//! Separate from [`transform`](super::transform), which decides whether a packet is one.

use super::fragment::Layout;
use super::gso::{Datagram, Gathered};
use super::ipv4::{HEADER_LEN, Ipv4Packet, UDP};
use super::reason::{Edit, Edits, Reason, Verdict};
use super::transform::{Outcome, Received, Rule, Sink, Transform, copy, edit_transport, pass};
use super::transport::{HeaderEdits, Transport};
use super::way::{Way, Ways};
use super::{checksum, tcp};

impl Transform {
    /// Makes `packet` fit; `reason` says why it was not cut into segments, or that it is none.
    #[inline]
    pub(super) fn make_fit<S: Sink>(
        &self,
        received: Received<'_>,
        packet: &Ipv4Packet<'_>,
        transport: Option<Transport<'_>>,
        rule: Rule,
        reason: Reason,
        sink: &mut S,
    ) -> Outcome {
        match way_of(packet, rule.ways) {
            Way::Fragments => self.fragment(received, packet, transport, rule, reason, sink),
            Way::Edit => self.edit_whole(received, packet, transport, rule, reason, sink),
            Way::Pass => pass(received.frame, Reason::KeptWhole, sink),
            Way::Gso => self
                .hand_back_whole(received, packet, transport.as_ref(), rule, sink)
                // In fragments it could miss what asks for ports, whatever the way of other protocols.
                .unwrap_or_else(|| pass(received.frame, Reason::KeptWhole, sink)),
        }
    }

    /// The identification of what becomes of `packet`, and what is changed besides: its fragments need a fresh one where
    /// its own means nothing.
    #[inline]
    fn without_df(&self, packet: &Ipv4Packet<'_>) -> (u16, Edits) {
        let mut edits = Edits::NONE;
        if packet.df() {
            edits.insert(Edit::Df);
        }
        if !packet.id_may_change() {
            return (packet.id(), edits);
        }
        edits.insert(Edit::Id);
        (self.idents.next(packet.source(), packet.destination(), packet.protocol()), edits)
    }

    /// For the kernel to fragment where it leaves (`ip_do_fragment()`).
    #[inline]
    fn edit_whole<S: Sink>(
        &self,
        Received { frame, link_len }: Received<'_>,
        packet: &Ipv4Packet<'_>,
        transport: Option<Transport<'_>>,
        rule: Rule,
        reason: Reason,
        sink: &mut S,
    ) -> Outcome {
        let Some(out) = copy(frame, sink) else { return Outcome::FULL };
        let out = &mut out[link_len..];
        let (id, mut edits) = self.without_df(packet);
        if packet.df() {
            let (field, sum) = packet.without_df();
            let sum = checksum::update(sum, packet.id(), id);
            out[4..6].copy_from_slice(&id.to_be_bytes());
            out[6..8].copy_from_slice(&field.to_be_bytes());
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        if let Some(transport) = &transport {
            edits |= edit_transport(transport, rule.mss4, out);
        }
        let reason = if reason == Reason::Fragmented { Reason::Edited } else { reason };
        Outcome { verdict: Verdict::Forward(reason), edits, frames: 1 }
    }

    /// A UDP datagram for the kernel to fragment before it encrypts (`udp4_ufo_fragment()`). `None` if it cannot go so:
    /// that function repeats IP options in every fragment and makes each checksum right, and a length field that says
    /// less than there is means something else to it. A checksum of 0 becomes one.
    #[inline]
    fn hand_back_whole<S: Sink>(
        &self,
        Received { frame, link_len }: Received<'_>,
        packet: &Ipv4Packet<'_>,
        transport: Option<&Transport<'_>>,
        rule: Rule,
        sink: &mut S,
    ) -> Option<Outcome> {
        let transport = transport.filter(|_| sink.takes_datagrams() && packet.options().is_empty())?;
        let unfinished = transport.whole_datagram()?;
        let (id, mut edits) = self.without_df(packet);
        if unfinished {
            edits.insert(Edit::Checksum);
        }
        let datagram = Datagram {
            frame: &frame[..link_len + usize::from(packet.total_len())],
            ip_at: link_len,
            id,
            share: (usize::from(rule.mtu) - HEADER_LEN) & !7,
            pseudo: transport.pseudo,
        };
        match sink.datagram(&datagram) {
            Gathered::Taken => {
                Some(Outcome { verdict: Verdict::Forward(Reason::HandedWhole), edits, frames: 1 })
            }
            Gathered::Full => Some(Outcome::FULL),
            Gathered::Refused => None,
        }
    }

    /// As fragments.
    #[inline]
    fn fragment<S: Sink>(
        &self,
        Received { frame, link_len }: Received<'_>,
        packet: &Ipv4Packet<'_>,
        transport: Option<Transport<'_>>,
        rule: Rule,
        reason: Reason,
        sink: &mut S,
    ) -> Outcome {
        let mtu = rule.mtu();
        let Some(layout) = Layout::new(packet, mtu) else { return pass(frame, Reason::Malformed, sink) };
        if !sink.reserve(layout.frames, link_len + mtu) {
            return Outcome::FULL;
        }
        let (id, mut edits) = self.without_df(packet);
        let header = transport.map(|transport| HeaderEdits::of(&transport, rule.mss4));
        if let Some(header) = header.filter(|header| !header.is_empty()) {
            let mut head = [0; tcp::MAX_HEADER_LEN];
            let len = head.len().min(packet.payload().len());
            head[..len].copy_from_slice(&packet.payload()[..len]);
            edits |= header.apply(&mut head[..len]);
            layout.write(frame, link_len, packet, id, &head[..len], sink);
        } else {
            layout.write(frame, link_len, packet, id, &[], sink);
        }
        // At most 65,515 / 8 fragments.
        let frames = layout.frames as u16;
        Outcome { verdict: Verdict::Forward(reason), edits, frames }
    }
}

/// What asks for ports has never seen any in a fragment that the sender made: cut again it misses nothing.
#[inline]
fn way_of(packet: &Ipv4Packet<'_>, ways: Ways) -> Way {
    match (packet.is_fragment(), packet.protocol()) {
        (true, _) if ways.other == Way::Edit => Way::Edit,
        (true, _) => Way::Fragments,
        (false, UDP) => ways.udp,
        (false, _) => ways.other,
    }
}
