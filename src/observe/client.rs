//! Finds running instances and asks them.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;

use super::SOCKET_PREFIX;
use super::request::{Outcome, Request};
use super::snapshot::Snapshot;

/// How long an instance may take to answer: a reload reads the kernel's tunnels.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer accepted, bytes: hundreds of queues.
const MAX_ANSWER: u64 = 4 << 20;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no xdpfrag serves {0} in this network namespace; start one with: xdpfrag run --iface {0} --mtu ..."
    )]
    NotRunning(String),
    /// The socket belongs to someone who may not own a gateway.
    #[error("the statistics socket of {interface} belongs to user {uid}, neither root nor you: not asked")]
    Foreign {
        /// Interface.
        interface: String,
        /// Who listens there.
        uid: u32,
    },
    /// The instance does not answer this user.
    #[error("xdpfrag on {0} answers only root and the user it runs as; try: sudo xdpfrag stats --iface {0}")]
    Refused(String),
    /// The instance did not answer in full.
    #[error("no answer from xdpfrag on {interface}: {source}")]
    Io {
        /// Interface.
        interface: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The answer is not a snapshot as this version knows it.
    #[error("the answer from xdpfrag on {interface} cannot be read ({source}); is it another version?")]
    Format {
        /// Interface.
        interface: String,
        /// Where it broke.
        source: serde_json::Error,
    },
}

