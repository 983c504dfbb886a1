//! What a driver can do with XDP, over the netdev generic netlink family (kernel 6.3 and later;
//! Documentation/netlink/specs/netdev.yaml).

use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, ErrorContext, Nla, NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use super::generic::Family;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_REDIRECT: u64 = 2;
const NETDEV_XDP_ACT_XSK_ZEROCOPY: u64 = 8;
const NETDEV_XDP_ACT_RX_SG: u64 = 32;

/// What a driver can do with XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Native XDP with XDP_REDIRECT.
    pub native: bool,
    /// AF_XDP without copying.
    pub zero_copy: bool,
    /// Frames in several buffers (jumbo MTUs).
    pub multi_buffer: bool,
}

/// The XDP features of the driver behind interface `index`; `None` where the kernel does not say.
pub fn xdp_features(index: u32) -> io::Result<Option<XdpFeatures>> {
    let mut family = match Family::open("netdev") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        family => family?,
    };
    let request = DevGet(vec![DefaultNla::new(NETDEV_A_DEV_IFINDEX, index.to_ne_bytes().to_vec())]);
    let bits = family
        .request(request)?
        .into_iter()
        .flat_map(|answer| answer.0)
        .find(|attribute| attribute.kind() == NETDEV_A_DEV_XDP_FEATURES)
        .and_then(|attribute| {
            let mut value = [0; 8];
            (attribute.value_len() == value.len()).then(|| {
                attribute.emit_value(&mut value);
                u64::from_ne_bytes(value)
            })
        });
    Ok(bits.map(|bits| XdpFeatures {
        native: bits & NETDEV_XDP_ACT_BASIC != 0 && bits & NETDEV_XDP_ACT_REDIRECT != 0,
        zero_copy: bits & NETDEV_XDP_ACT_XSK_ZEROCOPY != 0,
        multi_buffer: bits & NETDEV_XDP_ACT_RX_SG != 0,
    }))
}

/// NETDEV_CMD_DEV_GET and its answer: attributes only.
#[derive(Debug)]
struct DevGet(Vec<DefaultNla>);

impl GenlFamily for DevGet {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        NETDEV_CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for DevGet {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for DevGet {
    fn parse_with_param(buffer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer)
            .map(|attribute| attribute.and_then(|attribute| DefaultNla::parse(&attribute)))
            .collect::<Result<_, _>>()
            .context("invalid netdev attribute")?;
        Ok(DevGet(attributes))
    }
}
