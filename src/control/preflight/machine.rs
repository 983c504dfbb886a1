//! Kernel, privileges, memory limit, cores.

use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use super::Options;
use crate::config::HandbackChoice;
use crate::control::finding::Finding;
use crate::handback::tap as tap_device;
use crate::port::xsk;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Capabilities that `run` cannot do without, and what for.
const NEEDED: &[(u32, &str, &str)] = &[
    (CAP_BPF, "CAP_BPF", "load BPF programs"),
    (CAP_PERFMON, "CAP_PERFMON", "load BPF programs that read packets by pointer"),
    (CAP_NET_ADMIN, "CAP_NET_ADMIN", "attach them to an interface"),
    (CAP_NET_RAW, "CAP_NET_RAW", "open AF_XDP sockets"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "keep the hand-back's devices in a network namespace of their own"),
];

/// Kernel release and BTF.
pub(super) fn kernel(options: &Options, findings: &mut Vec<Finding>) {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_else(|error| format!("unknown ({error})"));
    findings.push(match version(&release) {
        Some(version) if version < (5, 18) => {
            let missing = match options.handback {
                HandbackChoice::Veth => "XDP programs for multi-buffer frames",
                _ => "XDP programs for multi-buffer frames and BPF_PROG_RUN with live frames",
            };
            let why = format!(
                "{release} is older than 5.18: no {missing}; boot a newer kernel of your distribution"
            );
            Finding::fatal("kernel", why)
        }
        Some(version) if version < (6, 6) => {
            let why = format!(
                "{release} (before 6.6: the egress program is attached with clsact instead of tcx, and \
                 AF_XDP takes no multi-buffer frames, which matters above an MTU of about 3500)"
            );
            Finding::note("kernel", why)
        }
        Some(_) => Finding::ok("kernel", release),
        None => {
            Finding::warning("kernel", format!("cannot read the version from '{release}'; 5.18 is needed"))
        }
    });
    if !Path::new("/sys/kernel").exists() {
        let why = "/sys is not mounted, so that neither BTF nor drivers can be looked up";
        findings.push(Finding::fatal("BTF", why).remedy("mount -t sysfs sysfs /sys"));
    } else if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        let why = "no /sys/kernel/btf/vmlinux: the kernel was built without CONFIG_DEBUG_INFO_BTF; boot one that has it";
        let command = "zgrep DEBUG_INFO_BTF /proc/config.gz /boot/config-*  # which kernel has it";
        findings.push(Finding::fatal("BTF", why).remedy(command));
    }
}

/// Whether there are AF_XDP sockets: small systems leave them out.
pub(super) fn sockets(findings: &mut Vec<Finding>) {
    // Any other error is one of privileges.
    let opened = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None);
    if opened.is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT)) {
        let why = "no AF_XDP sockets: the kernel was built without CONFIG_XDP_SOCKETS, or a sandbox forbids them \
                   (RestrictAddressFamilies=)";
        findings.push(
            Finding::fatal("AF_XDP", why)
                .remedy("zgrep XDP_SOCKETS /proc/config.gz /boot/config-*  # which kernel has it"),
        );
    }
}

/// Whether there can be a TAP device, if one is asked for.
pub(super) fn tap(options: &Options, findings: &mut Vec<Finding>) {
    if options.handback == HandbackChoice::Tap && !Path::new(tap_device::DEVICE).exists() {
        let why = format!("--handback tap needs {}", tap_device::DEVICE);
        findings.push(Finding::fatal("TAP", why).remedy("modprobe tun"));
    }
}

/// Major and minor number of a kernel release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Capabilities, and whether they count in the initial user namespace, where BPF looks.
pub(super) fn privileges(findings: &mut Vec<Finding>) {
    let Some(effective) = effective_capabilities() else {
        findings.push(Finding::warning("privileges", "cannot read CapEff from /proc/thread-self/status"));
        return;
    };
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(bit, ..)| effective & 1 << bit == 0)
        .map(|(_, name, purpose)| format!("{name} (to {purpose})"))
        .collect();
    if !missing.is_empty() {
        let why = format!("missing: {}", missing.join(", "));
        findings.push(Finding::fatal("privileges", why).remedy("sudo xdpfrag ..."));
        return;
    }
    let uid_map = std::fs::read_to_string("/proc/thread-self/uid_map").unwrap_or_default();
    let initial = uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
    findings.push(if initial {
        Finding::ok("privileges", "all capabilities that are needed")
    } else {
        let why = "this is a user namespace (a rootless container?): its capabilities do not count for BPF";
        Finding::warning("privileges", why).remedy("sudo xdpfrag ...  # outside the container")
    });
}

/// Whether this process may change interfaces.
pub fn may_administer_network() -> bool {
    effective_capabilities().is_some_and(|effective| effective & 1 << CAP_NET_ADMIN != 0)
}

fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

/// UMEM counts against RLIMIT_MEMLOCK unless the process has CAP_IPC_LOCK (`xdp_umem_account_pages`).
pub(super) fn locked_memory(queues: u32, findings: &mut Vec<Finding>) {
    if effective_capabilities().is_none_or(|effective| effective & 1 << CAP_IPC_LOCK != 0) {
        return;
    }
    let needed = u64::from(queues.max(1)) * xsk::UMEM_BYTES;
    match locked_memory_limit() {
        Some(limit) if limit < needed => {
            let why = format!(
                "CAP_IPC_LOCK is missing and RLIMIT_MEMLOCK is {} KiB, but {queues} queues lock up to {} KiB",
                limit >> 10,
                needed >> 10
            );
            findings.push(Finding::fatal("locked memory", why).remedy("ulimit -l unlimited"));
        }
        _ => findings.push(Finding::ok("locked memory", "RLIMIT_MEMLOCK is high enough")),
    }
}

/// The soft limit in bytes; `None` if there is none.
fn locked_memory_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/thread-self/limits").ok()?;
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Whether the cores asked for are this process's to use.
pub(super) fn cores(options: &Options, findings: &mut Vec<Finding>) {
    let (Some(cores), Ok(allowed)) = (&options.cores, sched_getaffinity(Pid::from_raw(0))) else { return };
    for core in cores {
        if !allowed.is_set(*core).unwrap_or(false) {
            let usable: Vec<_> = (0..CpuSet::count())
                .filter(|core| allowed.is_set(*core).unwrap_or(false))
                .map(|core| core.to_string())
                .collect();
            let why =
                format!("--cores names core {core}, but this process may use only {}", usable.join(","));
            findings.push(Finding::fatal("cores", why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read_as_distributions_write_them() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.18-rc1"), Some((5, 18)));
        assert_eq!(version("6.18.0+"), Some((6, 18)));
        assert_eq!(version("custom"), None);
    }
}
