//! `--notify`: the sender of oversize packets is told the SA MTU now and then, and served all the same.

use std::sync::Arc;

use etherparse::PacketBuilder;
use xdpfrag::config::{Scope, Treatment};
use xdpfrag::handback::MemHandback;
use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{APPLIANCE, FAR, LabConfig};
use xdpfrag::packet::{Df, Edit, Idents, Reason, Rule, Tcp, Transform};
use xdpfrag::port::MemPort;
use xdpfrag::worker::clock::monotonic_ns;
use xdpfrag::worker::{Notifier, Posted, Settings, Turn};
use xdpfrag::xdp::Meta;

use crate::support::{PORT, carry, forward, lab, stop};

const RULE: Rule = Rule::new(1422, None, None);

/// 1500 bytes of UDP with DF.
fn oversize(source: [u8; 4]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, FAR.octets(), 64).udp(4000, 5000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0x5a; 1472]).unwrap();
    frame
}

#[test]
fn one_message_per_second_reaches_the_sender_and_every_packet_its_destination() {
    let Some(lab) = lab(LabConfig { deaf: false, ..LabConfig::beyond() }) else { return };
    let notifier = lab.gateway.run(|| Ok(Notifier::open()?)).unwrap();
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) };
    let treatment = Treatment { scope: Vec::new(), df: Df::Clear, tcp: Tcp::Fragment };
    let port = MemPort::new(64, 1792, 1792);
    let settings = Settings {
        notifier: Some(Arc::new(notifier)),
        ..Settings::new(transform.clone(), Scope::from(&treatment))
    };
    let mut turn = Turn::new(port, MemHandback::new(256, 2048), transform, Arc::new(treatment))
        .following(Posted::new(settings).followed());
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

#[test]
fn the_flag_tells_senders_and_serves_them_all_the_same() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    lab.lan_wire.reset().unwrap();
    let daemon = forward(&lab, &["--notify", "--id-partition", "2/2"]);
    let flow = Flow { rate: 500, ..Flow::new((FAR, PORT), (1390..=1399).collect()) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.missing.is_empty(), "{:?}", tally.missing);
    let interface = stop(daemon);
    let told: u64 = interface.workers.iter().map(|worker| worker.edits["notified"]).sum();
    // One per second, and the flow is over within that.
    assert_eq!((told, lab.lan_wire.seen().unwrap().too_big), (1, 1), "{interface:?}");
}

#[test]
fn a_host_is_told_at_most_once_a_second_while_its_datagrams_arrive() {
    let Some(lab) = lab(LabConfig { deaf: false, ..LabConfig::beyond() }) else { return };
    let daemon = forward(&lab, &["--notify"]);
    // Unconnected, the socket does not hear of it either: 2.5 s of oversize datagrams.
    let flow = Flow { connected: false, rate: 400, ..Flow::new((FAR, PORT), vec![1472; 1000]) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete(), "{tally:?}");
    let told = lab.lan_wire.seen().unwrap().too_big;
    // A busy machine takes longer for the flow.
    assert!((2..=5).contains(&told), "{told}");
    let [worker] = &stop(daemon).workers[..] else { panic!("one queue") };
    assert_eq!((worker.edits["notified"], worker.notify_errors), (told, 0));
}

#[test]
fn a_connection_of_a_host_that_listens_shrinks_to_the_sa_mtu() {
    let Some(lab) = lab(LabConfig { deaf: false, ..LabConfig::beyond() }) else { return };
    let daemon = forward(&lab, &["--notify", "--mss", "off", "--tcp", "fragment"]);
    let report = carry(&lab, Direction::Upload);
    assert!(report.complete(), "{report:?}");
    // 1422 less 40 and less the timestamp option.
    assert_eq!(report.client_mss, 1370, "{report:?}");
    let far = lab.far_wire.seen().unwrap();
    // 4 MB would be 5800 fragments.
    assert!((1..3000).contains(&far.fragments), "{far:?}");
    stop(daemon);
}
