//! ICMP echo at a steady rate, from an unprivileged ping socket (icmp(7), ping_group_range).

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::super::namespace::Namespace;

/// Bytes after the ICMP header, as ping(8) sends.
const PAYLOAD: usize = 56;

/// Sends `count` echo requests, one every `interval`, and returns which were answered within a second
/// of the last.
///
/// # Errors
/// If the socket cannot be made or the kernel refuses to send.
pub fn ping(from: &Namespace, to: Ipv4Addr, count: u16, interval: Duration) -> Result<Vec<bool>> {
    from.run(|| {
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
            .context("cannot make a ping socket")?;
        // A ping socket connects, sends and receives as a UDP socket does; the port means nothing.
        let socket = UdpSocket::from(fd);
        socket.connect((to, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&socket, count, interval * u32::from(count)));
            let start = Instant::now();
            for number in 0..count {
                thread::sleep((interval * u32::from(number)).saturating_sub(start.elapsed()));
                let mut request = [0; 8 + PAYLOAD];
                request[0] = 8;
                request[6..8].copy_from_slice(&number.to_be_bytes());
                socket.send(&request).with_context(|| format!("cannot ping {to}"))?;
            }
            Ok(receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
}

fn receive(socket: &UdpSocket, count: u16, duration: Duration) -> Vec<bool> {
    let mut answered = vec![false; usize::from(count)];
    let end = Instant::now() + duration + Duration::from_secs(1);
    let mut reply = [0; 128];
    while Instant::now() < end && answered.contains(&false) {
        if let Ok(8..) = socket.recv(&mut reply)
            && reply[0] == 0
            && let Some(answer) = answered.get_mut(usize::from(u16::from_be_bytes([reply[6], reply[7]])))
        {
            *answer = true;
        }
    }
    answered
}
