//! Intervals by resampling.
//!
//! Samples of one round share a mount, a cache and a moment, so they are not
//! independent; rounds are. Each resample therefore has two levels: rounds are
//! drawn with replacement, then as many samples as they hold are drawn from
//! the pool of the rounds drawn. The second level is not carried out sample by
//! sample: the median of n draws from a pool is the pool's quantile at the
//! median of n uniform draws, and that one number is drawn instead. A resample
//! so costs a few binary searches, whatever n is.

use hdrhistogram::Histogram;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

/// Up to this many draws, the median of uniforms is drawn as it stands; above,
/// from the normal distribution it tends to, with the standard deviation
/// 1/(2√(n+2)) of the Beta distribution that the median of uniforms has.
const DRAWN_ONE_BY_ONE: u64 = 64;

/// How an interval is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub n_resamples: usize,
    /// Coverage asked for, such as 0.95.
    pub confidence: f64,
    /// Same seed, same interval.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { n_resamples: 2_000, confidence: 0.95, seed: 0x756e_696f }
    }
}

/// A figure with its percentile interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// Rounds of the side with fewer. With one round the interval knows nothing
    /// of the scatter between rounds and is too narrow.
    pub n_rounds: usize,
}

/// Median of all rounds of `treated` over that of `control`; absent if either
/// holds no sample or the control's median is zero.
pub fn ratio_of_medians(
    treated: &[Histogram<u64>],
    control: &[Histogram<u64>],
    settings: Settings,
) -> Option<Estimate> {
    quotient_of_medians(&[treated], &[control], settings)
}

/// The product of the medians above over the product of those below, each of
/// the rounds of one cell: a ratio of ratios is two above and two below.
/// Absent if one of them holds no sample or a median below is zero.
pub fn quotient_of_medians(
    above: &[&[Histogram<u64>]],
    below: &[&[Histogram<u64>]],
    settings: Settings,
) -> Option<Estimate> {
    let pools = |side: &[&[Histogram<u64>]]| -> Option<Vec<Pool>> {
        side.iter().map(|rounds| Pool::new(rounds)).collect()
    };
    let (above, below) = (pools(above)?, pools(below)?);
    let product = |side: &[Pool]| -> f64 { side.iter().map(|pool| pool.median() as f64).product() };
    let value = ratio(product(&above), product(&below))?;
    let mut rng = Pcg64Mcg::seed_from_u64(settings.seed);
    let mut resampled = |side: &[Pool]| -> f64 {
        side.iter().map(|pool| pool.resampled_median(&mut rng) as f64).product()
    };
    let mut ratios: Vec<f64> = (0..settings.n_resamples)
        .filter_map(|_| ratio(resampled(&above), resampled(&below)))
        .collect();
    let n_rounds = above.iter().chain(&below).map(Pool::n_rounds).min().unwrap_or(0);
    let (low, high) = percentile_interval(&mut ratios, settings.confidence)?;
    Some(Estimate { value, low, high, n_rounds })
}

fn ratio(above: f64, below: f64) -> Option<f64> {
    (below > 0.0).then(|| above / below)
}

/// The middle `confidence` of `values`.
fn percentile_interval(values: &mut [f64], confidence: f64) -> Option<(f64, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let tail = (1.0 - confidence) / 2.0;
    let low = (tail * last as f64).floor() as usize;
    Some((values[low.min(last)], values[last - low.min(last)]))
}

/// The rounds of one cell over one common axis of values.
struct Pool {
    /// Distinct values, ascending.
    values: Vec<u64>,
    /// Per round: how many samples lie at or below each value.
    at_or_below: Vec<Vec<u64>>,
}

impl Pool {
    /// Rounds without a sample are left out; absent if none is left.
    fn new(rounds: &[Histogram<u64>]) -> Option<Self> {
        let buckets: Vec<Vec<(u64, u64)>> = rounds
            .iter()
            .filter(|h| !h.is_empty())
            .map(|h| {
                h.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
            })
            .collect();
        let mut values: Vec<u64> = buckets.iter().flatten().map(|b| b.0).collect();
        values.sort_unstable();
        values.dedup();
        let at_or_below = buckets.iter().map(|b| cumulate(b, &values)).collect();
        (!values.is_empty()).then_some(Self { values, at_or_below })
    }

    fn n_rounds(&self) -> usize {
        self.at_or_below.len()
    }

    fn n_samples(&self, round: usize) -> u64 {
        self.at_or_below[round].last().copied().unwrap_or(0)
    }

    fn median(&self) -> u64 {
        let all: Vec<usize> = (0..self.n_rounds()).collect();
        let n: u64 = all.iter().map(|&r| self.n_samples(r)).sum();
        self.value_of_rank(&all, n.div_ceil(2))
    }

