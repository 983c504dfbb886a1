//! Fresh IPv4 identifications for datagrams that are fragmented although they came with DF.
//!
//! Such a datagram is *atomic*: its ID means nothing (RFC 6864 section 4.1) and Linux sends 0.
//! Were the ID kept, a receiver would mix the fragments of different datagrams.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Power of two; the least that the kernel takes (`IP_IDENTS_SZ`, net/ipv4/route.c). 16 KiB in all.
const COUNTERS: usize = 2048;

/// How long a receiver may wait for the rest of a datagram (Linux `net.ipv4.ipfrag_time`), seconds.
pub const REASSEMBLY_SECS: u64 = 30;

/// The share of the identifications that one of several gateways uses, so that those which
/// share the load of the same flows never choose the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    part: u16,
    of: u16,
}

impl Partition {
    /// All of them.
    pub const WHOLE: Partition = Partition { part: 1, of: 1 };
    /// Most gateways that can share: 256 identifications for each.
    pub const MAX: u16 = 256;

    /// Part `part` of `of`, counted from 1; `None` unless 1 ≤ `part` ≤ `of` ≤ [`MAX`](Self::MAX).
    pub const fn new(part: u16, of: u16) -> Option<Self> {
        if 1 <= part && part <= of && of <= Self::MAX { Some(Partition { part, of }) } else { None }
    }

    /// log2 of the number of parts, which is rounded up to a power of two: parts are then told by
    /// the low bits, and stay apart when a counter goes round.
    pub const fn bits(self) -> u32 {
        self.of.next_power_of_two().trailing_zeros()
    }

    /// What the low bits are.
    pub const fn low(self) -> u16 {
        self.part - 1
    }

    /// How many identifications there are in it, 0 included.
    pub const fn size(self) -> u32 {
        1 << (16 - self.bits())
    }
}

/// Memory for [`Idents::COUNTERS`] counters.
pub type Counters = Arc<dyn AsRef<[AtomicU64]> + Send + Sync>;

/// Counters of identifications, shared by all workers and by the programs in the kernel (`bpf/ident.h`), as the
/// kernel's `ip_idents`.
///
/// (source, destination, protocol) is hashed with a random key to one of 2048 counters, each
/// with a random start. IDs of one such flow therefore differ until its counter has gone
/// round: 65,535 fragmented datagrams of all the flows on it, or [`Partition::size`].
pub struct Idents {
    seed: u64,
    counters: Counters,
    partition: Partition,
    /// The counters when the last interval ended.
    marks: Mutex<Vec<u64>>,
    reused: AtomicU64,
}

impl Idents {
    /// How many counters there are.
    pub const COUNTERS: usize = COUNTERS;

    /// Keyed at random, with the identifications of `partition` only.
    pub fn partitioned(partition: Partition) -> Self {
        Self::new(partition, heap(), random())
    }

    /// The same, in memory that others count in, too: they hash by [`seed`](Self::seed).
    ///
    /// # Panics
    /// If there are fewer than [`COUNTERS`](Self::COUNTERS) words.
    pub fn shared(partition: Partition, counters: Counters) -> Self {
        Self::new(partition, counters, random())
    }

    /// The same identifications for the same calls: for replay and tests.
    pub fn with_seed(seed: u64) -> Self {
        Self::new(Partition::WHOLE, heap(), seed)
    }

    fn new(partition: Partition, counters: Counters, seed: u64) -> Self {
        let mut state = seed;
        let start = |counter: &AtomicU64| {
            let start = split_mix(&mut state);
            counter.store(start, Ordering::Relaxed);
            start
        };
        let marks = (*counters).as_ref()[..COUNTERS].iter().map(start).collect();
        Idents { seed, counters, partition, marks: Mutex::new(marks), reused: AtomicU64::new(0) }
    }

    /// Keys the hash.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Which identifications are used.
    pub fn partition(&self) -> Partition {
        self.partition
    }

    fn counters(&self) -> &[AtomicU64] {
        (*self.counters).as_ref()
    }

