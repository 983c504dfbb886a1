//! Two LANs behind two IPsec routers.
//!
//! ```text
//! appliance1              router1                         router2              appliance2
//! lan0 198.18.1.2 ─── eth1 .1   wan0 198.51.100.1 ═══ wan0 .2   eth1 .1 ─── lan0 198.18.2.2
//! ```
//!
//! Every link has an MTU of 1500. The appliances announce an MSS of 1460, use it whatever the other side says,
//! and do not hear ICMP 3/4.
#![allow(unsafe_code)]

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xdpfrag::lab::topology::link;
use xdpfrag::lab::{Daemon, Namespace, Rules, Wire};

use crate::capture::Capture;
use crate::sa::{Side, Tunnel};

/// One site.
pub(crate) struct Site {
    pub(crate) appliance: Namespace,
    pub(crate) router: Namespace,
    /// Address of the appliance.
    pub(crate) address: Ipv4Addr,
    /// The network behind the other router.
    pub(crate) remote_net: &'static str,
    /// What the appliance receives.
    pub(crate) wire: Wire,
    /// What the router sends.
    pub(crate) capture: Capture,
    /// Where ESP in UDP arrives.
    _encap: Option<UdpSocket>,
}

/// The two sites.
pub(crate) struct Gateways {
    pub(crate) sites: [Site; 2],
}

/// RFC 3948 encapsulation, of `linux/udp.h`.
static UDP_ENCAP_ESPINUDP: libc::c_int = 2;
/// WAN addresses by IP version.
const WAN: [[&str; 2]; 2] = [["198.51.100.1", "198.51.100.2"], ["2001:db8:f::1", "2001:db8:f::2"]];
const NETS: [&str; 2] = ["198.18.1.0/24", "198.18.2.0/24"];
/// Names of appliance and router, and MAC addresses of appliance, LAN and WAN.
const NAMES: [[&str; 5]; 2] = [
    ["appliance1", "router1", "02:00:00:00:01:02", "02:00:00:00:01:01", "02:00:00:00:0f:01"],
    ["appliance2", "router2", "02:00:00:00:02:02", "02:00:00:00:02:01", "02:00:00:00:0f:02"],
];

impl Gateways {
    /// Builds namespaces and links. With a `tunnel`, its keys are in place; without, routers only have addresses.
    pub(crate) fn new(outer: u8, tunnel: Option<Tunnel>) -> Result<Gateways> {
        let [routers, appliances] = [1, 0].map(|which| NAMES.map(|names| Namespace::new(names[which])));
        let [router1, router2] = routers;
        let routers = [router1?, router2?];
        link([(&routers[0], "wan0", NAMES[0][4]), (&routers[1], "wan0", NAMES[1][4])], 1, 1500)?;
        let mut appliances = appliances.into_iter();
        let mut routers = routers.into_iter();
        let mut site = |index| -> Result<Site> {
            let missing = "two of each";
            Site::new(
                index,
                appliances.next().context(missing)??,
                routers.next().context(missing)?,
                outer,
                tunnel,
            )
        };
        Ok(Gateways { sites: [site(0)?, site(1)?] })
    }

    /// The SAs over IPv4 of one of the sites; `more` tells them from others.
    pub(crate) fn side(&self, site: &Site, more: u32) -> Side<'static> {
        side(usize::from(site.remote_net == NETS[0]), 4, more)
    }

    /// Starts `xdpfrag run` on both routers, with one hand-back each.
    pub(crate) fn protect(&self, mtu: u16) -> Result<[Daemon; 2]> {
        let start = |site: &Site, handback: &str| {
            let mtu = mtu.to_string();
            let binary = Path::new(crate::esp::BINARY);
            let arguments = [
                "--mtu",
                &mtu,
                "--dst",
                site.remote_net,
                "--handback",
                handback,
                "--stall",
                "10000",
                "--json",
            ];
            Daemon::start(&site.router, binary, &arguments)
                .with_context(|| format!("xdpfrag on {}", site.router.name()))
        };
        Ok([start(&self.sites[0], "inject")?, start(&self.sites[1], "veth")?])
    }
}

/// What the router of site `index` knows of a tunnel, whose SPIs are `more` than those of the first.
fn side(index: usize, outer: u8, more: u32) -> Side<'static> {
    let there = 1 - index;
    let wan = WAN[usize::from(outer == 6)];
    Side {
        local: wan[index],
        remote: wan[there],
        local_net: NETS[index],
        remote_net: NETS[there],
        spi_out: 0x1001 + more + index as u32,
        spi_in: 0x1001 + more + there as u32,
    }
}

impl Site {
    fn new(
        index: usize,
        appliance: Namespace,
        router: Namespace,
        outer: u8,
        tunnel: Option<Tunnel>,
    ) -> Result<Site> {
        let there = 1 - index;
        let [_, _, appliance_mac, lan_mac, _] = NAMES[index];
        let (here, remote_net) = (index + 1, NETS[there]);
        link([(&appliance, "lan0", appliance_mac), (&router, "eth1", lan_mac)], 1, 1500)?;
        appliance.ip(&format!("addr add 198.18.{here}.2/24 dev lan0"))?;
        appliance.ip(&format!("route add default via 198.18.{here}.1"))?;

        for (key, value) in [
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // Every oversize packet gets its ICMP.
            ("ipv4/icmp_ratelimit", "0"),
        ] {
            router.sysctl(key, value)?;
        }
        let mut lines = vec![
            format!("addr add 198.18.{here}.1/24 dev eth1"),
            format!("addr add {}/24 dev wan0", WAN[0][index]),
            format!("addr add {}/64 dev wan0 nodad", WAN[1][index]),
            format!("neigh add {} lladdr {} dev wan0", WAN[0][there], NAMES[there][4]),
            format!("neigh add {} lladdr {} dev wan0", WAN[1][there], NAMES[there][4]),
        ];
        if let Some(tunnel) = tunnel {
            lines.push(tunnel.commands(&side(index, outer, 0)));
        }
        batch(&router, &lines.join("\n"))?;
        let encap = match tunnel {
            Some(tunnel) if tunnel.nat_t => Some(encapsulation(&router, outer)?),
            _ => None,
        };
        Ok(Site {
            address: Ipv4Addr::new(198, 18, here as u8, 2),
            remote_net,
            wire: Wire::attach(&appliance, "lan0", Rules { deaf: true, ..Rules::default() })?,
            capture: Capture::start(&router)?,
            _encap: encap,
            appliance,
            router,
        })
    }
}

/// Runs lines of `ip` in one process: under emulation each costs a tenth of a second.
pub(crate) fn batch(namespace: &Namespace, lines: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), format!("{lines}\n"))?;
    let path = file.path().to_string_lossy();
    namespace.output("ip", &["-batch", &path]).with_context(|| lines.to_owned())?;
    Ok(())
}

/// A socket on port 4500 that hands ESP in UDP to XFRM, as an IKE daemon has one.
fn encapsulation(router: &Namespace, outer: u8) -> Result<UdpSocket> {
    let socket = router.run(|| Ok(UdpSocket::bind((if outer == 4 { "0.0.0.0" } else { "::" }, 4500))?))?;
    // SAFETY: the kernel reads one int through the pointer, during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_ENCAP,
            (&raw const UDP_ENCAP_ESPINUDP).cast(),
            size_of_val(&UDP_ENCAP_ESPINUDP) as u32,
        )
    };
    ensure!(result == 0, "UDP_ENCAP: {}", std::io::Error::last_os_error());
    Ok(socket)
}
