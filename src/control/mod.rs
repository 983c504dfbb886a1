//! Brings gateways up, keeps them in step with the machine, and takes them down.

pub mod conntrack;
pub mod finding;
pub mod gateway;
pub mod preflight;
pub mod run;

pub use run::{RunError, run};
