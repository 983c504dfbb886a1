//! Network namespaces, above all ones without a name, which only this process can reach.
//!
//! What lives in such a one is invisible elsewhere and goes when its last file descriptor does: after SIGKILL too.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct PrivateNs {
    file: File,
}

impl PrivateNs {
    /// Makes one, with nothing but a loopback interface that is down.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN; `ENOSPC` at the limit of user.max_net_namespaces.
    pub fn new() -> io::Result<PrivateNs> {
        // A thread of its own, because unshare(2) moves the thread that calls it.
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })??;
        Ok(PrivateNs { file })
    }

    /// One that has a name: `path` is a file such as those below /run/netns (ip-netns(8)).
    ///
    /// # Errors
    /// If there is no such file. That it is no network namespace is an error of [`PrivateNs::run`].
    pub fn open(path: &Path) -> io::Result<PrivateNs> {
        Ok(PrivateNs { file: File::open(path)? })
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// If the thread cannot be made, or not enter the namespace.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?
    }
}

impl AsFd for PrivateNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("xf-netns".into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Vec<String> {
        let names = nix::net::if_::if_nameindex().unwrap();
        names.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn it_is_empty_and_leaves_the_caller_where_it_is() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: a network namespace needs root");
            return;
        }
        let before = interfaces();
        let ns = PrivateNs::new().unwrap();
        assert_eq!(ns.run(interfaces).unwrap(), ["lo"]);
        assert_eq!(interfaces(), before);
    }
}
