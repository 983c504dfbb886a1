//! What the plugin wrote: `row NAME`, `owner NAME INSTRUCTIONS`..., `block ADDRESS OWNER INSTRUCTIONS`..., `end LOST`.

use std::collections::BTreeMap;
use std::io::BufRead;

use anyhow::{Context, Result, bail, ensure};

/// One run of one row.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Instructions by owner, by name.
    pub(crate) owners: Vec<(String, u64)>,
    /// (address, index of the owner, instructions)
    pub(crate) blocks: Vec<(u64, usize, u64)>,
}

impl Run {
    pub(crate) fn total(&self) -> u64 {
        self.owners.iter().map(|(_, instructions)| instructions).sum()
    }

    /// Of one owner; 0 if it executed nothing.
    pub(crate) fn of(&self, owner: &str) -> u64 {
        self.owners.iter().find(|(name, _)| name == owner).map_or(0, |(_, instructions)| *instructions)
    }
}

/// Reads all runs, by name.
pub(crate) fn read(input: impl BufRead) -> Result<BTreeMap<String, Run>> {
    let mut runs = BTreeMap::new();
    let mut open: Option<(String, Run)> = None;
    for line in input.lines() {
        let line = line?;
        let words: Vec<_> = line.split(' ').collect();
        match (&words[..], &mut open) {
            (["row", name], None) => open = Some(((*name).into(), Run::default())),
            (["owner", name, count], Some((_, run))) => run.owners.push(((*name).into(), count.parse()?)),
            (["block", address, owner, count], Some((_, run))) => {
                run.blocks.push((u64::from_str_radix(address, 16)?, owner.parse()?, count.parse()?));
            }
            (["end", lost], Some(_)) => {
                ensure!(*lost == "0", "the plugin lost {lost} frames: owners are wrong");
                let (name, run) = open.take().context("a row")?;
                runs.insert(name, run);
            }
            _ => bail!("the plugin wrote: {line}"),
        }
    }
    ensure!(open.is_none(), "the plugin's output ends within a row");
    Ok(runs)
}
