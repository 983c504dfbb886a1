//! xdpfrag: fragments oversize DF packets of deaf LAN hosts to the IPsec SA MTU, in front of the kernel.
//!
//! `ARCHITECTURE.md` shows the path of a frame through these modules and which may use which.

pub mod cli;
pub mod config;
pub mod control;
pub mod frame;
pub mod handback;
pub mod ipsec;
pub mod lab;
pub mod net;
pub mod observe;
pub mod packet;
pub mod pcap;
pub mod port;
pub mod worker;
pub mod xdp;
