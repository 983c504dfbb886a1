//! `--notify`: the sender of oversize packets is told the SA MTU now and then, and served all the same.

use std::sync::Arc;

use etherparse::PacketBuilder;
use xdpfrag::config::Treatment;
use xdpfrag::handback::MemHandback;
use xdpfrag::lab::{APPLIANCE, FAR, LabConfig};
use xdpfrag::packet::{Df, Edit, Idents, Reason, Rule, Tcp, Transform};
use xdpfrag::port::MemPort;
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::worker::{Notifier, Turn};
use xdpfrag::xdp::Meta;

use crate::support::lab;

const RULE: Rule = Rule { mtu: 1422, mss4: None, mss6: None };

/// 1500 bytes of UDP with DF.
fn oversize(source: [u8; 4]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, FAR.octets(), 64).udp(4000, 5000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0x5a; 1472]).unwrap();
    frame
}

#[test]
fn one_message_per_second_reaches_the_sender_and_every_packet_its_destination() {
    let Some(lab) = lab(LabConfig { deaf: false, ..LabConfig::default() }) else { return };
    let notifier = lab.gateway.run(|| Ok(Notifier::open()?)).unwrap();
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) };
    let treatment = Treatment { scope: Vec::new(), df: Df::Clear, tcp: Tcp::Fragment };
    let port = MemPort::new(64, 1792, 1792);
    let mut turn = Turn::new(port, MemHandback::new(256, 2048), transform, Arc::new(treatment))
        .notifying(Arc::new(notifier));
    let start = monotonic_ns();
    // Three seconds by the XDP program's time stamps: 10 packets each.
    for tenth in 0..30 {
        let meta = Meta { rx_ns: start + tenth * 100_000_000, rule: RULE };
        assert!(turn.port_mut().deliver(&oversize(APPLIANCE.octets()), Some(meta)));
    }
    // Without DF nobody promised that it fits.
    let mut without_df = oversize([198, 18, 1, 9]);
    without_df[20] = 0;
    turn.port_mut().deliver(&without_df, Some(Meta { rx_ns: start, rule: RULE }));
    // The gateway knows no way back to this one.
    turn.port_mut().deliver(&oversize([198, 51, 100, 7]), Some(Meta { rx_ns: start, rule: RULE }));
    turn.turn().unwrap();

    assert_eq!(turn.counters().count(Reason::Fragmented), 32);
    assert_eq!(turn.counters().edits(Edit::Notified), 3);
    assert_eq!(turn.counters().snapshot().notify_errors, 1);
    let seen = lab.lan_wire.seen().unwrap();
    assert_eq!((seen.too_big, seen.packets), (3, 3), "{seen:?}");
    // RFC 1812 section 4.3.2.3: as much of the packet as fits 576 bytes.
    assert_eq!(seen.largest(), 576);
}
