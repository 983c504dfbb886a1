//! What `replay` says that it did.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::observe::layout::{self, grouped};
use crate::packet::{Edit, Reason};
use crate::pcap::Counts;

/// What happened to the frames of a capture.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Frames read.
    frames_in: u64,
    /// Frames written.
    frames_out: u64,
    /// Frames that the capture holds only in part (snap length): copied as they are.
    cut_short: u64,
    /// Frames of a link type that is not read: copied as they are.
    unread_link: u64,
    /// Frames per reason, zeros included; with `cut_short` and `unread_link` their sum is `frames_in`.
    reasons: BTreeMap<&'static str, u64>,
    /// Edits per kind, zeros included.
    edits: BTreeMap<&'static str, u64>,
    /// Packets that no ordinary Ethernet carries.
    long_packets: u64,
    /// The longest of them, bytes.
    longest: usize,
    /// Frames with a frame check sequence that were changed, and it with them.
    frame_checks: u64,
    #[serde(skip)]
    counts: Counts,
}

impl From<&Counts> for Summary {
    fn from(counts: &Counts) -> Summary {
        Summary {
            frames_in: counts.frames_in,
            frames_out: counts.frames_out,
            cut_short: counts.cut_short,
            unread_link: counts.unread_link,
            reasons: Reason::ALL.iter().map(|reason| (reason.label(), counts.reason(*reason))).collect(),
            edits: Edit::ALL.iter().map(|edit| (edit.label(), counts.edit(*edit))).collect(),
            long_packets: counts.long,
            longest: counts.longest,
            frame_checks: counts.checked,
            counts: counts.clone(),
        }
    }
}

/// What `run` means by a reason that means something else in a file.
fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::SuperPacket => {
            "no length in the header, which the sender's NIC was to fill in (TSO): copied as they are"
        }
        other => other.meaning(),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let mut table = layout::table(&["COUNTER", "FRAMES", "MEANING"]);
        let mut add = |label: &str, count: u64, meaning: &str| {
            if count > 0 {
                table.add_row([label, &grouped(count), meaning]);
            }
        };
        for reason in Reason::ALL {
            add(reason.label(), counts.reason(*reason), meaning(*reason));
        }
        add("cut_short", counts.cut_short, "captured only in part (snap length): copied as they are");
        add("unread_link", counts.unread_link, "of a link type that is not read: copied as they are");
        for edit in Edit::ALL {
            add(edit.label(), counts.edit(*edit), edit.meaning());
        }
        layout::align_right(&mut table, [1]);
        writeln!(f, "{} frames read, {} written", grouped(counts.frames_in), grouped(counts.frames_out))?;
        if !table.is_empty() {
            write!(f, "\n{}", layout::text(&table))?;
        }
        if counts.long > 0 {
            write!(
                f,
                "\n{} packets are longer than {} bytes, up to {}. Jumbo frames are; so are packets that a host\n\
                 captures of its own before its NIC cuts them (TSO), or after GRO has merged them.\n\
                 `run` meets what is on the wire: capture on the gateway, with `ethtool -K IF gro off`.\n",
                grouped(counts.long),
                grouped(Counts::ORDINARY as u64),
                grouped(counts.longest as u64)
            )?;
        }
        if counts.checked > 0 {
            write!(f, "\n{} changed frames have new frame check sequences.\n", grouped(counts.checked))?;
        }
        Ok(())
    }
}
