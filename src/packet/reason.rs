//! Verdicts and their reasons: one list that names counters, metrics and docs.
//!
//! The discriminants are those of `enum xf_reason` and `enum xf_edit` in
//! `bpf/intf.h`, so that counters of the XDP program and of the workers add up.

/// Declares an enum with a stable label and a one-line meaning per variant.
macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $label:literal, $meaning:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $(#[doc = $meaning] $variant,)+ }

        impl $name {
            /// Every variant, in the order of its discriminant.
            pub const ALL: &[$name] = &[$($name::$variant),+];
            /// How many variants there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label in counters, metrics and tables.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label),+ }
            }

            /// What it means, in one line.
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning),+ }
            }
        }
    };
}

labelled! {
    /// Why a frame was treated as it was: exactly one per frame and stage.
    Reason {
        Fits = "fits", "fits the SA MTU; DF and MSS edited where the policy says so";
        Edited = "edited", "oversize: DF off, a fresh ID; the kernel fragments it where it leaves, before it encrypts";
        Fragmented = "fragmented", "oversize: handed back as fragments";
        HandedWhole = "handed_whole", "oversize UDP: handed back whole, for the kernel to fragment before it encrypts";
        Resegmented = "resegmented", "oversize TCP: handed back as several segments";
        KeptFlags = "kept_flags", "oversize SYN, RST or URG: not resegmented, but fragmented (IPv4) or passed (IPv6)";
        KeptSigned = "kept_signed", "oversize TCP-MD5 or TCP-AO: not resegmented, but fragmented (IPv4) or passed (IPv6)";
        KeptChecksum = "kept_checksum", "oversize TCP with a wrong checksum: not resegmented, but fragmented (IPv4) or passed (IPv6)";
        Oversize = "oversize", "longer than the SA MTU: redirected to the worker";
        Sticky = "sticky", "its flow sent an oversize frame a moment ago: redirected, to keep its order";
        All = "all", "redirected because of --redirect all";
        Unfinished = "unfinished", "a SYN to clamp whose checksum was left to hardware: redirected";
        Late = "late", "oversize TCP that the kernel makes fit behind GRO, without a way through user space (--redirect late)";
        NotIp = "not_ip", "neither IPv4 nor IPv6, or more than two VLAN tags: passed to the kernel";
        Group = "group", "multicast or broadcast destination: passed to the kernel";
        Malformed = "malformed", "a header cut short or inconsistent: passed to the kernel";
        OutOfScope = "out_of_scope", "no --dst prefix holds the destination: passed to the kernel";
        Local = "local", "to an address of this machine: passed to the kernel";
        SuperPacket = "super_packet", "longer than the LAN interface's MTU (LRO or GRO): passed to the kernel";
        TooLong = "too_long", "longer than a worker can take: passed to the kernel";
        KeptWhole = "kept_whole", "oversize: in fragments it would miss a policy, rule or route that asks for ports: passed, the kernel answers with ICMP 3/4";
        DfKept = "df_kept", "oversize with DF under --df keep: passed, the kernel answers with ICMP 3/4";
        Ipv6TooBig = "ipv6_too_big", "oversize IPv6 that is not resegmented: passed, the kernel answers with ICMPv6 2";
        Warned = "warned", "oversize under --force deaf, from a host not known to be deaf: passed, the kernel answers";
        NoWorker = "no_worker", "no live worker serves the queue: passed to the kernel";
        HandbackFull = "handback_full", "dropped: the hand-back has no buffer left";
        HandbackError = "handback_error", "dropped: the kernel refused the hand-back";
        Truncated = "truncated", "dropped: a multi-buffer frame whose end never came";
    }
}

labelled! {
    /// What was changed in a frame: any number per frame.
    Edit {
        Df = "df", "DF cleared";
        Mss = "mss", "MSS option lowered";
        Id = "id", "fresh identification for a datagram that had DF";
        Checksum = "checksum", "CHECKSUM_PARTIAL finished in software";
        Notified = "notified", "ICMP 3/4 sent to the source";
    }
}

labelled! {
    /// What the program behind GRO did with a packet (`--redirect late`).
    Late {
        Lowered = "lowered", "--redirect late: TCP merged by GRO, gso_size lowered to what fits";
        Cut = "cut", "--redirect late: TCP that was not merged, cut into two segments";
        Checksum = "checksum", "--redirect late: TCP with a wrong checksum, left to the kernel";
        Refused = "refused", "--redirect late: could not be changed, left to the kernel";
        Followed = "followed", "--redirect late: behind a piece of the same flow, to keep its order";
        Returned = "returned", "--redirect late: back from the CPU's backlog";
        Lost = "lost", "--redirect late: dropped for lack of memory, or by a full backlog (net.core.netdev_max_backlog)";
    }
}

/// A set of [`Edit`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edits(u8);

impl Edits {
    /// No edit.
    pub const NONE: Edits = Edits(0);

    /// Adds `edit`.
    #[inline]
    pub fn insert(&mut self, edit: Edit) {
        self.0 |= 1 << edit as u8;
    }

    /// True if `edit` is in the set.
    #[inline]
    pub fn contains(self, edit: Edit) -> bool {
        self.0 & (1 << edit as u8) != 0
    }

    /// The edits in the set.
    pub fn iter(self) -> impl Iterator<Item = Edit> {
        Edit::ALL.iter().copied().filter(move |edit| self.contains(*edit))
    }
}

impl std::ops::BitOrAssign for Edits {
    /// Adds the edits of `other`.
    #[inline]
    fn bitor_assign(&mut self, other: Edits) {
        self.0 |= other.0;
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on, edited or fragmented as the policy says.
    Forward(Reason),
    /// Goes to the kernel untouched.
    Pass(Reason),
    /// Goes nowhere, and is counted.
    Drop(Reason),
}

impl Verdict {
    /// Why.
    pub fn reason(self) -> Reason {
        match self {
            Verdict::Forward(reason) | Verdict::Pass(reason) | Verdict::Drop(reason) => reason,
        }
    }
}
