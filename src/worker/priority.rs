//! The scheduling class of a worker: the only unsafe call of this module.
#![allow(unsafe_code)]

use std::io;

/// Puts the calling thread before all ordinary ones of its core (SCHED_RR at its lowest priority), and
/// behind every other real-time thread. What it starts is ordinary again.
///
/// A nice level would not do: a service and the kernel's NAPI threads are in different groups, which share a
/// core evenly whatever the levels inside are (`cpu.weight`, autogroups). The kernel keeps a part of each
/// core for ordinary threads all the same (sched_rt_runtime_us, 5 %).
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE.
pub(super) fn raise() -> io::Result<()> {
    // SAFETY: every field of sched_param is a number, for which zero is a value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = 1;
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the call reads a whole sched_param, which outlives it; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
