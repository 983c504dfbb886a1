//! Who talks to the control socket, and how badly.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use xdpfrag::lab::{LAN, Lab, LabConfig};
use xdpfrag::observe::SOCKET_PREFIX;

use super::{costs_at_most, disturb, long};
use crate::support::{binary, forward, lab, stop};

fn connect(lab: &Lab) -> UnixStream {
    let address = SocketAddr::from_abstract_name(format!("{SOCKET_PREFIX}{LAN}")).unwrap();
    lab.gateway.run(|| Ok(UnixStream::connect_addr(&address)?)).unwrap()
}

#[test]
fn garbage_and_clients_that_never_read() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let clients = if long() { 2000 } else { 100 };
    let cost = disturb(&lab, Duration::from_millis(500), || {
        for client in 0..clients {
            let mut stream = connect(&lab);
            let garbage: Vec<u8> = (0..client % 3000).map(|at| (at * 131 + client) as u8).collect();
            // It may hang up in the middle.
            let _ = stream.write_all(&garbage);
            if client % 3 == 0 {
                stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                let _ = stream.read(&mut [0; 7]);
            }
        }
    });
    costs_at_most(&format!("{clients} clients with garbage on the control socket"), cost, 0);
    let answer = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
    assert!(answer.contains("\"eth1\""), "{answer}");
    stop(daemon);
}
