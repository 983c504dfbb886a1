//! Frames made to hurt, at rate, beside a flow that must not notice.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{APPLIANCE, FAR, Lab, LabConfig};

use super::raw::{RawSocket, ethernet};
use super::{costs_at_most, disturb, long, note};
use crate::footprint::resident_kib;
use crate::support::{PORT, forward, lab, stop};

/// The attacker, a neighbour of the appliance.
const ATTACKER: [u8; 4] = [198, 18, 1, 66];
/// Frames per second: more than a flow of the stack's needs to be drowned by mistakes, less than a full ring.
const RATE: u32 = 10_000;

/// A sequence of pseudo-random numbers (splitmix64): the same frames in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// One kind of attack: a frame, Ethernet header included.
type Attack = fn(&mut Numbers) -> Vec<u8>;

const ATTACKS: [(&str, Attack); 11] = [
    ("random bytes", |numbers| {
        let len = 14 + numbers.below(1486);
        let mut frame = ethernet(0x0800);
        frame.extend(numbers.bytes(len - 14));
        frame
    }),
    ("mutated", |numbers| {
        let mut frame = udp(numbers, 1472);
        for _ in 0..1 + numbers.below(4) {
            let at = 12 + numbers.below(60);
            frame[at] = numbers.next() as u8;
        }
        frame
    }),
    ("truncated", |numbers| {
        let mut frame = udp(numbers, 1472);
        frame.truncate(15 + numbers.below(80));
        frame
    }),
    ("options", |numbers| {
        let options = numbers.bytes(40);
        let mut header = header(numbers, 1400);
        header.options = options.as_slice().try_into().expect("40 bytes");
        ip(header, &[0x41; 1400])
    }),
    ("a stack of VLAN tags", |numbers| {
        let inner = udp(numbers, 1300);
        let mut frame = inner[..12].to_vec();
        for _ in 0..1 + numbers.below(20) {
            frame.extend([0x81, 0x00, 0, numbers.next() as u8]);
        }
        frame.extend(&inner[12..]);
        frame.truncate(1514);
        frame
    }),
    ("overlapping fragments", |numbers| {
        let mut header = header(numbers, 1480);
        header.identification = numbers.below(4) as u16;
        header.dont_fragment = numbers.below(2) == 0;
        header.more_fragments = true;
        header.fragment_offset = (numbers.below(180) as u16).try_into().expect("13 bits");
        ip(header, &[0x42; 1480])
    }),
    ("tiny fragments", |numbers| {
        let mut header = header(numbers, 8);
        header.more_fragments = numbers.below(8) != 0;
        header.fragment_offset = (numbers.below(8191) as u16).try_into().expect("13 bits");
        ip(header, &[0x43; 8])
    }),
    ("land", |numbers| {
        let mut header = header(numbers, 1472);
        header.source = header.destination;
        ip(header, &[0x44; 1472])
    }),
    ("forged sources", |numbers| {
        let mut header = header(numbers, 1472);
        header.source = [198, 19, numbers.next() as u8, numbers.next() as u8];
        header.dont_fragment = true;
        ip(header, &[0x45; 1472])
    }),
    // Of the flow's own addresses: a fresh identification each, or one that the flow's datagrams may have now.
    ("a flood of identifications", |numbers| {
        let mut header = header(numbers, 1472);
        header.source = APPLIANCE.octets();
        header.dont_fragment = numbers.below(2) == 0;
        let mut payload = vec![0x46; 1472];
        payload[..8].copy_from_slice(&[0, 9, 0, 9, 0x05, 0xc0, 0, 0]);
        ip(header, &payload)
    }),
    ("TCP option bombs", |numbers| {
        let mut header = header(numbers, 60);
        header.protocol = IpNumber::TCP;
        let mut segment = numbers.bytes(60);
        segment[2..4].copy_from_slice(&9_u16.to_be_bytes());
        // Data offset, which may point beyond the segment; SYN or not.
        segment[12] = (numbers.below(16) as u8) << 4;
        segment[13] = if numbers.below(2) == 0 { 0x02 } else { 0x10 };
        let options = &mut segment[20..];
        match numbers.below(4) {
            // A length of zero, which a careless loop never leaves.
            0 => options.fill(0),
            1 => options.chunks_mut(4).for_each(|option| option.copy_from_slice(&[2, 4, 0xff, 0xff])),
            // An MSS option that ends behind the header.
            2 => options.fill(1),
            _ => {}
        }
        options[0] = [2, 8, options[0]][numbers.below(3)];
        options[39] = [2, options[39]][numbers.below(2)];
        segment.resize([60, 1480][numbers.below(2)], 0x47);
        ip(header, &segment)
    }),
];

