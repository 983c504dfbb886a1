//! One worker per RX queue: receives, transforms and hands back.

pub mod clock;
mod confine;
pub mod counters;
pub mod notify;
mod outlet;
mod priority;
pub mod privileges;
pub mod rate;
pub mod settings;
mod spin;
pub mod tap;
pub mod thread;
pub mod turn;

pub use counters::Counters;
pub use notify::Notifier;
pub use outlet::{FLUSH_ATTEMPTS, FLUSH_PAUSE};
pub use settings::{Posted, Settings};
pub use thread::{Beat, Worker, WorkerConfig, WorkerEnd, WorkerError};
pub use turn::{FLUSH_AT, Progress, Turn};
