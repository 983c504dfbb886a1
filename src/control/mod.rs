//! Brings gateways up, keeps them in step with the machine, and takes them down.

pub mod finding;
pub mod gateway;
pub mod preflight;
mod publish;
pub mod run;
mod service;

pub use run::{RunError, run};
