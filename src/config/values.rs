//! Flag values that need more than a number: parsing, with messages that say what is wrong and what to write.
//!
//! clap puts the flag's name and the value in front of each message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::packet::MIN_MTU;
use crate::packet::ident::Partition;

/// Prefixes of which the data path knows without a route.
const MULTICAST4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
const MULTICAST6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
const LINK_LOCAL6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Highest queue or core number accepted in a list; the kernel's own limit for queues is lower.
const MAX_INDEX: u32 = 4095;

/// Linux refuses a smaller MSS too (TCP_MIN_MSS in include/net/tcp.h): headers would outweigh the data.
pub const MIN_MSS: u16 = 88;

/// An interface name the kernel accepts (`dev_valid_name`), without alternative names.
pub fn interface(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 15 {
        return Err(format!("an interface name has 1 to 15 bytes, this one has {}", text.len()));
    }
    if text == "." || text == ".." || text.contains(['/', ':']) || text.contains(char::is_whitespace) {
        return Err(
            "an interface name has no '/', ':' or white space; list the names with: ip -br link".into()
        );
    }
    Ok(text.to_owned())
}

/// An SA MTU in bytes.
pub fn mtu(text: &str) -> Result<u16, String> {
    let value: u32 = text
        .parse()
        .map_err(|_| "not a number of bytes; give the inner MTU of the SA, such as 1422".to_owned())?;
    if value < u32::from(MIN_MTU) {
        return Err(format!(
            "below {MIN_MTU} bytes, the smallest MTU an IPv4 network may have (RFC 791 section 3.2); \
             give the inner MTU of the SA, such as 1422"
        ));
    }
    u16::try_from(value)
        .map_err(|_| "above 65535 bytes, the longest IPv4 packet (RFC 791 section 3.1)".to_owned())
}

/// `--mtu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// From the kernel's tunnels.
    Auto,
    /// This many bytes.
    Bytes(u16),
}

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Mtu::Auto),
            _ => mtu(text).map(Mtu::Bytes).map_err(|error| format!("{error}, or auto")),
        }
    }
}

/// `--id-partition`.
pub fn id_partition(text: &str) -> Result<Partition, String> {
    let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    parts.and_then(|(part, of)| Partition::new(part, of)).ok_or_else(|| {
        format!(
            "write part K of N as K/N, such as 1/2 on one of two gateways; 1 <= K <= N <= {}",
            Partition::MAX
        )
    })
}

/// A `--dst` value: a destination prefix and, if it differs from `--mtu`, its SA MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The prefix, host bits zero.
    pub prefix: IpNet,
    /// SA MTU in bytes; `None` for that of `--mtu`.
    pub mtu: Option<u16>,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cidr, size) = match text.split_once('=') {
            Some((cidr, size)) => (cidr, Some(mtu(size).map_err(|error| format!("MTU '{size}': {error}"))?)),
            None => (text, None),
        };
        let prefix: IpNet = match cidr.contains('/') {
            true => cidr.parse().ok(),
            false => cidr.parse().ok().map(|host: IpAddr| host.into()),
        }
        .ok_or("not an IP prefix; write it as 10.1.0.0/16, 10.1.0.0/16=1400 or 2001:db8::/32")?;
        if prefix.addr() != prefix.network() {
            return Err(format!(
                "{prefix} has bits set behind its prefix length; the network is {}, the single host {}",
                prefix.trunc(),
                IpNet::from(prefix.addr())
            ));
        }
        let nowhere = match prefix {
            IpNet::V4(prefix) => MULTICAST4.contains(&prefix),
            IpNet::V6(prefix) => MULTICAST6.contains(&prefix) || LINK_LOCAL6.contains(&prefix),
        };
        if nowhere {
            return Err(format!("{prefix} is multicast or link-local, which no tunnel carries"));
        }
        Ok(Destination { prefix, mtu: size })
    }
}

/// `--mss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mss {
    /// SA MTU less 40, not below 536; for IPv6 less 60, not below 1220.
    Auto,
    /// TCP options are left alone.
    Off,
    /// This many bytes, or fewer where the SA MTU asks for it.
    Limit(u16),
}

impl FromStr for Mss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Mss::Auto),
            "off" => Ok(Mss::Off),
            _ => match text.parse() {
                Ok(limit) if limit >= MIN_MSS => Ok(Mss::Limit(limit)),
                Ok(_) => {
                    Err(format!("below {MIN_MSS} bytes headers outweigh the data (CVE-2019-11479); try auto"))
                }
                Err(_) => Err("write auto, off, or a number of bytes up to 65535".into()),
            },
        }
    }
}

