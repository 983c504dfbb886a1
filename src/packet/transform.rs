//! One frame in, the frames that go on to the kernel out.

use std::sync::Arc;

use super::ether::{self, EthernetFrame};
use super::fragment::Layout;
use super::ident::Idents;
use super::ipv4::Ipv4Packet;
use super::reason::{Edit, Edits, Reason, Verdict};
use super::transport::HeaderEdits;
use super::{MIN_MTU, tcp};

/// What happens to the Don't Fragment bit (`--df`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Df {
    /// Cleared on everything that is forwarded.
    #[default]
    Clear,
    /// Cleared on what is fragmented.
    Oversize,
    /// Never cleared: an oversize DF packet is the kernel's to refuse.
    Keep,
}

/// How oversize TCP segments are made to fit (`--tcp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tcp {
    /// As IP fragments, like any other packet.
    #[default]
    Fragment,
    /// As several TCP segments, DF kept.
    Resegment,
}

/// What holds for the packets to one destination prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// SA MTU in bytes, IP header included; below [`MIN_MTU`] that is taken.
    pub mtu: u16,
    /// Largest MSS for TCP over IPv4, see [`mss4_for`](super::mss::mss4_for); `None` or 0 leaves
    /// the option alone.
    pub mss4: Option<u16>,
    /// The same for TCP over IPv6, see [`mss6_for`](super::mss::mss6_for).
    pub mss6: Option<u16>,
}

/// Where output frames go. The caller owns the memory.
pub trait Sink {
    /// Makes room for `frames` more frames of at most `len` bytes each, all or none:
    /// a datagram is never handed back in part. Nothing is pushed yet.
    fn reserve(&mut self, frames: usize, len: usize) -> bool;

    /// The next reserved buffer, exactly `len` bytes, as the last of the output so far.
    /// Its old content is arbitrary: the caller writes every byte.
    fn push(&mut self, len: usize) -> &mut [u8];
}

/// What [`Transform::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Verdict and reason.
    pub verdict: Verdict,
    /// What was changed.
    pub edits: Edits,
    /// Frames pushed: 0 for a drop, 1 for a pass.
    pub frames: u16,
}

/// The transform of one gateway; shared by its workers.
#[derive(Debug, Clone)]
pub struct Transform {
    /// `--df`.
    pub df: Df,
    /// `--tcp`.
    pub tcp: Tcp,
    /// Fresh identifications, unique across workers.
    pub idents: Arc<Idents>,
}

impl Transform {
    /// Applies the policy to `frame` (Ethernet header first, no FCS) and pushes what goes on to `sink`.
    ///
    /// Never panics, whatever the bytes. What is not understood is pushed unchanged
    /// ([`Verdict::Pass`]). If `sink` has no room nothing is pushed and the verdict is
    /// `Drop(HandbackFull)`; applying again once there is room gives the full result.
    ///
    /// Scope, local addresses and super-packets are the caller's to sort out before.
    #[inline]
    pub fn apply<S: Sink>(&self, frame: &[u8], rule: Rule, sink: &mut S) -> Outcome {
        match parse(frame) {
            Ok((link, packet)) if packet.total_len() <= rule.mtu.max(MIN_MTU) => {
                self.edit(frame, link.header().len(), &packet, rule, sink)
            }
            Ok((_, packet)) if packet.df() && self.df == Df::Keep => pass(frame, Reason::DfKept, sink),
            Ok((link, packet)) => self.fragment(frame, link.header().len(), &packet, rule, sink),
            Err(reason) => pass(frame, reason, sink),
        }
    }

