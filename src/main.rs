//! xdpfrag
fn main() {}
