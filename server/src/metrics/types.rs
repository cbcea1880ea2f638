//! Counter, gauge, histogram: atomics without locks.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Adds more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Takes over a count that is kept elsewhere.
    pub fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Sets it; beyond the range of a signed number it stays at its end.
    pub fn set_unsigned(&self, value: u64) {
        self.set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Adds, or takes away.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Bounds of a histogram and what one of its units is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Buckets {
    /// `start × 2^n` seconds, `count` of them.
    Seconds(f64, u32),
    /// `start × 2^n` milliseconds.
    Milliseconds(f64, u32),
    /// The bounds of a Prometheus client library, in seconds.
    Default,
}

/// Default buckets of Prometheus client libraries: 5 ms to 10 s.
const DEFAULT_SECONDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

impl Buckets {
    /// Upper bounds in the histogram's unit.
    #[must_use]
    pub fn bounds(self) -> Vec<f64> {
        match self {
            Self::Seconds(start, count) | Self::Milliseconds(start, count) => (0..count)
                .map(|n| start * f64::from(2_u32.saturating_pow(n)))
                .collect(),
            Self::Default => DEFAULT_SECONDS.to_vec(),
        }
    }

    /// Nanoseconds in one unit.
    fn unit_ns(self) -> f64 {
        match self {
            Self::Milliseconds(..) => 1e6,
            Self::Seconds(..) | Self::Default => 1e9,
        }
    }
}

/// How long things took.
#[derive(Debug)]
pub struct Histogram {
    buckets: Buckets,
    /// Upper bounds in nanoseconds, rising.
    bounds_ns: Box<[u64]>,
    /// One count per bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new(buckets: Buckets) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounds are positive and far below 2^63 ns"
        )]
        let bounds_ns: Box<[u64]> = buckets
            .bounds()
            .iter()
            .map(|bound| (bound * buckets.unit_ns()).round() as u64)
            .collect();
        let counts = (0..=bounds_ns.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            buckets,
            bounds_ns,
            counts,
            sum_ns: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = self.bounds_ns.partition_point(|bound| *bound < ns);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Cumulative counts by bound, then the total.
    pub(super) fn cumulative(&self) -> (Vec<(f64, u64)>, u64) {
        let mut total = 0;
        let mut cumulative = Vec::with_capacity(self.counts.len());
        let bounds = self.buckets.bounds();
        for (place, count) in self.counts.iter().enumerate() {
            total += count.load(Relaxed);
            if let Some(bound) = bounds.get(place) {
                cumulative.push((*bound, total));
            }
        }
        (cumulative, total)
    }

    /// The sum in the histogram's unit.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of times; 52 bits are exact enough"
    )]
    pub(super) fn sum(&self) -> f64 {
        self.sum_ns.load(Relaxed) as f64 / self.buckets.unit_ns()
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(Buckets::Seconds(0.001, 14));
        for ms in [0, 1, 2, 3, 100_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let (cumulative, total) = histogram.cumulative();
        assert_eq!(cumulative.len(), 14);
        assert_eq!(cumulative[..3], [(0.001, 2), (0.002, 3), (0.004, 4)]);
        assert_eq!(cumulative[13], (8.192, 4));
        assert_eq!(total, 5);
        assert!((histogram.sum() - 100.006).abs() < 1e-9);
    }

    #[test]
    fn milliseconds_count_in_their_unit() {
        let histogram = Histogram::new(Buckets::Milliseconds(0.5, 14));
        histogram.observe(Duration::from_micros(500));
        assert_eq!(histogram.cumulative().0[0], (0.5, 1));
        assert!((histogram.sum() - 0.5).abs() < 1e-9);
    }
}
