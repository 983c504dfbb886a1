//! The exemption of one interface's fragments while `run` runs.

use std::io;

use ipnet::IpNet;

use super::{Assessment, Exempt, Machine};
use crate::config::Notrack;
use crate::control::finding::{Finding, Level};
use crate::net::nft::{Table, Untracked};

/// Name of the table for an interface.
pub(super) fn table(interface: &str) -> String {
    format!("{PREFIX}{interface}")
}

const PREFIX: &str = "xdpfrag-";

/// True for the name of such a table.
pub(super) fn is_ours(table: &str) -> bool {
    table.starts_with(PREFIX)
}

/// Keeps the exemption in step with rules and policies. Dropped, or if the process ends in any way, it is gone.
#[derive(Debug)]
pub struct Exemption {
    interface: String,
    notrack: Notrack,
    /// TCP is fragmented, too.
    tcp: bool,
    table: Option<(Vec<Untracked>, Table)>,
    said: Option<Finding>,
}

impl Exemption {
    /// None yet. `tcp` is true if TCP is fragmented.
    pub fn new(interface: &str, notrack: Notrack, tcp: bool) -> Exemption {
        Exemption { interface: interface.to_owned(), notrack, tcp, table: None, said: None }
    }

    /// Goes by other flags from the next [`follow`](Exemption::follow) on.
    pub fn change(&mut self, notrack: Notrack, tcp: bool) {
        (self.notrack, self.tcp) = (notrack, tcp);
    }

    /// What is exempt now.
    pub fn exempt(&self) -> Exempt {
        let untracked = self.table.iter().flat_map(|(untracked, _)| untracked);
        untracked.map(|packets| (packets.source, packets.destination)).collect()
    }

    /// Makes, changes or withdraws the exemption as the rules and policies of `machine` ask for, for destinations in
    /// `scope`, and says so; `routing_asks` of a rule of policy routing. Without it packets still arrive: a failure, that to
    /// read `machine` included, is said, not returned.
    pub fn follow(
        &mut self,
        machine: Result<&Machine, &io::Error>,
        scope: &[IpNet],
        routing_asks: Option<String>,
        say: &dyn Fn(&str),
    ) {
        let followed = match machine {
            Ok(machine) => self.try_follow(machine, scope, routing_asks),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let finding = match followed {
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

    fn try_follow(
        &mut self,
        machine: &Machine,
        scope: &[IpNet],
        routing_asks: Option<String>,
    ) -> io::Result<Assessment> {
        let link = machine.link(&self.interface).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let assessment = Assessment { routing_asks, ..machine.assess(link, scope, self.tcp) };
        let wanted = match assessment.exempts(self.notrack) {
            true => machine.untracked(link, &assessment),
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
