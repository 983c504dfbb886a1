//! What can go wrong around a BPF program, with the remedy.

use libbpf_rs::ErrorKind;

/// A program did not load, or a map call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the program or one of its maps.
    #[error("cannot load the {program} program: {source}{}", explanation(source, log))]
    Load {
        /// Its name.
        program: &'static str,
        /// Why.
        source: libbpf_rs::Error,
        /// libbpf's last warnings, a line each: what the verifier said, for one.
        log: String,
    },
    /// A call on a map of a loaded program failed.
    #[error("BPF map {map}: cannot {action}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What was tried.
        action: String,
        /// Why.
        source: libbpf_rs::Error,
    },
    /// A tc program could not be attached or removed.
    #[error("cannot {action}: {source}")]
    Tc {
        /// What was tried.
        action: String,
        /// Why.
        source: libbpf_rs::Error,
    },
}

impl Error {
    /// True if what was to be removed from a map is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Map { source, .. } if source.kind() == ErrorKind::NotFound)
    }

    pub(super) fn map(
        map: &'static str,
        action: impl Into<String>,
    ) -> impl FnOnce(libbpf_rs::Error) -> Error {
        let action = action.into();
        move |source| Error::Map { map, action, source }
    }

    pub(super) fn load(program: &'static str) -> impl FnOnce((libbpf_rs::Error, String)) -> Error {
        move |(source, log)| Error::Load { program, source, log }
    }
}

/// What the kernel's errno means when a program is loaded, and what libbpf said to it.
///
/// The verifier answers EACCES or EINVAL too, but says why; without its log, no permission is
/// all there is to say (libbpf then suspects RLIMIT_MEMLOCK, which Linux 5.11 did away with).
fn explanation(source: &libbpf_rs::Error, log: &str) -> String {
    let remedy = match source.kind() {
        _ if log.contains("BEGIN PROG LOAD LOG") => "; the kernel's verifier refused it",
        ErrorKind::PermissionDenied => {
            return "; it needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: run as root, or \
                    give them by AmbientCapabilities= (systemd.exec(5)) or setcap(8)"
                .to_owned();
        }
        ErrorKind::InvalidInput => {
            "; it needs Linux 5.18 or newer with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS"
        }
        _ => "",
    };
    let said: String = log.lines().map(|line| format!("\n  {line}")).collect();
    format!("{remedy}{said}")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn told(errno: i32, log: &str) -> String {
        Error::load("xdpfrag")((io::Error::from_raw_os_error(errno).into(), log.to_owned())).to_string()
    }

    #[test]
    fn permission_and_verifier_are_told_apart() {
        let permission = told(libc::EPERM, "libbpf: Failed to bump RLIMIT_MEMLOCK (err = -1)");
        assert!(permission.contains("CAP_BPF") && !permission.contains("MEMLOCK"), "{permission}");
        let refused = told(libc::EACCES, "-- BEGIN PROG LOAD LOG --\nR1 invalid mem access");
        assert!(refused.contains("verifier") && refused.ends_with("\n  R1 invalid mem access"), "{refused}");
        assert!(!refused.contains("CAP_BPF"), "{refused}");
        assert!(told(libc::EINVAL, "").contains("Linux 5.18"));
    }
}
