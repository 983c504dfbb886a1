//! Reads snapshots; never touches the data path.

pub mod layout;
pub mod snapshot;
