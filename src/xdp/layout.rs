//! The structs of `bpf/intf.h` as bytes: native byte order, C layout.
//!
//! `tests/interface.rs` holds them against the header.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::AddAssign;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::packet::{Edit, MIN_MTU, Reason, Rule, Way, Ways};

/// `XF_META_MAGIC`.
pub const META_MAGIC: u32 = 0x7866_7261;
/// `XF_ROUTE_LOCAL`.
pub const ROUTE_LOCAL: u16 = 1;
/// `XF_ROUTE_PASS`.
pub const ROUTE_PASS: u16 = 2;
/// `XF_WAY_UDP_SHIFT`.
pub const WAY_UDP_SHIFT: u32 = 2;
/// `XF_WAY_OTHER_SHIFT`.
pub const WAY_OTHER_SHIFT: u32 = 4;
/// Bytes of an Ethernet header (`ETH_HLEN`).
const ETHERNET_HEADER: u32 = 14;
/// `XF_ROUTES`: entries of each map of routes and of sources, at most.
pub const MAX_ROUTES: usize = 65536;

/// `struct xf_meta`: what the XDP program wrote in front of a redirected frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// When the XDP program saw the frame, CLOCK_MONOTONIC ns.
    pub rx_ns: u64,
    /// What holds for its destination.
    pub rule: Rule,
}

impl Meta {
    /// Bytes in front of the frame.
    pub const SIZE: usize = 24;

    /// The metadata at the end of `headroom`, which ends where the frame begins.
    ///
    /// `None` if the driver does not carry metadata: the magic is not there.
    #[inline]
    pub fn before_frame(headroom: &[u8]) -> Option<Meta> {
        let bytes: &[u8; Meta::SIZE] = headroom.last_chunk()?;
        let (ns, rest) = bytes.split_first_chunk()?;
        let (rule, rest) = rest.split_first_chunk()?;
        if u32::from_ne_bytes(*rest.last_chunk()?) != META_MAGIC {
            return None;
        }
        Some(Meta { rx_ns: u64::from_ne_bytes(*ns), rule: rule_from_bytes(*rule) })
    }

    /// As the XDP program writes it, for ports without one.
    pub fn to_bytes(self) -> [u8; Meta::SIZE] {
        let mut bytes = [0; Meta::SIZE];
        bytes[..8].copy_from_slice(&self.rx_ns.to_ne_bytes());
        bytes[8..16].copy_from_slice(&rule_to_bytes(self.rule));
        bytes[20..].copy_from_slice(&META_MAGIC.to_ne_bytes());
        bytes
    }
}

fn rule_to_bytes(rule: Rule) -> [u8; 8] {
    let mut bytes = [0; 8];
    let words = [rule.mtu, rule.mss4.unwrap_or(0), rule.mss6.unwrap_or(0), ways_to_bits(rule.ways)];
    for (to, word) in bytes.chunks_exact_mut(2).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// `mtu`, `mss4`, `mss6` and `flags`, as they stand in a row in `struct xf_meta` and `struct xf_route`.
#[inline]
fn rule_from_bytes(bytes: [u8; 8]) -> Rule {
    let (words, _) = bytes.as_chunks();
    let [mtu, mss4, mss6, flags] = std::array::from_fn(|n| u16::from_ne_bytes(words[n]));
    let limit = |mss| Some(mss).filter(|mss| *mss != 0);
    Rule { mtu, mss4: limit(mss4), mss6: limit(mss6), ways: ways_from_bits(flags) }
}

fn ways_to_bits(ways: Ways) -> u16 {
    (ways.udp as u16) << WAY_UDP_SHIFT | (ways.other as u16) << WAY_OTHER_SHIFT
}

#[inline]
fn ways_from_bits(flags: u16) -> Ways {
    let way = |shift| Way::ALL[usize::from(flags >> shift) % Way::ALL.len()];
    Ways { udp: way(WAY_UDP_SHIFT), other: way(WAY_OTHER_SHIFT) }
}

/// `struct xf_route`: what happens to packets to a prefix, or from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// They go into the tunnel.
    Tunnel(Rule),
    /// An address of this machine: they are passed.
    Local,
    /// A hole in a wider prefix: they are passed.
    Pass,
    /// It depends on the source, which the `sources` maps have under this number, never 0.
    BySource(u32),
}

impl Route {
    /// Bytes in the `routes` and `sources` maps.
    pub const SIZE: usize = 12;

