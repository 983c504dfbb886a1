//! The exemption of one interface's fragments while `run` runs.

use std::io;

use ipnet::IpNet;

use super::{Assessment, assess};
use crate::config::Choice;
use crate::control::finding::{Finding, Level};
use crate::net::links;
use crate::net::nft::{Table, Untracked};

/// Name of the table for an interface.
pub(super) fn table(interface: &str) -> String {
    format!("xdpfrag-{interface}")
}

/// Keeps the exemption in step with rules and policies. Dropped, or if the process ends in any way, it is gone.
#[derive(Debug)]
pub struct Exemption {
    interface: String,
    notrack: Choice,
    /// TCP is fragmented, too.
    tcp: bool,
    table: Option<(Vec<Untracked>, Table)>,
    said: Option<Finding>,
}

impl Exemption {
    /// None yet. `tcp` is true if TCP is fragmented.
    pub fn new(interface: &str, notrack: Choice, tcp: bool) -> Exemption {
        Exemption { interface: interface.to_owned(), notrack, tcp, table: None, said: None }
    }

    /// Goes by other flags from the next [`follow`](Exemption::follow) on.
    pub fn change(&mut self, notrack: Choice, tcp: bool) {
        (self.notrack, self.tcp) = (notrack, tcp);
    }

    /// Makes, changes or withdraws the exemption as rules and policies ask for, for destinations in `scope`, and
    /// says so. Without it packets still arrive: a failure is said, not returned.
    pub fn follow(&mut self, scope: &[IpNet], say: &dyn Fn(&str)) {
        let finding = match self.try_follow(scope) {
            Ok(assessment) => assessment.finding(&self.interface, self.notrack),
            Err(error) => {
                self.table = None;
                Finding::warning(super::WHAT, format!("fragments are not exempt: {error}"))
            }
        };
        // A gateway without the trouble hears nothing of it.
        let silent = finding.level == Level::Ok && self.table.is_none() && self.said.is_none();
        if !silent && self.said.as_ref() != Some(&finding) {
            let level = if finding.level == Level::Warning { "warning: " } else { "" };
            say(&format!("{}: {level}{finding}", self.interface));
            self.said = Some(finding);
        }
    }

    fn try_follow(&mut self, scope: &[IpNet]) -> io::Result<Assessment> {
        let link = links::find(&self.interface)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let assessment = assess(&link, scope)?;
        let wanted = match assessment.exempts(self.notrack) {
            true => assessment.untracked(&link, self.tcp)?,
            false => Vec::new(),
        };
        if self.table.as_ref().map_or(&[][..], |(has, _)| has) != wanted {
            self.table = None;
            if !wanted.is_empty() {
                let table = Table::untrack(&table(&self.interface), &wanted)?;
                self.table = Some((wanted, table));
            }
        }
        Ok(assessment)
    }
}
