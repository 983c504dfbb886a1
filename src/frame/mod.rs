//! Memory for frames: where it lies ([`Region`]) and who owns which frame of it ([`Pool`]).

pub mod pool;
pub mod region;

use std::error::Error;
use std::io;

pub use pool::{Frame, Ledger, Lent, NotLent, Pool};
pub use region::Region;

/// The errno that xsk-rs keeps as the source of its errors.
pub(crate) fn os_error(error: &dyn Error) -> io::Error {
    let errno = error.source().and_then(|source| source.downcast_ref::<io::Error>()?.raw_os_error());
    errno.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
