//! xdpfrag between real kernel sockets: every test builds a lab of three network namespaces.

mod support;

mod before;
