//! The kernel's network configuration.

pub mod private_ns;
