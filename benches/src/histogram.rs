//! Latencies in constant space, as HdrHistogram keeps them: log-linear buckets.
//!
//! Every power of two is divided into 64 buckets, so a recorded value is known to 1.6 % whatever
//! its size. Recording is a few instructions and never allocates.

/// Buckets of one power of two.
const SUB_BUCKETS: u64 = 64;
/// Enough for every `u64`: 58 powers of two above the exact values below 64.
const BUCKETS: usize = 59 * SUB_BUCKETS as usize;

/// Counts of values by size, with the exact count, sum and maximum.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            sum: 0,
            max: 0,
        }
    }

    pub(crate) fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(value)) {
            *count += 1;
        }
        self.count += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn mean(&self) -> u64 {
        let mean = self.sum.checked_div(u128::from(self.count)).unwrap_or(0);
        u64::try_from(mean).unwrap_or(u64::MAX)
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that `quantile` (0 to 1) of all values do not exceed, to 1.6 % and never above
    /// the maximum; 0 without values.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank need not be exact to more than 2^52 values"
        )]
        let rank = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end_of(bucket).min(self.max);
            }
        }
        self.max
    }
}

fn bucket_of(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(7);
    // Within 0..=57 * 64 + 127, whatever the value.
    (u64::from(shift) * SUB_BUCKETS + (value >> shift)) as usize
}

/// The largest value that falls into `bucket`.
fn upper_end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / SUB_BUCKETS).saturating_sub(1);
    let scaled = bucket - shift * SUB_BUCKETS;
    // In u128, since the last bucket ends at u64::MAX.
    u64::try_from(((u128::from(scaled) + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_bucket_that_ends_at_or_just_above_it() {
        for power in 0..64 {
            for value in [
                1u64 << power,
                (1u64 << power) + 1,
                (1u64 << power) - 1,
                u64::MAX >> power,
            ] {
                let bucket = bucket_of(value);
                assert!(bucket < BUCKETS, "{value}");
                let end = upper_end_of(bucket);
                assert!(end >= value, "{value} in a bucket that ends at {end}");
                assert!(end - value <= value / 64, "{value} shown as {end}");
                assert!(bucket == 0 || upper_end_of(bucket - 1) < value, "{value}");
            }
        }
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::new();
        for value in 1..=1_000 {
            histogram.record(value * 1_000);
        }
        assert_eq!(histogram.count(), 1_000);
        assert_eq!(histogram.mean(), 500_500);
        assert_eq!(histogram.max(), 1_000_000);
        for (quantile, exact) in [(0.5, 500_000u64), (0.9, 900_000), (0.99, 990_000)] {
            let shown = histogram.quantile(quantile);
            assert!(shown.abs_diff(exact) <= exact / 64, "{shown} for {exact}");
        }
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert_eq!(Histogram::new().quantile(0.5), 0);
    }
}
