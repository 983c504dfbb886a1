//! What other implementations got wrong, each as a test (facts.md section 5, by number).

use std::collections::HashSet;
use std::thread;

use xdpfrag::packet::{Df, Edit, Idents, Partition, Reason, Rule, Verdict, mss};

use crate::support::{
    AH, Catch, DF, Fragment, MF, Packet, UDP, apply, pattern, reassemble, transform, transport_sum,
};

/// Router alert, which every fragment repeats, and record route, which only the first carries.
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
const RECORD_ROUTE: [u8; 7] = [7, 7, 4, 0, 0, 0, 0];

fn fragments(packet: &Packet, mtu: u16) -> Vec<Fragment> {
    let (outcome, frames) = apply(Df::Clear, mtu, None, &packet.frame());
    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fragmented));
    assert!(frames.iter().all(|frame| frame.len() <= packet.link_len() + usize::from(mtu)));
    frames.iter().map(|frame| Fragment::of(frame, packet.link_len())).collect()
}

fn fields(fragments: &[Fragment]) -> Vec<u16> {
    fragments.iter().map(|fragment| fragment.flags_offset).collect()
}

fn syn(options: &[u8]) -> Packet {
    Packet::tcp(0x02, options, &[])
}

/// The payload after a clamp to 1382, and whether one was reported.
fn clamped(packet: &Packet) -> (Vec<u8>, bool) {
    let (outcome, frames) = apply(Df::Clear, 1422, Some(1382), &packet.frame());
    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fits));
    (Fragment::of(&frames[0], packet.link_len()).payload, outcome.edits.contains(Edit::Mss))
}

/// DPDK app/test/test_ipfrag.c.
#[test]
fn published_vectors_of_dpdk() {
    let packet = Packet { flags_offset: 0, ..Packet::new(UDP, pattern(1400)) };
    assert_eq!(fields(&fragments(&packet, 600)), [0x2000, 0x2048, 0x0090]);
    assert_eq!(fields(&fragments(&packet, 1280)), [0x2000, 0x009d]);
}

/// VPP ip_frag.c took the options for payload.
#[test]
fn trap_01_options_are_not_payload() {
    let options = [ROUTER_ALERT, ROUTER_ALERT].concat();
    let packet = Packet { options: options.clone(), ..Packet::new(UDP, pattern(1480)) };
    let parts = fragments(&packet, 1422);
    assert_eq!(reassemble(&parts, 0), (packet.payload, true));
    assert!(parts.iter().all(|part| part.options == options && part.header_sum == 0xffff));
    assert_eq!(parts[0].payload.len(), (1422 - 28) / 8 * 8);
}

/// DPDK 567473433b lost the offset or MF of a fragment that was fragmented again.
#[test]
fn trap_02_refragmenting_keeps_offset_and_mf() {
    for (field, last) in [(MF | 185, MF), (DF | MF | 185, MF), (185, 0), (DF | 185, 0), (MF, MF)] {
        let packet = Packet { id: 77, flags_offset: field, ..Packet::new(UDP, pattern(1480)) };
        let parts = fragments(&packet, 600);
        let offset = field & 0x1fff;
        assert_eq!(fields(&parts), [MF | offset, MF | (offset + 72), last | (offset + 144)]);
        assert!(parts.iter().all(|part| part.id == 77), "the other fragments of the datagram have it too");
        let start = usize::from(offset) * 8;
        assert_eq!(reassemble(&parts, start), (packet.payload, last == 0), "{field:#x}");
    }
}

/// DPDK 324242fb51 sent the padding as payload.
#[test]
fn trap_03_ethernet_padding_is_not_payload() {
    let packet = Packet { padding: 30, ..Packet::udp(100) };
    assert_eq!(reassemble(&fragments(&packet, 80), 0), (packet.payload.clone(), true));
    let (outcome, frames) = apply(Df::Keep, 128, None, &packet.frame());
    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fits), "padding does not make it oversize");
    assert_eq!(frames, [packet.frame()]);
}

/// DPDK b50a14a853 repeated every option.
#[test]
fn trap_04_options_without_the_copied_bit_are_on_the_first_fragment_only() {
    let options = [RECORD_ROUTE.as_slice(), &[1], &ROUTER_ALERT, &RECORD_ROUTE, &[0]].concat();
    let packet = Packet { options: options.clone(), ..Packet::new(UDP, pattern(1480)) };
    let parts = fragments(&packet, 600);
    assert_eq!(parts[0].options, options);
    assert!(parts[1..].iter().all(|part| part.options == ROUTER_ALERT));
    assert!(parts.iter().all(|part| part.header_sum == 0xffff));
    assert_eq!(reassemble(&parts, 0), (packet.payload.clone(), true));

    let odd = Packet { options: vec![0x88, 5, 1, 2, 3, 7, 3, 4], ..packet };
    assert_eq!(fragments(&odd, 600)[1].options, [0x88, 5, 1, 2, 3, 0, 0, 0], "padded with end-of-list");
}

