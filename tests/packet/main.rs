//! The packet transform against independent checks: own builder, own checksum, own
//! reassembler, etherparse; nothing here calls into `src/packet` but the transform itself.

mod exhaustive;
mod properties;
mod support;
mod traps;
mod unfinished;
