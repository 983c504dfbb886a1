//! From flags to a validated plan: [`raw`] is what clap fills, from the command line and from [`mod@file`],
//! [`mod@validate`] turns it into a [`Plan`].

pub mod file;
pub mod plan;
pub mod raw;
pub mod validate;
pub mod values;

pub use file::{ConfigFile, FileError};
pub use plan::{Auto, Choice, Force, HandbackChoice, Mode, Notrack, Plan, Poll, Redirect, Scope, Treatment};
pub use raw::{LogFormat, LogLevel, RunArgs, TreatmentArgs};
pub use validate::{ConfigError, plan, treatment};
