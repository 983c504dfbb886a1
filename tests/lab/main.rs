//! xdpfrag between real kernel sockets: every test builds a lab of three network namespaces.

mod support;

mod before;
mod bench;
mod demo;
mod fail_open;
mod footprint;
mod ipv6;
mod notify;
mod order;
mod policy;
mod refusals;
mod resegment;
mod residue;
mod tcp;
mod udp;
mod variants;
