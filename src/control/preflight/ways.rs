//! By which ways oversize packets would be made to fit, and how they could go by a better one.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ipnet::IpNet;

use crate::config::{Mode, Plan};
use crate::control::conntrack::{Assessment, Exempt, Machine};
use crate::control::finding::Finding;
use crate::control::tunnels::{Found, Seen, Tunnels, pair_of};
use crate::handback::tap::DEVICE;
use crate::ipsec::scope::Tunnel;
use crate::ipsec::ways::Wide;
use crate::net::links;
use crate::packet::{Tcp, Way};

/// What the findings are about.
const WHAT: &str = "way";
/// Prefixes named in a finding.
const NAMED: usize = 3;
/// As long as a packet can be.
const LONGEST: u16 = u16::MAX;

/// What `run` with this plan would find on `interface` at this moment, by the code that it goes by.
pub fn ways(interface: &str, plan: &Plan) -> Vec<Finding> {
    match find(interface, plan) {
        Ok(found) => findings(&found),
        // Other findings say what is wrong with the interface, or with XFRM.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPROTONOSUPPORT)) => {
            Vec::new()
        }
        Err(error) => {
            let why = format!(
                "cannot be told, because the machine's tunnels, routes or rules cannot be read: {error}"
            );
            vec![Finding::warning(WHAT, why)]
        }
    }
}

/// What is in scope once fragments are exempt from connection tracking that `run` exempts.
fn find(interface: &str, plan: &Plan) -> io::Result<Found> {
    let lan = links::find(interface)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    let (tunnels, machine) = (Tunnels::read(plan)?, Machine::read());
    let tap = plan.handback.may_be_tap() && plan.mode != Mode::Generic && Path::new(DEVICE).exists();
    let scope = |exempt: &Exempt| {
        let seen = Seen { tunnels: &tunnels, machine: machine.as_ref(), exempt, tap };
        seen.scope(&lan, plan.auto.as_ref(), &plan.treatment, LONGEST)
    };
    let found = scope(&Exempt::new())?;
    let Ok(machine) = &machine else { return Ok(found) };
    let served = found.table.0.iter().filter(|(_, sources)| sources.values().any(Option::is_some));
    let prefixes: Vec<IpNet> = served.map(|(prefix, _)| *prefix).collect();
    let tcp = plan.treatment.tcp == Tcp::Fragment;
    let routing_asks = tunnels.routing_asks();
    let assessment = Assessment { routing_asks, ..machine.assess(&lan, &prefixes, tcp) };
    match assessment.exempts(plan.notrack) {
        true => scope(&assessment.undone),
        false => Ok(found),
    }
}

/// Destination and source, and what holds between them.
type Row<'a> = ((IpNet, IpNet), &'a Tunnel);

/// One for all prefixes of which the same is true.
fn findings(found: &Found) -> Vec<Finding> {
    let mut alike: BTreeMap<(&str, String), Vec<Row<'_>>> = BTreeMap::new();
    for (destination, sources) in &found.table.0 {
        for (source, tunnel) in sources {
            let Some(tunnel) = tunnel.as_ref().filter(|tunnel| !tunnel.why.is_empty()) else { continue };
            let key = (tunnel.why.as_str(), tunnel.ways.to_string());
            alike.entry(key).or_default().push(((*destination, *source), tunnel));
        }
    }
    let mut findings: Vec<Finding> = alike.values().filter_map(|rows| finding(rows)).collect();
    findings.extend(wider(found));
    findings
}

