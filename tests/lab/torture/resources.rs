//! What a process and the kernel hold at a moment.

use std::fs;
use std::path::Path;

use crate::footprint::resident_kib;

/// What a running instance holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Resident memory, KiB.
    pub(super) resident_kib: u64,
    /// Open descriptors.
    pub(super) descriptors: usize,
    /// Threads.
    pub(super) threads: usize,
    /// Memory of the BPF maps that it has descriptors of, as the kernel accounts for it, KiB.
    pub(super) maps_kib: u64,
}

impl Held {
    pub(super) fn by(pid: u32) -> Held {
        let count = |dir: &str| fs::read_dir(format!("/proc/{pid}/{dir}")).unwrap().count();
        Held {
            resident_kib: resident_kib(pid),
            descriptors: count("fd"),
            threads: count("task"),
            maps_kib: maps_kib(Path::new(&format!("/proc/{pid}/fdinfo"))),
        }
    }
}

/// Each map counts once, however many descriptors it has.
fn maps_kib(fdinfo: &Path) -> u64 {
    let mut maps = std::collections::BTreeMap::new();
    for entry in fs::read_dir(fdinfo).unwrap() {
        let Ok(info) = fs::read_to_string(entry.unwrap().path()) else { continue };
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum::<u64>() >> 10
}

/// What the whole kernel holds; others on the machine move it, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// Network namespaces; `None` if it does not tell.
    pub(super) namespaces: Option<i64>,
    /// Memory that it took for itself and cannot give up: slabs, vmalloc, per CPU; KiB.
    pub(super) own_kib: i64,
    /// Memory to be had, KiB.
    pub(super) available_kib: i64,
}

impl Kernel {
    pub(super) fn now() -> Kernel {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<i64>().ok())
                .expect("meminfo has it")
        };
        let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        let namespaces = slabs.lines().find_map(|line| line.strip_prefix("net_namespace ")).map(|line| {
            let active = line.split_whitespace().next().expect("active objects");
            active.parse().expect("a number")
        });
        Kernel {
            namespaces,
            own_kib: ["SUnreclaim", "VmallocUsed", "Percpu"].map(kib).iter().sum(),
            available_kib: kib("MemAvailable"),
        }
    }
}
