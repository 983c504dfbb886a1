//! One frame in, the frames that go on to the kernel out.

use std::sync::Arc;

use super::gso::{Datagram, Gathered, Segment};
use super::ident::Idents;
use super::ipv4::{self, Ipv4Packet};
use super::ipv6::{self, Ipv6Packet};
use super::parse::{Packet, parse};
use super::reason::{Edit, Edits, Reason, Verdict};
use super::resegment::{Plan, Segments};
use super::transport::{HeaderEdits, Transport};
use super::way::{Way, Ways};
use super::{MIN_MTU, checksum, options};

/// What happens to the Don't Fragment bit (`--df`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Df {
    /// Cleared on everything that is forwarded.
    Clear,
    /// Cleared on what is fragmented.
    #[default]
    Oversize,
    /// Never cleared: an oversize DF packet is the kernel's to refuse, unless it is resegmented.
    Keep,
}

/// How oversize TCP segments are made to fit (`--tcp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tcp {
    /// As IP fragments, like any other packet.
    Fragment,
    /// As several TCP segments, DF as it came, whatever `--df` says: what is not fragmented
    /// needs no permission. The identification counts on from the sender's, as under TSO.
    #[default]
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
    /// By which ways oversize IPv4 packets are made to fit.
    pub ways: Ways,
}

impl Rule {
    /// A rule by which workers cut what is oversize.
    pub const fn new(mtu: u16, mss4: Option<u16>, mss6: Option<u16>) -> Rule {
        Rule { mtu, mss4, mss6, ways: Ways::FRAGMENTS }
    }

    /// The SA MTU, bytes.
    pub(super) fn mtu(&self) -> usize {
        usize::from(self.mtu.max(MIN_MTU))
    }
}

/// Where output frames go. The caller owns the memory.
pub trait Sink {
    /// Makes room for `frames` more frames of at most `len` bytes each, all or none:
    /// a datagram is never handed back in part. Nothing is pushed yet.
    fn reserve(&mut self, frames: usize, len: usize) -> bool;

    /// The next reserved buffer, exactly `len` bytes, as the last of the output so far.
    /// Its old content is arbitrary: the caller writes every byte.
    fn push(&mut self, len: usize) -> &mut [u8];

    /// Says whether the kernel may cut the next output, or others of its flow: a sink may send those another way than
    /// the rest. Asked once per packet, before anything else.
    #[inline]
    fn begin(&mut self, gso: bool) {
        let _ = gso;
    }

    /// True if a segment that fits may belong to what was gathered: asked before its checksum is looked at.
    #[inline]
    fn gathers(&self) -> bool {
        false
    }

    /// Takes a whole segment for the kernel to cut. One that [fits](Segment::fits) is taken only as the continuation
    /// of what was gathered.
    #[inline]
    fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        let _ = segment;
        Gathered::Refused
    }

    /// True if it takes datagrams for the kernel to cut.
    #[inline]
    fn takes_datagrams(&self) -> bool {
        false
    }

    /// Takes a whole datagram for the kernel to cut.
    #[inline]
    fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        let _ = datagram;
        Gathered::Refused
    }
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

