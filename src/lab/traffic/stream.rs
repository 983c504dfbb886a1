//! A steady stream of DF datagrams, and what became of each around an event.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::namespace::Namespace;
use super::datagram;

/// What is on its way when the sender ends arrives within this.
const STRAGGLERS: Duration = Duration::from_millis(300);

/// A running stream. Dropping it ends it.
#[derive(Debug)]
pub struct Stream {
    end: End,
    sender: JoinHandle<Vec<Instant>>,
    receiver: JoinHandle<Received>,
}

/// Ends the threads of a stream when it is dropped.
#[derive(Debug)]
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What a stream's receiver saw.
#[derive(Debug, Default)]
struct Received {
    /// By number.
    arrived: Vec<bool>,
    corrupt: u64,
    reordered: u64,
}

/// What became of a stream.
#[derive(Debug)]
pub struct Account {
    /// When each datagram was sent.
    sent: Vec<Instant>,
    received: Received,
}

/// What an event cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Datagrams that never arrived.
    pub datagrams: usize,
    /// From the event until the last of them was sent; zero if that was before it.
    pub recovery: Duration,
}

impl Stream {
    /// Sends datagrams of `size` bytes (at least 8) at `rate` per second to UDP `to` of the other namespace,
    /// until [`Stream::stop`]. A datagram that the sender's own kernel refuses counts as lost.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn start(
        from: &Namespace,
        to: &Namespace,
        address: (impl Into<IpAddr>, u16),
        size: usize,
        rate: u32,
    ) -> Result<Stream> {
        let address = SocketAddr::new(address.0.into(), address.1);
        let listening = to.run(|| datagram::receiver(address))?;
        let sending = from.run(|| {
            let socket = datagram::sender(address)?;
            socket.connect(address)?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let [sender, receiver] = [&stop, &stop].map(Arc::clone);
        Ok(Stream {
            end: End(stop),
            sender: thread::spawn(move || send(&sending, size, rate, &sender)),
            receiver: thread::spawn(move || receive(&listening, size, &receiver)),
        })
    }

    /// Ends the stream and waits for what is on its way.
    pub fn stop(self) -> Account {
        drop(self.end);
        let sent = self.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut received = self.receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        received.arrived.resize(sent.len().max(received.arrived.len()), false);
        Account { sent, received }
    }
}

impl Account {
    /// Datagrams sent.
    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Datagrams that arrived whole.
    pub fn arrived(&self) -> usize {
        self.received.arrived.iter().filter(|arrived| **arrived).count()
    }

    /// Datagrams that arrived with a wrong length or content.
    pub fn corrupt(&self) -> u64 {
        self.received.corrupt
    }

    /// Datagrams that arrived after one with a higher number.
    pub fn reordered(&self) -> u64 {
        self.received.reordered
    }

    /// Datagrams lost that were sent before `event`.
    pub fn lost_before(&self, event: Instant) -> usize {
        self.lost().filter(|sent| *sent < event).count()
    }

    /// What was lost, most of it since `event`.
    pub fn loss(&self, event: Instant) -> Loss {
        let last = self.lost().last();
        Loss {
            datagrams: self.lost().count(),
            recovery: last.map_or(Duration::ZERO, |last| last.saturating_duration_since(event)),
        }
    }

    /// When the lost datagrams were sent.
    fn lost(&self) -> impl Iterator<Item = Instant> {
        self.sent.iter().zip(&self.received.arrived).filter(|(_, arrived)| !**arrived).map(|(sent, _)| *sent)
    }
}

fn send(socket: &UdpSocket, size: usize, rate: u32, stop: &AtomicBool) -> Vec<Instant> {
    let (start, interval) = (Instant::now(), Duration::from_secs(1) / rate);
    let mut sent = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let due = start + interval * sent.len() as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let datagram = datagram::numbered(sent.len(), size);
        sent.push(Instant::now());
        // Refused (ENOBUFS, ENETDOWN): it does not arrive, which is what is counted.
        let _ = socket.send(&datagram);
    }
    sent
}

fn receive(socket: &UdpSocket, size: usize, stop: &AtomicBool) -> Received {
    let mut received = Received::default();
    let (mut buffer, mut last, mut highest) = (vec![0; 65536], Instant::now(), 0);
    while !stop.load(Ordering::Acquire) || last.elapsed() < STRAGGLERS {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        last = Instant::now();
        let arrived = &buffer[..length];
        let number = datagram::number(arrived).unwrap_or(usize::MAX);
        // Numbers grow by one: what claims a far one is not of this stream.
        if number > received.arrived.len() + 1_000_000 || arrived != datagram::numbered(number, size) {
            received.corrupt += 1;
            continue;
        }
        if number >= received.arrived.len() {
            received.arrived.resize(number + 1, false);
        }
        received.arrived[number] = true;
        received.reordered += u64::from(number < highest);
        highest = highest.max(number);
    }
    received
}