    /// As a value of these maps; an MTU below [`MIN_MTU`] becomes that.
    pub fn to_bytes(self) -> [u8; Route::SIZE] {
        let mut bytes = [0; Route::SIZE];
        match self {
            Route::Tunnel(rule) => {
                bytes[..8].copy_from_slice(&rule_to_bytes(Rule { mtu: rule.mtu.max(MIN_MTU), ..rule }));
            }
            Route::Local => bytes[6..8].copy_from_slice(&ROUTE_LOCAL.to_ne_bytes()),
            Route::Pass => bytes[6..8].copy_from_slice(&ROUTE_PASS.to_ne_bytes()),
            Route::BySource(selector) => bytes[8..].copy_from_slice(&selector.to_ne_bytes()),
        }
        bytes
    }

    /// From a value of these maps.
    pub fn from_bytes(bytes: [u8; Route::SIZE]) -> Route {
        let [rule @ .., s0, s1, s2, s3] = bytes;
        let [.., f0, f1] = rule;
        let (flags, selector) = (u16::from_ne_bytes([f0, f1]), [s0, s1, s2, s3]);
        match u32::from_ne_bytes(selector) {
            _ if flags & ROUTE_LOCAL != 0 => Route::Local,
            _ if flags & ROUTE_PASS != 0 => Route::Pass,
            0 => Route::Tunnel(rule_from_bytes(rule)),
            selector => Route::BySource(selector),
        }
    }
}

/// Bytes of `struct xf_prefix4`.
pub const PREFIX4_SIZE: usize = 8;
/// Bytes of `struct xf_prefix6`.
pub const PREFIX6_SIZE: usize = 20;

/// `prefix` as a key of the `routes` map.
pub fn prefix4_to_bytes(prefix: Ipv4Net) -> [u8; PREFIX4_SIZE] {
    let mut bytes = [0; PREFIX4_SIZE];
    bytes[..4].copy_from_slice(&u32::from(prefix.prefix_len()).to_ne_bytes());
    bytes[4..].copy_from_slice(&prefix.network().octets());
    bytes
}

/// `prefix` as a key of the `routes6` map.
pub fn prefix6_to_bytes(prefix: Ipv6Net) -> [u8; PREFIX6_SIZE] {
    let mut bytes = [0; PREFIX6_SIZE];
    bytes[..4].copy_from_slice(&u32::from(prefix.prefix_len()).to_ne_bytes());
    bytes[4..].copy_from_slice(&prefix.network().octets());
    bytes
}

/// The prefix of a key of the `routes` map; `None` if its length is above 32.
pub fn prefix4_from_bytes(bytes: [u8; PREFIX4_SIZE]) -> Option<Ipv4Net> {
    let [l0, l1, l2, l3, address @ ..] = bytes;
    let len = u8::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
    Ipv4Net::new(address.into(), len).ok()
}

/// The prefix of a key of the `routes6` map; `None` if its length is above 128.
pub fn prefix6_from_bytes(bytes: [u8; PREFIX6_SIZE]) -> Option<Ipv6Net> {
    let [l0, l1, l2, l3, address @ ..] = bytes;
    let len = u8::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
    Ipv6Net::new(address.into(), len).ok()
}

/// Bytes of `struct xf_source4`.
pub const SOURCE4_SIZE: usize = 12;
/// Bytes of `struct xf_source6`.
pub const SOURCE6_SIZE: usize = 24;

/// `prefix` under `selector` as a key of the `sources` map.
pub fn source4_to_bytes(selector: u32, prefix: Ipv4Net) -> [u8; SOURCE4_SIZE] {
    let mut bytes = [0; SOURCE4_SIZE];
    bytes[..4].copy_from_slice(&(32 + u32::from(prefix.prefix_len())).to_ne_bytes());
    bytes[4..8].copy_from_slice(&selector.to_ne_bytes());
    bytes[8..].copy_from_slice(&prefix.network().octets());
    bytes
}

/// `prefix` under `selector` as a key of the `sources6` map.
pub fn source6_to_bytes(selector: u32, prefix: Ipv6Net) -> [u8; SOURCE6_SIZE] {
    let mut bytes = [0; SOURCE6_SIZE];
    bytes[..4].copy_from_slice(&(32 + u32::from(prefix.prefix_len())).to_ne_bytes());
    bytes[4..8].copy_from_slice(&selector.to_ne_bytes());
    bytes[8..].copy_from_slice(&prefix.network().octets());
    bytes
}

