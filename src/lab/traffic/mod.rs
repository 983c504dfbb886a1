//! Real kernel sockets at both ends, with content that the receiver can check byte by byte.

mod datagram;
pub mod ping;
pub mod stream;
pub mod tcp;
pub mod udp;

use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

/// How long a port may be taken by a child of this process between fork(2) and execve(2), which closes
/// what it inherited.
const FORK: Duration = Duration::from_secs(1);

/// Binds, and waits for a port that is about to become free.
fn bind<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + FORK;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// The byte at `offset` of the stream number `seed`: cheap, and no two neighbouring streams or
/// offsets that differ by a fragment's length look alike.
fn byte(seed: u64, offset: u64) -> u8 {
    // The finaliser of splitmix64.
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (offset >> 3);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word >> (8 * (offset & 7))) as u8
}

#[cfg(test)]
mod tests {
    use super::byte;

    #[test]
    fn streams_differ_from_each_other_and_from_themselves_shifted() {
        let stream = |seed, start| (start..start + 1500).map(|at| byte(seed, at)).collect::<Vec<_>>();
        let same = |a: &[u8], b: &[u8]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        let first = stream(1, 0);
        for (other, what) in
            [(stream(2, 0), "next seed"), (stream(1, 1400), "one fragment on"), (stream(1, 8), "one word on")]
        {
            assert!(same(&first, &other) < 60, "{what}: {} of 1500 bytes alike", same(&first, &other));
        }
    }
}
