//! The pure packet code: slices in, slices out.
//!
//! No I/O, no clock, no allocation (but in [`Frames`]), and no panic on any input. A frame travels through
//! these files from top to bottom:
//!
//! ```text
//! received frame
//!   │ ether      Ethernet header, up to two VLAN tags      not IP? pass  group MAC? pass
//!   │ ipv4/ipv6  header and payload by its length          inconsistent? pass  group address? pass
//!   ▼
//! transform      the verdict: does it fit the SA MTU, what do --df and --tcp say
//!   │ transport  edits of the TCP or UDP header: mss (SYN), an unfinished checksum
//!   ├─ fits ──── one copy into the sink's buffer, then the edits in place
//!   ├─ TCP ───── resegment   several whole segments, under --tcp resegment; or gso, for the kernel to cut
//!   ├─ IPv6 ──── pass        the kernel answers with packet too big
//!   └─ IPv4 ──── ident       a fresh identification for a datagram that came with DF
//!                fragment    RFC 791, each payload byte copied once into the sink's buffers
//!   ▼
//! Sink           buffers lent by the hand-back          Outcome  verdict, Reason, Edits
//! ```
//!
//! `too_big` writes what a sender may be told besides. `checksum` (RFC 1071, RFC 1624) and `options` (the list that IPv4 and TCP headers end
//! with) serve all of them; `parse` is the way from the frame to the packet.
//!
//! **Views** ([`ether`], [`ipv4`], [`ipv6`], [`tcp`]) borrow the frame. `new_checked` verifies every
//! length that the header claims; the fixed part is then held as an array reference, so
//! that accessors have nothing left to check and cannot panic.
//!
//! **Checksums** are updated by the difference that an edit makes, or carry the input's
//! error along: what arrived valid leaves valid, what arrived wrong leaves wrong.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod ether;
mod fragment;
mod frames;
mod gso;
pub mod ident;
pub mod ipv4;
pub mod ipv6;
pub mod mss;
pub mod options;
mod oversize;
mod parse;
pub mod reason;
mod resegment;
pub mod tcp;
pub mod too_big;
pub mod transform;
mod transport;
mod way;

pub use frames::Frames;
pub use gso::{Datagram, Gathered, Segment};
pub use ident::{Idents, Partition};
pub use parse::{Packet, packet, parse};
pub use reason::{Edit, Edits, Late, Reason, Verdict};
pub use transform::{Df, Outcome, Rule, Sink, Tcp, Transform, pass};
pub use way::{Way, Ways};

/// Smallest SA MTU: every IPv4 module must be able to forward a datagram of 68 octets
/// without further fragmentation (RFC 791 section 3.2).
pub const MIN_MTU: u16 = 68;
