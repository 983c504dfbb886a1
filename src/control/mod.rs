//! Brings gateways up, keeps them in step with the machine, and takes them down.

pub mod finding;
mod follow;
pub mod gateway;
pub mod preflight;
pub mod run;
pub mod scope;
pub mod tunnels;

pub use run::{RunError, run};
