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

/// Gives up every other capability of the calling thread and of those that it starts from now on, and with
/// them the way back.
///
/// # Errors
/// What could not be given up.
pub fn lower() -> Result<(), caps::errors::CapsError> {
    keep(&[])
}

/// The same for the main thread, which can still do what [`loading`] is for.
///
/// # Errors
/// As [`lower`].
pub fn lower_but_loading() -> Result<(), caps::errors::CapsError> {
    keep(&[LOADING])
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
    let held = caps::has_cap(None, CapSet::Effective, LOADING);
    if held.is_ok_and(|held| held) {
        return Ok(work());
    }
    caps::raise(None, CapSet::Effective, LOADING)
        .map_err(|error| format!("this process does not have {LOADING}: {error}"))?;
    let result = work();
    caps::drop(None, CapSet::Effective, LOADING).map_err(|error| format!("{LOADING}: {error}"))?;
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
