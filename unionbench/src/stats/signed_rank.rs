//! Paired differences: where their centre lies and whether it can be zero.
//!
//! Wilcoxon's signed-rank distribution is counted out, ties included, as long
//! as a double holds the counts exactly; the Hodges–Lehmann interval is that
//! test turned round. Neither supposes a shape of the distribution, and both
//! say when there are too few differences to tell anything, where a percentile
//! bootstrap would give a narrow interval instead (a test below shows it).

/// Up to this many differences the null distribution is exact: 2^50 sign
/// patterns are counted without rounding in a double.
const EXACT_UP_TO: usize = 50;

/// Wilcoxon's test of differences against zero. Zero differences are left out,
/// as Wilcoxon did; equal magnitudes share their mean rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignedRank {
    /// Sum of the ranks of the positive differences.
    pub w_plus: f64,
    /// Differences that are not zero.
    pub n: usize,
    /// The p-values are counted, not approximated.
    pub exact: bool,
    /// Chance of so large a sum if the centre were at or below zero.
    pub p_greater: f64,
    /// Chance of so small a sum if the centre were at or above zero.
    pub p_less: f64,
}

impl SignedRank {
    /// Chance of a sum so far from its mean if the centre were zero.
    pub fn p_two_sided(&self) -> f64 {
        (2.0 * self.p_greater.min(self.p_less)).min(1.0)
    }
}

/// The centre of differences with its distribution-free interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Centre {
    /// Hodges–Lehmann estimate: median of the means of all pairs, each
    /// difference paired with itself too.
    pub value: f64,
    /// Infinite where so few differences bound nothing at the confidence asked.
    pub low: f64,
    pub high: f64,
    pub n: usize,
}

/// Tests whether the centre of `differences` is `offset`. With no difference
/// from it every p-value is 1. Differences must be finite.
pub fn signed_rank(differences: &[f64], offset: f64) -> SignedRank {
    let mut shifted: Vec<f64> =
        differences.iter().map(|d| d - offset).filter(|d| *d != 0.0).collect();
    shifted.sort_unstable_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = shifted.len();
    if n == 0 {
        return SignedRank { w_plus: 0.0, n, exact: true, p_greater: 1.0, p_less: 1.0 };
    }
    let doubled = doubled_ranks(&shifted);
    let positive = shifted.iter().zip(&doubled).filter(|(d, _)| **d > 0.0);
    let w2: usize = positive.map(|(_, rank)| rank).sum();
    let (p_greater, p_less) =
        if n <= EXACT_UP_TO { exact_tails(&doubled, w2) } else { normal_tails(&doubled, w2) };
    SignedRank { w_plus: w2 as f64 / 2.0, n, exact: n <= EXACT_UP_TO, p_greater, p_less }
}

/// The Hodges–Lehmann estimate of `differences` with the interval that inverts
/// the signed-rank test; absent without differences or if one is not finite.
pub fn hodges_lehmann(differences: &[f64], confidence: f64) -> Option<Centre> {
    let n = differences.len();
    if n == 0 || differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let mut walsh: Vec<f64> = (0..n)
        .flat_map(|i| (i..n).map(move |j| (i, j)))
        .map(|(i, j)| differences[i].midpoint(differences[j]))
        .collect();
    walsh.sort_unstable_by(f64::total_cmp);
    let m = walsh.len();
    let value = walsh[(m - 1) / 2].midpoint(walsh[m / 2]);
    let (low, high) = match critical_sum(n, (1.0 - confidence) / 2.0) {
        Some(k) => (walsh[k], walsh[m - 1 - k]),
        None => (f64::NEG_INFINITY, f64::INFINITY),
    };
    Some(Centre { value, low, high, n })
}

/// Fewest differences that can reach a one-sided p-value of `p` at all: all of
/// one sign, which has the chance 1/2^n.
pub fn fewest_for(p: f64) -> usize {
    (-p.log2()).ceil().max(1.0) as usize
}

/// Largest k such that a sum of at most k has no more than the chance `tail`;
/// absent if not even the sum 0 is so rare. It is the index of the Walsh
/// average that bounds the interval.
fn critical_sum(n: usize, tail: f64) -> Option<usize> {
    if n > EXACT_UP_TO {
        let (mean, sd) = moments(&(1..=n).map(|r| 2 * r).collect::<Vec<_>>());
        let bound = (mean + sd * normal_quantile(tail)) / 2.0;
        return (bound >= 1.0).then(|| bound.floor() as usize - 1);
    }
    let counts = pattern_counts(&(1..=n).collect::<Vec<_>>());
    let all = 2_f64.powi(n as i32);
    let mut sum = 0.0;
    let reached = counts.iter().take_while(|count| {
        sum += **count;
        sum / all <= tail
    });
    reached.count().checked_sub(1)
}

