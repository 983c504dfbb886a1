//! Records on their way to a file: copies of what was read, and frames that take the place of one.

use std::io::Write;

use super::Error;
use super::order::Order;
use crate::packet::Sink;

/// Bytes written at once.
const CHUNK: usize = 256 << 10;
/// Length and repeated length of a block, and the padding of a frame and of options, at most.
const BLOCK_EXTRA: usize = 16;

/// Where a record has the lengths of its frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) order: Order,
    /// Bytes before the frame.
    pub(super) head: usize,
    /// Where in them the captured length is, if anywhere.
    pub(super) captured_at: Option<usize>,
    /// Where the original length is.
    pub(super) original_at: usize,
    /// True for pcapng: the frame is padded to words, options may follow, and the length of the whole stands at 4 and
    /// at the end.
    pub(super) block: bool,
}

/// A record as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) form: Form,
    /// All of it.
    pub(super) raw: &'a [u8],
    /// Bytes of the frame that are there, its frame check sequence included.
    pub(super) captured: usize,
    /// Bytes that it had.
    pub(super) original: u32,
    /// Bytes of the frame check sequence: 0 or 4.
    pub(super) fcs: usize,
    /// Options for the first frame that takes its place, and for the others.
    pub(super) options: [&'a [u8]; 2],
}

impl<'a> Record<'a> {
    /// The frame without its frame check sequence, and that.
    pub(super) fn frame(&self) -> Option<(&'a [u8], &'a [u8])> {
        let captured = &self.raw[self.form.head..][..self.captured];
        captured.split_at_checked(self.captured.checked_sub(self.fcs)?)
    }
}

/// A file or pipe, and what is not written yet.
pub(super) struct Output<W> {
    inner: W,
    buffer: Vec<u8>,
    len: usize,
    /// Place and length of frames whose frame check sequence is to follow.
    unchecked: Vec<(usize, usize)>,
}

impl<W: Write> Output<W> {
    pub(super) fn new(inner: W) -> Self {
        Output { inner, buffer: vec![0; 2 * CHUNK], len: 0, unchecked: Vec::new() }
    }

    /// Adds `bytes` as they are.
    #[inline]
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.make_room(bytes.len());
        self.buffer[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self.settle()
    }

    /// The end of what was added: see [`Output::undo`].
    pub(super) fn mark(&self) -> usize {
        self.len
    }

    /// Takes back what was added since `mark`, before it was settled.
    pub(super) fn undo(&mut self, mark: usize) {
        self.len = mark;
        self.unchecked.clear();
    }

    /// Writes frame check sequences, each of them wrong by `error` as that of the original was.
    pub(super) fn check(&mut self, error: u32) {
        for (start, len) in self.unchecked.drain(..) {
            let sum = crc32fast::hash(&self.buffer[start..][..len]) ^ error;
            self.buffer[start + len..][..4].copy_from_slice(&sum.to_le_bytes());
        }
    }

    /// Writes what was added, if it is enough.
    #[inline]
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.len < CHUNK { Ok(()) } else { self.write() }
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.write()?;
        self.inner.flush().map_err(Error::Write)
    }

    #[cold]
    fn write(&mut self) -> Result<(), Error> {
        let written = self.inner.write_all(&self.buffer[..self.len]).map_err(Error::Write);
        self.len = 0;
        written
    }

    #[inline]
    fn make_room(&mut self, len: usize) {
        if self.buffer.len() - self.len < len {
            self.buffer.resize(self.len + len, 0);
        }
    }
}

/// A sink of frames that take the place of that in `record`.
pub(super) struct Replacements<'o, 'r, W> {
    output: &'o mut Output<W>,
    record: &'r Record<'r>,
    pushed: usize,
}

impl<'o, 'r, W: Write> Replacements<'o, 'r, W> {
    pub(super) fn new(output: &'o mut Output<W>, record: &'r Record<'r>) -> Self {
        Replacements { output, record, pushed: 0 }
    }
}

impl<W: Write> Sink for Replacements<'_, '_, W> {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        let Record { form, fcs, options: [first, others], .. } = self.record;
        let each = form.head + len + fcs + others.len() + BLOCK_EXTRA;
        self.output.make_room(frames * each + first.len());
        true
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        let Record { form, raw, fcs, options, .. } = self.record;
        let Output { buffer, len: filled, unchecked, .. } = &mut *self.output;
        let start = *filled;
        let record = &mut buffer[start..];
        // Longer than no packet is, and its link header.
        let length = form.order.bytes((len + fcs) as u32);
        record[..form.head].copy_from_slice(&raw[..form.head]);
        if let Some(at) = form.captured_at {
            record[at..][..4].copy_from_slice(&length);
        }
        record[form.original_at..][..4].copy_from_slice(&length);
        let mut end = form.head + len + fcs;
        if form.block {
            let padded = end.next_multiple_of(4);
            record[end..padded].fill(0);
            let options = options[self.pushed.min(1)];
            record[padded..][..options.len()].copy_from_slice(options);
            end = padded + options.len() + 4;
            let total = form.order.bytes(end as u32);
            record[4..8].copy_from_slice(&total);
            record[end - 4..end].copy_from_slice(&total);
        }
        *filled = start + end;
        self.pushed += 1;
        let frame = start + form.head;
        if *fcs > 0 {
            unchecked.push((frame, len));
        }
        &mut buffer[frame..frame + len]
    }
}
