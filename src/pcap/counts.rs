//! What happened to the frames of a capture.

use crate::packet::{Edit, Edits, Reason};

/// What happened to the frames of a capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames read.
    pub frames_in: u64,
    /// Frames written.
    pub frames_out: u64,
    /// Frames that the capture holds only in part (snap length): copied as they are.
    pub cut_short: u64,
    /// Frames of a link type that is not read: copied as they are.
    pub unread_link: u64,
    /// Packets of more than [`Counts::ORDINARY`] bytes.
    pub long: u64,
    /// The longest of them, bytes.
    pub longest: usize,
    /// Frames with a frame check sequence, which was kept right.
    pub checked: u64,
    reasons: [u64; Reason::COUNT],
    edits: [u64; Edit::COUNT],
}

impl Counts {
    /// Longest packet that an ordinary Ethernet carries, bytes.
    pub const ORDINARY: usize = 1500;

    /// Frames that were treated as they were for `reason`; with [`cut_short`](Counts::cut_short) and
    /// [`unread_link`](Counts::unread_link) the sum of all is [`frames_in`](Counts::frames_in).
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    /// Frames that were changed so.
    pub fn edit(&self, edit: Edit) -> u64 {
        self.edits[edit as usize]
    }

    #[inline]
    pub(super) fn count(&mut self, reason: Reason, edits: Edits) {
        self.reasons[reason as usize] += 1;
        if edits != Edits::NONE {
            edits.iter().for_each(|edit| self.edits[edit as usize] += 1);
        }
    }

    #[inline]
    pub(super) fn length(&mut self, packet: usize) {
        if packet > Counts::ORDINARY {
            self.long += 1;
            self.longest = self.longest.max(packet);
        }
    }
}
