//! By which way an oversize IPv4 packet is made to fit: what `control` decides for each route and all else obeys.
//!
//! What the kernel looks at to decide about a packet (IPsec policies, routing, firewall, connections, NAT) has to see it
//! whole. Separate from [`transform`](super::transform), which is what a worker does, because most ways need no worker.

use std::fmt;

/// A way (`enum xf_way` in `bpf/intf.h`, with the same discriminants).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Way {
    /// A worker cuts it into fragments: nothing looks at ports there, or tracks connections.
    #[default]
    Fragments,
    /// It loses DF and gets a fresh identification; the kernel fragments it where it leaves (`ip_do_fragment()`), which
    /// is before it is encrypted.
    Edit,
    /// A worker hands a UDP datagram back whole, for the kernel to fragment before it encrypts
    /// (`udp4_ufo_fragment()`).
    Gso,
    /// It is left alone: by any other way it would miss a policy, a rule or a route.
    Pass,
}

impl Way {
    /// Every way, in the order of its discriminant.
    pub const ALL: [Way; 4] = [Way::Fragments, Way::Edit, Way::Gso, Way::Pass];

    /// The name in tables, metrics and messages.
    pub const fn label(self) -> &'static str {
        match self {
            Way::Fragments => "fragments",
            Way::Edit => "edit",
            Way::Gso => "gso",
            Way::Pass => "pass",
        }
    }
}

/// The ways of a route. TCP that is cut into segments (`--tcp resegment`) goes by none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ways {
    /// Of whole UDP datagrams.
    pub udp: Way,
    /// Of other packets: never [`Way::Gso`]. Fragments that the sender made have no ports that anything could ask
    /// for, so that they are cut where this is [`Way::Pass`].
    pub other: Way,
}

impl Ways {
    /// Workers cut everything.
    pub const FRAGMENTS: Ways = Ways { udp: Way::Fragments, other: Way::Fragments };
    /// The kernel cuts everything.
    pub const EDIT: Ways = Ways { udp: Way::Edit, other: Way::Edit };
    /// Everything is left alone.
    pub const PASS: Ways = Ways { udp: Way::Pass, other: Way::Pass };
}

impl fmt::Display for Ways {
    /// `edit`, or `gso for UDP, else pass`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ways { udp, other } = self;
        match udp == other {
            true => f.write_str(udp.label()),
            false => write!(f, "{} for UDP, else {}", udp.label(), other.label()),
        }
    }
}
