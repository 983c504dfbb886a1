//! Sets of prefixes: what they hold, and what they leave.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Every address of IPv4 or IPv6.
pub fn any(v4: bool) -> IpNet {
    if v4 { Ipv4Net::default().into() } else { Ipv6Net::default().into() }
}

/// Those of the family of `like`.
pub(super) fn of_family<'a>(
    like: IpNet,
    prefixes: impl IntoIterator<Item = &'a IpNet>,
) -> impl Iterator<Item = IpNet> {
    let v4 = like.addr().is_ipv4();
    prefixes.into_iter().copied().filter(move |prefix| prefix.addr().is_ipv4() == v4)
}

/// `prefix` and every prefix around it, the longest first.
pub fn prefixes_around(prefix: IpNet) -> impl Iterator<Item = IpNet> {
    let around = move |len| Some(IpNet::new(prefix.addr(), len).ok()?.trunc());
    (0..=prefix.prefix_len()).rev().filter_map(around)
}

/// The entry of the longest prefix that holds `address`.
pub fn longest<T>(map: &BTreeMap<IpNet, T>, address: IpAddr) -> Option<&T> {
    prefixes_around(address.into()).find_map(|prefix| map.get(&prefix))
}

/// An address in `prefix`, but in none of the longer prefixes of `others` nor in any of `avoid`; `None` if
/// they hold all of it. Of those that are wider it avoids, if it can, what no host has: 0.0.0.0/8, 127.0.0.0/8
/// and everything from 224.0.0.0, `::/16`, and multicast.
pub(super) fn gap(prefix: IpNet, others: &BTreeSet<IpNet>, avoid: &BTreeSet<IpNet>) -> Option<IpAddr> {
    if avoid.iter().any(|wide| wide.contains(&prefix)) {
        return None;
    }
    let holes = others.iter().chain(avoid).copied();
    let holes: Vec<IpNet> = holes.filter(|hole| prefix.contains(hole) && *hole != prefix).collect();
    let mut usable = holes.clone();
    usable.extend(nobody().into_iter().filter(|hole| prefix.contains(hole) && *hole != prefix));
    free(prefix, &usable).or_else(|| free(prefix, &holes))
}

fn nobody() -> [IpNet; 6] {
    let v4 = |first, len| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(first, 0, 0, 0), len));
    let v6 = |first, len| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), len));
    [v4(0, 8), v4(127, 8), v4(224, 3), v6(0, 16), v6(0xfe80, 10), v6(0xff00, 8)]
}

/// The first address of `prefix` outside all of `holes`, which lie in it.
fn free(prefix: IpNet, holes: &[IpNet]) -> Option<IpAddr> {
    if holes.is_empty() {
        return Some(prefix.network());
    }
    if holes.contains(&prefix) {
        return None;
    }
    let halves = prefix.subnets(prefix.prefix_len() + 1).ok()?;
    for half in halves {
        let inner: Vec<_> = holes.iter().copied().filter(|hole| half.contains(hole)).collect();
        if let Some(address) = free(half, &inner) {
            return Some(address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> BTreeSet<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn a_gap_is_in_the_prefix_and_nowhere_else() {
        let gap = |prefix: &str, others: &str, avoid: &str| {
            gap(prefix.parse().unwrap(), &nets(others), &nets(avoid)).map(|address| address.to_string())
        };
        assert_eq!(gap("10.0.0.0/8", "", ""), Some("10.0.0.0".into()));
        assert_eq!(gap("10.0.0.0/8", "10.0.0.0/8 10.0.0.0/9 10.128.0.0/10", ""), Some("10.192.0.0".into()));
        assert_eq!(gap("10.0.0.0/8", "10.0.0.0/9 10.128.0.0/9", ""), None);
        assert_eq!(gap("10.0.0.0/31", "10.0.0.0/32", "10.0.0.1/32"), None);
        assert_eq!(gap("10.0.0.1/32", "10.0.0.1/32 10.0.0.0/8", ""), Some("10.0.0.1".into()));
        assert_eq!(gap("10.0.0.1/32", "", "10.0.0.1/32"), None);
        assert_eq!(gap("0.0.0.0/0", "", ""), Some("1.0.0.0".into()), "an address that a host may have");
        assert_eq!(gap("127.0.0.0/8", "", ""), Some("127.0.0.0".into()), "unless there is no other");
        assert_eq!(gap("::/0", "2001:db8::/32", ""), Some("1::".into()));
        assert_eq!(gap("2001:db8::/32", "10.0.0.0/8 2001:db8::/33", ""), Some("2001:db8:8000::".into()));
    }

    #[test]
    fn the_longest_prefix_wins() {
        let map: BTreeMap<IpNet, u8> =
            nets("0.0.0.0/0 10.0.0.0/8 10.1.0.0/16").into_iter().zip([0, 8, 16]).collect();
        let at = |address: &str| longest(&map, address.parse().unwrap()).copied();
        assert_eq!([at("10.1.2.3"), at("10.2.0.0"), at("11.0.0.0")], [Some(16), Some(8), Some(0)]);
        assert_eq!(at("::1"), None);
    }
}
