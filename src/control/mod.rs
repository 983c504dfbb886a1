//! Brings gateways up, keeps them in step with the machine, and takes them down.

pub mod blocks;
mod capture;
pub mod conntrack;
pub mod finding;
mod follow;
pub mod gateway;
mod news;
mod pace;
pub mod preflight;
mod publish;
pub mod run;
pub mod scope;
mod service;
pub mod tunnels;

pub use news::give_up_privileges;
pub use run::{RunError, Source, run};
