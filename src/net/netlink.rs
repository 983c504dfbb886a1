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
        self.request_with(message, 0)
    }

    /// [`request`](Connection::request) with more flags: `NLM_F_CREATE` and the like.
    pub fn request_with<M>(&mut self, message: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.send(message, NLM_F_ACK | flags)?;
        Ok(self.receive()?.messages)
    }

    /// Asks for all objects, again if the kernel says that they changed meanwhile.
    pub fn dump<M>(&mut self, message: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(message.clone(), NLM_F_DUMP)?;
            let answer = self.receive()?;
            if !answer.disturbed {
                return Ok(answer.messages);
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

    /// The answer up to the acknowledgement or the end of the dump.
    fn receive<M: NetlinkDeserializable>(&mut self) -> io::Result<Answer<M>> {
        let mut answer = Answer { messages: Vec::new(), disturbed: false };
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if answer.take(&datagram, self.sequence)? {
                return Ok(answer);
            }
        }
    }
}

/// What the kernel answers to one request.
#[derive(Debug)]
struct Answer<M> {
    messages: Vec<M>,
    /// What was dumped changed meanwhile.
    disturbed: bool,
}

impl<M: NetlinkDeserializable> Answer<M> {
    /// Takes what `datagram` has of the answer to request number `sequence`; true if that was the end.
    fn take(&mut self, datagram: &[u8], sequence: u32) -> io::Result<bool> {
        for message in parse(datagram)? {
            // An answer to an earlier request that failed half-way.
            if message.header.sequence_number != sequence {
                continue;
            }
            self.disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => self.messages.push(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                // The errno of a dump that ended before its time (netlink_dump_done()): what came is not all.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                }
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
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

#[cfg(test)]
mod tests {
    use netlink_packet_core::DoneMessage;
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn bytes(payload: NetlinkPayload<RouteNetlinkMessage>, flags: u16) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        (header.sequence_number, header.flags) = (7, flags);
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn link() -> Vec<u8> {
        let link = RouteNetlinkMessage::NewLink(LinkMessage::default());
        bytes(NetlinkPayload::InnerMessage(link), 0)
    }

    fn done(code: i32, flags: u16) -> Vec<u8> {
        let mut done = DoneMessage::default();
        done.code = code;
        bytes(NetlinkPayload::Done(done), flags)
    }

    /// The answer to request 7 in these datagrams, and whether they had its end.
    fn answer(datagrams: &[Vec<u8>]) -> io::Result<(Answer<RouteNetlinkMessage>, bool)> {
        let mut answer = Answer { messages: Vec::new(), disturbed: false };
        let mut end = false;
        for datagram in datagrams {
            end |= answer.take(datagram, 7)?;
        }
        Ok((answer, end))
    }

    #[test]
    fn a_dump_is_whole_when_the_kernel_says_so() {
        let (whole, end) = answer(&[link(), [link(), done(0, 0)].concat()]).unwrap();
        assert!(end && !whole.disturbed && whole.messages.len() == 2);
        let (_, end) = answer(&[link()]).unwrap();
        assert!(!end);
        let (changed, end) = answer(&[link(), done(0, NLM_F_DUMP_INTR)]).unwrap();
        assert!(end && changed.disturbed);
    }

    #[test]
    fn a_dump_that_the_kernel_cuts_short_is_an_error() {
        let error = answer(&[link(), done(-libc::ENOBUFS, 0)]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
        assert!(answer(&[done(i32::MIN, 0)]).is_err());
    }
}
