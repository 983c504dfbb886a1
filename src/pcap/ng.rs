//! pcapng: every block is copied byte for byte, but for the packet blocks whose frame is rewritten.
//!
//! Block layouts are those of draft-ietf-opsawg-pcapng sections 4.1 to 4.4 and, of the obsolete packet block, appendix A.

use std::io::{Read, Write};

use super::input::Input;
use super::link::Link;
use super::order::Order;
use super::output::{Form, Output, Record};
use super::rewriter::Rewriter;
use super::{Error, MAX_RECORD};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;

const ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Type, length, and length again.
const FRAMING: usize = 12;

const ETHERNET: u16 = 1;

const IF_FCSLEN: u16 = 13;
/// Options of packets: flags, which say how long the frame check sequence is, and a hash of the frame.
const FLAGS: u16 = 2;
const HASH: u16 = 3;

/// What the blocks of a section need to be understood.
struct Section {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy)]
struct Interface {
    link_type: u16,
    link: Option<Link>,
    snaplen: u32,
    /// Bytes of the frame check sequence, where a packet does not say otherwise.
    fcs: u32,
}

/// Options for the frames that take the place of one, kept for their memory.
#[derive(Default)]
struct Options {
    first: Vec<u8>,
    others: Vec<u8>,
}

pub(super) fn rewrite<R: Read, W: Write>(
    input: &mut Input<'_, R>,
    output: &mut Output<W>,
    rewriter: &mut Rewriter,
) -> Result<(), Error> {
    let mut section = None;
    let mut options = Options::default();
    loop {
        let frames = rewriter.frames();
        let damaged = |what: String| Error::Damaged { frames, what };
        let start = input.peek(FRAMING)?;
        if start.is_empty() {
            return Ok(());
        }
        if start.len() < FRAMING {
            return Err(Error::Truncated { frames });
        }
        if Order::of(start, SECTION).is_some() {
            let Some(order) = Order::of(&start[8..], ORDER_MAGIC) else {
                return Err(match section {
                    None => Error::Format("it does not begin like one"),
                    Some(_) => damaged("a section whose byte order is none".into()),
                });
            };
            section = Some(Section { order, interfaces: Vec::new() });
        }
        let Some(section) = &mut section else { return Err(Error::Format("it does not begin like one")) };
        let word = |bytes: &[u8], at| section.order.u32(bytes, at).unwrap_or_default();
        let (kind, length) = (word(start, 0), word(start, 4) as usize);
        if length < FRAMING || length % 4 != 0 || length > MAX_RECORD {
            return Err(damaged(format!("a block of {length} bytes")));
        }
        let block = input.peek(length)?.get(..length).ok_or(Error::Truncated { frames })?;
        if word(block, length - 4) as usize != length {
            return Err(damaged("a block whose two lengths differ".into()));
        }
        match kind {
            SECTION => section_header(block, section.order, output)
                .unwrap_or_else(|| Err(damaged("a section header of another version than 1".into())))?,
            INTERFACE => {
                let interface = interface(block, section.order);
                let interface =
                    interface.ok_or_else(|| damaged("an interface description that is cut short".into()))?;
                section.interfaces.push(interface);
                output.copy(block)?;
            }
            PACKET | OBSOLETE_PACKET | SIMPLE_PACKET => {
                let number = match kind {
                    PACKET => word(block, 8),
                    SIMPLE_PACKET => 0,
                    _ => section.order.u16(block, 8).unwrap_or_default().into(),
                };
                let interface = section.interfaces.get(number as usize);
                let interface =
                    *interface.ok_or_else(|| damaged(format!("interface {number} is not described")))?;
                match interface.link {
                    None => rewriter.unread(interface.link_type, block, output)?,
                    Some(link) => {
                        let record = record(kind, block, section.order, interface, &mut options, damaged)?;
                        rewriter.rewrite(link, &record, output)?;
                    }
                }
            }
            _ => output.copy(block)?,
        }
        input.consume(length);
    }
}

