//! What the process may still do once it forwards.

use caps::{CapSet, Capability};

/// Kept: changing maps and running the hand-back program (kernels before 6.4 ask for it even with the descriptor
/// in hand), and detaching filters, deleting devices and reading the tunnels.
const KEPT: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// Gives up every other capability of the calling thread and of those that it starts from now on, and with
/// them the way back.
///
/// # Errors
/// What could not be given up.
pub fn lower() -> Result<(), caps::errors::CapsError> {
    let before = caps::read(None, CapSet::Permitted)?;
    let kept = KEPT.into_iter().filter(|capability| before.contains(capability)).collect();
    // Sandboxes that know no ambient capabilities refuse; there are none to clear then.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| format!("PR_SET_NO_NEW_PRIVS: {errno}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
