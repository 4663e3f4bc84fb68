//! Exact order statistics.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exact order statistics of samples, in their unit. Quantiles are nearest-rank (always a value that was measured).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub n: u64,
    pub min: u64,
    pub p25: u64,
    pub median: u64,
    pub p75: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
    pub mean: f64,
}

/// Exact summary of `samples`, which are left sorted; absent if there are none.
/// The unit is that of the samples.
pub fn summary(samples: &mut [u64]) -> Option<Summary> {
    samples.sort_unstable();
    let (min, max) = (*samples.first()?, *samples.last()?);
    // A sum of u64 cannot overflow u128 with fewer than 2^64 samples.
    let sum: u128 = samples.iter().map(|&v| u128::from(v)).sum();
    let at = |numerator, denominator| samples[nearest_rank(samples.len(), numerator, denominator)];
    Some(Summary {
        n: samples.len() as u64,
        min,
        p25: at(1, 4),
        median: at(1, 2),
        p75: at(3, 4),
        p90: at(9, 10),
        p99: at(99, 100),
        max,
        mean: sum as f64 / samples.len() as f64,
    })
}

/// Index of the nearest-rank quantile `numerator/denominator` among `n` sorted
/// samples: the smallest index with at least that share of the samples at or
/// below it. Whole numbers, because `0.9 * 10.0` need not be 9.
///
/// # Panics
/// If `n` or `denominator` is zero.
pub fn nearest_rank(n: usize, numerator: usize, denominator: usize) -> usize {
    assert!(n > 0, "a quantile needs samples");
    let rank = (n as u128 * numerator as u128).div_ceil(denominator as u128);
    (rank as usize).clamp(1, n) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_samples_have_no_summary() {
        assert_eq!(summary(&mut []), None);
    }

    #[test]
    fn one_to_a_hundred_has_its_own_ranks() {
        let mut samples: Vec<u64> = (1..=100).rev().collect();
        let s = summary(&mut samples).expect("there are samples");
        assert_eq!((s.min, s.p25, s.median, s.p75), (1, 25, 50, 75));
        assert_eq!((s.p90, s.p99, s.max, s.n), (90, 99, 100, 100));
        assert!((s.mean - 50.5).abs() < 1e-12);
    }

    #[test]
    fn mean_of_huge_samples_does_not_overflow() {
        let s = summary(&mut [u64::MAX, u64::MAX]).expect("there are samples");
        assert!((s.mean / u64::MAX as f64 - 1.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn quantile_is_the_smallest_value_that_covers_its_share(
            mut samples in prop::collection::vec(0_u64..1_000, 1..200),
            percent in 1_usize..=100,
        ) {
            samples.sort_unstable();
            let value = samples[nearest_rank(samples.len(), percent, 100)];
            let at_or_below = samples.iter().filter(|&&v| v <= value).count();
            let below = samples.iter().filter(|&&v| v < value).count();
            prop_assert!(at_or_below * 100 >= percent * samples.len());
            prop_assert!(below * 100 < percent * samples.len());
        }
    }
}
