//! The BPF programs: loading, attaching by link, and their maps.
//!
//! [`LanProgram`] classifies frames at the LAN interface's ingress (`bpf/xdpfrag.bpf.c`),
//! [`LateProgram`] makes packets fit behind GRO (`bpf/late.bpf.c`), [`ClampProgram`] lowers the MSS at its egress
//! (`bpf/clamp.bpf.c`). What is attached here is owned by file descriptors: the kernel detaches it when the process ends,
//! however it ends (the one exception, kernels without tcx, is [`clamp`]'s to describe).

pub mod clamp;
pub mod error;
pub mod exchange;
pub mod heartbeat;
pub mod idents;
pub mod lan;
pub mod late;
pub mod layout;
pub mod live;
pub mod sys;

mod attach;
mod log;
mod shared;
mod skeleton;

pub use attach::{AttachError, Attached};
pub use clamp::{ClampLink, ClampProgram, Method};
pub use error::Error;
pub use exchange::Variant;
pub use heartbeat::{Heartbeat, Heartbeats};
pub use idents::IdentMap;
pub use lan::{LanConfig, LanProgram, Patience};
pub use late::{Came, LateConfig, LateLink, LateProgram};
pub use layout::{Counters, DeafHost, FrameLimits, Least, Leave, Meta, Route};
pub use live::LiveSettings;
pub use shared::Shared;
pub use sys::XdpMode;

// The mirrors in `layout` against what clang made of the header.
const _: () = {
    use skeleton::xdpfrag::types;
    assert!(size_of::<types::xf_counters>() == Counters::SIZE);
    assert!(size_of::<types::xf_route>() == Route::SIZE);
    assert!(size_of::<types::xf_prefix4>() == layout::PREFIX4_SIZE);
    assert!(size_of::<types::xf_prefix6>() == layout::PREFIX6_SIZE);
    assert!(size_of::<types::xf_source4>() == layout::SOURCE4_SIZE);
    assert!(size_of::<types::xf_source6>() == layout::SOURCE6_SIZE);
    assert!(size_of::<types::xf_address>() == layout::DeafHost::KEY_SIZE);
    assert!(size_of::<types::xf_deaf>() == layout::DeafHost::SIZE);
    assert!(size_of::<types::xf_heartbeat>() == Heartbeats::ENTRY);
    assert!(size_of::<types::xf_shared>() == Shared::SIZE);
    assert!(size_of::<types::bss_shared>() == Shared::SIZE);
    assert!(size_of::<types::data_live>() == layout::Live::SIZE);
};
