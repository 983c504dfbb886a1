//! What the kernel says about interfaces, addresses, queues, offloads and settings.
//!
//! Everything here speaks for the network namespace of the calling thread.

pub mod addresses;
pub mod changes;
pub mod ethtool;
pub mod filters;
mod generic;
pub mod links;
pub mod netlink;
pub mod nft;
pub mod private_ns;
pub mod route;
pub mod sysctl;
pub mod xdp_features;
pub mod xfrm;

pub use addresses::Monitor;
pub use changes::Changes;
pub use ethtool::Ethtool;
pub use links::Link;
pub use xdp_features::XdpFeatures;
