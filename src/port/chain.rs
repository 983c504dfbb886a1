//! Gathers a frame that arrives in several buffers (`XDP_PKT_CONTD`).

use crate::xdp::Meta;

/// What one more buffer makes of the chain.
#[derive(Debug, PartialEq, Eq)]
pub enum Link {
    /// The frame goes on.
    More,
    /// The frame is complete.
    Complete,
    /// This was the last buffer of a frame longer than the scratch buffer.
    TooLong,
}

/// The frame being gathered, in a scratch buffer that is as long as the longest frame.
#[derive(Debug)]
pub struct Chain {
    scratch: Box<[u8]>,
    len: usize,
    meta: Option<Meta>,
    open: bool,
    overflow: bool,
}

impl Chain {
    /// For frames of at most `max_frame` bytes.
    pub fn new(max_frame: usize) -> Chain {
        let scratch = vec![0; max_frame].into_boxed_slice();
        Chain { scratch, len: 0, meta: None, open: false, overflow: false }
    }

    /// Longest frame, bytes.
    pub fn max_frame(&self) -> usize {
        self.scratch.len()
    }

    /// True if the last buffer announced another one.
    #[inline]
    pub fn open(&self) -> bool {
        self.open
    }

    /// Adds a buffer; `meta` is that of the first, `more` announces another one.
    pub fn add(&mut self, bytes: &[u8], meta: Option<Meta>, more: bool) -> Link {
        if !self.open {
            (self.len, self.meta, self.overflow) = (0, meta, false);
        }
        self.open = more;
        match self.scratch.get_mut(self.len..self.len + bytes.len()) {
            Some(room) if !self.overflow => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            _ => self.overflow = true,
        }
        match (more, self.overflow) {
            (true, _) => Link::More,
            (false, false) => Link::Complete,
            (false, true) => Link::TooLong,
        }
    }

    /// The gathered frame.
    pub fn frame(&self) -> (&[u8], Option<Meta>) {
        (&self.scratch[..self.len], self.meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Rule;

    #[test]
    fn gathers_and_starts_afresh() {
        let mut chain = Chain::new(8);
        let meta = Some(Meta { rx_ns: 1, rule: Rule::new(1422, None, None) });
        assert_eq!(chain.add(b"abc", meta, true), Link::More);
        assert!(chain.open());
        assert_eq!(chain.add(b"defgh", None, false), Link::Complete);
        assert_eq!(chain.frame(), (&b"abcdefgh"[..], meta));
        assert_eq!(chain.add(b"x", None, false), Link::Complete);
        assert_eq!(chain.frame(), (&b"x"[..], None));
    }

    #[test]
    fn a_frame_that_does_not_fit_is_reported_once_at_its_end() {
        let mut chain = Chain::new(4);
        assert_eq!(chain.add(b"abc", None, true), Link::More);
        assert_eq!(chain.add(b"de", None, true), Link::More);
        assert_eq!(chain.add(b"f", None, false), Link::TooLong);
        assert_eq!(chain.add(b"wxyz", None, false), Link::Complete);
        assert_eq!(chain.frame().0, b"wxyz");
    }
}
