//! The packet transform against independent checks: own builder, own checksum, own
//! reassembler, etherparse; nothing here calls into `src/packet` but what is tested.

mod corpus;
mod exhaustive;
mod field_rows;
mod fields;
mod ipv6;
mod laws;
mod properties;
mod resegment;
mod support;
mod too_big;
mod traps;
mod unfinished;
