//! What a worker thread may still do once everything it needs is open: move frames.
//!
//! It reads packets from strangers. Should one ever get the better of it, it can open no file and no socket, start
//! no program, and attach nothing: seccomp refuses the calls, landlock the files.

use std::collections::BTreeMap;
use std::sync::Once;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::privileges;

/// bpf(2): BPF_PROG_TEST_RUN, by which the hand-back runs its program; nothing is loaded, attached or changed.
const PROG_TEST_RUN: u64 = 10;

/// What a worker calls besides: polling and kicking its sockets, memory, futexes and the
/// clock of the standard library, and its own end.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Confines the calling thread, for good. What this kernel cannot do is said once and left out: the gateway's
/// work comes first.
pub(super) fn confine() {
    static SAID: Once = Once::new();
    let missing: Vec<String> =
        [privileges::lower().err().map(|error| error.to_string()), no_files().err(), no_calls().err()]
            .into_iter()
            .flatten()
            .collect();
    if !missing.is_empty() {
        SAID.call_once(|| {
            tracing::warn!("workers are not confined as they could be: {}", missing.join("; "))
        });
    }
}

/// landlock: no file may be opened, made or run.
fn no_files() -> Result<(), String> {
    let everything = AccessFs::from_all(ABI::V1);
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(everything);
    let status = ruleset.and_then(Ruleset::create).and_then(landlock::RulesetCreated::restrict_self);
    match status.map_err(|error| format!("landlock: {error}"))?.ruleset {
        RulesetStatus::NotEnforced => {
            Err("there is no landlock (CONFIG_SECURITY_LANDLOCK, lsm=, or a sandbox forbids the call)".into())
        }
        _ => Ok(()),
    }
}

/// seccomp: other calls fail with EPERM.
fn no_calls() -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("seccomp: {error}");
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| said(&error))?;
    let run = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, PROG_TEST_RUN)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| said(&error))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_bpf, vec![run]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter =
        SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch).map_err(|error| said(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| said(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| said(&error))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_confined_thread_opens_no_file_and_no_socket_and_starts_nothing() {
        std::thread::spawn(|| {
            assert!(File::open("/etc/passwd").is_ok() && UdpSocket::bind("127.0.0.1:0").is_ok());
            no_calls().unwrap();
            let refused = |result: std::io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
            };
            refused(File::open("/etc/passwd").map(drop));
            refused(File::create("/tmp/xdpfrag-confined").map(drop));
            refused(UdpSocket::bind("127.0.0.1:0").map(drop));
            refused(UnixStream::pair().map(drop));
            refused(Command::new("/bin/true").status().map(drop));
        })
        .join()
        .unwrap();
        // The rest of the process is as free as before.
        assert!(File::open("/etc/passwd").is_ok() && UdpSocket::bind("127.0.0.1:0").is_ok());
    }

    #[test]
    fn landlock_alone_keeps_files_shut_where_the_kernel_has_it() {
        std::thread::spawn(|| match no_files() {
            Ok(()) => {
                let error = File::open("/etc/passwd").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            }
            Err(why) => {
                assert!(why.contains("landlock"), "{why}");
                assert!(File::open("/etc/passwd").is_ok());
            }
        })
        .join()
        .unwrap();
    }
}
