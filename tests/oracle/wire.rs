//! Raw frames through a real router: out of the appliance's interface, and what the far host's wire shows.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt};
use xdpfrag::lab::{Lab, Namespace};

/// Longest wait for a frame that must come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends frames out of the appliance and captures what reaches the far host, with AF_PACKET sockets.
pub(crate) struct RawWire {
    appliance: UdpSocket,
    far: UdpSocket,
}

impl RawWire {
    pub(crate) fn new(lab: &Lab) -> RawWire {
        let far = capture(&lab.far);
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        RawWire { appliance: sender(&lab.appliance, "lan0"), far }
    }

    /// Sends one frame, Ethernet header included.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.appliance.send(frame).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    }

    /// The next frame that reaches the far host; `None` if none comes.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65536];
        match self.far.recv(&mut frame) {
            Ok(len) => {
                frame.truncate(len);
                Some(frame)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("capture: {error}"),
        }
    }

    /// True if nothing more comes.
    pub(crate) fn silent(&self) -> bool {
        self.far.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let silent = self.receive().is_none();
        self.far.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}

/// An AF_PACKET socket behaves as any other datagram socket; std knows how to use those.
fn sender(namespace: &Namespace, interface: &str) -> UdpSocket {
    namespace
        .run(|| {
            let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            let address = getifaddrs()?
                .filter(|candidate| candidate.interface_name == interface)
                .find_map(|candidate| candidate.address?.as_link_addr().copied())
                .expect("the interface has a link address");
            bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &address)?;
            Ok(UdpSocket::from(fd))
        })
        .unwrap()
}

/// Everything that any interface of `namespace` receives.
fn capture(namespace: &Namespace) -> UdpSocket {
    namespace
        .run(|| {
            let all = SockProtocol::EthAll;
            let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
            setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20))?;
            Ok(UdpSocket::from(fd))
        })
        .unwrap()
}
