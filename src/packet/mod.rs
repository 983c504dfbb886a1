//! The pure packet code: slices in, slices out.
//!
//! No I/O, no clock, no allocation, and no panic on any input.
#![forbid(unsafe_code)]

pub mod ident;
pub mod reason;
pub mod transform;

pub use ident::Idents;
pub use reason::{Edit, Edits, Reason, Verdict};
pub use transform::{Df, Outcome, Rule, Sink, Transform};

/// Smallest SA MTU: every IPv4 module must be able to forward a datagram of 68 octets
/// without further fragmentation (RFC 791 section 3.2).
pub const MIN_MTU: u16 = 68;
