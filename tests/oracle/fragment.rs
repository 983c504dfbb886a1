//! The kernel as fragmenter: the same packets routed by Linux with DF clear (`ip_do_fragment`,
//! net/ipv4/ip_output.c) and cut up by `Transform` must be the same bytes.
//!
//! | difference | why |
//! |---|---|
//! | MACs, TTL one less | the kernel has routed its packet already; ours goes to the router next |
//! | identification of a packet that came with DF | ours is fresh: the sender's means nothing (RFC 6864); the kernel is given a packet without DF that has ours |
//! | options that are not copied (RFC 791) | on all but the first fragment the kernel writes NOPs over them (`ip_options_fragment`), we leave them out: later fragments carry more data |
//! | record route, timestamp, source route with room left | the kernel, being a router, fills them in; xdpfrag is not a hop |
//! | reserved flag | the kernel clears it, we keep what we do not know |
//! | wrong header checksum, malformed options | the kernel drops them; ours keep the error, so that it still does |
//! | fragment with MF whose length is no multiple of 8, or one that ends beyond 65,535 | the kernel cuts them up into fragments that nobody can use; we pass them as they are |
//! | `frag_max_size` | only after conntrack has reassembled; in front of the kernel nobody has |

use std::sync::Arc;

use xdpfrag::lab::{Lab, LabConfig};
use xdpfrag::packet::{Idents, Reason, Verdict};

use crate::packets::{
    APPLIANCE_MAC, DF, ETHERNET, LAN_MAC, MF, Shape, TTL, frame, header_len, header_sum, options, payload,
    seal, word,
};
use crate::wire::RawWire;
use crate::{skipped, transform};

/// Border cases of RFC 791 and RFC 1191, SA MTUs of facts.md, and each remainder modulo 8 somewhere.
const MTUS: [u16; 22] = [
    68, 69, 75, 76, 100, 296, 508, 576, 600, 1006, 1280, 1281, 1284, 1287, 1288, 1400, 1406, 1421, 1422,
    1423, 1438, 1492,
];
const LAN_MTU: usize = 9000;
/// A veth's receiver loses what comes at once beyond this many packets (net.core.netdev_max_backlog: 1000).
const BACKLOG: usize = 900;

/// The address behind the route with `MTUS[index]`.
fn behind(index: usize) -> [u8; 4] {
    [198, 51, 100, index as u8 + 1]
}

/// A lab whose gateway has a route of each MTU, on links that let 9000 bytes pass.
fn lab() -> Lab {
    let wide = LAN_MTU as u32;
    let lab =
        Lab::new(&LabConfig { lan_mtu: wide, sa_mtu: wide, deaf: false, ..LabConfig::default() }).unwrap();
    for (index, mtu) in MTUS.iter().enumerate() {
        let [a, b, c, d] = behind(index);
        lab.gateway.ip(&format!("route add {a}.{b}.{c}.{d}/32 via 198.18.2.2 dev wan0 mtu {mtu}")).unwrap();
    }
    lab
}