impl Outcome {
    /// The sink has no room.
    pub const FULL: Outcome =
        Outcome { verdict: Verdict::Drop(Reason::HandbackFull), edits: Edits::NONE, frames: 0 };
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

/// A received frame, and where its packet starts.
#[derive(Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) frame: &'a [u8],
    pub(super) link_len: usize,
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
            Ok((link, packet)) => self.apply_packet(frame, link.header().len(), &packet, rule, sink),
            Err(reason) => {
                sink.begin(false);
                pass(frame, reason, sink)
            }
        }
    }

    /// The same for `packet`, which was parsed at `link_len` bytes into `frame`: whatever link layer stands before it
    /// is copied to each frame that goes on.
    #[inline]
    pub fn apply_packet<S: Sink>(
        &self,
        frame: &[u8],
        link_len: usize,
        packet: &Packet<'_>,
        rule: Rule,
        sink: &mut S,
    ) -> Outcome {
        let received = Received { frame, link_len };
        match packet {
            Packet::V4(packet) => self.apply_ipv4(received, packet, rule, sink),
            Packet::V6(packet) => self.apply_ipv6(received, packet, rule, sink),
        }
    }

    #[inline]
    fn apply_ipv4<S: Sink>(
        &self,
        received: Received<'_>,
        packet: &Ipv4Packet<'_>,
        rule: Rule,
        sink: &mut S,
    ) -> Outcome {
        let mtu = rule.mtu();
        let transport = Transport::of_ipv4(packet);
        let gso = packet.protocol() == ipv4::UDP && rule.ways.udp == Way::Gso;
        sink.begin(gso || packet.protocol() == ipv4::TCP);
        if usize::from(packet.total_len()) <= mtu {
            return match self.gather_fitting(received, transport.as_ref(), mtu, sink) {
                Some(outcome) => outcome,
                None => self.edit_ipv4(received, packet, transport, rule.mss4, sink),
            };
        }
        let mut reason = Reason::Fragmented;
        if self.tcp == Tcp::Resegment
            && let Some(transport) = &transport
        {
            match Plan::new(received.frame, received.link_len, transport, mtu) {
                // A list that the kernel would answer with one ICMP parameter problem, not several.
                Plan::Cut(_) if !options::sound(packet.options()) => {}
                Plan::Cut(segments) => {
                    return gather(&segments, received.link_len, sink)
                        .unwrap_or_else(|| resegment(&segments, received.link_len, ipv4_edit(packet), sink));
                }
                Plan::Kept(kept) => reason = kept,
                Plan::Other => {}
            }
        }
        if packet.df() && self.df == Df::Keep {
            return pass(received.frame, Reason::DfKept, sink);
        }
        self.make_fit(received, packet, transport, rule, reason, sink)
    }

    /// DF means nothing here, and a router does not fragment (RFC 8200 section 5).
    #[inline]
    fn apply_ipv6<S: Sink>(
        &self,
        received: Received<'_>,
        packet: &Ipv6Packet<'_>,
        rule: Rule,
        sink: &mut S,
    ) -> Outcome {
        let mtu = rule.mtu();
        let transport = Transport::of_ipv6(packet);
        sink.begin(transport.as_ref().is_some_and(|transport| transport.protocol == ipv4::TCP));
        if packet.total_len() <= mtu {
            if let Some(outcome) = self.gather_fitting(received, transport.as_ref(), mtu, sink) {
                return outcome;
            }
            let Some(out) = copy(received.frame, sink) else { return Outcome::FULL };
            let mut edits = Edits::NONE;
            if let Some(transport) = &transport {
                edits = edit_transport(transport, rule.mss6, &mut out[received.link_len..]);
            }
            return Outcome { verdict: Verdict::Forward(Reason::Fits), edits, frames: 1 };
        }
        let mut reason = Reason::Ipv6TooBig;
        if self.tcp == Tcp::Resegment
            && let Some(transport) = &transport
        {
            match Plan::new(received.frame, received.link_len, transport, mtu) {
                Plan::Cut(segments) => {
                    return gather(&segments, received.link_len, sink)
                        .unwrap_or_else(|| resegment(&segments, received.link_len, edit_ipv6, sink));
                }
                Plan::Kept(kept) => reason = kept,
                Plan::Other => {}
            }
        }
        pass(received.frame, reason, sink)
    }

    /// A segment that fits and continues what `sink` has gathered of its flow; `None` if it is to go by itself.
    #[inline]
    fn gather_fitting<S: Sink>(
        &self,
        received: Received<'_>,
        transport: Option<&Transport<'_>>,
        mtu: usize,
        sink: &mut S,
    ) -> Option<Outcome> {
        if self.tcp != Tcp::Resegment || !sink.gathers() {
            return None;
        }
        match Plan::new(received.frame, received.link_len, transport?, mtu) {
            Plan::Cut(segments) => gather(&segments, received.link_len, sink),
            _ => None,
        }
    }

    /// A packet that fits: the whole frame, Ethernet padding included, with the edits it is due.
    #[inline]
    fn edit_ipv4<S: Sink>(
        &self,
        received: Received<'_>,
        packet: &Ipv4Packet<'_>,
        transport: Option<Transport<'_>>,
        mss: Option<u16>,
        sink: &mut S,
    ) -> Outcome {
        let Some(out) = copy(received.frame, sink) else { return Outcome::FULL };
        let out = &mut out[received.link_len..];
        let mut edits = Edits::NONE;
        // Written from the received header: reading the copy back would wait for its stores.
        if packet.df() && self.df == Df::Clear {
            let (field, sum) = packet.without_df();
            out[6..8].copy_from_slice(&field.to_be_bytes());
            out[10..12].copy_from_slice(&sum.to_be_bytes());
            edits.insert(Edit::Df);
        }
        if let Some(transport) = &transport {
            edits |= edit_transport(transport, mss, out);
        }
        Outcome { verdict: Verdict::Forward(Reason::Fits), edits, frames: 1 }
    }
}

