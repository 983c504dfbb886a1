//! One captured frame in, the frames that `run` would hand back out.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use super::link::Link;
use super::output::{Output, Record, Replacements};
use super::{Counts, Error};
use crate::config::{Scope, Treatment};
use crate::packet::{Edits, Idents, Packet, Reason, Rule, Transform, Verdict};

/// The same input gives the same output, fresh identifications included.
const SEED: u64 = 0;

/// Places for pairs of addresses whose rule is remembered, as a power of two: 400 KB.
const PLACES: u32 = 13;

/// Applies a treatment frame by frame, and counts.
pub struct Rewriter {
    scope: Scope,
    transform: Transform,
    rules: Box<[Option<Remembered>]>,
    counts: Counts,
    /// A link type that is not read.
    unread: Option<u16>,
}

#[derive(Clone, Copy)]
struct Remembered {
    source: IpAddr,
    destination: IpAddr,
    rule: Option<Rule>,
}

impl Rewriter {
    /// Does what `treatment` says.
    pub fn new(treatment: &Treatment) -> Rewriter {
        let idents = Arc::new(Idents::with_seed(SEED));
        Rewriter {
            scope: Scope::from(treatment),
            transform: Transform { df: treatment.df, tcp: treatment.tcp, idents },
            rules: vec![None; 1 << PLACES].into(),
            counts: Counts::default(),
            unread: None,
        }
    }

    /// What it has done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A link type that is not read, if all frames were of such.
    pub(super) fn nothing_read(&self) -> Option<u16> {
        self.unread.filter(|_| self.counts.unread_link == self.counts.frames_in)
    }

    /// Frames so far.
    pub(super) fn frames(&self) -> u64 {
        self.counts.frames_in
    }

    /// Copies a frame of a link type that is not read.
    pub(super) fn unread<W: Write>(
        &mut self,
        number: u16,
        raw: &[u8],
        output: &mut Output<W>,
    ) -> Result<(), Error> {
        self.unread = Some(number);
        self.counts.frames_in += 1;
        self.counts.unread_link += 1;
        self.copy(raw, output)
    }

    /// Writes what takes the place of `record`, or the record as it is.
    #[inline]
    pub(super) fn rewrite<W: Write>(
        &mut self,
        link: Link,
        record: &Record<'_>,
        output: &mut Output<W>,
    ) -> Result<(), Error> {
        self.counts.frames_in += 1;
        if (record.captured as u64) < u64::from(record.original) {
            self.counts.cut_short += 1;
            return self.copy(record.raw, output);
        }
        let Some((frame, fcs)) = record.frame() else { return self.pass(Reason::Malformed, record, output) };
        let (link_len, packet) = match link.packet(frame) {
            Ok(found) => found,
            Err(reason) => return self.pass(reason, record, output),
        };
        self.counts.length(match &packet {
            Packet::V4(packet) => usize::from(packet.total_len()),
            Packet::V6(packet) => packet.total_len(),
        });
        let Some(rule) = self.rule(packet.source(), packet.destination()) else {
            return self.pass(Reason::OutOfScope, record, output);
        };
        let mark = output.mark();
        let mut sink = Replacements::new(output, record);
        let outcome = self.transform.apply_packet(frame, link_len, &packet, rule, &mut sink);
        self.counts.count(outcome.verdict.reason(), outcome.edits);
        let same = outcome.frames == 1 && outcome.edits == Edits::NONE && outcome.verdict == AS_IT_WAS;
        if same || matches!(outcome.verdict, Verdict::Pass(_)) {
            output.undo(mark);
            return self.copy(record.raw, output);
        }
        if let Some(fcs) = fcs.first_chunk() {
            output.check(u32::from_le_bytes(*fcs) ^ crc32fast::hash(frame));
            self.counts.checked += 1;
        }
        self.counts.frames_out += u64::from(outcome.frames);
        output.settle()
    }

    fn pass<W: Write>(
        &mut self,
        reason: Reason,
        record: &Record<'_>,
        output: &mut Output<W>,
    ) -> Result<(), Error> {
        self.counts.count(reason, Edits::NONE);
        self.copy(record.raw, output)
    }

    fn copy<W: Write>(&mut self, raw: &[u8], output: &mut Output<W>) -> Result<(), Error> {
        self.counts.frames_out += 1;
        output.copy(raw)
    }

    /// What the scope says, which is asked once per pair of addresses as long as it is remembered.
    #[inline]
    fn rule(&mut self, source: IpAddr, destination: IpAddr) -> Option<Rule> {
        let place = &mut self.rules[place(source, destination)];
        match place {
            Some(known) if known.source == source && known.destination == destination => known.rule,
            _ => {
                let rule = self.scope.rule(source, destination);
                *place = Some(Remembered { source, destination, rule });
                rule
            }
        }
    }
}

/// What the transform says of a frame that it has not changed, because it fits.
const AS_IT_WAS: Verdict = Verdict::Forward(Reason::Fits);

/// Where a pair is remembered.
#[inline]
fn place(source: IpAddr, destination: IpAddr) -> usize {
    let low = |address| match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => address.segments().iter().fold(0, |sum, part| sum << 5 ^ u32::from(*part)),
    };
    let mixed = low(source).rotate_left(16) ^ low(destination);
    // Fibonacci hashing: the upper bits of the product.
    (mixed.wrapping_mul(0x9e37_79b9) >> (u32::BITS - PLACES)) as usize
}
