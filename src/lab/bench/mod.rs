//! Measuring a lab's gateway: offered load in, delivered packets, router CPU time and latency out.
//!
//! One core makes frames and takes those that arrive; another does all of the router's work and nothing else,
//! so that its CPU time can be counted.

pub mod bare;
pub mod cores;
pub mod generator;
pub mod rfc2544;
pub mod search;
pub mod sink;
pub mod testbed;
pub mod workload;

pub use cores::{Cores, CpuTime, Router};
pub use generator::{Generator, Rate, Sent};
pub use search::Search;
pub use sink::{Sink, Tally};
pub use testbed::{Limits, Testbed, Trial};
pub use workload::Workload;

/// The compiled `bpf/bench.bpf.c`.
pub(super) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));
