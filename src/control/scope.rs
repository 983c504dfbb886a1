//! What the BPF maps say about scope, and how it is changed under traffic.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::config::Scope;
use crate::packet::Rule;
use crate::xdp::{Error, LanProgram, Route};

/// A packet may have read a route just before it changed, and look for its source up to this long after.
const GRACE: Duration = Duration::from_millis(100);

type Sources = BTreeMap<IpNet, Option<Rule>>;

/// The scope that a program has in its maps.
///
/// Changes are differences, and no packet that is in scope before and after is out of it in between: what stays is
/// overwritten in place, new sources are complete before a route refers to them, longer prefixes are set before and
/// removed after the shorter ones around them. What is noted here is what the maps hold after each single change, so that
/// a call that failed half-way can be made again, with the same scope or another.
#[derive(Debug, Default)]
pub struct Applied {
    scope: Scope,
    local: BTreeSet<IpAddr>,
    /// Under which number the sources of a prefix are, of those that need one.
    selectors: BTreeMap<IpNet, u32>,
    last_selector: u32,
    /// Sources that no route has referred to since then.
    retired: Vec<(Instant, u32, Vec<IpNet>)>,
}

impl Applied {
    /// Makes `program` treat packets as `scope` says.
    ///
    /// # Errors
    /// If a map is full or the kernel is out of memory; what was changed by then stays, and the call can be made again.
    pub fn apply(&mut self, program: &LanProgram, scope: &Scope) -> Result<(), Error> {
        self.sweep(program);
        let mut prefixes: Vec<IpNet> = scope.0.keys().copied().collect();
        prefixes.sort_by_key(|prefix| Reverse(prefix.prefix_len()));
        for prefix in prefixes {
            let Some(sources) = scope.0.get(&prefix) else { continue };
            if self.scope.0.get(&prefix) != Some(sources) {
                self.set(program, prefix, sources)?;
            }
        }
        let mut gone: Vec<IpNet> =
            self.scope.0.keys().copied().filter(|prefix| !scope.0.contains_key(prefix)).collect();
        gone.sort_by_key(IpNet::prefix_len);
        for prefix in gone {
            if !self.is_local(prefix) {
                program.remove_route(prefix)?;
            }
            self.retire(prefix);
            self.scope.0.remove(&prefix);
        }
        Ok(())
    }

    /// Makes `program` pass packets to the addresses in `now`, and to no others for this reason.
    ///
    /// # Errors
    /// As [`apply`](Applied::apply).
    pub fn follow_addresses(&mut self, program: &LanProgram, now: BTreeSet<IpAddr>) -> Result<(), Error> {
        let new: Vec<IpAddr> = now.difference(&self.local).copied().collect();
        for address in new {
            program.set_local(address)?;
            self.local.insert(address);
        }
        let gone: Vec<IpAddr> = self.local.difference(&now).copied().collect();
        for address in gone {
            // The address may be a prefix of the scope as well: back to that.
            let prefix = IpNet::from(address);
            match self.scope.0.get(&prefix) {
                Some(sources) => program.set_route(prefix, route(sources, self.selectors.get(&prefix)))?,
                None => program.remove_route(prefix)?,
            }
            self.local.remove(&address);
        }
        Ok(())
    }

    /// The scope as it is in the maps.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Removes the sources that nobody looks at any more. Those that cannot be removed now are tried again with the next
    /// change: they cost no packet anything.
    fn sweep(&mut self, program: &LanProgram) {
        let now = Instant::now();
        self.retired.retain_mut(|(since, selector, sources)| {
            if now.duration_since(*since) >= GRACE {
                let stays = |removed: Result<(), Error>| removed.is_err_and(|error| !error.is_missing());
                sources.retain(|source| stays(program.remove_source(*selector, *source)));
            }
            !sources.is_empty()
        });
    }

    fn set(&mut self, program: &LanProgram, prefix: IpNet, sources: &Sources) -> Result<(), Error> {
        let selector = self.selectors.get(&prefix).copied();
        match (self.scope.0.get_mut(&prefix), selector) {
            (Some(before), Some(selector))
                if before.keys().eq(sources.keys()) && everyone(sources).is_none() =>
            {
                for (source, rule) in sources {
                    if before.get(source) != Some(rule) {
                        program.set_source(selector, *source, fixed(*rule))?;
                        before.insert(*source, *rule);
                    }
                }
                Ok(())
            }
            _ => self.exchange(program, prefix, sources),
        }
    }

    /// Has `prefix` refer to `sources`; those of before are removed once nobody can be on the way to them.
    fn exchange(&mut self, program: &LanProgram, prefix: IpNet, sources: &Sources) -> Result<(), Error> {
        let selector = everyone(sources).is_none().then(|| {
            // Never one that failed: what it left is on its way out.
            self.last_selector += 1;
            self.last_selector
        });
        if let Err(error) = self.fill(program, prefix, selector, sources) {
            // No route names them. Some may not be there.
            if let Some(selector) = selector {
                self.retired.push((Instant::now(), selector, sources.keys().copied().collect()));
            }
            return Err(error);
        }
        self.retire(prefix);
        if let Some(selector) = selector {
            self.selectors.insert(prefix, selector);
        }
        self.scope.0.insert(prefix, sources.clone());
        Ok(())
    }

    fn fill(
        &self,
        program: &LanProgram,
        prefix: IpNet,
        selector: Option<u32>,
        sources: &Sources,
    ) -> Result<(), Error> {
        for (selector, (source, rule)) in
            selector.into_iter().flat_map(|s| sources.iter().map(move |e| (s, e)))
        {
            program.set_source(selector, *source, fixed(*rule))?;
        }
        match self.is_local(prefix) {
            true => Ok(()),
            false => program.set_route(prefix, route(sources, selector.as_ref())),
        }
    }

    /// Puts the sources of `prefix`, if it has any, with those to be removed.
    fn retire(&mut self, prefix: IpNet) {
        if let Some(selector) = self.selectors.remove(&prefix) {
            let sources = self.scope.0.get(&prefix).map(|sources| sources.keys().copied().collect());
            self.retired.push((Instant::now(), selector, sources.unwrap_or_default()));
        }
    }

    fn is_local(&self, prefix: IpNet) -> bool {
        prefix.prefix_len() == prefix.max_prefix_len() && self.local.contains(&prefix.addr())
    }
}

/// What holds for every source; `None` if that depends on it.
fn everyone(sources: &Sources) -> Option<Option<Rule>> {
    match sources.iter().next() {
        None => Some(None),
        Some((source, rule)) if sources.len() == 1 && source.prefix_len() == 0 => Some(*rule),
        Some(_) => None,
    }
}

/// The route of a prefix whose sources are under `selector`, if it needs one.
fn route(sources: &Sources, selector: Option<&u32>) -> Route {
    match (everyone(sources), selector) {
        (None, Some(selector)) => Route::BySource(*selector),
        (rule, _) => fixed(rule.flatten()),
    }
}

fn fixed(rule: Option<Rule>) -> Route {
    rule.map_or(Route::Pass, Route::Tunnel)
}