fn finding(rows: &[Row<'_>]) -> Option<Finding> {
    let (_, Tunnel { ways, why, .. }) = rows.first()?;
    let mut pairs = rows.iter().take(NAMED).map(|(pair, _)| pair_of(pair)).collect::<Vec<_>>().join(", ");
    if rows.len() > NAMED {
        pairs += &format!(" and {} more", rows.len() - NAMED);
    }
    let words = format!("oversize packets to {pairs} go by {ways}: {why}");
    let left = "what passes is left to the kernel, which refuses it as it would without xdpfrag";
    Some(match (ways.udp, ways.other) {
        (Way::Pass, _) => Finding::warning(WHAT, format!("{words}; {left}")),
        (_, Way::Pass) => Finding::note(WHAT, format!("{words}; {left}")),
        (Way::Gso, _) => Finding::note(WHAT, words),
        _ => Finding::ok(WHAT, words),
    })
}

/// Tunnels whose interface takes longer packets than their SAs carry: one finding for each interface.
fn wider(found: &Found) -> Vec<Finding> {
    let mut devices: BTreeMap<(&str, bool), (u32, u16)> = BTreeMap::new();
    for tunnel in found.table.0.values().flat_map(BTreeMap::values).flatten() {
        if let Some(Wide { device, mtu, of_route }) = &tunnel.wide {
            let (_, least) = devices.entry((device, *of_route)).or_insert((*mtu, tunnel.mtu));
            *least = tunnel.mtu.min(*least);
        }
    }
    let finding = |((device, of_route), (mtu, sa_mtu)): ((&str, bool), (u32, u16))| {
        let what = if of_route { format!("a route over {device}") } else { device.to_owned() };
        let why = format!(
            "{what} has MTU {mtu}, and its SAs carry {sa_mtu}: with an MTU of {sa_mtu} the kernel would cut packets itself \
             before it encrypts them (way edit), so that they need no worker and cross the stack once, whatever asks for \
             their ports"
        );
        Finding::note(WHAT, why).remedy(match of_route {
            true => format!("ip route change PREFIX dev {device} mtu {sa_mtu}  # the route with the MTU"),
            false => format!("ip link set {device} mtu {sa_mtu}"),
        })
    };
    devices.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::finding::Level;
    use crate::ipsec::scope::{Table, Via};
    use crate::packet::Ways;

    fn found(rows: &[(&str, &str, Tunnel)]) -> Found {
        let mut table = Table::default();
        for (to, from, tunnel) in rows {
            let sources = table.0.entry(to.parse().unwrap()).or_default();
            sources.insert(from.parse().unwrap(), Some(tunnel.clone()));
        }
        Found { table, ..Found::default() }
    }

    fn tunnel(udp: Way, other: Way) -> Tunnel {
        let (via, spis, why) = (Via::Policy, Default::default(), "because".to_owned());
        Tunnel { mtu: 1422, via, spis, ways: Ways { udp, other }, why, wide: None }
    }

    #[test]
    fn what_is_left_to_the_kernel_is_a_warning_and_the_same_is_said_once() {
        let any = "0.0.0.0/0";
        let findings = findings(&found(&[
            ("10.1.0.0/16", "10.9.0.0/16", tunnel(Way::Gso, Way::Fragments)),
            ("10.2.0.0/16", any, tunnel(Way::Gso, Way::Fragments)),
            ("10.3.0.0/16", any, tunnel(Way::Pass, Way::Pass)),
            ("10.4.0.0/16", any, tunnel(Way::Edit, Way::Edit)),
            ("10.5.0.0/16", any, tunnel(Way::Gso, Way::Pass)),
        ]));
        let levels: Vec<_> = findings.iter().map(|finding| (finding.level, finding.why.as_str())).collect();
        let left = "; what passes is left to the kernel, which refuses it as it would without xdpfrag";
        assert_eq!(
            levels,
            [
                (Level::Ok, "oversize packets to 10.4.0.0/16 go by edit: because"),
                (
                    Level::Note,
                    "oversize packets to 10.1.0.0/16 from 10.9.0.0/16, 10.2.0.0/16 go by gso for UDP, else fragments: \
                     because"
                ),
                (
                    Level::Note,
                    &*format!("oversize packets to 10.5.0.0/16 go by gso for UDP, else pass: because{left}")
                ),
                (Level::Warning, &*format!("oversize packets to 10.3.0.0/16 go by pass: because{left}")),
            ]
        );
    }

    #[test]
    fn an_interface_that_is_too_wide_is_named_once_with_the_least_of_its_sas() {
        let wide = |mtu, of_route| Tunnel {
            mtu,
            wide: Some(Wide { device: "xfrm0".into(), mtu: 1500, of_route }),
            ..tunnel(Way::Fragments, Way::Fragments)
        };
        let any = "0.0.0.0/0";
        let rows = [("10.1.0.0/16", any, wide(1438, false)), ("10.2.0.0/16", any, wide(1422, false))];
        let remedies = |rows: &[_]| -> Vec<_> {
            findings(&found(rows)).into_iter().filter_map(|finding| finding.remedy).collect()
        };
        assert_eq!(remedies(&rows), ["ip link set xfrm0 mtu 1422"]);
        assert!(remedies(&[("10.1.0.0/16", any, wide(1438, true))])[0].contains("mtu 1438"));
    }
}
