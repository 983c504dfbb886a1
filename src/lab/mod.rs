//! A private network to try xdpfrag in: appliance, gateway and far side, each a network namespace.
//!
//! ```text
//!  appliance                    gateway                       far
//!  lan0 198.18.1.2 ──────── eth1 198.18.1.1
//!                           wan0 198.18.2.1 ──────── far0 198.18.2.2
//! ```
//!
//! The link wan0–far0 stands for the IPsec tunnel: its MTU is the SA MTU, as on an XFRM interface
//! with a lowered MTU; or only far0's is, so that the gateway does not know ([`Narrow`]). No packet leaves the three namespaces, and they vanish with the process.

pub mod bench;
pub mod daemon;
pub mod demo;
pub mod namespace;
pub mod topology;
pub mod traffic;
pub mod wire;

pub use daemon::Daemon;
pub use namespace::Namespace;
pub use topology::{APPLIANCE, APPLIANCE6, FAR, FAR6, LAN, Lab, LabConfig, Narrow};
pub use wire::{Rules, Seen, Wire};
