//! xdpfrag in front of the kernel's ESP: runs as root in the VM that `tests/vm/boot` boots (`make vm-test`).

mod auto;
mod capture;
mod esp;
mod gateways;
mod sa;
mod swan;