/// Twice the mean rank of each magnitude: whole numbers even for ties.
fn doubled_ranks(sorted: &[f64]) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for tied in sorted.chunk_by(|a, b| a.abs() == b.abs()) {
        let first = ranks.len() + 1;
        ranks.extend(std::iter::repeat_n(2 * first + tied.len() - 1, tied.len()));
    }
    ranks
}

/// How many of the sign patterns give each sum of the positive ranks.
fn pattern_counts(ranks: &[usize]) -> Vec<f64> {
    let mut counts = vec![0.0; ranks.iter().sum::<usize>() + 1];
    counts[0] = 1.0;
    let mut highest = 0;
    for &rank in ranks {
        for sum in (0..=highest).rev() {
            counts[sum + rank] += counts[sum];
        }
        highest += rank;
    }
    counts
}

fn exact_tails(ranks: &[usize], sum: usize) -> (f64, f64) {
    let counts = pattern_counts(ranks);
    let all = 2_f64.powi(ranks.len() as i32);
    (counts[sum..].iter().sum::<f64>() / all, counts[..=sum].iter().sum::<f64>() / all)
}

/// Normal approximation with continuity correction; the variance is that of the
/// ranks as they are, so ties need no further correction.
fn normal_tails(ranks: &[usize], sum: usize) -> (f64, f64) {
    let (mean, sd) = moments(ranks);
    // Half a rank is 1 of doubled ranks.
    let z = |shift: f64| (sum as f64 - mean + shift) / sd;
    (1.0 - normal_cdf(z(-1.0)), normal_cdf(z(1.0)))
}

fn moments(ranks: &[usize]) -> (f64, f64) {
    let mean = ranks.iter().sum::<usize>() as f64 / 2.0;
    let variance = ranks.iter().map(|r| (*r as f64).powi(2)).sum::<f64>() / 4.0;
    (mean, variance.sqrt())
}

/// Distribution function of the normal distribution, good to 1.5e-7 (Abramowitz
/// and Stegun 7.1.26).
pub(super) fn normal_cdf(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let erf = 1.0 - series.iter().fold(0.0, |sum, c| (sum + c) * t) * (-x * x).exp();
    if z >= 0.0 { 0.5 + erf / 2.0 } else { 0.5 - erf / 2.0 }
}

