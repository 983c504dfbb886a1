//! Latency as snapshots carry it: percentiles for people, buckets for Prometheus.

use std::array;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets, ns: 1-2-5 from 5 us, where a lone frame takes about 20 us, to 1 s.
const BOUNDS_NS: [u64; 17] = [
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

/// What a latency histogram says, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Smallest.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// Sum of all samples, to the histogram's precision.
    #[serde(default)]
    pub sum_ns: u64,
    /// How many samples are how long at most, ascending; to the histogram's precision.
    #[serde(default)]
    pub buckets: [Bucket; BOUNDS_NS.len()],
}

/// Samples up to a bound, those of smaller bounds included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Upper bound, nanoseconds.
    pub le_ns: u64,
    /// Samples.
    pub count: u64,
}

impl Latency {
    /// `None` without samples.
    pub fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let mut buckets = array::from_fn(|place| Bucket { le_ns: BOUNDS_NS[place], count: 0 });
        let mut sum_ns = 0_u64;
        for step in histogram.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), step.count_since_last_iteration());
            sum_ns = sum_ns.saturating_add(histogram.median_equivalent(value).saturating_mul(count));
            for bucket in buckets.iter_mut().filter(|bucket| value <= bucket.le_ns) {
                bucket.count += count;
            }
        }
        Some(Latency {
            count: histogram.len(),
            min_ns: histogram.min(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
            sum_ns,
            buckets,
        })
    }

    /// The samples since `before`, an earlier state of the same histogram; without one all of them.
    pub fn since(&self, before: Option<&Latency>) -> Interval {
        let mut interval = Interval { count: self.count, sum_ns: self.sum_ns, buckets: self.buckets };
        if let Some(before) = before {
            interval.count = self.count.saturating_sub(before.count);
            interval.sum_ns = self.sum_ns.saturating_sub(before.sum_ns);
            for (bucket, earlier) in interval.buckets.iter_mut().zip(&before.buckets) {
                bucket.count = bucket.count.saturating_sub(earlier.count);
            }
        }
        interval
    }
}

/// What came between two states of a histogram: percentiles are known to a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Samples.
    pub count: u64,
    sum_ns: u64,
    buckets: [Bucket; BOUNDS_NS.len()],
}

impl Interval {
    /// Average, nanoseconds; zero without samples.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }

    /// What so many of a thousand samples do not exceed, nanoseconds; `None` if that is beyond the last bucket.
    pub fn at_most(&self, per_mille: u64) -> Option<u64> {
        let rank = u128::from(self.count) * u128::from(per_mille);
        let bucket = self.buckets.iter().find(|bucket| u128::from(bucket.count) * 1000 >= rank)?;
        Some(bucket.le_ns)
    }

    /// The bound of the last bucket, nanoseconds.
    pub const BEYOND_NS: u64 = BOUNDS_NS[BOUNDS_NS.len() - 1];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_all_that_is_not_longer() {
        let mut histogram = Histogram::new_with_bounds(1, 10_000_000_000, 2).unwrap();
        assert_eq!(Latency::of(&histogram), None);
        for sample in [4_000, 17_000, 17_000, 300_000, 5_000_000_000] {
            histogram.record(sample).unwrap();
        }
        let latency = Latency::of(&histogram).unwrap();
        let up_to = |le_ns| latency.buckets.iter().find(|bucket| bucket.le_ns == le_ns).unwrap().count;
        assert_eq!([5_000, 10_000, 20_000, 200_000, 500_000, 1_000_000_000].map(up_to), [1, 1, 3, 3, 4, 4]);
        assert_eq!(latency.count, 5);
        assert!(latency.sum_ns.abs_diff(5_000_338_000) < 50_000_000, "{latency:?}");
    }
    #[test]
    fn an_interval_knows_nothing_of_what_was_before() {
        let mut histogram = Histogram::new_with_bounds(1, 10_000_000_000, 2).unwrap();
        histogram.record_n(17_000, 1_000_000).unwrap();
        let before = Latency::of(&histogram).unwrap();
        for (sample, times) in [(40_000, 90), (900_000, 9), (3_000_000_000, 1)] {
            histogram.record_n(sample, times).unwrap();
        }
        let now = Latency::of(&histogram).unwrap();
        assert_eq!(now.p999_ns, before.p999_ns, "since the start nothing has changed");
        let interval = now.since(Some(&before));
        assert_eq!(interval.count, 100);
        let found = [500, 900, 990, 999].map(|per_mille| interval.at_most(per_mille));
        assert_eq!(found, [Some(50_000), Some(50_000), Some(1_000_000), None]);
        assert!(interval.mean_ns().abs_diff(30_117_000) < 600_000, "{interval:?}");
        let idle = now.since(Some(&now));
        assert_eq!((idle.count, idle.mean_ns()), (0, 0));
        assert_eq!(now.since(None).count, 1_000_100);
    }
}
