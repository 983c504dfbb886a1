//! Reads snapshots; never touches the data path.

pub mod client;
pub mod layout;
pub mod server;
pub mod snapshot;
pub mod table;

/// Abstract names of statistics sockets begin with this; the interface's name follows.
pub const SOCKET_PREFIX: &str = "xdpfrag/";
