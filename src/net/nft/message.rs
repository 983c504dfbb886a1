//! nfnetlink messages: `struct nfgenmsg` and attributes, numbers in network byte order.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    NlasIterator,
};

/// Bytes of `struct nfgenmsg`: family, version, resource id.
const HEADER: usize = 4;
/// NFNL_SUBSYS_NFTABLES.
const SUBSYSTEM: u16 = 10;
/// NFNL_MSG_BATCH_BEGIN and NFNL_MSG_BATCH_END.
const BATCH: [u16; 2] = [0x10, 0x11];

/// NFPROTO_IPV4.
pub(super) const IPV4: u8 = 2;
/// NFPROTO_INET: IPv4 and IPv6.
pub(super) const INET: u8 = 1;

/// A message of the nftables subsystem, or the begin or end of a batch.
#[derive(Debug, Clone)]
pub(super) struct Message {
    kind: u16,
    pub(super) family: u8,
    resource: u16,
    pub(super) attributes: Vec<u8>,
}

impl Message {
    /// A message of `kind` (NFT_MSG_*).
    pub(super) fn new(kind: u16, family: u8, attributes: Vec<DefaultNla>) -> Message {
        Message { kind: SUBSYSTEM << 8 | kind, family, resource: 0, attributes: bytes(&attributes) }
    }

    /// What comes before and after the messages of one transaction.
    pub(super) fn batch() -> [Message; 2] {
        BATCH.map(|kind| Message { kind, family: 0, resource: SUBSYSTEM, attributes: Vec::new() })
    }

    /// NFT_MSG_*; `None` for a message of another subsystem.
    pub(super) fn kind(&self) -> Option<u16> {
        (self.kind >> 8 == SUBSYSTEM).then_some(self.kind & 0xff)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[0] = self.family;
        buffer[1] = 0;
        buffer[2..HEADER].copy_from_slice(&self.resource.to_be_bytes());
        buffer[HEADER..].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Message, DecodeError> {
        let (head, attributes) =
            payload.split_first_chunk::<HEADER>().ok_or("an nfnetlink message is too short")?;
        Ok(Message {
            kind: header.message_type,
            family: head[0],
            resource: u16::from_be_bytes([head[2], head[3]]),
            attributes: attributes.to_vec(),
        })
    }
}

/// Attributes as bytes.
fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; (&attributes).buffer_len()];
    (&attributes).emit(&mut bytes);
    bytes
}

/// An attribute that holds attributes.
pub(super) fn nest(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind, bytes(attributes))
}

/// A number.
pub(super) fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// A string with its NUL.
pub(super) fn text(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, [value.as_bytes(), &[0]].concat())
}

/// Attributes that a message or another attribute holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Kinds and values, up to the first that is malformed.
    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).map(|attribute| {
            let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
            (kind, attribute.into_inner().get(4..length).unwrap_or_default())
        })
    }

    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(super) fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    pub(super) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// A handle: 64 bits.
    pub(super) fn handle(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// A string up to its NUL.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}
