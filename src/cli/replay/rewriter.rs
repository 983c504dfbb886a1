//! One captured frame in, the frames that `run` would hand back out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{Scope, Treatment};
use crate::observe::layout;
use crate::packet::{self, Edit, Frames, Idents, Reason, Transform, Verdict};

/// The same input gives the same output, fresh identifications included.
const SEED: u64 = 0;

/// Applies a treatment frame by frame, and counts.
pub(super) struct Rewriter {
    scope: Scope,
    transform: Transform,
    frames: Frames,
    counts: Counts,
}

impl Rewriter {
    pub(super) fn new(treatment: &Treatment) -> Rewriter {
        let transform =
            Transform { df: treatment.df, tcp: treatment.tcp, idents: Arc::new(Idents::with_seed(SEED)) };
        let scope = Scope::from(treatment);
        Rewriter { scope, transform, frames: Frames::default(), counts: Counts::default() }
    }

    /// The frames that take the place of `frame`, which had `original_len` bytes when it was
    /// captured; `None` if it stays as it is.
    pub(super) fn rewrite(&mut self, frame: &[u8], original_len: u32) -> Option<&Frames> {
        self.counts.frames_in += 1;
        if (frame.len() as u64) < u64::from(original_len) {
            self.counts.cut_short += 1;
            return self.untouched();
        }
        let rule = packet::parse(frame).and_then(|(_, packet)| {
            self.scope.rule(packet.source(), packet.destination()).ok_or(Reason::OutOfScope)
        });
        let rule = match rule {
            Ok(rule) => rule,
            Err(reason) => {
                self.counts.reason(reason);
                return self.untouched();
            }
        };
        self.frames.clear();
        let outcome = self.transform.apply(frame, rule, &mut self.frames);
        self.counts.reason(outcome.verdict.reason());
        for edit in outcome.edits.iter() {
            *self.counts.edits.entry(edit.label()).or_default() += 1;
        }
        if let Verdict::Pass(_) = outcome.verdict {
            return self.untouched();
        }
        self.counts.frames_out += self.frames.len() as u64;
        Some(&self.frames)
    }

    fn untouched(&mut self) -> Option<&Frames> {
        self.counts.frames_out += 1;
        None
    }

    pub(super) fn into_counts(self) -> Counts {
        self.counts
    }
}

/// What happened to the frames of a capture.
#[derive(Debug, Serialize)]
pub(super) struct Counts {
    /// Frames read.
    frames_in: u64,
    /// Frames written.
    frames_out: u64,
    /// Frames that the capture holds only in part (snap length): copied as they are.
    cut_short: u64,
    /// Frames per reason, zeros included; with `cut_short` their sum is `frames_in`.
    reasons: BTreeMap<&'static str, u64>,
    /// Edits per kind, zeros included.
    edits: BTreeMap<&'static str, u64>,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            frames_in: 0,
            frames_out: 0,
            cut_short: 0,
            reasons: Reason::ALL.iter().map(|reason| (reason.label(), 0)).collect(),
            edits: Edit::ALL.iter().map(|edit| (edit.label(), 0)).collect(),
        }
    }
}

impl Counts {
    fn reason(&mut self, reason: Reason) {
        *self.reasons.entry(reason.label()).or_default() += 1;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = layout::table(&["COUNTER", "FRAMES", "MEANING"]);
        let mut add = |label: &str, count: u64, meaning: &str| {
            if count > 0 {
                table.add_row([label, &layout::grouped(count), meaning]);
            }
        };
        for reason in Reason::ALL {
            add(reason.label(), self.reasons[reason.label()], reason.meaning());
        }
        add("cut_short", self.cut_short, "captured only in part (snap length): copied as they are");
        for edit in Edit::ALL {
            add(edit.label(), self.edits[edit.label()], edit.meaning());
        }
        layout::align_right(&mut table, [1]);
        writeln!(
            f,
            "{} frames read, {} written",
            layout::grouped(self.frames_in),
            layout::grouped(self.frames_out)
        )?;
        if !table.is_empty() {
            write!(f, "\n{}", layout::text(&table))?;
        }
        Ok(())
    }
}
