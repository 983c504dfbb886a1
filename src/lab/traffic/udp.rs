//! Numbered UDP datagrams: sent with DF at a steady pace, and accounted for one by one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::super::namespace::Namespace;
use super::datagram;

/// Datagrams between two looks at the clock.
const BURST: usize = 16;

/// One flow of datagrams.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Where to.
    pub to: SocketAddr,
    /// Payload length of each datagram, in order, bytes (1 to 65507).
    pub sizes: Vec<usize>,
    /// Datagrams per second.
    pub rate: u32,
    /// Connected sockets number their datagrams in the IP header, unconnected ones send ID 0.
    pub connected: bool,
    /// Silence after which nothing more is expected once the sender is done.
    pub quiet: Duration,
}

/// What became of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Datagrams sent; the kernel refused none.
    pub sent: u64,
    /// Different datagrams that arrived with the right length and content.
    pub intact: u64,
    /// Datagrams with a wrong length or content, or of no flow.
    pub corrupt: u64,
    /// Datagrams that had arrived before.
    pub duplicates: u64,
    /// Datagrams that arrived after one with a higher number.
    pub reordered: u64,
    /// Payload lengths that never arrived, with how many, ascending.
    pub missing: BTreeMap<usize, u64>,
}

impl Tally {
    /// True if every datagram arrived once, whole.
    pub fn complete(&self) -> bool {
        self.intact == self.sent && self.corrupt == 0 && self.duplicates == 0
    }
}

impl Flow {
    /// A connected flow of `sizes` at 20,000 datagrams per second.
    pub fn new(to: (impl Into<IpAddr>, u16), sizes: Vec<usize>) -> Flow {
        Flow {
            to: (to.0, to.1).into(),
            sizes,
            rate: 20_000,
            connected: true,
            quiet: Duration::from_millis(300),
        }
    }

    /// Sends the flow from one namespace and accounts for it in another.
    ///
    /// # Errors
    /// If a socket cannot be made or the kernel refuses to send.
    pub fn run(&self, from: &Namespace, to: &Namespace) -> Result<Tally> {
        let receiver = self.listen(to)?;
        let sent = from.run(|| self.send());
        let tally = receiver.finish()?;
        sent?;
        Ok(tally)
    }

    /// Sends the flow from the calling thread's namespace.
    ///
    /// # Errors
    /// If the kernel refuses a datagram.
    pub fn send(&self) -> Result<()> {
        let socket = datagram::sender(self.to)?;
        if self.connected {
            socket.connect(self.to)?;
        }
        let start = Instant::now();
        for (number, &size) in self.sizes.iter().enumerate() {
            let due = Duration::from_secs(number as u64) / self.rate;
            if number % BURST == 0 {
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            let datagram = datagram::numbered(number, size);
            let done =
                if self.connected { socket.send(&datagram) } else { socket.send_to(&datagram, self.to) };
            done.with_context(|| format!("cannot send a datagram of {size} bytes"))?;
        }
        Ok(())
    }

    /// Receives the flow in `namespace` from now on.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn listen(&self, namespace: &Namespace) -> Result<Receiver> {
        let socket = namespace.run(|| datagram::receiver(self.to))?;
        let sent = Arc::new(AtomicBool::new(false));
        let (flow, done) = (self.clone(), Arc::clone(&sent));
        Ok(Receiver { sent, thread: thread::spawn(move || flow.receive(&socket, &done)) })
    }

    fn receive(&self, socket: &UdpSocket, sent: &AtomicBool) -> Result<Tally> {
        let mut seen = vec![false; self.sizes.len()];
        let mut tally = Tally { sent: self.sizes.len() as u64, ..Tally::default() };
        let (mut highest, mut buffer) = (0, vec![0; 65536]);
        let mut last = Instant::now();
        while tally.intact < tally.sent && !(sent.load(Ordering::Acquire) && last.elapsed() > self.quiet) {
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            last = Instant::now();
            let Some(number) = self.identify(&buffer[..length], &seen) else {
                tally.corrupt += 1;
                continue;
            };
            if std::mem::replace(&mut seen[number], true) {
                tally.duplicates += 1;
                continue;
            }
            tally.intact += 1;
            if number < highest {
                tally.reordered += 1;
            }
            highest = highest.max(number);
        }
        for (&size, _) in self.sizes.iter().zip(&seen).filter(|(_, seen)| !**seen) {
            *tally.missing.entry(size).or_default() += 1;
        }
        Ok(tally)
    }

    /// The number of a datagram that is whole; one too short for its number is told by its length.
    fn identify(&self, datagram: &[u8], seen: &[bool]) -> Option<usize> {
        let number = match datagram::number(datagram) {
            Some(number) => number,
            None => {
                let fits = |&number: &usize| self.sizes[number] == datagram.len() && !seen[number];
                (0..self.sizes.len()).find(fits)?
            }
        };
        let size = *self.sizes.get(number)?;
        (datagram == datagram::numbered(number, size)).then_some(number)
    }
}

/// A flow's receiving end.
#[derive(Debug)]
pub struct Receiver {
    sent: Arc<AtomicBool>,
    thread: JoinHandle<Result<Tally>>,
}

impl Receiver {
    /// Call when everything is sent: waits for stragglers and returns the account.
    ///
    /// # Errors
    /// If the receiving socket failed.
    pub fn finish(self) -> Result<Tally> {
        self.sent.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
