//! The highest load of which next to nothing is lost.

use std::time::Duration;

use anyhow::Result;

use super::generator::Rate;
use super::testbed::{Testbed, Trial};

/// A load that fails is tried once more: a virtual machine stalls now and then.
const ATTEMPTS: usize = 2;
/// Share of the load that the generator must have made: one that was kept from its core proves nothing.
const MADE: f64 = 0.97;

/// Bisection on a logarithmic scale (RFC 2544 section 26.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Length of a trial.
    pub trial: Duration,
    /// Trials, not counting repeated ones. The result is within range^(1/2^steps).
    pub steps: u32,
    /// Highest load tried over lowest.
    pub range: f64,
    /// Share of the packets that may be lost.
    pub tolerance: f64,
}

impl Search {
    /// Searches below `high` packets per second, offered as `rate` says; returns the trial at the highest load
    /// that passed, or `None` if none did.
    ///
    /// # Errors
    /// See [`Testbed::trial`].
    pub fn run(&self, testbed: &Testbed<'_>, mut high: f64, rate: fn(f64) -> Rate) -> Result<Option<Trial>> {
        let mut low = high / self.range;
        let mut best = None;
        for _ in 0..self.steps {
            let middle = (low * high).sqrt();
            match self.passes(testbed, middle, rate(middle))? {
                Some(trial) => {
                    low = middle;
                    best = Some(trial);
                }
                None => high = middle,
            }
        }
        Ok(best)
    }

    fn passes(&self, testbed: &Testbed<'_>, wanted: f64, rate: Rate) -> Result<Option<Trial>> {
        for _ in 0..ATTEMPTS {
            let trial = testbed.trial(rate, self.trial)?;
            if trial.loss() <= self.tolerance && trial.offered() >= MADE * wanted {
                return Ok(Some(trial));
            }
        }
        Ok(None)
    }
}
