//! The bytes of a capture, as many at a time as a record has.

use std::io::{self, Read};

use super::Error;

/// Bytes read at once: few enough for a core's own cache.
const CHUNK: usize = 256 << 10;

/// Is told how many bytes were read so far.
pub type Watch<'w> = &'w mut dyn FnMut(u64);

/// A window that moves over the bytes of a file or pipe.
pub(super) struct Input<'w, R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    read: u64,
    watch: Watch<'w>,
}

impl<'w, R: Read> Input<'w, R> {
    pub(super) fn new(inner: R, watch: Watch<'w>) -> Self {
        Input { inner, buffer: vec![0; CHUNK], start: 0, end: 0, ended: false, read: 0, watch }
    }

    /// The next bytes, at least `len` of them; fewer only at the end of the file.
    #[inline]
    pub(super) fn peek(&mut self, len: usize) -> Result<&[u8], Error> {
        if self.end - self.start < len {
            self.fill(len)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Goes on behind `len` bytes, which were seen.
    #[inline]
    pub(super) fn consume(&mut self, len: usize) {
        self.start = self.end.min(self.start + len);
    }

    #[cold]
    fn fill(&mut self, len: usize) -> Result<(), Error> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        while self.end < len && !self.ended {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    self.end += length;
                    self.read += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
            (self.watch)(self.read);
        }
        Ok(())
    }
}
