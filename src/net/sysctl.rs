//! Kernel settings under /proc/sys.

use std::path::Path;

/// The number that `name` (with slashes: `net/ipv4/ip_forward`) is set to; `None` where the kernel
/// has no such setting. Settings below `net` are those of the calling thread's namespace.
pub fn number(name: &str) -> Option<i64> {
    std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_numbers_and_misses_nothing_else() {
        assert!(super::number("net/ipv4/ip_forward").is_some());
        assert_eq!(super::number("net/ipv4/no_such_setting"), None);
        assert_eq!(super::number("kernel/ostype"), None);
    }
}
