//! Brings a gateway up and down.

pub mod finding;
pub mod preflight;
