//! Requests over a netlink socket, one at a time and blocking.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// How often a dump is asked for again because the kernel's tables changed under it.
const DUMP_ATTEMPTS: u32 = 5;

/// A netlink socket for requests.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens a socket of `protocol` (a constant of [`netlink_sys::protocols`]).
    pub fn open(protocol: isize) -> io::Result<Connection> {
        let socket = Socket::new(protocol)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Connection { socket, sequence: 0 })
    }

    /// Asks for one object and returns the answer, which is empty for a request that only acts.
    /// The kernel's refusal is the error.
    pub fn request<M>(&mut self, message: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.send(message, NLM_F_ACK)?;
        Ok(self.receive()?.0)
    }

    /// Asks for all objects, again if the kernel says that they changed meanwhile.
    pub fn dump<M>(&mut self, message: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(message.clone(), NLM_F_DUMP)?;
            if let (messages, false) = self.receive()? {
                return Ok(messages);
            }
        }
        Err(io::Error::other("the kernel's network configuration keeps changing; try again"))
    }

    /// Sends all `messages`, each with flags of its own, at once and waits until the last is acknowledged: what
    /// nfnetlink takes for one transaction. The kernel's first refusal is the error.
    pub fn transaction<M>(&mut self, messages: Vec<(M, u16)>) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        for (message, flags) in messages {
            bytes.extend(self.serialize(message, flags));
        }
        self.socket.send(&bytes, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in parse::<M>(&datagram)? {
                match message.payload {
                    NetlinkPayload::Error(error) if message.header.sequence_number >= first => {
                        if error.code.is_some() {
                            return Err(error.to_io());
                        }
                        return Ok(());
                    }
                    _ => {}
                }
            }
        }
    }

    fn send<M: NetlinkSerializable>(&mut self, message: M, flags: u16) -> io::Result<()> {
        let bytes = self.serialize(message, flags);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// The message with its header and the next sequence number.
    fn serialize<M: NetlinkSerializable>(&mut self, message: M, flags: u16) -> Vec<u8> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// The messages up to the acknowledgement or the end of the dump, and whether the dump was disturbed.
    fn receive<M: NetlinkDeserializable>(&mut self) -> io::Result<(Vec<M>, bool)> {
        let mut messages = Vec::new();
        let mut disturbed = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in parse(&datagram)? {
                // An answer to an earlier request that failed half-way.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => messages.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok((messages, disturbed)),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of one datagram.
pub(super) fn parse<M: NetlinkDeserializable>(datagram: &[u8]) -> io::Result<Vec<NetlinkMessage<M>>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("netlink: {error}")))?;
        // Messages are aligned to four bytes (NLMSG_ALIGN); a length shorter than the header does not parse.
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        messages.push(message);
    }
    Ok(messages)
}