/// VPP ee043260e6b: two workers, one counter, no atomicity.
#[test]
fn trap_05_workers_never_share_an_identification() {
    const EACH: usize = 16_000;
    let transform = transform(Df::Clear);
    let frame = Packet::udp(1472).frame();
    let ids: Vec<u16> = thread::scope(|scope| {
        let worker = || {
            let transform = transform.clone();
            let frame = &frame;
            scope.spawn(move || {
                let mut ids = Vec::with_capacity(EACH);
                for _ in 0..EACH {
                    let mut sink = Catch::new(2, 0);
                    transform.apply(frame, Rule::new(1422, None, None), &mut sink);
                    let [first, last] = [0, 1].map(|at| Fragment::of(&sink.frames[at], 14).id);
                    assert_eq!(first, last, "the fragments of one datagram");
                    ids.push(first);
                }
                ids
            })
        };
        let workers = [worker(), worker(), worker(), worker()];
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 4 * EACH);
    assert!(!ids.contains(&0));
}

/// Two gateways that share the load of one flow, two workers each.
#[test]
fn trap_05_gateways_never_share_an_identification_under_partition() {
    const EACH: usize = 16_000;
    let [a, b] = [1, 2].map(|part| Idents::partitioned(Partition::new(part, 2).unwrap()));
    let (source, destination) = (Packet::SOURCE.into(), Packet::DESTINATION.into());
    let ids: HashSet<u16> = thread::scope(|scope| {
        let workers = [&a, &a, &b, &b].map(|idents| {
            scope.spawn(move || (0..EACH).map(|_| idents.next(source, destination, UDP)).collect::<Vec<_>>())
        });
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 4 * EACH);
}

/// VPP, and Linux before b396966c: bytes of a later fragment that look like a SYN.
#[test]
fn trap_06_a_later_fragment_is_not_clamped() {
    let later = Packet { flags_offset: 185, ..syn(&[2, 4, 5, 0xb4]) };
    assert_eq!(clamped(&later), (later.payload.clone(), false));
    let first = Packet { flags_offset: MF, ..syn(&[2, 4, 5, 0xb4]) };
    assert_eq!(clamped(&first).0[20..24], [2, 4, 5, 0x66], "the first one carries the header");
    let mut cut = first;
    cut.payload.truncate(23);
    assert_eq!(clamped(&cut), (cut.payload.clone(), false), "header not wholly there");
}

/// Linux 2638fd0f.
#[test]
fn trap_07_malformed_option_lists_are_survived() {
    for options in [
        [2, 0, 5, 0xb4],
        [2, 1, 5, 0xb4],
        [2, 3, 5, 0xb4],
        [2, 5, 5, 0xb4],
        [2, 255, 5, 0xb4],
        [8, 0, 2, 4],
        [1, 1, 2, 4],
        [1, 1, 1, 2],
        [0, 2, 4, 5],
    ] {
        let packet = syn(&options);
        assert_eq!(clamped(&packet), (packet.payload.clone(), false), "{options:?}");
    }
    let behind = syn(&[1, 3, 3, 7, 2, 4, 5, 0xb4]);
    assert_eq!(clamped(&behind).0[24..28], [2, 4, 5, 0x66], "a sound option before it");
}

/// Linux 17008064 and 409b545a.
#[test]
fn trap_08_the_mss_is_never_raised_nor_added() {
    for options in [&[2, 4, 5, 0x66][..], &[2, 4, 2, 0x18], &[2, 4, 0, 0], &[1, 1, 1, 1], &[]] {
        let packet = syn(options);
        assert_eq!(clamped(&packet), (packet.payload.clone(), false), "{options:?}");
    }
    let ack = Packet::tcp(0x10, &[2, 4, 5, 0xb4], &[]);
    assert_eq!(clamped(&ack), (ack.payload.clone(), false), "no SYN");
    let syn_ack = Packet::tcp(0x12, &[2, 4, 5, 0xb4], &[]);
    assert_eq!(clamped(&syn_ack).0[20..24], [2, 4, 5, 0x66]);
}

/// VPP and pf: the incremental checksum of a value across two words.
#[test]
fn trap_09_mss_at_an_odd_offset() {
    for pad in 0..4 {
        let mut options = vec![1; pad];
        options.extend([2, 4, 0x23, 0x28]);
        options.resize(8, 0);
        let (payload, edited) = clamped(&syn(&options));
        assert!(edited);
        assert_eq!(payload[20 + pad..24 + pad], [2, 4, 5, 0x66]);
        assert_eq!(transport_sum(6, &payload), 0xffff, "pad {pad}");
    }
}

/// CVE-2019-11479: an MTU taken from a forged ICMP message.
#[test]
fn trap_10_the_mss_limit_has_a_floor() {
    for mtu in 0..=u16::MAX {
        assert_eq!(mss::mss4_for(mtu), mtu.saturating_sub(40).max(536));
        assert_eq!(mss::mss6_for(mtu), mtu.saturating_sub(60).max(1220));
    }
}

/// One ID on several datagrams makes a receiver mix their bytes; a datagram without DF has a
/// meaningful ID, one that is not fragmented needs none, and an authentication header covers it.
#[test]
fn only_a_fragmented_df_datagram_gets_a_fresh_id() {
    let ids = |packet: &Packet| -> (HashSet<u16>, bool) {
        let (outcome, frames) = apply(Df::Clear, 600, None, &packet.frame());
        (frames.iter().map(|f| Fragment::of(f, 14).id).collect(), outcome.edits.contains(Edit::Id))
    };
    let (fresh, edited) = ids(&Packet::udp(1472));
    assert!(edited && fresh.len() == 1 && !fresh.contains(&0));
    let keeps = |packet: Packet| assert_eq!(ids(&packet), (HashSet::from([packet.id]), false), "{packet:?}");
    keeps(Packet { id: 9, flags_offset: 0, ..Packet::udp(1472) });
    keeps(Packet { id: 9, flags_offset: DF | MF, ..Packet::new(UDP, pattern(1480)) });
    keeps(Packet { id: 9, flags_offset: DF | 100, ..Packet::new(UDP, pattern(1479)) });
    keeps(Packet { id: 9, ..Packet::new(AH, pattern(1480)) });
    keeps(Packet::udp(100));
}
