//! xdpfrag in front of the kernel's ESP: runs as root in the VM that `tests/vm/boot` boots (`make vm-test`).

mod applications;
mod auto;
mod capture;
mod conntrack;
mod esp;
mod full_table;
mod gateways;
mod inner6;
mod late;
mod nics;
mod sa;
mod swan;
mod ways;
