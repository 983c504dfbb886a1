//! By which way oversize packets are made to fit, from what meets them on their way.
//!
//! Fragments have no ports: an IPsec policy, a rule of policy routing or of a firewall that asks for some does not match
//! them (`xfrm_decode_session()` reads none from the first fragment either). So what is asked for ports goes on whole,
//! and is cut after the lookups and before it is encrypted: by the kernel, or not at all.

use crate::packet::{Way, Ways};

/// Connection tracking of the packets between two prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tracking {
    /// There is none.
    #[default]
    None,
    /// Fragments are exempt from it (`--notrack`).
    Exempt,
    /// There may be some.
    Possible,
    /// A rule makes the kernel track, so that it makes all fragments whole before it looks at them
    /// (`nf_defrag_ipv4`).
    Certain,
}

/// Who asks for ports: a clause each, for whole UDP datagrams and for other packets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Of UDP.
    pub udp: Option<String>,
    /// Of the others: ICMP types are the same to them.
    pub other: Option<String>,
}

impl Asked {
    /// Somebody who asks whatever the protocol.
    pub fn both(who: impl Into<String>) -> Asked {
        let who = Some(who.into());
        Asked { udp: who.clone(), other: who }
    }

    /// The first of the two that is known.
    #[must_use]
    pub fn or(self, then: Asked) -> Asked {
        Asked { udp: self.udp.or(then.udp), other: self.other.or(then.other) }
    }
}

/// What the rules of a firewall make of the packets between two prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// A rule that then does something.
    pub asked: Asked,
    /// The state of connection tracking.
    pub tracking: Tracking,
    /// That a rule queues packets to user space, which damages what is to be cut later: a clause.
    pub queue: Option<String>,
}

/// An XFRM interface or a VTI that takes longer packets than its SAs carry: all that keeps the kernel from cutting them by
/// itself before it encrypts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wide {
    /// Name of the device.
    pub device: String,
    /// MTU of the route, or of the device, bytes.
    pub mtu: u32,
    /// It is that of the route.
    pub of_route: bool,
}

/// All that the choice depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// The kernel cuts before it encrypts, whatever route packets take: what says so, in words.
    pub edit: Option<String>,
    /// Policies without an interface and rules of policy routing that ask for ports.
    pub asked: Asked,
    /// Policies of the interface that packets leave by: they see fragments however packets came there. What was put
    /// together is cut again in front of an interface, and so is what was handed back whole (`validate_xmit_skb()`: an
    /// interface has no UFO).
    pub asked_behind: Asked,
    /// The firewall.
    pub rules: Rules,
    /// A worker can hand a datagram back for the kernel to cut.
    pub tap: bool,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The ways.
    pub ways: Ways,
    /// Why, in words.
    pub why: String,
}

