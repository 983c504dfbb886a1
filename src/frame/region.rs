//! Memory cut into equal slots: from the heap, or a BPF array map shared with the kernel.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// `slots` slots of `slot_size` bytes with one owner.
#[derive(Debug)]
pub struct Region {
    memory: Memory,
    slot_size: usize,
}

#[derive(Debug)]
enum Memory {
    Heap(Box<[u8]>),
    Mapped(Mapping),
}

impl Region {
    /// Zeroed memory from the heap.
    pub fn heap(slots: usize, slot_size: usize) -> Region {
        Region { memory: Memory::Heap(vec![0; slots * slot_size].into_boxed_slice()), slot_size }
    }

    /// The values of the BPF array map `map`, made with `BPF_F_MMAPABLE`, `slots` entries and values of
    /// `slot_size` bytes (a multiple of 8, as the kernel pads values to that).
    ///
    /// # Errors
    /// As mmap(2): `EINVAL` if the map has another shape, `EPERM` if it is frozen.
    pub fn map(map: BorrowedFd<'_>, slots: usize, slot_size: usize) -> io::Result<Region> {
        let mapping = Mapping::new(map, slots * slot_size)?;
        Ok(Region { memory: Memory::Mapped(mapping), slot_size })
    }

    /// Bytes per slot.
    #[inline]
    pub fn slot_size(&self) -> usize {
        self.slot_size
    }

    /// How many slots there are.
    #[inline]
    pub fn slots(&self) -> usize {
        self.bytes().len() / self.slot_size
    }

    /// The slot at `index`.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    pub fn slot(&self, index: usize) -> &[u8] {
        let start = index * self.slot_size;
        &self.bytes()[start..start + self.slot_size]
    }

    /// The slot at `index`, to write.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    pub fn slot_mut(&mut self, index: usize) -> &mut [u8] {
        let (start, len) = (index * self.slot_size, self.slot_size);
        &mut self.bytes_mut()[start..start + len]
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => bytes,
            // SAFETY: the mapping is `len` readable bytes for as long as it lives. The BPF program writes
            // to it only while its owner is inside BPF_PROG_RUN, when no borrow of the region exists.
            Memory::Mapped(mapping) => unsafe {
                std::slice::from_raw_parts(mapping.start.as_ptr(), mapping.len)
            },
        }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(bytes) => bytes,
            // SAFETY: as in `bytes`; the borrow of self is exclusive and the mapping is private to it.
            Memory::Mapped(mapping) => unsafe {
                std::slice::from_raw_parts_mut(mapping.start.as_ptr(), mapping.len)
            },
        }
    }
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory, not bound to the thread that mapped it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Mapping { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and no borrow outlives its owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap() {
        let mut region = Region::heap(3, 8);
        for slot in 0..3 {
            region.slot_mut(slot).fill(slot as u8 + 1);
        }
        for slot in 0..3 {
            assert_eq!(region.slot(slot), [slot as u8 + 1; 8]);
        }
        assert_eq!((region.slots(), region.slot_size()), (3, 8));
    }

    #[test]
    #[should_panic]
    fn a_slot_past_the_end_is_refused() {
        let _ = Region::heap(3, 8).slot(3);
    }
}