/// Pushes a copy of `frame`; `None` if there is no room.
#[inline]
pub(super) fn copy<'s, S: Sink>(frame: &[u8], sink: &'s mut S) -> Option<&'s mut [u8]> {
    if !sink.reserve(1, frame.len()) {
        return None;
    }
    let out = sink.push(frame.len());
    out.copy_from_slice(frame);
    Some(out)
}

/// Edits the TCP or UDP header in `out`, a copy that starts at the IP header.
#[inline]
pub(super) fn edit_transport(transport: &Transport<'_>, mss: Option<u16>, out: &mut [u8]) -> Edits {
    let edits = HeaderEdits::of(transport, mss);
    if edits.is_empty() {
        return Edits::NONE;
    }
    edits.apply(&mut out[transport.ip_header_len..][..transport.bytes.len()])
}

/// Hands the segment to `sink` whole; `None` if it is not taken.
#[inline]
fn gather<S: Sink>(segments: &Segments<'_>, link_len: usize, sink: &mut S) -> Option<Outcome> {
    let segment = segments.whole(link_len)?;
    let reason = if segment.fits() { Reason::Fits } else { Reason::Resegmented };
    match sink.gather(&segment) {
        Gathered::Taken => {}
        Gathered::Full => return Some(Outcome::FULL),
        Gathered::Refused => return None,
    }
    let mut edits = Edits::NONE;
    if segments.unfinished {
        edits.insert(Edit::Checksum);
    }
    Some(Outcome { verdict: Verdict::Forward(reason), edits, frames: 1 })
}

/// Writes `segments`; `edit_ip` makes the IP header of each.
#[inline]
fn resegment<S: Sink>(
    segments: &Segments<'_>,
    link_len: usize,
    edit_ip: impl FnMut(&mut [u8], u16, usize),
    sink: &mut S,
) -> Outcome {
    if !sink.reserve(segments.frames, segments.max_frame()) {
        return Outcome::FULL;
    }
    segments.write(link_len, edit_ip, sink);
    let mut edits = Edits::NONE;
    if segments.unfinished {
        edits.insert(Edit::Checksum);
    }
    // At most 65,515 bytes of data.
    let frames = segments.frames as u16;
    Outcome { verdict: Verdict::Forward(Reason::Resegmented), edits, frames }
}

/// The IPv4 header of one segment: total length and identification. A header checksum that was
/// wrong stays wrong.
#[inline]
fn ipv4_edit<'a>(packet: &'a Ipv4Packet<'_>) -> impl FnMut(&mut [u8], u16, usize) + 'a {
    move |header, number, len| {
        // Not longer than the packet was.
        let total = (header.len() + len) as u16;
        let id = packet.id().wrapping_add(number);
        let sum = checksum::update(packet.header_checksum(), packet.total_len(), total);
        let sum = checksum::update(sum, packet.id(), id);
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The IPv6 header of one segment: payload length, extension headers included.
#[inline]
fn edit_ipv6(header: &mut [u8], _number: u16, len: usize) {
    // Not longer than the packet was.
    let payload = (header.len() - ipv6::HEADER_LEN + len) as u16;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
}

/// Pushes `frame` unchanged, because of `reason`.
#[cold]
pub fn pass<S: Sink>(frame: &[u8], reason: Reason, sink: &mut S) -> Outcome {
    match copy(frame, sink) {
        Some(_) => Outcome { verdict: Verdict::Pass(reason), edits: Edits::NONE, frames: 1 },
        None => Outcome::FULL,
    }
}
