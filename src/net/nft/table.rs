//! A table that takes packets out of connection tracking, and that goes with its socket.

use std::io;

use ipnet::Ipv4Net;
use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::message::{IPV4, Message, nest, number, text};
use crate::net::netlink::Connection;

/// NFT_MSG_* of `linux/netfilter/nf_tables.h`.
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
/// NLM_F_APPEND.
const APPEND: u16 = 0x800;
/// NFT_TABLE_F_OWNER (Linux 5.12): only its socket changes the table, and it goes when the socket is closed.
const OWNER: u32 = 2;
const CHAIN: &str = "prerouting";
/// Before `ipv4_conntrack_defrag`, at NF_IP_PRI_CONNTRACK_DEFRAG = -400.
const PRIORITY: i32 = -450;
/// Register 1, of 16 bytes.
const REGISTER: u32 = 1;

/// IPv4 fragments that connection tracking is to leave alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untracked {
    /// Index of the interface that they come in on.
    pub interface: u32,
    /// Whence they come.
    pub source: Ipv4Net,
    /// Where they go.
    pub destination: Ipv4Net,
    /// TCP as well.
    pub tcp: bool,
}

/// A table of nftables. It goes when this is dropped or the process ends in any way.
#[derive(Debug)]
pub struct Table {
    _owner: Connection,
}

impl Table {
    /// Makes the table `name`, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// `EOPNOTSUPP` before Linux 5.12, `EEXIST` if there is such a table, `EPERM` without CAP_NET_ADMIN.
    pub fn untrack(name: &str, packets: &[Untracked]) -> io::Result<Table> {
        let table = vec![text(1, name), number(2, OWNER)];
        let hook = [number(1, 0), number(2, PRIORITY as u32)];
        let chain = vec![text(1, name), text(3, CHAIN), nest(4, &hook), text(7, "filter")];
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let mut messages = vec![
            (Message::new(NEW_TABLE, IPV4, table), create),
            (Message::new(NEW_CHAIN, IPV4, chain), create),
        ];
        for untracked in packets {
            let rule = vec![text(1, name), text(2, CHAIN), nest(4, &untracked.expressions())];
            messages.push((Message::new(NEW_RULE, IPV4, rule), NLM_F_CREATE | APPEND));
        }
        if let Some((_, flags)) = messages.last_mut() {
            *flags |= NLM_F_ACK;
        }
        let [begin, end] = Message::batch();
        messages.insert(0, (begin, 0));
        messages.push((end, 0));
        let mut owner = Connection::open(NETLINK_NETFILTER)?;
        owner.transaction(messages)?;
        Ok(Table { _owner: owner })
    }
}

impl Untracked {
    /// `iif I ip saddr S ip daddr D ip protocol != tcp ip frag-off & 0x3fff != 0 counter notrack`.
    fn expressions(&self) -> Vec<DefaultNla> {
        // NFT_META_IIF: a number in host byte order.
        let mut list = vec![
            expression("meta", &[number(1, REGISTER), number(2, 4)]),
            compare(true, &self.interface.to_ne_bytes()),
        ];
        for (offset, prefix) in [(12, self.source), (16, self.destination)] {
            if prefix.prefix_len() > 0 {
                list.push(field(offset, 4));
                list.push(mask(&prefix.netmask().octets()));
                list.push(compare(true, &prefix.network().octets()));
            }
        }
        if !self.tcp {
            list.push(field(9, 1));
            list.push(compare(false, &[libc::IPPROTO_TCP as u8]));
        }
        // More fragments, or an offset.
        list.push(field(6, 2));
        list.push(mask(&[0x3f, 0xff]));
        list.push(compare(false, &[0, 0]));
        list.push(expression("counter", &[]));
        list.push(expression("notrack", &[]));
        list
    }
}

fn expression(name: &str, data: &[DefaultNla]) -> DefaultNla {
    nest(1, &[text(1, name), nest(2, data)])
}

/// Loads bytes of the IPv4 header.
fn field(offset: u32, len: u32) -> DefaultNla {
    expression("payload", &[number(1, REGISTER), number(2, 1), number(3, offset), number(4, len)])
}

/// Register = register & mask.
fn mask(mask: &[u8]) -> DefaultNla {
    let data = |kind, bytes: Vec<u8>| nest(kind, &[DefaultNla::new(1, bytes)]);
    let [source, destination] = [1, 2].map(|kind| number(kind, REGISTER));
    let len = number(3, mask.len() as u32);
    expression("bitwise", &[source, destination, len, data(4, mask.to_vec()), data(5, vec![0; mask.len()])])
}

fn compare(equal: bool, value: &[u8]) -> DefaultNla {
    let value = nest(3, &[DefaultNla::new(1, value.to_vec())]);
    expression("cmp", &[number(1, REGISTER), number(2, u32::from(!equal)), value])
}
