//! xdpfrag between real kernel sockets: every test builds a lab of three network namespaces.

mod support;

mod before;
mod demo;
mod fail_open;
mod notify;
mod order;
mod refusals;
mod residue;
mod tcp;
mod udp;
mod variants;