/// Copies it, but for the length of the section, which changes with its frames; `None` if it is of another version.
fn section_header<W: Write>(block: &[u8], order: Order, output: &mut Output<W>) -> Option<Result<(), Error>> {
    let (before, rest) = block.split_at_checked(16)?;
    let after = rest.get(8..)?;
    let unknown = [0xff; 8];
    (order.u16(block, 12) == Some(1))
        .then(|| [before, &unknown, after].iter().try_for_each(|part| output.copy(part)))
}

fn interface(block: &[u8], order: Order) -> Option<Interface> {
    let link_type = order.u16(block, 8)?;
    let listed = options(block.get(16..block.len() - 4)?, order);
    let fcs = listed.filter(|(code, _)| *code == IF_FCSLEN).find_map(|(_, value)| value.first().copied());
    // Some write bits, some bytes.
    let fcs = match fcs {
        Some(bits) if bits >= 8 => u32::from(bits / 8),
        bytes => bytes.unwrap_or(0).into(),
    };
    Some(Interface { link_type, link: Link::new(link_type), snaplen: order.u32(block, 12)?, fcs })
}

/// Code and value of each option, as far as the list makes sense; it may end without an end.
fn options(mut list: &[u8], order: Order) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, len) = (order.u16(list, 0)?, usize::from(order.u16(list, 2)?));
        let value = list.get(4..4 + len)?;
        list = list.get((4 + len).next_multiple_of(4)..).unwrap_or_default();
        (code != 0).then_some((code, value))
    })
}

/// The frame in a packet block and what belongs to it, or what is wrong.
fn record<'a>(
    kind: u32,
    block: &'a [u8],
    order: Order,
    interface: Interface,
    kept: &'a mut Options,
    damaged: impl Fn(String) -> Error,
) -> Result<Record<'a>, Error> {
    let short = || damaged("a packet block that is too short for its frame".into());
    let form = match kind {
        SIMPLE_PACKET => Form { order, head: 12, captured_at: None, original_at: 8, block: true },
        _ => Form { order, head: 28, captured_at: Some(20), original_at: 24, block: true },
    };
    let room = (block.len() - 4).checked_sub(form.head).ok_or_else(short)?;
    let word = |at| order.u32(block, at).unwrap_or_default();
    let original = word(form.original_at);
    let captured = match form.captured_at {
        Some(at) => word(at) as usize,
        // A simple packet block does not say how much was captured: the snap length does, 0 for everything.
        None => room.min(match interface.snaplen {
            0 => original,
            snaplen => original.min(snaplen),
        } as usize),
    };
    if captured > room {
        return Err(short());
    }
    let after = form.head + captured.next_multiple_of(4);
    let listed = match kind {
        SIMPLE_PACKET => &[],
        _ => block.get(after..block.len() - 4).unwrap_or_default(),
    };
    let mut fcs = interface.fcs;
    kept.first.clear();
    kept.others.clear();
    for (code, value) in options(listed, order) {
        if code != HASH {
            add(&mut kept.first, order, code, value);
        }
        if let (FLAGS, Some(flags)) = (code, order.u32(value, 0)) {
            add(&mut kept.others, order, code, value);
            // Bits 5 to 8: bytes of the frame check sequence, 0 if that is not known.
            fcs = match flags >> 5 & 0xf {
                0 => fcs,
                bytes => bytes,
            };
        }
    }
    let fcs = match (fcs, interface.link_type) {
        (0, _) => 0,
        (4, ETHERNET) => 4,
        (bytes, link_type) => return Err(Error::CheckSequence { bytes, link_type }),
    };
    for list in [&mut kept.first, &mut kept.others] {
        if !list.is_empty() {
            list.extend([0; 4]);
        }
    }
    Ok(Record { form, raw: block, captured, original, fcs, options: [&kept.first, &kept.others] })
}

/// Adds an option to a list.
fn add(list: &mut Vec<u8>, order: Order, code: u16, value: &[u8]) {
    list.extend(order.short(code));
    // No longer than the one that was read.
    list.extend(order.short(value.len() as u16));
    list.extend_from_slice(value);
    list.resize(list.len().next_multiple_of(4), 0);
}
