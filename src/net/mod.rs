//! What the kernel says about interfaces, addresses, queues, offloads and settings.
//!
//! Everything here speaks for the network namespace of the calling thread.

pub mod addresses;
pub mod ethtool;
pub mod links;
pub mod netlink;
pub mod sysctl;

pub use addresses::Monitor;
pub use ethtool::Ethtool;
pub use links::Link;
