//! The BPF programs through BPF_PROG_RUN, and attached to interfaces of private namespaces.
//!
//! Needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN; says SKIPPED without them.

mod attach;
mod clamp;
mod deaf;
mod exchange;
mod frames;
mod frames6;
mod gateway;
mod ipv6;
mod late;
mod order;
mod parity;
mod scope;
mod unread;
mod verifier;
mod ways;
mod xdp;
