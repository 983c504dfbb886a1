//! What arrives at the far side: counted, timed, and gone.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use libbpf_rs::{MapCore, MapFlags, MapHandle, ObjectBuilder, TC_INGRESS};

use super::OBJECT;
use crate::lab::namespace::Namespace;
use crate::lab::wire::{attach, map};

/// `BUCKETS` of `bpf/bench.bpf.c`.
const BUCKETS: u32 = 1024;
/// Counters in `struct bench_seen`.
const COUNTERS: usize = 8;

/// What arrived: `struct bench_seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// IPv4 packets.
    pub packets: u64,
    /// Their bytes behind the headers of IP and TCP or UDP.
    pub data: u64,
    /// Packets with the start of an original's payload.
    pub heads: u64,
    /// Packets with its end.
    pub tails: u64,
    /// SYNs.
    pub syns: u64,
    /// SYNs whose MSS was within the limit.
    pub clamped: u64,
    /// Packets longer than the limit.
    pub oversize: u64,
    /// Frames that no generator sent.
    pub strange: u64,
    /// Originals in the bytes of a TCP stream: what GRO merged and the kernel cut anew has other boundaries.
    pub segments: u64,
}

impl Tally {
    /// Originals that arrived: both ends of their payload did, or they have none and are SYNs; of a stream, as many
    /// as its bytes make.
    pub fn originals(&self) -> u64 {
        match self.segments {
            0 => self.heads.min(self.tails) + self.syns,
            segments => segments,
        }
    }

    /// The tally of TCP streams whose segments carried `payload` bytes each.
    pub(super) fn of_streams(self, payload: u64) -> Tally {
        Tally { segments: self.data / payload, ..self }
    }
}

/// The program at the ingress of one interface.
#[derive(Debug)]
pub struct Sink {
    seen: MapHandle,
    latencies: MapHandle,
}

impl Sink {
    /// Takes all that `interface` receives; packets of more than `mtu` bytes and SYNs with a larger `mss`
    /// are counted apart.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN.
    pub fn attach(namespace: &Namespace, interface: &str, mtu: u32, mss: u32) -> Result<Sink> {
        let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
        let limits = [mtu, mss].map(u32::to_ne_bytes).concat();
        map(&object, "limits")?.update(&0u32.to_ne_bytes(), &limits, MapFlags::ANY)?;
        let sink = Sink { seen: map(&object, "seen")?, latencies: map(&object, "latencies")? };
        attach(namespace, interface, &object, "bench_sink", TC_INGRESS, 1)?;
        Ok(sink)
    }

    /// Counts from zero again.
    ///
    /// # Errors
    /// If the kernel refuses a map update.
    pub fn reset(&self) -> Result<()> {
        let cpus = libbpf_rs::num_possible_cpus()?;
        self.seen.update_percpu(&0u32.to_ne_bytes(), &vec![vec![0; COUNTERS * 8]; cpus], MapFlags::ANY)?;
        let zero = vec![vec![0; 8]; cpus];
        for bucket in 0..BUCKETS {
            self.latencies.update_percpu(&bucket.to_ne_bytes(), &zero, MapFlags::ANY)?;
        }
        Ok(())
    }

    /// What has arrived since [`Sink::reset`].
    ///
    /// # Errors
    /// If the kernel refuses a map look-up.
    pub fn tally(&self) -> Result<Tally> {
        let [packets, data, heads, tails, syns, clamped, oversize, strange] = sums(&self.seen, 0)?;
        Ok(Tally { packets, data, heads, tails, syns, clamped, oversize, strange, segments: 0 })
    }

    /// Nanoseconds between sending and arrival of every original since [`Sink::reset`], within 3 per cent.
    ///
    /// # Errors
    /// If the kernel refuses a map look-up.
    pub fn latencies(&self) -> Result<Histogram<u64>> {
        let mut histogram = Histogram::new(3)?;
        for bucket in 0..BUCKETS {
            let [count] = sums(&self.latencies, bucket)?;
            // Recording a value no times makes it the minimum or the maximum all the same.
            if count > 0 {
                histogram.record_n(middle(bucket), count)?;
            }
        }
        Ok(histogram)
    }
}

/// The value in the middle of a bucket of `bpf/bench.bpf.c`.
fn middle(bucket: u32) -> u64 {
    let (exponent, part) = (bucket / 32, u64::from(bucket % 32));
    match exponent {
        0 => part,
        exponent => {
            let width = 1 << (exponent - 1);
            (32 + part) * width + width / 2
        }
    }
}

/// One entry of an array per CPU, summed up.
pub(super) fn sums<const N: usize>(map: &MapHandle, key: u32) -> Result<[u64; N]> {
    let values =
        map.lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY)?.context("an array entry is missing")?;
    let mut sums = [0; N];
    for value in values {
        for (sum, word) in sums.iter_mut().zip(value.as_chunks::<8>().0) {
            *sum += u64::from_ne_bytes(*word);
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::{Tally, middle};

    #[test]
    fn a_stream_is_counted_by_its_bytes() {
        // Two segments of 1460 bytes, merged and cut to an MTU of 1422; only one has its head where it was.
        let tally = Tally { packets: 3, data: 2 * 1460, heads: 1, tails: 1, ..Tally::default() };
        assert_eq!((tally.originals(), tally.of_streams(1460).originals()), (1, 2));
    }

    #[test]
    fn buckets_are_linear_at_first_and_then_32_per_power_of_two() {
        assert_eq!([0, 31, 32, 63].map(middle), [0, 31, 32, 63]);
        // 64 and 65; 1008 to 1023; 1024 to 1055.
        assert_eq!([64, 6 * 32 - 1, 6 * 32].map(middle), [65, 63 * 16 + 8, 32 * 32 + 16]);
    }
}
