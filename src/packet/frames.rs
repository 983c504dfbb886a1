//! A sink of ordinary memory.

use super::{Datagram, Gathered, Sink};

/// The output of a transform, frame after frame in one buffer: for whoever wants to look at it. The only part of this
/// module that allocates.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    gso: bool,
    datagrams: bool,
    /// What the last frame is, if the kernel is to cut it; without the frame.
    whole: Option<Datagram<'static>>,
}

impl Frames {
    /// Forgets all frames, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.whole = None;
    }

    /// Takes datagrams for the kernel to cut from now on, or takes none.
    pub fn take_datagrams(&mut self, datagrams: bool) {
        self.datagrams = datagrams;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if the kernel may cut the last packet, or others of its flow ([`Sink::begin`]).
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// The one frame that there is, if the kernel is to cut it.
    pub fn datagram(&self) -> Option<Datagram<'_>> {
        Some(Datagram { frame: &self.bytes, ..self.whole? })
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frames, in the order in which they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

impl Sink for Frames {
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        self.bytes.reserve(frames.saturating_mul(len));
        true
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        self.ends.push(self.bytes.len());
        &mut self.bytes[start..]
    }

    fn begin(&mut self, gso: bool) {
        self.gso = gso;
    }

    fn takes_datagrams(&self) -> bool {
        self.datagrams
    }

    fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        self.push(datagram.frame.len()).copy_from_slice(datagram.frame);
        self.whole = Some(Datagram { frame: &[], ..*datagram });
        Gathered::Taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_were_pushed() {
        let mut frames = Frames::default();
        assert!(frames.is_empty() && frames.reserve(3, 2));
        for byte in [1, 2, 3] {
            frames.push(usize::from(byte) - 1).fill(byte);
        }
        assert_eq!(Vec::from_iter(frames.iter()), [&[][..], &[2], &[3, 3]]);
        assert_eq!(frames.len(), 3);
        frames.clear();
        assert_eq!(frames.iter().count(), 0);
    }
}
