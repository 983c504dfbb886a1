//! What a row may cost, and whether it does: no I/O, so that `tests/count.rs` can try it.
//!
//! A budget file is text, one for each kernel and cipher:
//!
//! ```text
//! release 6.12.94+deb13-amd64
//! row policy/nothing/udp1400 26154 1
//!   esp aes_gcm_enc_update_vaes_avx2 3120
//! ```
//!
//! that is a row's instructions per datagram and by how many per cent it may exceed them, and below it those per datagram
//! of each function that makes up a hundredth of the row or more, under whose account they were executed. Lines that begin
//! with `#` are comments.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

/// A row's share from which a function is kept.
const KEPT: f64 = 0.01;
/// How many changed functions are named.
const NAMED: usize = 8;

/// Instructions per datagram by `OWNER FUNCTION`.
pub(crate) type Functions = BTreeMap<String, f64>;

/// What a row costs.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Cost {
    pub(crate) instructions: f64,
    pub(crate) functions: Functions,
}

/// What a row may cost.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) cost: Cost,
    /// Per cent.
    pub(crate) bound: f64,
}

/// The budgets of one kernel and cipher.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Budget {
    /// The kernel that they were counted on, as `uname -r` has it.
    pub(crate) release: String,
    pub(crate) rows: BTreeMap<String, Line>,
}

/// What is to be said of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Finding {
    /// More than its budget and the bound: the check fails.
    Above(String),
    /// Less than its budget by more than the bound, which another change could use up unseen.
    Below(String),
    /// No budget: the check fails as well.
    Unknown(String),
}

impl Budget {
    /// Reads a budget file.
    ///
    /// # Errors
    /// Names the line that is not as it should be.
    pub(crate) fn parse(text: &str) -> Result<Budget> {
        let mut budget = Budget::default();
        let mut row = None;
        for (number, line) in text.lines().enumerate() {
            let context = || format!("line {}: {line}", number + 1);
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["release", release] => budget.release = release.into(),
                ["row", name, instructions, bound] => {
                    let instructions = instructions.parse().with_context(context)?;
                    let bound = bound.parse().with_context(context)?;
                    let cost = Cost { instructions, functions: Functions::new() };
                    budget.rows.insert(name.into(), Line { cost, bound });
                    row = Some(name.to_owned());
                }
                [owner, ref function @ .., instructions] if line.starts_with(' ') && !function.is_empty() => {
                    let name = row.as_ref().with_context(|| format!("{}: of no row", context()))?;
                    let line = budget.rows.get_mut(name).with_context(context)?;
                    let function = format!("{owner} {}", function.join(" "));
                    line.cost.functions.insert(function, instructions.parse().with_context(context)?);
                }
                _ => bail!("{}: neither release nor row nor function", context()),
            }
        }
        Ok(budget)
    }

    /// Writes a budget file; `comment` goes first.
    pub(crate) fn text(&self, comment: &str) -> String {
        let mut text: String = comment.lines().map(|line| format!("# {line}\n")).collect();
        let _ = writeln!(text, "release {}", self.release);
        for (name, Line { cost, bound }) in &self.rows {
            let _ = writeln!(text, "row {name} {:.0} {bound}", cost.instructions);
            for (function, instructions) in cost.kept() {
                let _ = writeln!(text, "  {function} {instructions:.0}");
            }
        }
        text
    }

    /// Compares what was counted. Rows that were not counted are nobody's business here.
    pub(crate) fn check(&self, counted: &BTreeMap<String, Cost>) -> Vec<Finding> {
        counted.iter().filter_map(|(row, cost)| self.judge(row, cost)).collect()
    }

    fn judge(&self, row: &str, cost: &Cost) -> Option<Finding> {
        let Some(Line { cost: allowed, bound }) = self.rows.get(row) else {
            return Some(Finding::Unknown(format!(
                "{row}: {:.0} instructions, and no budget",
                cost.instructions
            )));
        };
        let percent = 100.0 * (cost.instructions / allowed.instructions - 1.0);
        let said = format!(
            "{row}: {:.0} instructions, {percent:+.2} % of its budget of {:.0} (bound {bound} %)",
            cost.instructions, allowed.instructions
        );
        match percent {
            percent if percent > *bound => Some(Finding::Above(format!("{said}{}", cost.since(allowed)))),
            percent if percent < -bound => Some(Finding::Below(said)),
            _ => None,
        }
    }
}

impl Cost {
    /// The functions that make up a hundredth or more, the most first.
    fn kept(&self) -> Vec<(&str, f64)> {
        let all = self.functions.iter().map(|(function, instructions)| (function.as_str(), *instructions));
        let mut kept: Vec<_> = all.filter(|(_, own)| *own >= KEPT * self.instructions).collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        kept
    }

    /// Lines that say which functions changed most. One whose budget is not kept had less than a hundredth.
    pub(crate) fn since(&self, before: &Cost) -> String {
        let unkept = KEPT * before.instructions;
        let mut changes: Vec<_> = self
            .functions
            .iter()
            .map(|(function, now)| (function, *now, before.functions.get(function).copied()))
            .chain(
                before
                    .functions
                    .iter()
                    .filter(|(function, _)| !self.functions.contains_key(*function))
                    .map(|(function, then)| (function, 0.0, Some(*then))),
            )
            .filter(|(_, now, then)| then.is_some() || *now > unkept)
            .map(|(function, now, then)| (function, now, then, now - then.unwrap_or(0.0)))
            .filter(|(_, now, then, change)| change.abs() >= 1.0 && (then.is_some() || *now > unkept))
            .collect();
        changes.sort_by(|a, b| b.3.abs().total_cmp(&a.3.abs()));
        let line = |(function, now, then, change): &(&String, f64, Option<f64>, f64)| match then {
            Some(then) => format!("\n    {change:+.0} {function} ({then:.0} to {now:.0})"),
            None => format!("\n    {change:+.0} or less {function} (new, or below a hundredth before)"),
        };
        changes.iter().take(NAMED).map(line).collect()
    }
}
