//! A TCP transfer that is checked byte by byte and given up at a deadline: a stall is a result.
//!
//! Linux sets DF on every segment by itself; that it ignores MSS and ICMP is up to the lab's wire.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, sockopt};
use serde::Serialize;

use super::super::namespace::Namespace;
use super::{bind, byte};

const CHUNK: usize = 64 << 10;
/// Longest a read or write blocks before the deadline is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The side that connects.
    Upload,
    /// The side that listens.
    Download,
}

/// One transfer.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Where the far side listens.
    pub to: SocketAddr,
    /// Bytes to carry.
    pub bytes: u64,
    /// Who sends them.
    pub direction: Direction,
    /// When to give up.
    pub deadline: Duration,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Bytes that arrived in the right place.
    pub received: u64,
    /// Bytes that were to arrive.
    pub bytes: u64,
    /// True if a byte was wrong.
    pub corrupt: bool,
    /// How long it took or was waited for, seconds.
    pub elapsed_s: f64,
    /// TCP_MAXSEG of the connecting side, bytes.
    pub client_mss: u32,
    /// TCP_MAXSEG of the listening side, bytes.
    pub server_mss: u32,
}

impl Report {
    /// True if everything arrived, and right.
    pub fn complete(&self) -> bool {
        self.received == self.bytes && !self.corrupt
    }
}

impl Transfer {
    /// Connects from one namespace to the other and carries the bytes.
    ///
    /// # Errors
    /// If the connection cannot be made; a stall is not an error.
    pub fn run(&self, client: &Namespace, server: &Namespace) -> Result<Report> {
        let listener = server.run(|| Ok(bind(|| TcpListener::bind(self.to))?))?;
        let connected = client.run(|| {
            TcpStream::connect_timeout(&self.to, self.deadline)
                .with_context(|| format!("cannot connect to {}", self.to))
        })?;
        let (accepted, _) = listener.accept()?;
        for stream in [&connected, &accepted] {
            stream.set_read_timeout(Some(TICK))?;
            stream.set_write_timeout(Some(TICK))?;
        }
        let (source, sink) = match self.direction {
            Direction::Upload => (&connected, &accepted),
            Direction::Download => (&accepted, &connected),
        };
        let start = Instant::now();
        let end = start + self.deadline;
        let (received, corrupt) = thread::scope(|scope| {
            let sender = scope.spawn(|| self.send(source, end));
            let received = self.receive(sink, end);
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            received
        })?;
        Ok(Report {
            received,
            bytes: self.bytes,
            corrupt,
            elapsed_s: start.elapsed().as_secs_f64(),
            client_mss: getsockopt(&connected, sockopt::TcpMaxSeg)?,
            server_mss: getsockopt(&accepted, sockopt::TcpMaxSeg)?,
        })
    }

    fn send(&self, mut stream: &TcpStream, end: Instant) -> Result<()> {
        let mut sent = 0;
        while sent < self.bytes && Instant::now() < end {
            let stop = self.bytes.min(sent + CHUNK as u64);
            let chunk: Vec<u8> = (sent..stop).map(|at| byte(0, at)).collect();
            match stream.write(&chunk) {
                Ok(written) => sent += written as u64,
                Err(error) if again(&error) => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
        Ok(())
    }

    fn receive(&self, mut stream: &TcpStream, end: Instant) -> Result<(u64, bool)> {
        let (mut received, mut buffer) = (0, vec![0; CHUNK]);
        while received < self.bytes && Instant::now() < end {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let right = |(at, got): (u64, &u8)| *got == byte(0, at);
                    if !(received..).zip(&buffer[..length]).all(right) {
                        return Ok((received, true));
                    }
                    received += length as u64;
                }
                Err(error) if again(&error) => {}
                Err(error) => return Err(error).context("receiving"),
            }
        }
        Ok((received, false))
    }
}

/// True if the timeout only gave us a look at the deadline.
fn again(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
