//! How often something happened, with an interval.

/// A count of successes among trials and the interval of their chance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proportion {
    pub successes: u64,
    pub trials: u64,
    /// Clopper and Pearson's 95 % interval: it never covers less often.
    pub low: f64,
    pub high: f64,
}

/// The chance of a success, from `successes` of `trials`; from 0 to 1 without
/// trials.
///
/// # Panics
/// If there are more successes than trials.
pub fn proportion(successes: u64, trials: u64) -> Proportion {
    assert!(successes <= trials, "{successes} successes of {trials} trials");
    // The bounds are the chances at which so many, or so few, become a rarity of
    // 2.5 %. The tail rises with the chance, so halving finds them.
    let bound = |rises: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if rises(middle) { high = middle } else { low = middle }
        }
        (low + high) / 2.0
    };
    let at_most = |k: u64, p: f64| -> f64 { (0..=k).map(|i| binomial(trials, i, p)).sum() };
    let low = match successes {
        0 => 0.0,
        k => bound(&|p| 1.0 - at_most(k - 1, p) > 0.025),
    };
    let high = match successes {
        k if k == trials => 1.0,
        k => bound(&|p| at_most(k, p) < 0.025),
    };
    Proportion { successes, trials, low, high }
}

/// Chance of exactly `k` successes of `n`, by logarithms so that nothing
/// overflows.
fn binomial(n: u64, k: u64, p: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        return f64::from(u8::from((p <= 0.0 && k == 0) || (p >= 1.0 && k == n)));
    }
    let choose: f64 = (0..k).map(|i| ((n - i) as f64 / (k - i) as f64).ln()).sum();
    (choose + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As R's `binom.test` prints them.
    #[test]
    fn intervals_are_those_of_clopper_and_pearson() {
        let cases = [
            (0, 100, 0.0, 0.036_216_69),
            (2, 100, 0.002_431_337, 0.070_383_93),
            (18, 20, 0.683_017_2, 0.987_651_5),
            (20, 20, 0.831_566_5, 1.0),
        ];
        for (successes, trials, low, high) in cases {
            let p = proportion(successes, trials);
            assert!((p.low - low).abs() < 1e-6 && (p.high - high).abs() < 1e-6, "{p:?}");
        }
    }

    #[test]
    fn nothing_tried_tells_nothing() {
        let p = proportion(0, 0);
        assert_eq!((p.low, p.high), (0.0, 1.0));
    }
}
