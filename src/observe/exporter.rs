//! `--metrics`: an HTTP server with one page, for Prometheus.
//!
//! One connection at a time, with a deadline, so that nobody who can reach the port can use up memory,
//! threads or descriptors.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::snapshot::Snapshot;
use super::{accept, metrics};

/// How long a client may take to ask and to read the answer.
const DEADLINE: Duration = Duration::from_secs(1);
/// Longest request head read, bytes.
const MAX_HEAD: usize = 4096;
/// Header lines in it.
const MAX_HEADERS: usize = 64;

/// A thread that answers `GET /metrics`. Dropping it ends the thread.
#[derive(Debug)]
pub struct Exporter {
    /// Closing this end wakes the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Exporter {
    /// Listens at `address`, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the address is not this machine's, or taken.
    pub fn start<F>(address: SocketAddr, snapshot: F) -> io::Result<Exporter>
    where
        F: Fn() -> Snapshot + Send + 'static,
    {
        let listener = TcpListener::bind(address)?;
        // A client that goes away between poll and accept must not block the thread.
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || serve(&listener, &stopped, &snapshot))?;
        Ok(Exporter { stop: Some(stop), thread: Some(thread), address })
    }

    /// Where it listens, the port that the kernel chose for 0 included.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported already.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stopped: &UnixStream, snapshot: &dyn Fn() -> Snapshot) {
    loop {
        let mut ready = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        // EINTR: look again.
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        if ready[1].any().unwrap_or(true) {
            return;
        }
        if let Some((client, _)) = accept::or_pause(listener.accept()) {
            // Whatever goes wrong is the client's trouble: it sees an answer cut short.
            let _ = answer(client, snapshot);
        }
    }
}

fn answer(mut client: TcpStream, snapshot: &dyn Fn() -> Snapshot) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let request = read_request(&mut client)?;
    let mut client = Patient { client, deadline: Instant::now() + DEADLINE };
    let Some(request) = request else {
        return respond(&mut client, "400 Bad Request", TEXT, "not an HTTP request\n", true);
    };
    let body = request.method != "HEAD";
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/metrics") => {
            respond(&mut client, "200 OK", metrics::CONTENT_TYPE, &metrics::render(snapshot()), body)
        }
        ("GET" | "HEAD", _) => {
            respond(&mut client, "404 Not Found", TEXT, "the metrics are at /metrics\n", body)
        }
        _ => respond(
            &mut client,
            "405 Method Not Allowed\r\nAllow: GET, HEAD",
            TEXT,
            "only GET and HEAD\n",
            true,
        ),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// A client that must have read everything at the deadline, however often it reads a little.
struct Patient {
    client: TcpStream,
    deadline: Instant,
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.client.set_write_timeout(Some(left))?;
        self.client.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn respond(client: &mut Patient, status: &str, kind: &str, text: &str, body: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    client.write_all(head.as_bytes())?;
    if body {
        client.write_all(text.as_bytes())?;
    }
    Ok(())
}

struct Request {
    method: String,
    /// Without the query.
    path: String,
}

/// `None` if what came in time is no request.
fn read_request(client: &mut TcpStream) -> io::Result<Option<Request>> {
    let deadline = Instant::now() + DEADLINE;
    let mut head = Vec::with_capacity(MAX_HEAD);
    let mut part = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > MAX_HEAD {
            return Ok(None);
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut part)? {
            0 => return Ok(None),
            length => head.extend_from_slice(&part[..length]),
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                let target = request.path.unwrap_or_default();
                let path = target.split('?').next().unwrap_or_default().to_owned();
                return Ok(Some(Request { method: request.method.unwrap_or_default().to_owned(), path }));
            }
            Err(_) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_reads_byte_by_byte_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (client, _) = listener.accept().unwrap();
        let begun = Instant::now();
        let deadline = begun + DEADLINE / 4;
        let reader = std::thread::spawn(move || {
            // Until the other end is closed.
            let mut little = [0; 4096];
            while Instant::now() < begun + 20 * DEADLINE && slow.read(&mut little).is_ok_and(|read| read > 0)
            {
                std::thread::sleep(DEADLINE / 20);
            }
        });
        // Far more than the sockets of both ends hold.
        let error = Patient { client, deadline }.write_all(&vec![0; 64 << 20]).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
        assert!(begun.elapsed() < 8 * DEADLINE);
        drop(listener);
        // It sees the end as soon as it has read what was sent.
        drop(reader);
    }
}
