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
    pub fn run(&self, testbed: &Testbed<'_>, high: f64, rate: fn(f64) -> Rate) -> Result<Option<Trial>> {
        let mut bisection = self.below(high, rate);
        for _ in 0..self.steps {
            bisection.step(testbed)?;
        }
        Ok(bisection.best)
    }

    /// The same for one who takes the steps himself, as between those of other searches.
    pub fn below(&self, high: f64, rate: fn(f64) -> Rate) -> Bisection {
        Bisection { search: *self, rate, low: high / self.range, high, best: None }
    }
}

/// A search under way.
#[derive(Debug)]
pub struct Bisection {
    search: Search,
    rate: fn(f64) -> Rate,
    low: f64,
    high: f64,
    /// The trial at the highest load that passed so far.
    pub best: Option<Trial>,
}

impl Bisection {
    /// Halves what is left, on the logarithmic scale.
    ///
    /// # Errors
    /// See [`Testbed::trial`].
    pub fn step(&mut self, testbed: &Testbed<'_>) -> Result<()> {
        let middle = (self.low * self.high).sqrt();
        match self.passes(testbed, middle)? {
            Some(trial) => {
                self.low = middle;
                self.best = Some(trial);
            }
            None => self.high = middle,
        }
        Ok(())
    }

    fn passes(&self, testbed: &Testbed<'_>, wanted: f64) -> Result<Option<Trial>> {
        for _ in 0..ATTEMPTS {
            let trial = testbed.trial((self.rate)(wanted), self.search.trial)?;
            if trial.loss() <= self.search.tolerance && trial.offered() >= MADE * wanted {
                return Ok(Some(trial));
            }
        }
        Ok(None)
    }
}
