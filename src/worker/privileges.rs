//! What the process may still do once it forwards.

use std::panic::resume_unwind;
use std::thread;

use caps::{CapSet, Capability};

/// Kept: changing maps and running the hand-back program (kernels before 6.4 ask for it even with the descriptor
/// in hand), and detaching filters, deleting devices and reading the tunnels.
const KEPT: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// What the main thread may take up again for a moment: with it the verifier takes the XDP program as it is, without
/// it only made slower (against speculation) or not at all.
const LOADING: Capability = Capability::CAP_PERFMON;
/// What it may take up to serve a queue that was not there at the start: for the hand-back's program and an AF_XDP socket ...
const OPENING: [Capability; 2] = [LOADING, Capability::CAP_NET_RAW];
/// ... and for the memory of that, unless RLIMIT_MEMLOCK allows it.
const LOCKING: Capability = Capability::CAP_IPC_LOCK;

/// Gives up every other capability of the calling thread and of those that it starts from now on, and with
/// them the way back.
///
/// # Errors
/// What could not be given up.
pub fn lower() -> Result<(), caps::errors::CapsError> {
    keep(&[])
}

/// The same for the main thread, which can still do what [`loading`] and [`opening`] are for.
///
/// # Errors
/// As [`lower`].
pub fn lower_but_loading() -> Result<(), caps::errors::CapsError> {
    keep(&[&OPENING[..], &[LOCKING]].concat())
}

fn keep(besides: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let before = caps::read(None, CapSet::Permitted)?;
    let held = |capability: &Capability| before.contains(capability);
    let effective = KEPT.into_iter().filter(held).collect();
    let permitted = KEPT.iter().chain(besides).copied().filter(held).collect();
    // Sandboxes that know no ambient capabilities refuse; there are none to clear then.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::set(None, CapSet::Effective, &effective)?;
    caps::set(None, CapSet::Permitted, &permitted)?;
    caps::clear(None, CapSet::Inheritable)?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| format!("PR_SET_NO_NEW_PRIVS: {errno}").into())
}

/// Does `work` with the capability to load programs.
///
/// # Errors
/// If this thread does not have it to take up.
pub fn loading<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    raised(&[LOADING], work)
}

/// Does `work` with the capabilities to open sockets and hand-backs.
///
/// # Errors
/// If this thread does not have them to take up.
pub fn opening<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let locks = caps::has_cap(None, CapSet::Permitted, LOCKING).unwrap_or(false);
    raised(&[&OPENING[..], if locks { &[LOCKING] } else { &[] }].concat(), work)
}

fn raised<T>(capabilities: &[Capability], work: impl FnOnce() -> T) -> Result<T, String> {
    let before = caps::read(None, CapSet::Effective).map_err(|error| error.to_string())?;
    for capability in capabilities {
        caps::raise(None, CapSet::Effective, *capability)
            .map_err(|error| format!("this process does not have {capability}: {error}"))?;
    }
    let result = work();
    caps::set(None, CapSet::Effective, &before)
        .map_err(|error| format!("giving capabilities up: {error}"))?;
    Ok(result)
}

/// Does `work` in a thread that is [`lower`]ed, and so are those that it starts.
pub fn lowered<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let lowered = || {
        // What it keeps harms nothing that the main thread, which says so, does not.
        let _ = lower();
        work()
    };
    thread::scope(|scope| scope.spawn(lowered).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loads_programs_is_there_while_it_is_needed_and_not_in_threads_that_are_lowered() {
        std::thread::spawn(|| {
            let permitted = || caps::has_cap(None, CapSet::Permitted, LOADING).unwrap();
            let effective = || caps::has_cap(None, CapSet::Effective, LOADING).unwrap();
            let had = permitted();
            lower_but_loading().unwrap();
            assert_eq!((permitted(), effective()), (had, false));
            assert_eq!(loading(effective).ok(), had.then_some(true));
            assert!(!effective());
            let raw = || caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_RAW).unwrap();
            assert_eq!((opening(raw).ok(), raw()), (had.then_some(true), false));
            assert_eq!(lowered(|| (permitted(), effective(), loading(|| ()).is_ok())), (false, false, false));
            assert!(caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn only_what_is_kept_is_left_to_a_thread() {
        std::thread::spawn(|| {
            lower().unwrap();
            for set in [CapSet::Effective, CapSet::Permitted] {
                let left = caps::read(None, set).unwrap();
                assert!(left.iter().all(|capability| KEPT.contains(capability)), "{left:?}");
            }
            assert!(caps::read(None, CapSet::Inheritable).unwrap().is_empty());
            assert_eq!(nix::sys::prctl::get_no_new_privs(), Ok(true));
            assert!(caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).is_err());
        })
        .join()
        .unwrap();
    }
}
