//! UMEM frames as linear ownership tokens.
//!
//! A [`Frame`] is neither `Clone` nor `Copy` and only its [`Pool`] makes one, so safe code cannot give
//! the kernel the same frame twice. The pool keeps the place of every frame besides, because addresses
//! that come back from a ring are the kernel's word and are checked against it.

use thiserror::Error;

/// The right to use one UMEM frame.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost to its pool"]
pub struct Frame {
    index: u32,
}

impl Frame {
    /// Position in the UMEM: the frame begins at this times the frame size.
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// Which way a frame is lent to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lent {
    /// To receive into: in the fill ring, with the driver, or in the RX ring.
    Fill,
    /// To send from: in the TX ring, with the driver, or in the completion ring.
    Tx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    Held,
    Lent(Lent),
}

/// How many frames are where. Frames held by the program while a turn runs are `held`; after a turn
/// there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Frames in the UMEM.
    pub total: u32,
    /// With the pool.
    pub free: u32,
    /// With the kernel, to receive into ([`Lent::Fill`]).
    pub fill: u32,
    /// With the kernel, to send from ([`Lent::Tx`]).
    pub tx: u32,
    /// With the program.
    pub held: u32,
}

impl Ledger {
    /// True if every frame is in exactly one place.
    pub fn balanced(&self) -> bool {
        u64::from(self.free) + u64::from(self.fill) + u64::from(self.tx) + u64::from(self.held)
            == u64::from(self.total)
    }
}

/// The kernel returned a frame that it did not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("frame {index} came back from a ring that did not have it")]
pub struct NotLent {
    /// What it returned.
    pub index: u64,
}

/// The frames of one UMEM; its memory is settled at construction.
#[derive(Debug)]
pub struct Pool {
    free: Vec<u32>,
    place: Vec<Place>,
    fill: u32,
    tx: u32,
    held: u32,
}

impl Pool {
    /// `total` frames, all free.
    pub fn new(total: u32) -> Pool {
        // Reversed, so that frames are first used in the order of their addresses.
        Pool {
            free: (0..total).rev().collect(),
            place: vec![Place::Free; total as usize],
            fill: 0,
            tx: 0,
            held: 0,
        }
    }

    /// A free frame.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        self.place[index as usize] = Place::Held;
        self.held += 1;
        Some(Frame { index })
    }

    /// Takes `frame` back.
    #[inline]
    pub fn put(&mut self, frame: Frame) {
        self.place[frame.index as usize] = Place::Free;
        self.held -= 1;
        self.free.push(frame.index);
    }

    /// Notes that `frame` goes to the kernel and returns its index for the ring.
    #[inline]
    pub fn lend(&mut self, frame: Frame, to: Lent) -> u32 {
        self.place[frame.index as usize] = Place::Lent(to);
        self.held -= 1;
        *self.lent_mut(to) += 1;
        frame.index
    }

    /// The frame that the kernel returned from `from`.
    ///
    /// # Errors
    /// [`NotLent`] if the kernel did not have it there; nothing changes.
    #[inline]
    pub fn reclaim(&mut self, index: u64, from: Lent) -> Result<Frame, NotLent> {
        let error = NotLent { index };
        let index = u32::try_from(index).map_err(|_| error)?;
        match self.place.get_mut(index as usize) {
            Some(place) if *place == Place::Lent(from) => *place = Place::Held,
            _ => return Err(error),
        }
        *self.lent_mut(from) -= 1;
        self.held += 1;
        Ok(Frame { index })
    }

    /// Free frames.
    #[inline]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Where the frames are.
    pub fn ledger(&self) -> Ledger {
        Ledger {
            total: self.place.len() as u32,
            free: self.free.len() as u32,
            fill: self.fill,
            tx: self.tx,
            held: self.held,
        }
    }

    fn lent_mut(&mut self, to: Lent) -> &mut u32 {
        match to {
            Lent::Fill => &mut self.fill,
            Lent::Tx => &mut self.tx,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_comes_back_once_and_from_where_it_went() {
        let mut pool = Pool::new(2);
        let frame = pool.take().unwrap();
        let index = u64::from(pool.lend(frame, Lent::Fill));
        assert_eq!(pool.reclaim(index, Lent::Tx), Err(NotLent { index }));
        let frame = pool.reclaim(index, Lent::Fill).unwrap();
        assert_eq!(pool.reclaim(index, Lent::Fill), Err(NotLent { index }));
        pool.put(frame);
        assert_eq!(pool.ledger(), Ledger { total: 2, free: 2, ..Ledger::default() });
        assert_eq!(pool.reclaim(7, Lent::Tx), Err(NotLent { index: 7 }));
        assert_eq!(pool.reclaim(1 << 32, Lent::Tx), Err(NotLent { index: 1 << 32 }));
    }

    proptest! {
        #[test]
        fn the_ledger_balances_whatever_happens(steps in prop::collection::vec((0u8..4, 0u64..12), 0..200)) {
            let mut pool = Pool::new(8);
            let mut held = Vec::new();
            for (step, index) in steps {
                match step {
                    0 => held.extend(pool.take()),
                    1 => if let Some(frame) = held.pop() { pool.put(frame) },
                    2 => if let Some(frame) = held.pop() {
                        pool.lend(frame, if index % 2 == 0 { Lent::Fill } else { Lent::Tx });
                    },
                    _ => held.extend(pool.reclaim(index, Lent::Fill).or_else(|_| pool.reclaim(index, Lent::Tx))),
                }
                let ledger = pool.ledger();
                prop_assert!(ledger.balanced(), "{ledger:?}");
                prop_assert_eq!(ledger.held as usize, held.len());
            }
        }
    }
}