/// The ways that lead past nobody who decides about these packets. Where that cannot be told they are left alone.
pub fn choose(seen: &Circumstances) -> Choice {
    if let Some(why) = &seen.edit {
        return Choice { ways: Ways::EDIT, why: why.clone() };
    }
    let Rules { asked, tracking, queue } = &seen.rules;
    let ahead = seen.asked.clone().or(asked.clone());
    let behind = &seen.asked_behind;
    let put_together = *tracking == Tracking::Certain;
    let tracked = put_together || *tracking == Tracking::Possible;
    let as_fragments = |ahead: &Option<String>, behind: &Option<String>| match behind.is_none()
        && (ahead.is_none() || put_together)
    {
        true => Way::Fragments,
        false => Way::Pass,
    };
    let wants_whole = behind.udp.is_none() && (ahead.udp.is_some() || tracked);
    let udp = match wants_whole && seen.tap && queue.is_none() {
        true => Way::Gso,
        false => as_fragments(&ahead.udp, &behind.udp),
    };
    let ways = Ways { udp, other: as_fragments(&ahead.other, &behind.other) };
    let first = |asked: &Asked| asked.udp.clone().or_else(|| asked.other.clone());
    let mut why = match (first(behind), first(&ahead)) {
        (Some(who), _) => format!("{who}, and the kernel cuts in front of its interface"),
        (None, Some(who)) => who,
        (None, None) if tracked => "connections are tracked".to_owned(),
        (None, None) if *tracking == Tracking::Exempt => {
            "nothing on the way asks for ports, and fragments are exempt from connection tracking".to_owned()
        }
        (None, None) => "nothing on the way asks for ports or tracks connections".to_owned(),
    };
    if wants_whole && udp != Way::Gso {
        why += &match queue {
            Some(rule) => format!("; datagrams cannot be handed back whole, because {rule}"),
            None => "; datagrams cannot be handed back whole here".to_owned(),
        };
    }
    Choice { ways, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who asks for ports.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Asks {
        Nobody,
        Udp,
        Other,
        Both,
    }

    impl Asks {
        const ALL: [Asks; 4] = [Asks::Nobody, Asks::Udp, Asks::Other, Asks::Both];

        fn asked(self, who: &str) -> Asked {
            let who = |asks: bool| asks.then(|| who.to_owned());
            Asked { udp: who(self.of_udp()), other: who(self.of_other()) }
        }

        fn of_udp(self) -> bool {
            matches!(self, Asks::Udp | Asks::Both)
        }

        fn of_other(self) -> bool {
            matches!(self, Asks::Other | Asks::Both)
        }
    }

    const TRACKINGS: [Tracking; 4] =
        [Tracking::None, Tracking::Exempt, Tracking::Possible, Tracking::Certain];

    fn circumstances() -> Circumstances {
        Circumstances {
            edit: None,
            asked: Asked::default(),
            asked_behind: Asked::default(),
            rules: Rules::default(),
            tap: true,
        }
    }

    /// Each row: who asks for ports in front of the route's device, how connections are tracked, whether datagrams can be
    /// handed back whole; then the ways.
    #[test]
    fn what_asks_for_ports_meets_whole_packets_or_none() {
        use Asks::{Both, Nobody, Other, Udp};
        use Tracking::{Certain, Exempt, None, Possible};
        let table = [
            (Nobody, None, true, "fragments"),
            (Nobody, None, false, "fragments"),
            (Nobody, Exempt, true, "fragments"),
            (Nobody, Exempt, false, "fragments"),
            (Nobody, Possible, true, "gso for UDP, else fragments"),
            (Nobody, Possible, false, "fragments"),
            (Nobody, Certain, true, "gso for UDP, else fragments"),
            (Nobody, Certain, false, "fragments"),
            (Udp, None, true, "gso for UDP, else fragments"),
            (Udp, None, false, "pass for UDP, else fragments"),
            (Udp, Exempt, true, "gso for UDP, else fragments"),
            (Udp, Exempt, false, "pass for UDP, else fragments"),
            (Udp, Possible, true, "gso for UDP, else fragments"),
            (Udp, Possible, false, "pass for UDP, else fragments"),
            (Udp, Certain, true, "gso for UDP, else fragments"),
            (Udp, Certain, false, "fragments"),
            (Other, None, true, "fragments for UDP, else pass"),
            (Other, None, false, "fragments for UDP, else pass"),
            (Other, Exempt, true, "fragments for UDP, else pass"),
            (Other, Exempt, false, "fragments for UDP, else pass"),
            (Other, Possible, true, "gso for UDP, else pass"),
            (Other, Possible, false, "fragments for UDP, else pass"),
            (Other, Certain, true, "gso for UDP, else fragments"),
            (Other, Certain, false, "fragments"),
            (Both, None, true, "gso for UDP, else pass"),
            (Both, None, false, "pass"),
            (Both, Exempt, true, "gso for UDP, else pass"),
            (Both, Exempt, false, "pass"),
            (Both, Possible, true, "gso for UDP, else pass"),
            (Both, Possible, false, "pass"),
            (Both, Certain, true, "gso for UDP, else fragments"),
            (Both, Certain, false, "fragments"),
        ];
        assert_eq!(table.len(), Asks::ALL.len() * TRACKINGS.len() * 2, "every combination");
        for (asks, tracking, tap, ways) in table {
            let policies = Circumstances {
                asked: asks.asked("a policy"),
                rules: Rules { tracking, ..Rules::default() },
                tap,
                ..circumstances()
            };
            // A rule of the firewall is as good as a policy, and a queue as bad as no TAP.
            let rules = Circumstances {
                asked: Asked::default(),
                rules: Rules {
                    asked: asks.asked("a rule"),
                    tracking,
                    queue: (!tap).then(|| "a rule".to_owned()),
                },
                tap: true,
                ..policies.clone()
            };
            for seen in [policies, rules] {
                assert_eq!(choose(&seen).ways.to_string(), ways, "{asks:?} {tracking:?} {tap}");
            }
        }
    }

    #[test]
    fn policies_of_an_interface_see_fragments_however_connections_are_tracked() {
        for (asks, tap, ways) in [
            (Asks::Udp, true, "pass for UDP, else fragments"),
            (Asks::Udp, false, "pass for UDP, else fragments"),
            (Asks::Other, false, "fragments for UDP, else pass"),
            (Asks::Both, true, "pass"),
            (Asks::Both, false, "pass"),
        ] {
            for tracking in TRACKINGS {
                let seen = Circumstances {
                    asked_behind: asks.asked("a policy of xfrm0"),
                    rules: Rules { tracking, ..Rules::default() },
                    tap,
                    ..circumstances()
                };
                assert_eq!(choose(&seen).ways.to_string(), ways, "{asks:?} {tracking:?} {tap}");
            }
        }
    }

    #[test]
    fn what_the_kernel_cuts_behind_all_lookups_needs_nothing_else() {
        for asks in Asks::ALL {
            for tracking in TRACKINGS {
                for tap in [true, false] {
                    let rules = Rules { asked: asks.asked("a rule"), tracking, queue: Some("q".to_owned()) };
                    let seen = Circumstances {
                        edit: Some("xfrm0 has MTU 1422".to_owned()),
                        rules,
                        tap,
                        ..circumstances()
                    };
                    let Choice { ways, why } = choose(&seen);
                    assert_eq!((ways, &*why), (Ways::EDIT, "xfrm0 has MTU 1422"));
                }
            }
        }
    }

    #[test]
    fn the_reason_names_who_asks_and_what_is_in_the_way() {
        let why = |seen: Circumstances| choose(&seen).why;
        let asked =
            Circumstances { asked: Asked::both("the IPsec policy A asks for ports"), ..circumstances() };
        assert_eq!(why(asked.clone()), "the IPsec policy A asks for ports");
        let rules = Rules {
            queue: Some("`queue` in table ip t queues packets to user space".to_owned()),
            ..Rules::default()
        };
        let queued = Circumstances { rules, ..asked };
        assert!(why(queued).ends_with(
            "asks for ports; datagrams cannot be handed back whole, because `queue` in table ip t queues packets to user space"
        ));
        let rules = Rules { tracking: Tracking::Possible, ..Rules::default() };
        let tracked = Circumstances { rules, ..circumstances() };
        assert_eq!(why(tracked.clone()), "connections are tracked");
        assert_eq!(
            why(Circumstances { tap: false, ..tracked }),
            "connections are tracked; datagrams cannot be handed back whole here"
        );
    }
}
