//! From flags to a validated plan: [`raw`] is what clap fills, [`mod@validate`] turns it into a [`Plan`].

pub mod plan;
pub mod raw;
pub mod validate;
pub mod values;

pub use plan::{Auto, Choice, Force, HandbackChoice, Mode, Plan, Poll, Redirect, Scope, Treatment};
pub use raw::{RunArgs, TreatmentArgs};
pub use validate::{ConfigError, plan, treatment};
