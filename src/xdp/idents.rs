//! Counters of identifications that workers and kernel programs share.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use libbpf_rs::libbpf_sys::{BPF_F_MMAPABLE, bpf_map_create_opts};
use libbpf_rs::{MapHandle, MapType};

use super::error::Error;
use super::sys::SharedWords;
use crate::packet::Idents;

/// The map `idents` of `bpf/ident.h`, in this process' memory.
#[derive(Debug)]
pub struct IdentMap {
    map: MapHandle,
    words: SharedWords,
}

impl IdentMap {
    /// An array of zeros.
    ///
    /// # Errors
    /// Without CAP_BPF, or memory.
    pub fn new() -> Result<IdentMap, Error> {
        let create = || {
            let options = bpf_map_create_opts {
                sz: size_of::<bpf_map_create_opts>() as _,
                map_flags: BPF_F_MMAPABLE,
                ..bpf_map_create_opts::default()
            };
            let count = Idents::COUNTERS as u32;
            // Of the name in the object: libbpf gives that up for the one of the map that is put in its place.
            let map = MapHandle::create(MapType::Array, Some("idents"), 4, 8, count, &options)?;
            let words = SharedWords::map(map.as_fd(), Idents::COUNTERS)?;
            Ok::<_, libbpf_rs::Error>(IdentMap { map, words })
        };
        create().map_err(Error::map("idents", "make it"))
    }
}

impl AsRef<[AtomicU64]> for IdentMap {
    fn as_ref(&self) -> &[AtomicU64] {
        self.words.as_slice()
    }
}

impl AsFd for IdentMap {
    /// The map.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
