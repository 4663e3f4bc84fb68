//! Where a series of figures changes: E-divisive means (Matteson and James,
//! 2014) for one dimension with α = 1.
//!
//! A split is judged by the energy distance between what lies before and after
//! it; the best split of any segment counts if few random orders of that
//! segment have one as good. Found ones split their segment, and so on. The
//! crates that offer it (`edivisive` 0.1.0 of 2021, a port) are not kept up.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_pcg::Pcg64Mcg;

/// How change points are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Fewest figures on either side of a change.
    pub min_size: usize,
    /// Random orders that a split is judged against.
    pub n_permutations: usize,
    /// A split counts if its p-value is at most this.
    pub significance: f64,
    /// Same seed, same answer.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { min_size: 3, n_permutations: 499, significance: 0.01, seed: 0x756e_696f }
    }
}

/// One change of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChangePoint {
    /// Index of the first figure after the change.
    pub at: usize,
    /// Share of random orders with a split as good, the order as it is counted
    /// in.
    pub p: f64,
}

/// Every change of `series`, ascending; empty if it has none, is too short, or
/// holds a figure that is not finite.
pub fn change_points(series: &[f64], settings: Settings) -> Vec<ChangePoint> {
    let mut found: Vec<ChangePoint> = Vec::new();
    if series.iter().any(|v| !v.is_finite()) {
        return found;
    }
    let mut rng = Pcg64Mcg::seed_from_u64(settings.seed);
    let mut open: Vec<std::ops::Range<usize>> = std::iter::once(0..series.len()).collect();
    while let Some(segment) = open.pop() {
        let Some((split, q)) = best_split(&series[segment.clone()], settings.min_size) else {
            continue;
        };
        let mut shuffled = series[segment.clone()].to_vec();
        let as_good = (0..settings.n_permutations)
            .filter(|_| {
                shuffled.shuffle(&mut rng);
                // Rounding must not make an equal split look worse.
                best_split(&shuffled, settings.min_size)
                    .is_some_and(|(_, other)| other >= q * (1.0 - 1e-12))
            })
            .count();
        let p = (as_good + 1) as f64 / (settings.n_permutations + 1) as f64;
        if q > 0.0 && p <= settings.significance {
            let at = segment.start + split;
            found.push(ChangePoint { at, p });
            open.push(segment.start..at);
            open.push(at..segment.end);
        }
    }
    found.sort_by_key(|point| point.at);
    found
}

/// The split with the largest scaled energy distance, and that distance. Absent
/// if the segment is too short to be split.
fn best_split(segment: &[f64], min_size: usize) -> Option<(usize, f64)> {
    let n = segment.len();
    let min_size = min_size.max(2);
    if n < 2 * min_size {
        return None;
    }
    let distance = |i: usize, j: usize| (segment[i] - segment[j]).abs();
    // Sums of distances within the left part, within the right part and across,
    // kept up to date while one figure after another goes to the left.
    let all = |range: std::ops::Range<usize>| -> f64 {
        range
            .clone()
            .flat_map(|i| (i + 1..range.end).map(move |j| (i, j)))
            .map(|(i, j)| distance(i, j))
            .sum()
    };
    let mut left = all(0..min_size);
    let mut right = all(min_size..n);
    let mut across: f64 = (0..min_size)
        .flat_map(|i| (min_size..n).map(move |j| (i, j)))
        .map(|(i, j)| distance(i, j))
        .sum();
    let mut best: Option<(usize, f64)> = None;
    for split in min_size..=n - min_size {
        let (l, r) = (split as f64, (n - split) as f64);
        let energy =
            2.0 * across / (l * r) - left / (l * (l - 1.0) / 2.0) - right / (r * (r - 1.0) / 2.0);
        let q = l * r / (l + r) * energy;
        if best.is_none_or(|(_, highest)| q > highest) {
            best = Some((split, q));
        }
        if split < n - min_size {
            let to_left: f64 = (0..split).map(|i| distance(i, split)).sum();
            let to_right: f64 = (split + 1..n).map(|j| distance(split, j)).sum();
            left += to_left;
            right -= to_right;
            across += to_right - to_left;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(series: &[f64]) -> Vec<usize> {
        change_points(series, Settings::default()).iter().map(|c| c.at).collect()
    }

    fn noisy(levels: &[(f64, usize)], seed: u64) -> Vec<f64> {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let figures = levels.iter().flat_map(|(level, n)| std::iter::repeat_n(*level, *n));
        figures.map(|level| level + rng.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn step_is_found_where_it_is() {
        assert_eq!(at(&noisy(&[(10.0, 12), (15.0, 12)], 1)), [12]);
        assert_eq!(at(&noisy(&[(10.0, 10), (15.0, 10), (20.0, 10)], 2)), [10, 20]);
    }

    #[test]
    fn constant_and_short_series_have_none() {
        assert_eq!(at(&[7.0; 40]), [] as [usize; 0]);
        assert_eq!(at(&[1.0, 2.0, 3.0]), [] as [usize; 0]);
        assert_eq!(at(&[]), [] as [usize; 0]);
        assert_eq!(at(&[1.0, f64::NAN, 1.0, 9.0, 9.0, 9.0, 9.0]), [] as [usize; 0]);
    }

    #[test]
    fn noise_alone_alarms_about_as_seldom_as_asked() {
        let settings = Settings { n_permutations: 99, ..Settings::default() };
        let alarm = |seed: &u64| !change_points(&noisy(&[(10.0, 16)], *seed), settings).is_empty();
        let alarms = (0..100).filter(alarm).count();
        // One in a hundred is asked for; five would be a chance of 0.3 %.
        assert!(alarms <= 4, "{alarms} of 100");
    }

    /// The definition, summed anew for each split.
    fn energy(segment: &[f64], split: usize) -> f64 {
        let (left, right) = segment.split_at(split);
        let (l, r) = (left.len() as f64, right.len() as f64);
        let within = |part: &[f64]| -> f64 {
            let pairs = (0..part.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
            let n = part.len() as f64;
            pairs.map(|(i, j)| (part[i] - part[j]).abs()).sum::<f64>() / (n * (n - 1.0) / 2.0)
        };
        let across: f64 = left.iter().flat_map(|a| right.iter().map(move |b| (a - b).abs())).sum();
        l * r / (l + r) * (2.0 * across / (l * r) - within(left) - within(right))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn running_sums_equal_the_definition(
            segment in prop::collection::vec(-100.0..100.0_f64, 6..40),
        ) {
            let (split, q) = best_split(&segment, 3).expect("long enough");
            let highest = (3..=segment.len() - 3).map(|s| energy(&segment, s)).fold(f64::MIN, f64::max);
            prop_assert!((q - energy(&segment, split)).abs() < 1e-6);
            prop_assert!((q - highest).abs() < 1e-6);
        }

        #[test]
        fn scale_and_origin_do_not_matter(scale in 0.1..1e6_f64, origin in -1e6..1e6_f64) {
            let series = noisy(&[(10.0, 6), (20.0, 6)], 3);
            let other: Vec<f64> = series.iter().map(|v| v * scale + origin).collect();
            prop_assert_eq!(at(&series), at(&other));
        }
    }
}