/// Total lengths around the borders of 2, 3 and more fragments, and long ones.
fn lengths(mtu: usize, header_len: usize) -> Vec<usize> {
    let share = (mtu - header_len) & !7;
    let borders = [1, 2, 3].map(|count| header_len + count * share);
    let around = borders.iter().flat_map(|border| {
        (border - 1..=border + 9).chain(border + mtu - header_len - share..=border + mtu - header_len)
    });
    let mut lengths: Vec<usize> =
        (mtu + 1..=mtu + 9).chain(around).chain([1500, 1501, 4000, LAN_MTU]).collect();
    lengths.retain(|length| *length > mtu && *length <= LAN_MTU && (length - header_len) / share < BACKLOG);
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Options that every fragment has, so that both sides cut at the same places.
fn copied_options() -> [Vec<u8>; 4] {
    let stream = [136, 4, 0, 9];
    let security = [130, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0];
    [vec![], stream.to_vec(), security.to_vec(), [&[0x9e; 1][..], &[40], &[7; 38]].concat()]
}

/// What the kernel sent, as it was before it was routed.
fn before_routing(mut routed: Vec<u8>) -> Vec<u8> {
    assert_eq!(header_sum(&routed), 0xffff, "the kernel's own checksum");
    assert_eq!(routed[ETHERNET + 8], TTL - 1);
    routed[..6].copy_from_slice(&LAN_MAC);
    routed[6..12].copy_from_slice(&APPLIANCE_MAC);
    routed[ETHERNET + 8] = TTL;
    seal(&mut routed);
    routed
}

/// Has the kernel fragment `frame`, until as much payload as it has is there.
fn kernel(wire: &RawWire, frame: &[u8]) -> Vec<Vec<u8>> {
    wire.send(frame);
    let (mut fragments, mut missing) = (Vec::new(), payload(frame).len());
    while missing > 0 {
        let routed = wire.receive().unwrap_or_else(|| {
            panic!("{missing} bytes of {:02x?} never came", &frame[ETHERNET..ETHERNET + header_len(frame)])
        });
        assert_eq!(word(&routed, 4), word(frame, 4), "a fragment of another datagram");
        missing = missing.checked_sub(payload(&routed).len()).expect("more payload than there was");
        fragments.push(before_routing(routed));
    }
    fragments
}

#[test]
fn the_same_bytes_as_linux_for_every_size_mtu_option_list_and_fragment() {
    if skipped() {
        return;
    }
    let lab = lab();
    let wire = RawWire::new(&lab);
    let idents = Arc::new(Idents::with_seed(1));
    let (mut cases, mut fragments) = (0u32, 0);
    for (index, &mtu) in MTUS.iter().enumerate() {
        for options in copied_options() {
            let header_len = 20 + options.len();
            for length in lengths(usize::from(mtu), header_len) {
                let payload = length - header_len;
                // Whole; first, middle and last fragment; with DF; with DF and a fragment of itself.
                for (place, flags) in [0, MF, MF | 100, 100, DF, DF | MF | 7].into_iter().enumerate() {
                    // A fifth of the product is plenty, taken in turn.
                    if flags & MF != 0 && payload % 8 != 0 || (length + place + index) % 5 != 0 {
                        continue;
                    }
                    cases += 1;
                    let shape = Shape {
                        to: behind(index),
                        id: cases as u16,
                        flags,
                        options: options.clone(),
                        payload,
                        trailer: cases as usize % 3 * 2 * usize::from(length + 4 <= LAN_MTU),
                    };
                    let (outcome, ours) = transform(&frame(&shape), mtu, &idents);
                    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fragmented), "{shape:?}");
                    let id = word(&ours[0], 4);
                    assert!(
                        id == shape.id || flags == DF,
                        "only an atomic datagram gets a fresh ID: {shape:?}"
                    );
                    let plain = Shape { flags: flags & !DF, id, payload: 0, trailer: 0, ..shape.clone() };
                    // The payload depends on the shape's ID: keep it, and change the header alone.
                    let mut for_kernel = frame(&shape);
                    for_kernel[ETHERNET + 4..ETHERNET + 8]
                        .copy_from_slice(&frame(&plain)[ETHERNET + 4..ETHERNET + 8]);
                    seal(&mut for_kernel);
                    let theirs = kernel(&wire, &for_kernel);
                    assert!(ours == theirs, "MTU {mtu} {shape:?}: {}", first_difference(&ours, &theirs));
                    fragments += ours.len();
                }
            }
        }
    }
    assert!(wire.silent(), "a fragment too many");
    eprintln!("{cases} packets, {fragments} fragments: the same bytes");
    assert!(cases > 100_000, "{cases}");
}