/// An entry of the `deaf` map (`struct xf_address`, `struct xf_deaf`): a host that went on sending
/// oversize packets after the kernel had answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeafHost {
    /// Source address.
    pub address: IpAddr,
    /// When it showed, CLOCK_MONOTONIC ns.
    pub since_ns: u64,
    /// When its last oversize packet came, CLOCK_MONOTONIC ns.
    pub last_ns: u64,
    /// Its oversize packets since.
    pub frames: u64,
}

impl DeafHost {
    /// Bytes of the key.
    pub const KEY_SIZE: usize = 16;
    /// Bytes of the value.
    pub const SIZE: usize = 24;

    /// From key and value.
    pub fn from_bytes(key: [u8; DeafHost::KEY_SIZE], value: [u8; DeafHost::SIZE]) -> DeafHost {
        let (words, _) = value.as_chunks();
        let [since_ns, last_ns, frames] = std::array::from_fn(|n| u64::from_ne_bytes(words[n]));
        DeafHost { address: Ipv6Addr::from(key).to_canonical(), since_ns, last_ns, frames }
    }
}

/// `struct xf_counters`, summed over the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    reasons: [u64; Reason::COUNT],
    edits: [u64; Edit::COUNT],
}

impl Counters {
    /// Bytes per CPU.
    pub const SIZE: usize = 8 * (Reason::COUNT + Edit::COUNT);

    /// Those of one CPU; `None` if `bytes` is not [`SIZE`](Counters::SIZE) long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Counters> {
        if bytes.len() != Counters::SIZE {
            return None;
        }
        let (words, _) = bytes.as_chunks();
        let (reasons, edits) = words.split_at(Reason::COUNT);
        let number = |word: &[u8; 8]| u64::from_ne_bytes(*word);
        let mut counters = Counters::default();
        for (count, word) in counters.reasons.iter_mut().zip(reasons) {
            *count = number(word);
        }
        for (count, word) in counters.edits.iter_mut().zip(edits) {
            *count = number(word);
        }
        Some(counters)
    }

    /// Frames counted under `reason`.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    /// Frames in which `edit` was made.
    pub fn edit(&self, edit: Edit) -> u64 {
        self.edits[edit as usize]
    }

    /// All frames: each has one reason.
    pub fn frames(&self) -> u64 {
        self.reasons.iter().sum()
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        for (count, more) in self.reasons.iter_mut().zip(other.reasons) {
            *count = count.wrapping_add(more);
        }
        for (count, more) in self.edits.iter_mut().zip(other.edits) {
            *count = count.wrapping_add(more);
        }
    }
}

/// What a worker can take, bytes, Ethernet header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameLimits {
    /// Longest frame it can receive.
    pub receive: u32,
    /// Longest frame it can hand back as it is; longer ones only in fragments.
    pub whole: u32,
}

/// What the workers need not see (`XF_LEAVE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leave {
    /// Oversize TCP: the program behind GRO has it cut by segments.
    pub tcp: bool,
    /// Oversize packets that go by [`Way::Edit`].
    pub whole: bool,
    /// The XDP program passes unread what is certain to fit: the program behind GRO edits and counts it.
    pub fitting: bool,
    /// So it does what goes by [`Way::Edit`], and TCP.
    pub oversize: bool,
    /// The program behind GRO is attached: what the XDP program has read is marked for it.
    pub marked: bool,
}

impl Leave {
    /// Nothing.
    pub const NOTHING: Leave =
        Leave { tcp: false, whole: false, fitting: false, oversize: false, marked: false };

    pub(super) fn bits(self) -> u32 {
        let bits = [self.tcp, self.whole, self.fitting, self.marked, self.oversize];
        bits.iter().rev().fold(0, |bits, bit| bits << 1 | u32::from(*bit))
    }
}

/// `struct xf_live`: what may change while the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// MTU of the LAN interface, bytes.
    pub lan_mtu: u32,
    /// True if the program is attached in generic mode.
    pub generic: bool,
    /// What the workers need not see.
    pub late: Leave,
    /// What a worker can take.
    pub limits: FrameLimits,
    /// From which length on packets may need somebody to look at them.
    pub least: Least,
}

/// The lowest MTUs, bytes; `u16::MAX` if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Least {
    /// Of all routes.
    pub any: u16,
    /// Of those by which an oversize packet may have to go to a worker.
    pub worked: u16,
}

