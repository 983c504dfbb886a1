//! Three namespaces and the two links between them.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::namespace::Namespace;
use super::wire::{self, Rules, Wire};

/// The gateway's LAN interface: the one to run xdpfrag on.
pub const LAN: &str = "eth1";
/// The appliance.
pub const APPLIANCE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
/// The host at the far end of the tunnel.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
/// The appliance, with [`LabConfig::ipv6`].
pub const APPLIANCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The host at the far end of the tunnel, with [`LabConfig::ipv6`].
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

/// Hardware address of eth1.
pub const LAN_MAC: &str = "02:00:00:00:01:01";
/// Hardware address of lan0.
pub const APPLIANCE_MAC: &str = "02:00:00:00:01:02";
const WAN_MAC: &str = "02:00:00:00:02:01";
const FAR_MAC: &str = "02:00:00:00:02:02";

/// Where the link is that stands for the tunnel: whether the gateway knows its MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Narrow {
    /// At the gateway's own wan0, as with an XFRM interface: the kernel fragments there what has no DF (`Way::Edit`).
    #[default]
    Gateway,
    /// One hop after the gateway: wan0 has the MTU of the LAN, and far0 drops what is longer than the SA MTU, but for the
    /// four bytes that a veth leaves for a VLAN tag ([`Seen::largest`](super::Seen::largest) tells). What arrives a worker has
    /// cut (`Way::Fragments`), or the kernel to a size that it was told.
    Beyond,
}

/// What the lab looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabConfig {
    /// RX and TX queues of every interface.
    pub queues: u32,
    /// MTU of the LAN, bytes.
    pub lan_mtu: u32,
    /// MTU of the link that stands for the tunnel, bytes.
    pub sa_mtu: u32,
    /// Where that link is.
    pub narrow: Narrow,
    /// VLAN of all frames on the LAN, tagged in band; the stacks on both sides do not see the tag.
    pub vlan: Option<u16>,
    /// The appliance's TCP ignores the peer's MSS and ICMP 3/4.
    pub deaf: bool,
    /// IPv6 addresses (of the documentation prefix) beside the IPv4 ones.
    pub ipv6: bool,
}

impl Default for LabConfig {
    fn default() -> LabConfig {
        LabConfig {
            queues: 1,
            lan_mtu: 1500,
            sa_mtu: 1422,
            narrow: Narrow::Gateway,
            vlan: None,
            deaf: true,
            ipv6: false,
        }
    }
}

impl LabConfig {
    /// The narrow link is one hop behind the gateway, so that workers cut datagrams.
    pub fn beyond() -> LabConfig {
        LabConfig { narrow: Narrow::Beyond, ..LabConfig::default() }
    }
}

/// A running lab. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    /// The host whose frames are too long.
    pub appliance: Namespace,
    /// The router between them, where xdpfrag runs.
    pub gateway: Namespace,
    /// The host behind the tunnel.
    pub far: Namespace,
    /// What the appliance receives.
    pub lan_wire: Wire,
    /// What the far host receives.
    pub far_wire: Wire,
}