fn first_difference(ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> String {
    let place = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    let show = |frames: &[Vec<u8>]| {
        frames
            .get(place)
            .map(|f| format!("{} bytes {:02x?}", f.len(), &f[ETHERNET..f.len().min(ETHERNET + 72)]))
    };
    format!(
        "fragment {place} of {} and {}\nours   {:?}\nkernel {:?}",
        ours.len(),
        theirs.len(),
        show(ours),
        show(theirs)
    )
}

#[test]
fn options_that_are_not_copied_become_nops_there_and_room_here() {
    if skipped() {
        return;
    }
    let lab = lab();
    let wire = RawWire::new(&lab);
    let idents = Arc::new(Idents::with_seed(1));
    // Traceroute (82) and a full record route (7) stay behind, stream ID (136) goes along.
    let lists: [Vec<u8>; 3] = [
        [&[82, 12][..], &[0; 10]].concat(),
        [&[136, 4, 0, 9, 82, 12][..], &[1; 10]].concat(),
        vec![7, 7, 8, 198, 18, 1, 9, 1, 136, 4, 0, 9],
    ];
    for (index, &mtu) in MTUS.iter().enumerate() {
        for list in &lists {
            for length in lengths(usize::from(mtu), 20 + list.len()) {
                let shape = Shape {
                    to: behind(index),
                    id: length as u16,
                    flags: 0,
                    options: list.clone(),
                    payload: length - 20 - list.len(),
                    trailer: 0,
                };
                let frame = frame(&shape);
                let (_, ours) = transform(&frame, mtu, &idents);
                let theirs = kernel(&wire, &frame);
                assert!(
                    ours[0] == theirs[0],
                    "the first fragment has them all: {}",
                    first_difference(&ours, &theirs)
                );
                assert!(ours.len() <= theirs.len());
                let data = |frames: &[Vec<u8>]| {
                    frames.iter().flat_map(|frame| payload(frame).to_vec()).collect::<Vec<_>>()
                };
                assert!(data(&ours) == data(&theirs) && data(&ours) == payload(&frame), "{shape:?}");
                let kept = [&[][..], &[136, 4, 0, 9]][usize::from(list.contains(&136))];
                let others = |frames: &[Vec<u8>], filler: u8| {
                    frames[1..].iter().all(|frame| {
                        let rest: Vec<u8> = options(frame)
                            .iter()
                            .copied()
                            .filter(|byte| *byte != filler || kept.contains(byte))
                            .collect();
                        rest == kept
                    })
                };
                assert!(others(&ours, 0), "ours has the copied options only: {shape:?}");
                assert!(others(&theirs, 1), "the kernel's has NOPs: {shape:?}");
                assert!(ours.iter().all(|frame| frame.len() - ETHERNET <= usize::from(mtu)));
            }
        }
    }
    assert!(wire.silent(), "a fragment too many");
}

#[test]
fn what_linux_cuts_up_and_we_leave_alone_or_the_other_way_round() {
    if skipped() {
        return;
    }
    let lab = lab();
    let wire = RawWire::new(&lab);
    let idents = Arc::new(Idents::with_seed(1));
    let index = MTUS.iter().position(|mtu| *mtu == 1422).unwrap();
    let shape = Shape { to: behind(index), id: 7, flags: 0, options: vec![], payload: 1480, trailer: 0 };

    let ragged = frame(&Shape { flags: MF, payload: 1477, ..shape.clone() });
    let (outcome, ours) = transform(&ragged, 1422, &idents);
    assert_eq!((outcome.verdict, &ours[..]), (Verdict::Pass(Reason::Malformed), &[ragged.clone()][..]));
    let theirs = kernel(&wire, &ragged);
    assert_eq!((theirs.len(), payload(&theirs[1]).len(), word(&theirs[1], 6)), (2, 77, MF | 175));

    let beyond = frame(&Shape { flags: 8100, ..shape.clone() });
    assert_eq!(transform(&beyond, 1422, &idents).0.verdict, Verdict::Pass(Reason::Malformed));
    assert_eq!(kernel(&wire, &beyond).len(), 2);

    let reserved = frame(&Shape { flags: 0x8000, ..shape.clone() });
    let (_, ours) = transform(&reserved, 1422, &idents);
    let theirs = kernel(&wire, &reserved);
    assert_eq!([word(&ours[0], 6), word(&ours[1], 6)], [0x8000 | MF, 0x8000 | 175]);
    assert_eq!([word(&theirs[0], 6), word(&theirs[1], 6)], [MF, 175]);

    let mut wrong = frame(&shape);
    wrong[ETHERNET + 10] ^= 1;
    let (outcome, ours) = transform(&wrong, 1422, &idents);
    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fragmented));
    wire.send(&wrong);
    for fragment in &ours {
        assert_ne!(header_sum(fragment), 0xffff, "a wrong checksum must stay wrong");
        wire.send(fragment);
    }
    assert!(wire.silent(), "the kernel forwards neither");
}
