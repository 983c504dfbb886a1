//! Fresh IPv4 identifications for datagrams that are fragmented although they came with DF.
//!
//! Such a datagram is *atomic*: its ID means nothing (RFC 6864 section 4.1) and Linux sends 0.
//! Were the ID kept, a receiver would mix the fragments of different datagrams.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};

/// Power of two; the least that the kernel takes (`IP_IDENTS_SZ`, net/ipv4/route.c). 4 KiB in all.
const COUNTERS: usize = 2048;

/// Counters of identifications, shared by all workers, as the kernel's `ip_idents`.
///
/// (source, destination, protocol) is hashed with a random key to one of 2048 counters, each
/// with a random start. IDs of one such flow therefore differ until its counter has gone
/// round: 65,535 fragmented datagrams of all the flows on it.
pub struct Idents {
    keys: [u64; 2],
    counters: Box<[AtomicU16; COUNTERS]>,
}

impl Idents {
    /// The same identifications for the same calls: for replay and tests.
    pub fn with_seed(mut seed: u64) -> Self {
        let keys = [split_mix(&mut seed), split_mix(&mut seed)];
        let counters = std::array::from_fn(|_| AtomicU16::new(split_mix(&mut seed) as u16));
        Idents { keys, counters: Box::new(counters) }
    }

    /// The next identification for a datagram of this flow.
    ///
    /// Never 0: that is the ID of the datagrams which Linux sent with DF and which fit, hence
    /// keep it, and somebody may fragment behind us.
    #[inline]
    pub fn next(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> u16 {
        // Relaxed: the counter orders nothing but itself.
        let counter = &self.counters[self.slot(source, destination, protocol)];
        loop {
            let id = counter.fetch_add(1, Ordering::Relaxed);
            if id != 0 {
                return id;
            }
        }
    }

    /// Folded multiplication with secret keys, as in wyhash: the kernel's SipHash would cost
    /// as much as the rest of the fragmentation, and no sender sees which flows share a slot.
    #[inline]
    fn slot(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> usize {
        let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
        let product =
            u128::from(addresses ^ self.keys[0]) * u128::from(u64::from(protocol) << 48 ^ self.keys[1] | 1);
        ((product >> 64) as u64 ^ product as u64) as usize % COUNTERS
    }
}

impl Default for Idents {
    /// Keyed at random.
    fn default() -> Self {
        Self::with_seed(RandomState::new().build_hasher().finish())
    }
}

impl fmt::Debug for Idents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idents").finish_non_exhaustive()
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

    #[test]
    fn a_flow_sees_every_id_but_zero_once_a_round() {
        let idents = Idents::default();
        let mut seen = vec![false; 1 << 16];
        for _ in 1..1 << 16 {
            let id = idents.next(A, B, 17);
            assert!(id != 0 && !seen[usize::from(id)], "{id}");
            seen[usize::from(id)] = true;
        }
    }

    #[test]
    fn a_seed_repeats_and_instances_differ() {
        let ids = |idents: &Idents| [1, 6, 17, 50].map(|protocol| idents.next(A, B, protocol));
        assert_eq!(ids(&Idents::with_seed(7)), ids(&Idents::with_seed(7)));
        assert_ne!(ids(&Idents::with_seed(7)), ids(&Idents::with_seed(8)));
        assert_ne!(ids(&Idents::default()), ids(&Idents::default()));
    }

    #[test]
    fn flows_spread_over_the_counters() {
        let idents = Idents::with_seed(1);
        let mut load = vec![0u32; COUNTERS];
        for host in 0..COUNTERS as u32 * 8 {
            for protocol in [6, 17] {
                load[idents.slot(Ipv4Addr::from_bits(0xc612_0000 + host), B, protocol)] += 1;
            }
        }
        // Mean 16; Poisson puts the extremes of 2048 draws at about 4 and 33.
        assert!(load.iter().all(|count| (1..=48).contains(count)), "{:?}", load.iter().max());
    }
}
