//! What ESP makes of a packet: pure arithmetic, no I/O.

#![forbid(unsafe_code)]

pub mod esp;
pub mod mtu;
pub mod scope;
pub mod ways;

pub use esp::{Esp, UnknownEsp};
pub use mtu::{Encapsulation, Mode, Outer, SaMtu};