/// To a port of the far host where nobody listens.
fn udp(numbers: &mut Numbers, len: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(ATTACKER, FAR.octets(), 64).udp(numbers.next() as u16, 9);
    builder.write(&mut packet, &vec![0x40; len]).unwrap();
    [ethernet(0x0800), packet].concat()
}

fn header(numbers: &mut Numbers, payload: u16) -> Ipv4Header {
    let mut header = Ipv4Header::new(payload, 64, IpNumber::UDP, ATTACKER, FAR.octets()).unwrap();
    header.identification = numbers.next() as u16;
    header
}

fn ip(mut header: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    header.set_payload_len(payload.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = Vec::new();
    header.write_raw(&mut packet).unwrap();
    packet.extend(payload);
    [ethernet(0x0800), packet].concat()
}

/// Sends attacks in turn from the appliance's link for `duration`; returns how many.
fn attack(lab: &Lab, attacks: &[(&str, Attack)], duration: Duration) -> Result<u64> {
    lab.appliance.run(|| {
        let wire = RawSocket::open("lan0")?;
        let (start, mut numbers, mut sent) = (Instant::now(), Numbers(1), 0);
        while start.elapsed() < duration {
            for (_, attack) in attacks {
                let frame = attack(&mut numbers);
                // A frame that even the sender's kernel does not let out hurts nobody.
                if wire.send(&frame).is_ok() {
                    sent += 1;
                }
            }
            thread::sleep((Duration::from_secs(sent) / RATE).saturating_sub(start.elapsed()));
        }
        Ok(sent)
    })
}

#[test]
fn hostile_frames_do_not_disturb_a_flow() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    // Fragments without the rest fill the far host's memory for them, with any router before it.
    lab.far.sysctl("ipv4/ipfrag_high_thresh", "536870912").unwrap();
    for arguments in [
        &["--notify"][..],
        &["--redirect", "all"],
        &["--tcp", "resegment", "--handback", "veth"],
        &["--tcp", "resegment", "--handback", "tap", "--redirect", "all"],
    ] {
        let daemon = forward(&lab, arguments);
        let duration = Duration::from_secs(if long() { 20 } else { 2 });
        let mut sent = 0;
        let cost = disturb(&lab, Duration::from_millis(300), || {
            sent = attack(&lab, &ATTACKS, duration).unwrap();
        });
        let interface = stop(daemon);
        costs_at_most(&format!("{sent} hostile frames, {}", arguments.join(" ")), cost, 0);
        assert!(sent > 1000, "{sent} frames");
        let counted: u64 = interface.xdp.values().sum();
        assert!(counted >= sent, "{counted} of {sent} frames are accounted for: {interface:?}");
        for reason in ["malformed", "not_ip", "group", "oversize"] {
            assert!(interface.xdp[reason] + interface.xdp["all"] > 0, "no frame was {reason}: {interface:?}");
        }
        for worker in &interface.workers {
            assert_eq!(worker.received, worker.reasons.values().sum::<u64>(), "{interface:?}");
        }
    }
}

/// `--force deaf` learns who is deaf from what hosts send: forged senders must not make it forget one.
#[test]
fn forged_senders_do_not_push_a_deaf_host_out() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--force", "deaf"]);
    let learning = Flow { rate: 1000, ..Flow::new((FAR, PORT), vec![1472; 3000]) };
    learning.run(&lab.appliance, &lab.far).unwrap();
    let forged = ATTACKS.iter().filter(|(name, _)| *name == "forged sources").copied().collect::<Vec<_>>();
    let mut sent = 0;
    let cost = disturb(&lab, Duration::from_millis(300), || {
        sent = attack(&lab, &forged, Duration::from_secs(2)).unwrap();
    });
    costs_at_most(&format!("{sent} forged senders, `--force deaf`"), cost, 0);
    let interface = stop(daemon);
    assert!(interface.xdp["warned"] > sent / 2, "{interface:?}");
}

/// All tables that a sender can write to are of a fixed size.
#[test]
fn forged_senders_cost_no_memory() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--notify"]);
    let forged = ATTACKS.iter().filter(|(name, _)| *name == "forged sources").copied().collect::<Vec<_>>();
    attack(&lab, &forged, Duration::from_millis(500)).unwrap();
    let before = resident_kib(daemon.pid());
    let sent = attack(&lab, &forged, Duration::from_secs(if long() { 20 } else { 2 })).unwrap();
    let after = resident_kib(daemon.pid());
    note(&format!(
        "{sent} forged senders, `--notify`: resident memory {before} KiB before, {after} KiB after"
    ));
    assert!(after <= before + 256, "{before} KiB, then {after} KiB");
    stop(daemon);
}
