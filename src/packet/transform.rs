//! One frame in, the frames that go on to the kernel out.

use std::sync::Arc;

use super::ident::Idents;
use super::reason::{Edits, Verdict};

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

/// What holds for the packets to one destination prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// SA MTU in bytes, IP header included; at least [`MIN_MTU`](super::MIN_MTU).
    pub mtu: u16,
    /// Largest MSS for TCP over IPv4; `None` leaves the option alone.
    pub mss4: Option<u16>,
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
    /// Fresh identifications, unique across workers.
    pub idents: Arc<Idents>,
}

impl Transform {
    /// Applies the policy to `frame` (Ethernet header first, no FCS) and pushes what goes on to `sink`.
    ///
    /// Never panics, whatever the bytes. What is not understood is pushed unchanged
    /// ([`Verdict::Pass`]). If `sink` has no room nothing is pushed and the verdict is
    /// `Drop(HandbackFull)`; applying again once there is room gives the full result.
    pub fn apply<S: Sink>(&self, frame: &[u8], rule: Rule, sink: &mut S) -> Outcome {
        let _ = (frame, rule, sink, &self.idents);
        todo!()
    }
}
