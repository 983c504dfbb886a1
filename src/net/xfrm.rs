//! IPsec in the kernel: security associations and the policies that use them.

use std::io;
use std::net::IpAddr;

use netlink_packet_xfrm::constants::{
    AF_INET, AF_INET6, AF_UNSPEC, XFRM_POLICY_ALLOW, XFRM_POLICY_FWD, XFRM_POLICY_IN, XFRM_POLICY_OUT,
    XFRM_POLICY_TYPE_SUB,
};
use netlink_packet_xfrm::policy::DelGetMessage as PolicyRequest;
use netlink_packet_xfrm::state::GetDumpMessage;
use netlink_packet_xfrm::{Address, UserPolicyId, UserTemplate, XfrmAttrs, XfrmMessage};
use netlink_sys::protocols::NETLINK_XFRM;

use super::netlink::Connection;
use crate::ipsec::{Encapsulation, Esp, Mode, Outer, SaMtu};

/// IPPROTO_ESP.
const ESP: u8 = 50;
/// XFRM_MODE_TRANSPORT and XFRM_MODE_TUNNEL of `linux/xfrm.h`.
const MODES: [Mode; 2] = [Mode::Transport, Mode::Tunnel];
/// UDP_ENCAP_ESPINUDP of `linux/udp.h`.
const ESP_IN_UDP: u16 = 2;

/// An ESP security association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sa {
    /// Who encrypts.
    pub src: IpAddr,
    /// Who decrypts.
    pub dst: IpAddr,
    /// Security parameters index.
    pub spi: u32,
    /// Links it to policies.
    pub reqid: u32,
    /// XFRM interface that it belongs to; 0 for none.
    pub if_id: u32,
    /// Mark of the policies that it serves: value and mask.
    pub mark: (u32, u32),
    /// Mark of the packets that leave by it: what the path to the peer is looked up with.
    pub output_mark: u32,
    /// Family (AF_*) of the packets that it takes; 0 for both.
    pub inner_family: u16,
    /// XFRM_MODE_*.
    pub mode: u8,
    /// Name of the cipher or AEAD in the kernel's crypto API.
    pub cipher: String,
    /// Name of the authenticator; `None` with AEAD.
    pub authenticator: Option<String>,
    /// Length of the integrity check value, bits.
    pub icv_bits: u32,
    /// UDP_ENCAP_*: what ESP is wrapped in.
    pub encap: Option<u16>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For what leaves, not for what has come in.
    pub outbound: bool,
    /// Source prefix: address and length.
    pub src: (IpAddr, u8),
    /// Destination prefix.
    pub dst: (IpAddr, u8),
    /// The lowest number comes first.
    pub priority: u32,
    /// Grows with each policy that is added.
    pub index: u32,
    /// XFRM interface that it belongs to; 0 for none.
    pub if_id: u32,
    /// Packet mark that it asks for: value and mask.
    pub mark: (u32, u32),
    /// Index of the out-device that it asks for; 0 for any.
    pub oif: u32,
    /// It selects by protocol, port or user, too, or is a sub-policy.
    pub upper: bool,
    /// IP protocol that it asks for; 0 for any.
    pub protocol: u8,
    /// Source port, or ICMP type, that it asks for: value and mask.
    pub src_port: (u16, u16),
    /// Destination port, or ICMP code.
    pub dst_port: (u16, u16),
    /// It lets packets go (on or out); else it drops them.
    pub allow: bool,
    /// Which SAs it takes, innermost first; none to leave packets as they are.
    pub templates: Vec<Template>,
}

/// What a policy asks of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Tunnel endpoints; unspecified ones match any.
    pub src: IpAddr,
    /// The other end.
    pub dst: IpAddr,
    /// That of the SA.
    pub reqid: u32,
    /// XFRM_MODE_*.
    pub mode: u8,
}

impl Sa {
    /// Tunnel or transport; `None` for another mode.
    pub fn mode(&self) -> Option<Mode> {
        MODES.get(usize::from(self.mode)).copied()
    }

    /// True if ESP is in UDP (RFC 3948).
    pub fn nat_t(&self) -> bool {
        self.encap == Some(ESP_IN_UDP)
    }

    /// IP version around ESP.
    pub fn outer(&self) -> Outer {
        if self.dst.is_ipv4() { Outer::V4 } else { Outer::V6 }
    }

    /// How it wraps packets.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn encapsulation(&self) -> Result<Encapsulation, String> {
        let mode =
            self.mode().ok_or_else(|| format!("mode {} is neither tunnel nor transport", self.mode))?;
        if self.encap.is_some() && !self.nat_t() {
            return Err("encapsulated in something else than UDP".into());
        }
        let esp = Esp::from_kernel(&self.cipher, self.icv_bits).map_err(|error| error.to_string())?;
        Ok(Encapsulation { esp, mode, nat_t: self.nat_t(), outer: self.outer() })
    }

    /// What fits into it where the path to `peer`, its other end, has this MTU; `None` for no route.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn sizes(&self, path_mtu: Option<u32>, peer: IpAddr) -> Result<SaMtu, String> {
        let encapsulation = self.encapsulation()?;
        let path_mtu = path_mtu.ok_or_else(|| format!("no route to {peer}"))?;
        encapsulation.sa_mtu(path_mtu).ok_or_else(|| format!("nothing fits a path MTU of {path_mtu}"))
    }
}