    fn resampled_median(&self, rng: &mut Pcg64Mcg) -> u64 {
        let drawn: Vec<usize> =
            (0..self.n_rounds()).map(|_| rng.random_range(0..self.n_rounds())).collect();
        let n: u64 = drawn.iter().map(|&r| self.n_samples(r)).sum();
        let quantile = median_of_uniforms(n, rng);
        let rank = (quantile * n as f64).ceil() as u64;
        self.value_of_rank(&drawn, rank.clamp(1, n))
    }

    /// Smallest value with at least `rank` samples of `rounds` at or below it.
    fn value_of_rank(&self, rounds: &[usize], rank: u64) -> u64 {
        let (mut low, mut high) = (0, self.values.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            let n: u64 = rounds.iter().map(|&r| self.at_or_below[r][middle]).sum();
            if n >= rank {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.values[low]
    }
}

fn cumulate(buckets: &[(u64, u64)], values: &[u64]) -> Vec<u64> {
    let mut rest = buckets.iter().peekable();
    let mut sum = 0;
    values
        .iter()
        .map(|&value| {
            while let Some(&(_, count)) = rest.next_if(|b| b.0 <= value) {
                sum += count;
            }
            sum
        })
        .collect()
}

/// One draw of the median of `n` uniform draws.
fn median_of_uniforms(n: u64, rng: &mut Pcg64Mcg) -> f64 {
    if n <= DRAWN_ONE_BY_ONE {
        let mut draws: Vec<f64> = (0..n).map(|_| rng.random()).collect();
        draws.sort_unstable_by(f64::total_cmp);
        return draws[(draws.len() - 1) / 2];
    }
    // Box and Muller; 1 - u lies in (0, 1], so the logarithm is finite.
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    (0.5 + normal / (2.0 * (n as f64 + 2.0).sqrt())).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::hdr;

    /// `n_rounds` rounds of 500 samples around `centre`; each round is shifted
    /// by up to `scatter`.
    fn rounds(n_rounds: usize, centre: f64, scatter: f64, seed: u64) -> Vec<Histogram<u64>> {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        (0..n_rounds)
            .map(|_| {
                let shift = 1.0 + rng.random_range(-1.0..=1.0) * scatter;
                let samples: Vec<u64> = (0..500)
                    .map(|_| (centre * shift * rng.random_range(0.8..1.2)) as u64)
                    .collect();
                hdr::of_samples(&samples).expect("in range")
            })
            .collect()
    }

    #[test]
    fn equal_constants_have_ratio_one_without_width() {
        let same = vec![hdr::of_samples(&[500; 100]).expect("in range"); 5];
        let e = ratio_of_medians(&same, &same, Settings::default()).expect("samples");
        assert_eq!((e.value, e.low, e.high, e.n_rounds), (1.0, 1.0, 1.0, 5));
    }

    #[test]
    fn same_seed_gives_the_same_interval() {
        let (a, b) = (rounds(6, 30_000.0, 0.1, 1), rounds(6, 10_000.0, 0.1, 2));
        let once = ratio_of_medians(&a, &b, Settings::default());
        assert_eq!(once, ratio_of_medians(&a, &b, Settings::default()));
    }

    #[test]
    fn interval_covers_the_true_ratio_about_as_often_as_it_says() {
        let settings = Settings { n_resamples: 400, ..Settings::default() };
        let covered = (0..200)
            .filter(|&i| {
                let (a, b) = (rounds(12, 30_000.0, 0.1, i), rounds(12, 10_000.0, 0.1, 1_000 + i));
                let e = ratio_of_medians(&a, &b, settings).expect("samples");
                e.low <= 3.0 && 3.0 <= e.high
            })
            .count();
        // 95 % asked for; a percentile interval over twelve rounds gives a
        // little less, and chance allows ±3 % at 200 trials.
        assert!((170..=200).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn scatter_between_rounds_widens_the_interval() {
        let width = |scatter| {
            let (a, b) = (rounds(8, 30_000.0, scatter, 3), rounds(8, 10_000.0, scatter, 4));
            let e = ratio_of_medians(&a, &b, Settings::default()).expect("samples");
            e.high - e.low
        };
        assert!(width(0.2) > 2.0 * width(0.0), "{} against {}", width(0.2), width(0.0));
    }

    #[test]
    fn nothing_measured_has_no_ratio() {
        let some = rounds(2, 10_000.0, 0.0, 5);
        let zeros = vec![hdr::of_samples(&[0; 10]).expect("in range")];
        assert_eq!(ratio_of_medians(&some, &[], Settings::default()), None);
        assert_eq!(ratio_of_medians(&[hdr::empty()], &some, Settings::default()), None);
        assert_eq!(ratio_of_medians(&some, &zeros, Settings::default()), None);
    }
}
