//! IPsec in the kernel: security associations and the policies that use them.

use std::io;
use std::net::IpAddr;

use netlink_packet_xfrm::constants::{AF_INET6, XFRM_POLICY_OUT};
use netlink_packet_xfrm::policy::DelGetMessage as PolicyRequest;
use netlink_packet_xfrm::state::GetDumpMessage;
use netlink_packet_xfrm::{Address, UserPolicyId, UserTemplate, XfrmAttrs, XfrmMessage};
use netlink_sys::protocols::NETLINK_XFRM;

use super::netlink::Connection;

/// IPPROTO_ESP.
const ESP: u8 = 50;

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

/// An outbound policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Source prefix: address and length.
    pub src: (IpAddr, u8),
    /// Destination prefix.
    pub dst: (IpAddr, u8),
    /// XFRM interface that it belongs to; 0 for none.
    pub if_id: u32,
    /// It selects by protocol or port, too.
    pub upper: bool,
    /// Which SAs it takes, innermost first.
    pub templates: Vec<Template>,
}

/// What a policy asks of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Tunnel endpoints; unspecified ones match any.
    pub src: IpAddr,
    /// The other end.
    pub dst: IpAddr,
    /// 0 matches any.
    pub reqid: u32,
    /// XFRM_MODE_*.
    pub mode: u8,
}

impl Policy {
    /// True if packets of this policy may leave by `sa` (`xfrm_state_look_at`, `xfrm_tmpl_resolve_one`).
    pub fn uses(&self, sa: &Sa) -> bool {
        self.if_id == sa.if_id
            && self.templates.iter().any(|template| {
                let any_or = |wanted: IpAddr, is| wanted.is_unspecified() || wanted == is;
                template.mode == sa.mode
                    && (template.reqid == 0 || template.reqid == sa.reqid)
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

/// Every outbound policy that encrypts. Needs CAP_NET_ADMIN.
pub fn policies() -> io::Result<Vec<Policy>> {
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
            _ => {}
        }
    }
    Some(sa)
}

fn policy(message: XfrmMessage) -> Option<Policy> {
    let XfrmMessage::AddPolicy(message) = message else { return None };
    let info = message.user_policy_info;
    if info.direction != XFRM_POLICY_OUT {
        return None;
    }
    let selector = info.selector;
    let mut policy = Policy {
        src: (address(&selector.saddr, selector.family), selector.prefixlen_s),
        dst: (address(&selector.daddr, selector.family), selector.prefixlen_d),
        if_id: 0,
        upper: selector.proto != 0 || selector.sport_mask != 0 || selector.dport_mask != 0,
        templates: Vec::new(),
    };
    for attribute in message.nlas {
        match attribute {
            XfrmAttrs::Template(templates) => policy.templates = templates.iter().map(template).collect(),
            XfrmAttrs::IfId(id) => policy.if_id = id,
            _ => {}
        }
    }
    (!policy.templates.is_empty()).then_some(policy)
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