impl Template {
    /// True for tunnel mode.
    pub fn tunnel(&self) -> bool {
        MODES.get(usize::from(self.mode)) == Some(&Mode::Tunnel)
    }
}

impl Policy {
    /// True if it selects by what fragments lack: ports, or an ICMP type (`xfrm_decode_session()`). A protocol is in each of
    /// them; a sub-policy may ask for anything.
    pub fn asks_for_ports(&self) -> bool {
        self.src_port.1 != 0 || self.dst_port.1 != 0 || (self.upper && self.protocol == 0)
    }

    /// True if packets of this policy may leave by `sa` (`xfrm_state_find()`, `xfrm_tmpl_resolve_one()`), or if it is one
    /// for what came in by `sa` (`xfrm_state_ok()`).
    pub fn uses(&self, sa: &Sa) -> bool {
        let family = if self.dst.0.is_ipv4() { AF_INET } else { AF_INET6 };
        self.if_id == sa.if_id
            && (sa.inner_family == AF_UNSPEC || sa.inner_family == family)
            && self.mark.0 & self.mark.1 & sa.mark.1 == sa.mark.0
            && self.templates.iter().any(|template| {
                let any_or = |wanted: IpAddr, is| wanted.is_unspecified() || wanted == is;
                template.mode == sa.mode
                    && (template.reqid == sa.reqid || (!self.outbound && template.reqid == 0))
                    && any_or(template.src, sa.src)
                    && any_or(template.dst, sa.dst)
            })
    }
}

/// Every ESP security association, in both directions, as the kernel lists them. Needs CAP_NET_ADMIN.
pub fn states() -> io::Result<Vec<Sa>> {
    let request = XfrmMessage::GetDumpSa(GetDumpMessage { nlas: Vec::new() });
    let messages = Connection::open(NETLINK_XFRM)?.dump(request)?;
    Ok(messages.into_iter().filter_map(state).collect())
}

/// Every outbound policy. Needs CAP_NET_ADMIN.
pub fn policies() -> io::Result<Vec<Policy>> {
    Ok(all_policies()?.into_iter().filter(|policy| policy.outbound).collect())
}

/// Every policy: for what leaves, for what comes in and for what is forwarded then. Needs CAP_NET_ADMIN.
pub fn all_policies() -> io::Result<Vec<Policy>> {
    let request = PolicyRequest { user_policy_id: UserPolicyId::default(), nlas: Vec::new() };
    let messages = Connection::open(NETLINK_XFRM)?.dump(XfrmMessage::GetPolicy(request))?;
    Ok(messages.into_iter().filter_map(policy).collect())
}

fn state(message: XfrmMessage) -> Option<Sa> {
    let XfrmMessage::AddSa(message) = message else { return None };
    let info = message.user_sa_info;
    if info.id.proto != ESP {
        return None;
    }

    let mut sa = Sa {
        src: address(&info.saddr, info.family),
        dst: address(&info.id.daddr, info.family),
        spi: info.id.spi,
        reqid: info.reqid,
        if_id: 0,
        mark: (0, 0),
        output_mark: 0,
        inner_family: info.selector.family,
        mode: info.mode,
        cipher: String::new(),
        authenticator: None,
        icv_bits: 0,
        encap: None,
    };
    for attribute in message.nlas {
        match attribute {
            XfrmAttrs::EncryptionAlg(algorithm) => sa.cipher = name(&algorithm.alg_name),
            XfrmAttrs::EncryptionAlgAead(algorithm) => {
                sa.cipher = name(&algorithm.alg_name);
                sa.icv_bits = algorithm.alg_icv_len;
            }
            // Comes beside the older attribute, which does not say the length.
            XfrmAttrs::AuthenticationAlgTrunc(algorithm) => {
                sa.authenticator = Some(name(&algorithm.alg_name));
                sa.icv_bits = algorithm.alg_trunc_len;
            }
            XfrmAttrs::EncapsulationTemplate(encap) => sa.encap = Some(encap.encap_type),
            XfrmAttrs::IfId(id) => sa.if_id = id,
            XfrmAttrs::Mark(mark) => sa.mark = (mark.value, mark.mask),
            XfrmAttrs::MarkVal(mark) => sa.output_mark = mark,
            _ => {}
        }
    }
    // A larval SA, on which the peers are yet to agree, has none, and no packet leaves by it.
    (!sa.cipher.is_empty()).then_some(sa)
}