impl Lab {
    /// Builds namespaces, links, addresses and routes.
    ///
    /// # Errors
    /// Without root, or if `ip` or `ethtool` is not installed.
    pub fn new(config: &LabConfig) -> Result<Lab> {
        let [appliance, gateway, far] =
            [Namespace::new("appliance")?, Namespace::new("gateway")?, Namespace::new("far")?];
        let LabConfig { queues, lan_mtu, sa_mtu, .. } = config;
        link([(&appliance, "lan0", APPLIANCE_MAC), (&gateway, LAN, LAN_MAC)], *queues, *lan_mtu)?;
        link([(&far, "far0", FAR_MAC), (&gateway, "wan0", WAN_MAC)], *queues, *sa_mtu)?;
        if config.narrow == Narrow::Beyond {
            gateway.ip(&format!("link set wan0 mtu {lan_mtu}"))?;
        }

        if let Some(vlan) = config.vlan {
            wire::tag(&appliance, "lan0", vlan)?;
            wire::tag(&gateway, LAN, vlan)?;
        }
        appliance.ip(&format!("addr add {APPLIANCE}/24 dev lan0"))?;
        gateway.ip(&format!("addr add 198.18.1.1/24 dev {LAN}"))?;
        gateway.ip("addr add 198.18.2.1/24 dev wan0")?;
        far.ip(&format!("addr add {FAR}/24 dev far0"))?;
        // Known neighbours: no packet waits for an answer to ARP.
        appliance.ip(&format!("neigh add 198.18.1.1 lladdr {LAN_MAC} dev lan0"))?;
        gateway.ip(&format!("neigh add {APPLIANCE} lladdr {APPLIANCE_MAC} dev {LAN}"))?;
        gateway.ip(&format!("neigh add {FAR} lladdr {FAR_MAC} dev wan0"))?;
        far.ip(&format!("neigh add 198.18.2.1 lladdr {WAN_MAC} dev far0"))?;
        gateway.sysctl("ipv4/ip_forward", "1")?;
        // The appliance gets an ICMP 3/4 for every datagram: silence must be its own choice.
        gateway.sysctl("ipv4/icmp_ratelimit", "0")?;
        for host in [&appliance, &far] {
            host.sysctl("ipv4/ping_group_range", "0 0")?;
            host.sysctl("ipv4/tcp_mtu_probing", "0")?;
        }
        appliance.ip("route add default via 198.18.1.1")?;
        // A host behind the other gateway has a LAN of 1500 bytes and announces what fits that.
        far.ip("route add default via 198.18.2.1 advmss 1460")?;
        if config.ipv6 {
            add_ipv6(&appliance, &gateway, &far)?;
        }

        let lan_wire = Wire::attach(&appliance, "lan0", Rules { deaf: config.deaf, ..Rules::default() })?;
        let far_wire = Wire::attach(&far, "far0", Rules::default())?;
        Ok(Lab { appliance, gateway, far, lan_wire, far_wire })
    }

    /// Lets the gateway do what gateways do without xdpfrag: clear DF with nftables, before conntrack,
    /// and leave the fragmenting to the kernel.
    ///
    /// # Errors
    /// If `nft` is not installed.
    pub fn clear_df_with_nftables(&self) -> Result<()> {
        self.gateway.output("nft", &["add table ip lab"])?;
        self.gateway
            .output("nft", &["add chain ip lab early { type filter hook prerouting priority -500; }"])?;
        let rule = format!("add rule ip lab early iifname {LAN} ip frag-off set 0");
        self.gateway.output("nft", &[&rule])?;
        Ok(())
    }
}

/// Addresses, known neighbours and routes like those of IPv4.
fn add_ipv6(appliance: &Namespace, gateway: &Namespace, far: &Namespace) -> Result<()> {
    let ends = [
        (appliance, "lan0", "2001:db8:1::2", "2001:db8:1::1", LAN_MAC),
        (gateway, LAN, "2001:db8:1::1", "2001:db8:1::2", APPLIANCE_MAC),
        (gateway, "wan0", "2001:db8:2::1", "2001:db8:2::2", FAR_MAC),
        (far, "far0", "2001:db8:2::2", "2001:db8:2::1", WAN_MAC),
    ];
    for namespace in [appliance, gateway, far] {
        namespace.sysctl("ipv6/conf/all/disable_ipv6", "0")?;
    }
    gateway.sysctl("ipv6/conf/all/forwarding", "1")?;
    for (namespace, interface, address, neighbour, mac) in ends {
        namespace.ip(&format!("addr add {address}/64 dev {interface} nodad"))?;
        namespace.ip(&format!("neigh add {neighbour} lladdr {mac} dev {interface}"))?;
    }
    appliance.ip("route add default via 2001:db8:1::1")?;
    far.ip("route add default via 2001:db8:2::1 advmss 1440")?;
    Ok(())
}

/// Makes a veth pair, one end (namespace, name, MAC address) in each namespace, both up, without offloads.
///
/// # Errors
/// If a name is taken, or `ip` or `ethtool` is not installed.
pub fn link(ends: [(&Namespace, &str, &str); 2], queues: u32, mtu: u32) -> Result<()> {
    let [(here, name, mac), (there, peer, peer_mac)] = ends;
    let size = format!("mtu {mtu} numtxqueues {queues} numrxqueues {queues}");
    let path = there.path();
    here.ip(&format!(
        "link add {name} address {mac} {size} type veth peer name {peer} address {peer_mac} {size} netns {}",
        path.display()
    ))?;
    for (namespace, name, _) in ends {
        namespace.ip(&format!("link set {name} up"))?;
        // Whole frames with finished checksums and tags in band, as they come from a wire.
        let off = ["tx", "tso", "gso", "gro", "txvlan"].map(|feature| [feature, "off"]).concat();
        namespace.output("ethtool", &[&["-K", name], off.as_slice()].concat())?;
    }
    Ok(())
}
