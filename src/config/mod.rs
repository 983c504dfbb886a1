//! From flags to a validated plan.

pub mod plan;

pub use plan::{Choice, HandbackChoice, Mode, Plan, Poll, Redirect, Treatment};