/// The z that [`normal_cdf`] maps to `p`, by halving: it is needed once a
/// comparison, for more than fifty rounds.
fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..100 {
        let middle: f64 = (low + high) / 2.0;
        if normal_cdf(middle) < p { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
        // Rounded, because ties that exist on paper are not ties of doubles.
        a.iter().zip(b).map(|(a, b)| ((a - b) * 1e6).round() / 1e6).collect()
    }

    /// Hollander and Wolfe's depression scores, the example of R's `wilcox.test`.
    #[test]
    fn depression_scores_have_their_published_figures() {
        // In thousandths.
        let x = [1830., 500., 1620., 2480., 1680., 1880., 1550., 3060., 1300.];
        let y = [878., 647., 598., 2050., 1060., 1290., 1060., 3140., 1290.];
        let d: Vec<f64> = differences(&x, &y).iter().map(|d| d / 1e3).collect();
        let test = signed_rank(&d, 0.0);
        assert_eq!((test.w_plus, test.n, test.exact), (40.0, 9, true));
        assert!((test.p_greater - 0.01953).abs() < 5e-6, "{test:?}");
        let centre = hodges_lehmann(&d, 0.95).expect("nine differences");
        assert!((centre.value - 0.46).abs() < 1e-9, "{centre:?}");
        assert!((centre.low - 0.01).abs() < 1e-9 && (centre.high - 0.786).abs() < 1e-9);
    }

    /// Bortz, Lienert and Boehnke's example with ties and zeros, for which
    /// `exactRankTests` prints V = 13, p = 0.1367.
    #[test]
    fn ties_and_zeros_have_their_published_p_value() {
        let x = [9., 14., 8., 11., 14., 10., 8., 14., 12., 14., 13., 9., 15., 12., 9.];
        let y = [13., 15., 9., 12., 16., 10., 8., 13., 12., 16., 9., 10., 16., 12., 9.];
        let test = signed_rank(&differences(&x, &y), 0.0);
        assert_eq!(test.w_plus, 13.0);
        assert!((test.p_two_sided() - 0.1367).abs() < 5e-5, "{test:?}");
    }

    /// Two-sided 5 % critical values of the signed-rank sum, as every textbook's
    /// table has them.
    #[test]
    fn critical_values_are_those_of_the_tables() {
        let table = [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (12, 13), (15, 25), (20, 52)];
        for (n, critical) in table {
            assert_eq!(critical_sum(n, 0.025), Some(critical), "n = {n}");
        }
        assert_eq!(critical_sum(5, 0.025), None);
    }

    #[test]
    fn too_few_differences_bound_nothing() {
        let centre = hodges_lehmann(&[0.1, 0.1, 0.1], 0.95).expect("three");
        assert_eq!((centre.low, centre.high), (f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!(hodges_lehmann(&[], 0.95), None);
        assert_eq!(hodges_lehmann(&[f64::NAN, 1.0], 0.95), None);
        assert_eq!([0.05, 0.025, 0.01].map(fewest_for), [5, 6, 7]);
    }

    #[test]
    fn large_samples_agree_with_the_exact_distribution() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let d: Vec<f64> = (0..50).map(|_| rng.random_range(-1.0..1.2)).collect();
        let exact = signed_rank(&d, 0.0);
        let ranks: Vec<usize> = (1..=50).map(|r| 2 * r).collect();
        let (greater, less) = normal_tails(&ranks, (2.0 * exact.w_plus) as usize);
        assert!((greater - exact.p_greater).abs() < 2e-3, "{greater} {exact:?}");
        assert!((less - exact.p_less).abs() < 2e-3, "{less} {exact:?}");
    }

    /// Why the interval is not a percentile bootstrap over pairs: with eight
    /// rounds it covers too seldom.
    #[test]
    fn interval_covers_where_a_bootstrap_over_pairs_does_not() {
        let mut rng = Pcg64Mcg::seed_from_u64(2);
        let (mut by_rank, mut by_bootstrap) = (0, 0);
        for _ in 0..200 {
            let d: Vec<f64> = (0..8).map(|_| rng.random_range(-1.0..1.0)).collect();
            let centre = hodges_lehmann(&d, 0.95).expect("eight");
            by_rank += usize::from(centre.low <= 0.0 && 0.0 <= centre.high);
            let mut resampled: Vec<f64> = (0..100)
                .map(|_| {
                    let drawn: Vec<f64> = (0..8).map(|_| d[rng.random_range(0..8)]).collect();
                    hodges_lehmann(&drawn, 0.95).expect("eight").value
                })
                .collect();
            resampled.sort_unstable_by(f64::total_cmp);
            by_bootstrap += usize::from(resampled[2] <= 0.0 && 0.0 <= resampled[97]);
        }
        assert!(by_rank >= 186, "{by_rank} of 200");
        assert!(by_bootstrap < by_rank, "{by_bootstrap} against {by_rank}");
    }

    proptest! {
        #[test]
        fn turning_the_signs_swaps_the_tails(d in prop::collection::vec(-5_i32..=5, 1..30)) {
            let d: Vec<f64> = d.into_iter().map(f64::from).collect();
            let turned: Vec<f64> = d.iter().map(|d| -d).collect();
            let (a, b) = (signed_rank(&d, 0.0), signed_rank(&turned, 0.0));
            prop_assert!((a.p_greater - b.p_less).abs() < 1e-12);
            prop_assert!(a.p_greater > 0.0 && a.p_greater <= 1.0);
            let centre = hodges_lehmann(&d, 0.9).expect("some");
            let mirror = hodges_lehmann(&turned, 0.9).expect("some");
            prop_assert_eq!(centre.value, -mirror.value);
        }

        #[test]
        fn centre_moves_with_the_differences(
            d in prop::collection::vec(-1e3..1e3_f64, 1..30),
            shift in -1e3..1e3_f64,
        ) {
            let moved: Vec<f64> = d.iter().map(|d| d + shift).collect();
            let (a, b) = (hodges_lehmann(&d, 0.95), hodges_lehmann(&moved, 0.95));
            let (a, b) = (a.expect("some"), b.expect("some"));
            prop_assert!((b.value - a.value - shift).abs() < 1e-6);
            prop_assert!(a.low <= a.value && a.value <= a.high);
        }

        /// The interval holds exactly the offsets that the test does not refuse.
        #[test]
        fn interval_is_the_test_turned_round(
            d in prop::collection::vec(-1e3..1e3_f64, 6..15),
            offset in -1e3..1e3_f64,
        ) {
            let centre = hodges_lehmann(&d, 0.95).expect("some");
            let inside = centre.low < offset && offset < centre.high;
            prop_assert_eq!(inside, signed_rank(&d, offset).p_two_sided() > 0.05);
        }
    }
}
