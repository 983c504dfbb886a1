//! How a subcommand fails.

use std::process::ExitCode;

use crate::config::ConfigError;

/// Why a subcommand ended early: a message for a person and an exit code for a script.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It failed while running: exit code 1.
    #[error("{0:#}")]
    Running(#[from] anyhow::Error),
    /// Wrong usage, configuration or input file: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// This machine or interface cannot do it: exit code 3.
    #[error("{0}")]
    Unfit(String),
    /// It can be done, but not for all packets or not as well as it could: exit code 4.
    #[error("{0}")]
    Warned(String),
    /// Nobody reads standard output any more (`| head`): no failure, but no reason to go on.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::OutputClosed => 0,
            Failure::Running(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unfit(_) => 3,
            Failure::Warned(_) => 4,
        })
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Usage(error.to_string())
    }
}