    /// The next identification for a datagram of this flow.
    ///
    /// Never 0: that is the ID of the datagrams which Linux sent with DF and which fit, hence
    /// keep it, and somebody may fragment behind us.
    #[inline]
    pub fn next(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> u16 {
        let counter = &self.counters()[self.slot(source, destination, protocol)];
        loop {
            // Relaxed: the counter orders nothing but itself.
            let count = counter.fetch_add(1, Ordering::Relaxed) << self.partition.bits();
            let id = count as u16 | self.partition.low();
            if id != 0 {
                return id;
            }
        }
    }

    /// Ends an interval of [`REASSEMBLY_SECS`]: counts the identifications that were used in it
    /// more than once, to be called by one thread at that pace.
    ///
    /// A receiver that lost a fragment may have mixed the datagrams that had them.
    pub fn end_of_interval(&self) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reused = 0;
        for (mark, counter) in marks.iter_mut().zip(self.counters()) {
            let now = counter.load(Ordering::Relaxed);
            reused += now.wrapping_sub(*mark).saturating_sub(self.partition.size().into());
            *mark = now;
        }
        self.reused.fetch_add(reused, Ordering::Relaxed);
    }

    /// Identifications used more than once within an interval, since the start. If this grows,
    /// spread the load over more hosts, or keep TCP out of it by resegmenting it.
    pub fn wrap_risk(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }

    /// `hash_of_pair()` of `bpf/hash.h`, keyed: the kernel's SipHash would cost as much as the rest of the fragmentation,
    /// and no sender sees which flows share a slot.
    #[inline]
    fn slot(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> usize {
        let word = |address: Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
        let hash = self.seed ^ (word(source) << 32 | word(destination));
        let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ hash >> 27).wrapping_add(protocol.into()).wrapping_mul(0x94d0_49bb_1331_11eb);
        (hash ^ hash >> 31) as usize % COUNTERS
    }
}

fn heap() -> Counters {
    Arc::new(std::iter::repeat_with(AtomicU64::default).take(COUNTERS).collect::<Vec<_>>())
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Default for Idents {
    /// Keyed at random.
    fn default() -> Self {
        Self::partitioned(Partition::WHOLE)
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

    #[test]
    fn partitions_share_nothing_and_leave_nothing_but_zero() {
        for of in [1, 2, 3, 4, 200] {
            let mut seen = vec![false; 1 << 16];
            for part in 1..=of {
                let partition = Partition::new(part, of).unwrap();
                let idents = Idents::partitioned(partition);
                for _ in 0..partition.size() - u32::from(part == 1) {
                    let id = idents.next(A, B, 17);
                    assert!(id != 0 && !seen[usize::from(id)], "{id} in part {part} of {of}");
                    seen[usize::from(id)] = true;
                }
            }
            let parts = usize::from(of.next_power_of_two());
            let used = seen.iter().filter(|seen| **seen).count();
            assert_eq!(used, 65_536 / parts * usize::from(of) - 1, "{of} parts");
        }
        for (part, of) in [(0, 1), (2, 1), (0, 0), (1, 257)] {
            assert_eq!(Partition::new(part, of), None);
        }
    }

    #[test]
    fn the_wrap_risk_counts_what_was_used_again_within_an_interval() {
        let idents = Idents::partitioned(Partition::new(2, 256).unwrap());
        for (count, risk) in [(0, 0), (256, 0), (256, 0), (257, 1), (1000, 745), (10, 745)] {
            for _ in 0..count {
                idents.next(A, B, 17);
            }
            idents.end_of_interval();
            assert_eq!(idents.wrap_risk(), risk);
        }
    }

    /// The counters do not stumble where they themselves go round.
    #[test]
    fn ids_go_on_where_a_counter_wraps() {
        let idents = Idents::with_seed(3);
        let slot = idents.slot(A, B, 17);
        idents.counters()[slot].store(u64::MAX - 2, Ordering::Relaxed);
        assert_eq!([(); 4].map(|()| idents.next(A, B, 17)), [0xfffd, 0xfffe, 0xffff, 1]);
    }
}