/// A list of numbers and ranges such as `0,2-3`, in the order written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List(pub Vec<u32>);

impl FromStr for List {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        for item in text.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let number = |text: &str| match text.parse::<u32>() {
                Ok(number) if number <= MAX_INDEX => Ok(number),
                Ok(_) => Err(format!("'{text}' is above {MAX_INDEX}")),
                Err(_) => Err(format!("'{item}' is no number or range; write a list such as 0,2-3")),
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("the range '{item}' runs backwards; write {last}-{first}"));
            }
            items.extend(first..=last);
        }
        Ok(List(items))
    }
}

/// `--queues`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queues {
    /// Every RX queue of the interface.
    All,
    /// These, ascending, each once.
    Some(Vec<u32>),
}

impl Queues {
    /// The queues listed; `None` for all.
    pub fn listed(&self) -> Option<Vec<u32>> {
        match self {
            Queues::All => None,
            Queues::Some(queues) => Some(queues.clone()),
        }
    }
}

impl FromStr for Queues {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Queues::All);
        }
        let List(mut queues) = text.parse()?;
        queues.sort_unstable();
        match queues.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("queue {} is listed twice", pair[0])),
            None => Ok(Queues::Some(queues)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        assert_eq!(interface("eth1.100").as_deref(), Ok("eth1.100"));
        for bad in ["", "sixteen-bytes-xx", "a/b", "a b", ".", "..", "eth0:1"] {
            assert!(interface(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mtu_keeps_to_rfc_791() {
        assert_eq!((mtu("68"), mtu("65535")), (Ok(68), Ok(65535)));
        assert!(mtu("67").unwrap_err().contains("RFC 791"));
        for bad in ["65536", "99999999999", "-1", "1422B", ""] {
            assert!(mtu(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn destinations_take_an_mtu_of_their_own() {
        let destination: Destination = "10.1.0.0/16=1400".parse().unwrap();
        assert_eq!((destination.prefix.to_string(), destination.mtu), ("10.1.0.0/16".into(), Some(1400)));
        assert_eq!("10.1.2.3".parse::<Destination>().unwrap().prefix.prefix_len(), 32);
        let host_bits = "10.1.2.3/16".parse::<Destination>().unwrap_err();
        assert!(host_bits.contains("10.1.0.0/16"), "{host_bits}");
        let ipv6: Destination = "2001:db8::/32=1400".parse().unwrap();
        assert_eq!((ipv6.prefix.to_string(), ipv6.mtu), ("2001:db8::/32".into(), Some(1400)));
        assert_eq!("2001:db8::1".parse::<Destination>().unwrap().prefix.prefix_len(), 128);
        for nowhere in ["224.0.0.0/4", "239.1.2.3", "ff02::1", "fe80::/10", "fe80::1"] {
            let why = nowhere.parse::<Destination>().unwrap_err();
            assert!(why.contains("no tunnel"), "{nowhere}: {why}");
        }
        for bad in ["10.1.0.0/33", "10.1/16", "::/129", "2001:db8::1/64", "10.0.0.0/8=", "10.0.0.0/8=60", ""]
        {
            assert!(bad.parse::<Destination>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn partitions_of_identifications() {
        assert_eq!(id_partition("1/1"), Ok(Partition::WHOLE));
        assert_eq!(id_partition("256/256"), Ok(Partition::new(256, 256).unwrap()));
        for bad in ["0/1", "3/2", "1/257", "1", "1/", "/2", "a/b", "1/2/3", "-1/2", "70000/70001"] {
            assert!(id_partition(bad).is_err_and(|why| why.contains("1/2")), "{bad:?}");
        }
    }

    #[test]
    fn lists_expand_ranges() {
        assert_eq!("0,2-4".parse(), Ok(List(vec![0, 2, 3, 4])));
        assert_eq!("3,0".parse(), Ok(Queues::Some(vec![0, 3])));
        assert_eq!("all".parse(), Ok(Queues::All));
        for bad in ["", "1,", "3-1", "a", "0-99999999", "1-2-3"] {
            assert!(bad.parse::<List>().is_err(), "{bad:?}");
        }
        assert!("1,0-2".parse::<Queues>().unwrap_err().contains("queue 1 "));
    }

    #[test]
    fn mss_has_a_floor() {
        assert_eq!("88".parse(), Ok(Mss::Limit(88)));
        assert_eq!("off".parse(), Ok(Mss::Off));
        for bad in ["87", "0", "65536", "on"] {
            assert!(bad.parse::<Mss>().is_err(), "{bad:?}");
        }
    }
}