impl Live {
    /// Frames up to this length need no worker, whatever route they go by; longer ones may not need one all the same.
    fn fitting(self) -> u32 {
        match if self.late.oversize { self.least.worked } else { self.least.any } {
            u16::MAX => u32::MAX,
            least => ETHERNET_HEADER + u32::from(least),
        }
    }

    /// Bytes of the program's `.data.live`.
    pub const SIZE: usize = 24;

    /// As the value of the program's `.data.live`.
    pub fn to_bytes(self) -> [u8; Live::SIZE] {
        let mut bytes = [0; Live::SIZE];
        bytes[..4].copy_from_slice(&self.lan_mtu.to_ne_bytes());
        bytes[4..8].copy_from_slice(&u32::from(self.generic).to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.late.bits().to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.limits.receive.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.limits.whole.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.fitting().to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_and_prefixes_survive_the_map() {
        for route in [
            Route::Local,
            Route::Pass,
            Route::BySource(0x0100_0001),
            Route::Tunnel(Rule::new(1422, None, None)),
            Route::Tunnel(Rule::new(68, Some(536), Some(1220))),
            Route::Tunnel(Rule { ways: Ways::EDIT, ..Rule::new(1422, None, None) }),
            Route::Tunnel(Rule {
                ways: Ways { udp: Way::Gso, other: Way::Pass },
                ..Rule::new(1422, None, None)
            }),
        ] {
            assert_eq!(Route::from_bytes(route.to_bytes()), route);
        }
        for prefix in ["0.0.0.0/0", "198.18.0.0/15", "198.51.100.7/32"] {
            let prefix = prefix.parse().unwrap();
            assert_eq!(prefix4_from_bytes(prefix4_to_bytes(prefix)), Some(prefix));
        }
        for prefix in ["::/0", "2001:db8::/32", "fe80::1/128"] {
            let prefix = prefix.parse().unwrap();
            assert_eq!(prefix6_from_bytes(prefix6_to_bytes(prefix)), Some(prefix));
        }
        assert_eq!(prefix4_from_bytes([33, 0, 0, 0, 1, 2, 3, 4]), None);
        let mut key = [0; PREFIX6_SIZE];
        key[..4].copy_from_slice(&129u32.to_ne_bytes());
        assert_eq!(prefix6_from_bytes(key), None);
    }

    #[test]
    fn deaf_hosts_of_both_families_are_told_apart() {
        let mut value = [0; DeafHost::SIZE];
        for (to, word) in value.chunks_exact_mut(8).zip([5u64, 6, 7]) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        for (key, address) in [("::ffff:198.51.100.2", "198.51.100.2"), ("2001:db8::2", "2001:db8::2")] {
            let key: Ipv6Addr = key.parse().unwrap();
            let host = DeafHost { address: address.parse().unwrap(), since_ns: 5, last_ns: 6, frames: 7 };
            assert_eq!(DeafHost::from_bytes(key.octets(), value), host);
        }
    }

    #[test]
    fn metadata_needs_its_magic_next_to_the_frame() {
        let meta = Meta { rx_ns: 7, rule: Rule::new(1422, None, Some(1362)) };
        let mut headroom = vec![0xaa; 32];
        headroom[8..].copy_from_slice(&meta.to_bytes());
        assert_eq!(headroom[8..16], 7u64.to_ne_bytes());
        assert_eq!(headroom[16..18], 1422u16.to_ne_bytes());
        assert_eq!(headroom[28..], META_MAGIC.to_ne_bytes());
        assert_eq!(Meta::before_frame(&headroom), Some(meta));
        assert_eq!(Meta::before_frame(&headroom[8..]), Some(meta));
        assert_eq!(Meta::before_frame(&headroom[9..]), None, "cut short");
        assert_eq!(Meta::before_frame(&headroom[..31]), None, "one byte off");
        assert_eq!(Meta::before_frame(&[]), None);
    }

    #[test]
    fn counters_add_up_by_position() {
        let mut bytes = vec![0; Counters::SIZE];
        for (n, word) in bytes.chunks_mut(8).enumerate() {
            word.copy_from_slice(&(n as u64).to_ne_bytes());
        }
        let one = Counters::from_bytes(&bytes).unwrap();
        let mut two = one;
        two += one;
        for reason in Reason::ALL {
            assert_eq!(two.reason(*reason), 2 * *reason as u64);
        }
        assert_eq!(two.edit(Edit::Mss), 2 * (Reason::COUNT + Edit::Mss as usize) as u64);
        assert_eq!(Counters::from_bytes(&bytes[1..]), None);
    }
}