/// Interfaces served by any instance in the network namespace of the calling thread.
pub fn interfaces() -> io::Result<Vec<String>> {
    // /proc/net would be that of the process's first thread.
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix")?;
    let mut names: Vec<_> = sockets.lines().filter_map(listening).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// The interface of a line of /proc/net/unix, if it is a listening statistics socket.
fn listening(line: &str) -> Option<&str> {
    // Num RefCount Protocol Flags Type St Inode Path; flag 0x10000 is __SO_ACCEPTCON.
    let mut fields = line.split_whitespace();
    let flags = fields.nth(3)?;
    let name = fields.nth(3)?.strip_prefix('@')?.strip_prefix(SOCKET_PREFIX)?;
    (u32::from_str_radix(flags, 16).ok()? & 0x10000 != 0).then_some(name)
}

/// A snapshot of the instance that serves `interface`.
pub fn fetch(interface: &str) -> Result<Snapshot, ClientError> {
    answer(interface, &Request::Stats)
}

/// Has the instance that serves `interface` read its configuration again.
pub fn reload(interface: &str) -> Result<Outcome, ClientError> {
    answer(interface, &Request::Reload)
}

/// Has the instance that serves `interface` end, and waits until it has let go of its interfaces.
pub fn replace(interface: &str) -> Result<Outcome, ClientError> {
    answer(interface, &Request::Replace)
}

/// True if the owner of a gateway may have this user id: root, the caller, or a service of systemd's.
fn trusted(uid: u32) -> bool {
    // DynamicUser= (systemd.exec(5)); 65534 is nobody.
    let service = (61_184..=65_519).contains(&uid);
    uid == 0 || uid == geteuid().as_raw() || (service && geteuid().is_root())
}

fn answer<T: DeserializeOwned>(interface: &str, request: &Request) -> Result<T, ClientError> {
    let failed = |source| ClientError::Io { interface: interface.to_owned(), source };
    let mut answer = Vec::new();
    ask(interface, request)?.take(MAX_ANSWER).read_to_end(&mut answer).map_err(failed)?;
    if answer.is_empty() {
        return Err(ClientError::Refused(interface.to_owned()));
    }
    serde_json::from_slice(&answer)
        .map_err(|source| ClientError::Format { interface: interface.to_owned(), source })
}

/// Sends `request` to the instance that serves `interface`; the answer is to be read.
pub fn ask(interface: &str, request: &Request) -> Result<UnixStream, ClientError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => ClientError::NotRunning(interface.to_owned()),
        _ => ClientError::Io { interface: interface.to_owned(), source },
    };
    let address = SocketAddr::from_abstract_name(format!("{SOCKET_PREFIX}{interface}")).map_err(failed)?;
    let mut server = UnixStream::connect_addr(&address).map_err(failed)?;
    // Any user may take an abstract name: believe only those who could own the gateway.
    let uid = getsockopt(&server, PeerCredentials).map_err(|errno| failed(errno.into()))?.uid();
    if !trusted(uid) {
        return Err(ClientError::Foreign { interface: interface.to_owned(), uid });
    }
    server.set_read_timeout(Some(READ_TIMEOUT)).map_err(failed)?;
    let sent = serde_json::to_vec(request).map_err(io::Error::from).and_then(|line| server.write_all(&line));
    match sent.and_then(|()| server.shutdown(Shutdown::Write)) {
        // It hung up on this user at once.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(ClientError::Refused(interface.to_owned()))
        }
        sent => sent.map(|()| server).map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::server::{Server, ServerError};

    /// Abstract names are shared by everything in the namespace: tests use names of their own.
    fn name(test: &str) -> String {
        format!("{test}-{}", std::process::id())
    }

    fn sample() -> Snapshot {
        Snapshot { version: "0.1.0".into(), pid: 42, uptime_s: 1.5, idents_reused: 0, interfaces: Vec::new() }
    }

    #[test]
    fn the_server_answers_until_it_is_dropped() {
        let name = name("ask");
        let server = Server::start(std::slice::from_ref(&name), sample).unwrap();
        assert!(interfaces().unwrap().contains(&name));
        for _ in 0..3 {
            assert_eq!(fetch(&name).unwrap(), sample());
        }
        drop(server);
        assert!(!interfaces().unwrap().contains(&name));
        assert!(matches!(fetch(&name), Err(ClientError::NotRunning(_))));
    }

    #[test]
    fn commands_get_an_outcome_and_nonsense_gets_nothing() {
        let name = name("command");
        let _server = Server::start(std::slice::from_ref(&name), sample).unwrap();
        let outcome = reload(&name).unwrap();
        assert!(!outcome.ok && outcome.message.contains("no configuration"), "{outcome:?}");
        let capture: Outcome = answer(&name, &Request::Capture(Default::default())).unwrap();
        assert!(!capture.ok, "{capture:?}");
        let address = SocketAddr::from_abstract_name(format!("{SOCKET_PREFIX}{name}")).unwrap();
        for nonsense in ["", "reload", "{\"reload\"", "[]"] {
            let mut client = UnixStream::connect_addr(&address).unwrap();
            client.write_all(nonsense.as_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert!(answer.is_empty(), "{nonsense}");
        }
        assert_eq!(fetch(&name).unwrap(), sample());
    }

    #[test]
    fn strangers_are_not_believed() {
        assert!(trusted(0) && trusted(geteuid().as_raw()));
        assert!(!trusted(1234) && !trusted(65_534) && !trusted(100_000));
        assert_eq!(trusted(61_500), geteuid().is_root());
    }

    #[test]
    fn a_second_server_for_the_interface_is_refused() {
        let name = name("twice");
        let _server = Server::start(std::slice::from_ref(&name), sample).unwrap();
        let second = Server::start(std::slice::from_ref(&name), sample);
        assert!(matches!(second, Err(ServerError::InUse(taken)) if taken == name));
    }

    #[test]
    fn a_client_that_never_reads_does_not_block_the_others() {
        let name = name("deaf");
        // More than a socket buffer holds.
        let long = || Snapshot { version: "x".repeat(2 << 20), ..sample() };
        let _server = Server::start(std::slice::from_ref(&name), long).unwrap();
        let address = SocketAddr::from_abstract_name(format!("{SOCKET_PREFIX}{name}")).unwrap();
        let _deaf = UnixStream::connect_addr(&address).unwrap();
        assert_eq!(fetch(&name).unwrap().version.len(), 2 << 20);
    }

    #[test]
    fn only_listening_statistics_sockets_are_found() {
        let line = |flags: &str, path: &str| {
            format!("0000000000000000: 00000002 00000000 {flags} 0001 01 42 {path}")
        };
        assert_eq!(listening(&line("00010000", "@xdpfrag/eth1")), Some("eth1"));
        assert_eq!(listening(&line("00000000", "@xdpfrag/eth1")), None);
        assert_eq!(listening(&line("00010000", "/run/xdpfrag/eth1")), None);
        assert_eq!(listening("Num RefCount Protocol Flags Type St Inode Path"), None);
    }
}
