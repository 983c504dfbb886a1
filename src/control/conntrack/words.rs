//! What is said of connection tracking.

use super::dependence::{Asks, Dependence, FORWARD, POSTROUTING};
use super::{Assessment, NAMED, WHAT, exemption};
use crate::config::Notrack;
use crate::control::finding::Finding;

impl Assessment {
    /// For `check` and the log.
    pub fn finding(&self, interface: &str, notrack: Notrack) -> Finding {
        if !self.tracking {
            return Finding::ok(WHAT, "no connections are tracked: fragments stay fragments");
        }
        if self.undone.is_empty() {
            let why = "in use; fragments are put together for the rules and, on the way into an xfrm interface, made \
                       again (no policy without one has IPv4 networks of the scope)";
            return Finding::ok(WHAT, why);
        }
        let networks = self.networks();
        if self.exempts(notrack) {
            let why = format!(
                "would put fragments {networks} together again: they are exempt while `run` runs (table ip {})",
                exemption::table(interface)
            );
            return match self.safe() {
                true => Finding::ok(WHAT, why),
                false => Finding::note(WHAT, format!("{why}, as asked, although {}", self.obstacles())),
            };
        }
        let undone = format!(
            "puts fragments {networks} together again, so that the kernel encrypts whole packets and fragments the ESP \
             (datagrams that go by gso are not concerned)"
        );
        let why = match self.safe() {
            true => format!("{undone}; --notrack off"),
            false => format!(
                "{undone}; they cannot be exempt, because {}: see docs/conntrack.md",
                self.obstacles()
            ),
        };
        Finding::warning(WHAT, why).remedy(self.remedy())
    }

    fn networks(&self) -> String {
        let pairs = self.undone.iter().map(|(source, destination)| format!("from {source} to {destination}"));
        let named = pairs.take(NAMED).collect::<Vec<_>>().join(", ");
        match self.undone.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named} and {more} more"),
        }
    }

    /// What depends on connections or ports.
    fn obstacles(&self) -> String {
        let (ports, tracked): (Vec<_>, Vec<_>) =
            self.dependences.iter().partition(|one| one.asks == Asks::Ports);
        let named = |all: &[&Dependence]| {
            let mut named: Vec<_> = all.iter().take(NAMED).map(ToString::to_string).collect();
            if all.len() > NAMED {
                named.push("others".to_owned());
            }
            named
        };
        let mut tracked = named(&tracked);
        if !self.legacy.is_empty() {
            tracked.push(format!("the tables of iptables-legacy ({}), unread,", self.legacy.join(", ")));
        }
        let mut obstacles = Vec::new();
        if !tracked.is_empty() {
            obstacles.push(format!("{} may ask for their connection", tracked.join(", ")));
        }
        if !ports.is_empty() {
            let ports = named(&ports).join(", ");
            obstacles.push(format!("{ports} may ask for ports, which only first fragments have"));
        }
        obstacles.extend(self.routing_asks.clone());
        obstacles.join(", and ")
    }

    /// If one chain alone is in the way, by translating source addresses or by ports: a rule in front of it. Else TCP at
    /// least.
    fn remedy(&self) -> String {
        if self.safe() {
            return "xdpfrag run ... --notrack auto".to_owned();
        }
        self.rule().unwrap_or_else(|| match self.tcp {
            true => "xdpfrag run ... --tcp resegment  # for TCP".to_owned(),
            false => {
                "# what is neither UDP nor TCP is concerned: an xfrm interface helps, see docs/conntrack.md"
                    .to_owned()
            }
        })
    }

    /// A rule that takes tunnels, or fragments on their way into one, out of the chain that is in the way.
    fn rule(&self) -> Option<String> {
        let first = self.dependences.first()?;
        if !self.legacy.is_empty()
            || self.routing_asks.is_some()
            || !self.dependences.iter().all(|one| one.like(first))
        {
            return None;
        }
        let Dependence { family, table, chain, .. } = first;
        match (first.asks, first.hook?, chain.as_str()) {
            (Asks::Translation, POSTROUTING, "POSTROUTING") => {
                Some("iptables -t nat -I POSTROUTING -m policy --dir out --pol ipsec -j ACCEPT".to_owned())
            }
            (Asks::Translation, POSTROUTING, _) => {
                Some(format!("nft insert rule {family} {table} {chain} rt ipsec exists accept"))
            }
            (Asks::Ports, FORWARD, "FORWARD") => {
                Some(format!("iptables -t {table} -I FORWARD -m policy --dir out --pol ipsec -f -j ACCEPT"))
            }
            (Asks::Ports, FORWARD | POSTROUTING, _) => Some(format!(
                "nft insert rule {family} {table} {chain} 'rt ipsec exists ip frag-off & 0x1fff != 0 accept'"
            )),
            _ => None,
        }
    }
}
