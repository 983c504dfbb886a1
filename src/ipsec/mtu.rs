//! The SA MTU: the largest packet that one ESP packet of a security association can carry.

use std::fmt;

use serde::Serialize;

use super::Esp;

/// ESP header: SPI and sequence number (RFC 4303 section 2).
const ESP_HEADER: u32 = 8;
/// ESP trailer behind the padding: pad length and next header.
const ESP_TRAILER: u32 = 2;
const UDP_HEADER: u32 = 8;
/// No IPv6 packet need be shorter (RFC 8200 section 5).
const IPV6_MIN_MTU: u32 = 1280;

/// IP version around ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outer {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// What is encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Whole packets, behind an IP header of the gateway's own.
    Tunnel,
    /// Payloads of packets of the gateway's own.
    Transport,
}

/// How a security association wraps packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation {
    /// Cipher and authenticator.
    pub esp: Esp,
    /// Tunnel or transport.
    pub mode: Mode,
    /// ESP in UDP (RFC 3948).
    pub nat_t: bool,
    /// IP version between the gateways.
    pub outer: Outer,
}

/// An SA MTU and what it is made of, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SaMtu {
    /// MTU of the path to the peer.
    pub path_mtu: u32,
    /// Outer IP header; in transport mode the packet's own.
    pub ip: u32,
    /// UDP header of NAT traversal.
    pub udp: u32,
    /// ESP header.
    pub esp: u32,
    /// Initialisation vector.
    pub iv: u32,
    /// Integrity check value.
    pub icv: u32,
    /// Block that packet, padding and trailer fill.
    pub block: u32,
    /// What whole blocks leave unused of the path MTU.
    pub unused: u32,
    /// Pad length and next header.
    pub trailer: u32,
    /// The SA MTU.
    pub mtu: u32,
    /// MSS of TCP over IPv4 without options.
    pub mss4: u32,
    /// MSS of TCP over IPv6 without options.
    pub mss6: u32,
    #[serde(skip)]
    transport: bool,
}

impl Outer {
    /// Its header without options, bytes.
    fn header(self) -> u32 {
        match self {
            Outer::V4 => 20,
            Outer::V6 => 40,
        }
    }
}

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Outer::V4 => "IPv4",
            Outer::V6 => "IPv6",
        })
    }
}

impl Encapsulation {
    /// The SA MTU on a path of `path_mtu` bytes, as the kernel's `xfrm_state_mtu()` calculates it with the
    /// `header_len` of `esp_init_state()` and `esp6_init_state()`. `None` if nothing fits the path.
    pub fn sa_mtu(&self, path_mtu: u32) -> Option<SaMtu> {
        let Esp { iv, block, icv } = self.esp;
        let ip = self.outer.header();
        let udp = if self.nat_t { UDP_HEADER } else { 0 };
        let room = path_mtu.checked_sub(ip + udp + ESP_HEADER + iv + icv)?;
        let unused = room % block;
        // In transport mode the IP header in front is part of the packet, not of the overhead.
        let own = if self.mode == Mode::Transport { ip } else { 0 };
        let mut mtu = (room - unused + own).checked_sub(ESP_TRAILER)?;
        if self.outer == Outer::V6 {
            mtu = mtu.max(IPV6_MIN_MTU);
        }
        Some(SaMtu {
            path_mtu,
            ip,
            udp,
            esp: ESP_HEADER,
            iv,
            icv,
            block,
            unused,
            trailer: ESP_TRAILER,
            mtu,
            mss4: mtu.saturating_sub(40),
            mss6: mtu.saturating_sub(60),
            transport: own > 0,
        })
    }
}

impl SaMtu {
    /// The derivation in one line; `path` names the path whose MTU it begins with.
    pub fn derivation(&self, path: &str) -> String {
        let version = if self.ip == 20 { "IPv4" } else { "IPv6" };
        let mut text = format!("{} ({path}) - {} ({version})", self.path_mtu, self.ip);
        if self.udp > 0 {
            text += &format!(" - {} (UDP)", self.udp);
        }
        text += &format!(" - {} (ESP)", self.esp);
        if self.iv > 0 {
            text += &format!(" - {} (IV)", self.iv);
        }
        let room = self.path_mtu - self.ip - self.udp - self.esp - self.iv - self.icv;
        let whole = room - self.unused;
        text += &format!(" - {} (ICV) = {room}; in blocks of {}: {whole}", self.icv, self.block);
        text += &format!("; - {} (pad length, next header)", self.trailer);
        let mut mtu = whole.saturating_sub(self.trailer);
        if self.transport {
            text += &format!(" + {} (the packet's own {version})", self.ip);
            mtu += self.ip;
        }
        text += &format!(" = {mtu}");
        if mtu < self.mtu {
            text += &format!("; raised to {}, the least that IPv6 allows", self.mtu);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mtu(esp: &str, outer: Outer, nat_t: bool, path_mtu: u32) -> Option<u32> {
        let encapsulation = Encapsulation { esp: esp.parse().unwrap(), mode: Mode::Tunnel, nat_t, outer };
        encapsulation.sa_mtu(path_mtu).map(|sa| sa.mtu)
    }

    /// What kernels 6.1, 6.12 and 7.3 put into their own ICMP 3/4 and ICMPv6 type 2.
    #[test]
    fn the_kernels_own_mtus() {
        for (esp, v4, v4_nat_t, v6, v6_nat_t) in [
            ("aes256-sha256", 1438, 1422, 1406, 1406),
            ("aes128-sha1", 1438, 1422, 1422, 1406),
            ("aes256-sha512", 1422, 1406, 1390, 1390),
            ("aes128gcm16", 1446, 1438, 1426, 1418),
            ("chacha20poly1305", 1446, 1438, 1426, 1418),
            ("aes128gcm8", 1454, 1446, 1434, 1426),
        ] {
            assert_eq!(mtu(esp, Outer::V4, false, 1500), Some(v4), "{esp}");
            assert_eq!(mtu(esp, Outer::V4, true, 1500), Some(v4_nat_t), "{esp}");
            assert_eq!(mtu(esp, Outer::V6, false, 1500), Some(v6), "{esp}");
            assert_eq!(mtu(esp, Outer::V6, true, 1500), Some(v6_nat_t), "{esp}");
        }
    }

    #[test]
    fn short_paths() {
        assert_eq!(mtu("aes256-sha256", Outer::V4, true, 1492), Some(1422));
        assert_eq!(mtu("aes256-sha256", Outer::V6, false, 1280), Some(1280), "IPV6_MIN_MTU");
        assert_eq!(mtu("aes256-sha256", Outer::V4, false, 60), None);
        assert_eq!(mtu("aes256-sha256", Outer::V4, false, 61), None);
    }

    #[test]
    fn the_derivation_adds_up_in_words() {
        let mut encapsulation = Encapsulation {
            esp: "aes256-sha256".parse().unwrap(),
            mode: Mode::Tunnel,
            nat_t: true,
            outer: Outer::V4,
        };
        assert_eq!(
            encapsulation.sa_mtu(1500).unwrap().derivation("path MTU"),
            "1500 (path MTU) - 20 (IPv4) - 8 (UDP) - 8 (ESP) - 16 (IV) - 16 (ICV) = 1432; in blocks of 16: 1424; \
             - 2 (pad length, next header) = 1422"
        );
        encapsulation.mode = Mode::Transport;
        let transport = encapsulation.sa_mtu(1500).unwrap();
        assert_eq!(transport.mtu, 1442);
        let words = transport.derivation("path MTU");
        assert!(words.ends_with("+ 20 (the packet's own IPv4) = 1442"), "{words}");
    }
}
