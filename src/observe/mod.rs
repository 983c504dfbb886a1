//! Reads snapshots; never touches the data path.

mod accept;
pub mod client;
pub mod exporter;
pub mod latency;
pub mod layout;
pub mod metrics;
pub mod request;
mod scope;
pub mod server;
pub mod snapshot;
pub mod table;

/// Abstract names of control sockets begin with this; the interface's name follows.
pub const SOCKET_PREFIX: &str = "xdpfrag/";
