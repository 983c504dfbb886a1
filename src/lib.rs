//! xdpfrag: fragments oversize DF packets of deaf LAN hosts to the IPsec SA MTU, in front of the kernel.

pub mod config;
pub mod lab;
pub mod observe;
pub mod packet;