fn policy(message: XfrmMessage) -> Option<Policy> {
    let XfrmMessage::AddPolicy(message) = message else { return None };
    let info = message.user_policy_info;
    // Beside these there are policies of sockets.
    if ![XFRM_POLICY_OUT, XFRM_POLICY_IN, XFRM_POLICY_FWD].contains(&info.direction) {
        return None;
    }
    let selector = info.selector;
    let ports = selector.sport_mask != 0 || selector.dport_mask != 0;
    let mut policy = Policy {
        outbound: info.direction == XFRM_POLICY_OUT,
        src: (address(&selector.saddr, selector.family), selector.prefixlen_s),
        dst: (address(&selector.daddr, selector.family), selector.prefixlen_d),
        priority: info.priority,
        index: info.index,
        if_id: 0,
        mark: (0, 0),
        oif: u32::try_from(selector.ifindex).unwrap_or(0),
        upper: selector.proto != 0 || ports || selector.user != 0,
        protocol: selector.proto,
        src_port: (selector.sport, selector.sport_mask),
        dst_port: (selector.dport, selector.dport_mask),
        allow: info.action == XFRM_POLICY_ALLOW,
        templates: Vec::new(),
    };
    for attribute in message.nlas {
        match attribute {
            XfrmAttrs::Template(templates) => policy.templates = templates.iter().map(template).collect(),
            XfrmAttrs::IfId(id) => policy.if_id = id,
            XfrmAttrs::Mark(mark) => policy.mark = (mark.value, mark.mask),
            XfrmAttrs::PolicyType(kind) => policy.upper |= kind.ptype == XFRM_POLICY_TYPE_SUB,
            _ => {}
        }
    }
    Some(policy)
}

fn template(template: &UserTemplate) -> Template {
    Template {
        src: address(&template.saddr, template.family),
        dst: address(&template.id.daddr, template.family),
        reqid: template.reqid,
        mode: template.mode,
    }
}

fn address(address: &Address, family: u16) -> IpAddr {
    if family == AF_INET6 { address.to_ipv6().into() } else { address.to_ipv4().into() }
}

/// A name of the crypto API, up to its NUL.
fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn sa() -> Sa {
        Sa {
            src: ip("198.51.100.1"),
            dst: ip("198.51.100.2"),
            spi: 0x1001,
            reqid: 1,
            if_id: 42,
            mark: (0, 0),
            output_mark: 0,
            inner_family: AF_UNSPEC,
            mode: 1,
            cipher: "cbc(aes)".into(),
            authenticator: Some("hmac(sha256)".into()),
            icv_bits: 128,
            encap: None,
        }
    }

    fn policy() -> Policy {
        Policy {
            outbound: true,
            src: (ip("198.18.1.0"), 24),
            dst: (ip("198.18.2.0"), 24),
            priority: 1,
            index: 1,
            if_id: 42,
            mark: (0, 0),
            oif: 0,
            upper: false,
            protocol: 0,
            src_port: (0, 0),
            dst_port: (0, 0),
            allow: true,
            templates: vec![Template { src: ip("198.51.100.1"), dst: ip("198.51.100.2"), reqid: 1, mode: 1 }],
        }
    }

    #[test]
    fn an_sa_is_found_as_the_kernel_finds_it() {
        assert!(policy().uses(&sa()));
        assert!(policy().uses(&Sa { inner_family: AF_INET, ..sa() }));
        for other in [
            Sa { reqid: 2, ..sa() },
            Sa { if_id: 0, ..sa() },
            Sa { mode: 0, ..sa() },
            Sa { dst: ip("198.51.100.3"), ..sa() },
            Sa { inner_family: AF_INET6, ..sa() },
            Sa { mark: (7, u32::MAX), ..sa() },
        ] {
            assert!(!policy().uses(&other), "{other:?}");
        }
        let marked = Policy { mark: (7, u32::MAX), ..policy() };
        assert!(marked.uses(&Sa { mark: (7, u32::MAX), ..sa() }) && marked.uses(&sa()));
        let any = Template { src: ip("0.0.0.0"), dst: ip("198.51.100.2"), reqid: 1, mode: 1 };
        assert!(Policy { templates: vec![any], ..policy() }.uses(&sa()));
    }

    #[test]
    fn what_came_in_may_have_come_by_any_reqid() {
        let back = Sa { src: ip("198.51.100.2"), dst: ip("198.51.100.1"), ..sa() };
        let template = Template { src: back.src, dst: back.dst, reqid: 0, mode: 1 };
        let (src, dst) = (policy().dst, policy().src);
        let inbound = Policy { outbound: false, src, dst, templates: vec![template], ..policy() };
        assert!(inbound.uses(&back) && !inbound.uses(&sa()));
        assert!(!Policy { outbound: true, ..inbound }.uses(&back));
    }

    #[test]
    fn an_sa_says_how_it_wraps_packets() {
        let mtu = |sa: Sa| sa.encapsulation().map(|how| how.sa_mtu(1500).unwrap().mtu);
        assert_eq!(mtu(sa()), Ok(1438));
        assert_eq!(mtu(Sa { encap: Some(ESP_IN_UDP), ..sa() }), Ok(1422));
        assert!(mtu(Sa { encap: Some(7), ..sa() }).unwrap_err().contains("UDP"), "ESP in TCP");
        assert!(mtu(Sa { mode: 4, ..sa() }).unwrap_err().contains("mode 4"), "BEET");
    }
}
