//! What can go wrong around a BPF program, with the remedy.

use libbpf_rs::ErrorKind;

/// A program did not load, or a map call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the program or one of its maps.
    #[error("cannot load the {program} program: {source}{}{}", remedy(source), indented(log))]
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

/// What the kernel's errno usually means when a program is loaded.
fn remedy(source: &libbpf_rs::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => {
            "; it needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: run as root, or see \
             setcap(8) and AmbientCapabilities= of systemd.exec(5)"
        }
        ErrorKind::InvalidInput => "; it needs Linux 5.18 or newer, with BTF (CONFIG_DEBUG_INFO_BTF)",
        _ => "",
    }
}

fn indented(log: &str) -> String {
    log.lines().map(|line| format!("\n  {line}")).collect()
}
