//! xdpfrag between real kernel sockets: every test builds a lab of three network namespaces.

mod support;

mod auto;
mod before;
mod bench;
mod capture;
mod check;
mod demo;
mod differential;
mod environment;
mod fail_open;
mod footprint;
mod ipv6;
mod kinds;
mod late;
mod listeners;
mod live;
mod notify;
mod operate;
mod order;
mod policy;
mod refusals;
mod reload;
mod resegment;
mod residue;
mod tcp;
mod torture;
mod udp;
mod variants;
mod ways;