    /// A packet that fits: the whole frame, Ethernet padding included, with the edits it is due.
    #[inline]
    fn edit<S: Sink>(
        &self,
        frame: &[u8],
        link_len: usize,
        packet: &Ipv4Packet<'_>,
        rule: Rule,
        sink: &mut S,
    ) -> Outcome {
        if !sink.reserve(1, frame.len()) {
            return FULL;
        }
        let out = sink.push(frame.len());
        out.copy_from_slice(frame);
        let out = &mut out[link_len..link_len + usize::from(packet.total_len())];
        let mut edits = Edits::NONE;
        // Written from the received header: reading the copy back would wait for its stores.
        if packet.df() && self.df == Df::Clear {
            let (field, sum) = packet.without_df();
            out[6..8].copy_from_slice(&field.to_be_bytes());
            out[10..12].copy_from_slice(&sum.to_be_bytes());
            edits.insert(Edit::Df);
        }
        let transport = HeaderEdits::of(packet, rule.mss4);
        if !transport.is_empty() {
            edits |= transport.apply(&mut out[packet.header_len()..]);
        }
        Outcome { verdict: Verdict::Forward(Reason::Fits), edits, frames: 1 }
    }

    /// An oversize packet that may be fragmented.
    #[inline]
    fn fragment<S: Sink>(
        &self,
        frame: &[u8],
        link_len: usize,
        packet: &Ipv4Packet<'_>,
        rule: Rule,
        sink: &mut S,
    ) -> Outcome {
        let mtu = usize::from(rule.mtu.max(MIN_MTU));
        let Some(layout) = Layout::new(packet, mtu) else { return pass(frame, Reason::Malformed, sink) };
        if !sink.reserve(layout.frames, link_len + mtu) {
            return FULL;
        }
        let mut edits = Edits::NONE;
        let mut id = packet.id();
        if packet.df() {
            edits.insert(Edit::Df);
            // The fragments of an already fragmented datagram must match the others of it.
            if !packet.is_fragment() {
                id = self.idents.next(packet.source(), packet.destination(), packet.protocol());
                edits.insert(Edit::Id);
            }
        }
        let transport = HeaderEdits::of(packet, rule.mss4);
        if transport.is_empty() {
            layout.write(frame, link_len, packet, id, &[], sink);
        } else {
            let mut head = [0; tcp::MAX_HEADER_LEN];
            let len = head.len().min(packet.payload().len());
            head[..len].copy_from_slice(&packet.payload()[..len]);
            edits |= transport.apply(&mut head[..len]);
            layout.write(frame, link_len, packet, id, &head[..len], sink);
        }
        // At most 65,515 / 8 fragments.
        let frames = layout.frames as u16;
        Outcome { verdict: Verdict::Forward(Reason::Fragmented), edits, frames }
    }
}

const FULL: Outcome = Outcome { verdict: Verdict::Drop(Reason::HandbackFull), edits: Edits::NONE, frames: 0 };

/// The IPv4 packet in `frame`, or why the frame is passed: `Malformed`, `NotIp` or `Group`.
///
/// [`Transform::apply`] begins with it, and so does who looks up the rule of a destination.
/// The XDP program asks in the same order.
#[inline]
pub fn parse(frame: &[u8]) -> Result<(EthernetFrame<'_>, Ipv4Packet<'_>), Reason> {
    let link = EthernetFrame::new_checked(frame).ok_or(Reason::Malformed)?;
    if link.ethertype() != ether::IPV4 {
        return Err(Reason::NotIp);
    }
    if link.is_group() {
        return Err(Reason::Group);
    }
    let packet = Ipv4Packet::new_checked(link.payload()).ok_or(Reason::Malformed)?;
    if packet.destination().is_multicast() || packet.destination().is_broadcast() {
        return Err(Reason::Group);
    }
    Ok((link, packet))
}

/// Pushes `frame` unchanged, because of `reason`.
#[cold]
pub fn pass<S: Sink>(frame: &[u8], reason: Reason, sink: &mut S) -> Outcome {
    if !sink.reserve(1, frame.len()) {
        return FULL;
    }
    sink.push(frame.len()).copy_from_slice(frame);
    Outcome { verdict: Verdict::Pass(reason), edits: Edits::NONE, frames: 1 }
}
