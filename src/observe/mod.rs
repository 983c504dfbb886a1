//! Reads snapshots; never touches the data path.

pub mod snapshot;
