//! Answers `stats`, and takes commands, on an abstract Unix socket per interface.
//!
//! Abstract names belong to the network namespace and vanish with the process, so nothing is left
//! behind however it ends.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::request::{CaptureRequest, Outcome, Request};
use super::snapshot::Snapshot;
use super::{SOCKET_PREFIX, accept};

/// How long a client may take to ask, and to read its answer, before it is cut off.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Longest request, bytes.
const MAX_REQUEST: u64 = 4096;

/// Why the statistics socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The name is taken.
    #[error("another xdpfrag serves {0} in this network namespace; see it with: xdpfrag stats --iface {0}")]
    InUse(String),
    /// Anything else.
    #[error("cannot open the statistics socket of {interface}: {source}")]
    Io {
        /// Interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Who knows the answers.
pub trait Answers: Send + 'static {
    /// State and counters at this moment.
    fn snapshot(&self) -> Snapshot;

    /// Reads the configuration again.
    fn reload(&self) -> Outcome {
        Outcome { ok: false, message: "this instance has no configuration to read again".into() }
    }

    /// Ends the instance, on another thread, which then answers `client` with an [`Outcome`].
    ///
    /// # Errors
    /// Why not.
    fn replace(&self, _client: UnixStream) -> Result<(), String> {
        Err("this instance has nothing to hand over".into())
    }

    /// Begins to send frames to `client`, on another thread.
    ///
    /// # Errors
    /// Why not.
    fn capture(&self, _request: CaptureRequest, _client: UnixStream) -> Result<(), String> {
        Err("this instance has no frames to capture".into())
    }
}

impl<F: Fn() -> Snapshot + Send + 'static> Answers for F {
    fn snapshot(&self) -> Snapshot {
        self()
    }
}

/// A thread that answers one request per connection. Dropping it ends the thread.
#[derive(Debug)]
pub struct Server {
    /// Closing this end wakes the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens for each of `interfaces`, in the network namespace of the calling thread.
    pub fn start(interfaces: &[String], answers: impl Answers) -> Result<Server, ServerError> {
        let listeners = interfaces.iter().map(|name| listen(name)).collect::<Result<Vec<_>, _>>()?;
        let failed = |source| ServerError::Io { interface: interfaces.join(", "), source };
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("stats".into())
            .spawn(move || serve(&listeners, &stopped, &answers))
            .map_err(failed)?;
        Ok(Server { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported already; statistics are not worth another.
            let _ = thread.join();
        }
    }
}

fn listen(interface: &str) -> Result<UnixListener, ServerError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::InUse(interface.to_owned()),
        _ => ServerError::Io { interface: interface.to_owned(), source },
    };
    let address = SocketAddr::from_abstract_name(format!("{SOCKET_PREFIX}{interface}")).map_err(failed)?;
    let listener = UnixListener::bind_addr(&address).map_err(failed)?;
    // A client that goes away between poll and accept must not block the thread.
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn serve(listeners: &[UnixListener], stopped: &UnixStream, answers: &impl Answers) {
    loop {
        let mut ready: Vec<_> = listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)).collect();
        ready.push(PollFd::new(stopped.as_fd(), PollFlags::POLLIN));
        // EINTR: look again.
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        if ready.last().is_none_or(|stop| stop.any().unwrap_or(true)) {
            return;
        }
        for (listener, polled) in listeners.iter().zip(&ready) {
            if !polled.any().unwrap_or(false) {
                continue;
            }
            if let Some((client, _)) = accept::or_pause(listener.accept()) {
                // Whatever goes wrong is the client's trouble: it sees an answer cut short.
                drop(answer(client, answers));
            }
        }
    }
}

/// One at a time, so that clients cannot use up memory or threads. Answers root and the user it runs as: counters
/// tell who talks, a capture tells what, and a reload changes it.
fn answer(mut client: UnixStream, answers: &impl Answers) -> io::Result<()> {
    let uid = getsockopt(&client, PeerCredentials)?.uid();
    if uid != 0 && uid != geteuid().as_raw() {
        return Ok(());
    }
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(TIMEOUT))?;
    client.set_write_timeout(Some(TIMEOUT))?;
    let mut line = Vec::new();
    // The client closes its side behind the request.
    (&client).take(MAX_REQUEST).read_to_end(&mut line)?;
    match Request::parse(&line)? {
        Request::Stats => client.write_all(&serde_json::to_vec(&answers.snapshot())?),
        Request::Reload => client.write_all(&serde_json::to_vec(&answers.reload())?),
        Request::Replace => unless_refused(client, |client| answers.replace(client)),
        // The client sees that an outcome is no pcapng.
        Request::Capture(request) => unless_refused(client, |client| answers.capture(request, client)),
    }
}

/// Leaves the answer to `accept`, or answers why it does not.
fn unless_refused(
    client: UnixStream,
    accept: impl FnOnce(UnixStream) -> Result<(), String>,
) -> io::Result<()> {
    let refused = client.try_clone()?;
    match accept(client) {
        Ok(()) => Ok(()),
        Err(message) => (&refused).write_all(&serde_json::to_vec(&Outcome { ok: false, message })?),
    }
}
