//! Many tests at once: p-values raised so that a set of comparisons does not
//! alarm by its number.

/// Holm's step-down: refusing where the adjusted value is at most α keeps the
/// chance of any false refusal at α, whatever the tests depend on. In the order
/// of `p`.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let m = p.len();
    let mut adjusted = vec![0.0; m];
    let mut highest = 0.0_f64;
    for (rank, index) in ascending(p).into_iter().enumerate() {
        highest = highest.max(((m - rank) as f64 * p[index]).min(1.0));
        adjusted[index] = highest;
    }
    adjusted
}

/// Benjamini and Hochberg's step-up: refusing where the adjusted value is at
/// most q keeps the expected share of false ones among the refusals at q, for
/// tests that are independent or depend positively. In the order of `p`.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let m = p.len();
    let mut adjusted = vec![0.0; m];
    let mut lowest = 1.0_f64;
    for (rank, index) in ascending(p).into_iter().enumerate().rev() {
        lowest = lowest.min(m as f64 / (rank + 1) as f64 * p[index]);
        adjusted[index] = lowest;
    }
    adjusted
}

/// Simes' p-value of the hypothesis that none of `p` should be refused, for tests
/// that are independent or depend positively; 1 without any.
pub fn simes(p: &[f64]) -> f64 {
    benjamini_hochberg(p).into_iter().fold(1.0, f64::min)
}

/// Indices of `p` from its smallest value up.
fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::stats::signed_rank::normal_cdf;

    fn check(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-9, "{found:?} against {expected:?}");
        }
    }

    /// As R's `p.adjust` gives them.
    #[test]
    fn five_p_values_are_adjusted_as_r_does() {
        let p = [0.01, 0.02, 0.03, 0.04, 0.05];
        check(&holm(&p), &[0.05, 0.08, 0.09, 0.09, 0.09]);
        check(&benjamini_hochberg(&p), &[0.05; 5]);
    }

    /// Table 1 of Benjamini and Hochberg (1995): fifteen p-values, of which
    /// theirs refuses four at 0.05 and Bonferroni three.
    #[test]
    fn published_example_refuses_four() {
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
            0.5719, 0.6528, 0.7590, 1.000,
        ];
        assert_eq!(benjamini_hochberg(&p).iter().filter(|p| **p <= 0.05).count(), 4);
        assert_eq!(holm(&p).iter().filter(|p| **p <= 0.05).count(), 3);
    }

    /// The one-sided tests of two figures that rise and fall together: alarms stay
    /// within the level whatever the correlation.
    #[test]
    fn simes_keeps_its_level_where_tests_depend_positively() {
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        for shared in [0.0, 0.5, 0.9, 1.0_f64] {
            let alarms = (0..4_000).filter(|_| {
                // Sums of twelve uniform numbers are nearly normal.
                let mut normal = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
                let (common, own) = (normal(), [normal(), normal()]);
                let p = own.map(|own| {
                    let z = shared.sqrt() * common + (1.0 - shared).sqrt() * own;
                    1.0 - normal_cdf(z)
                });
                simes(&p) <= 0.05
            });
            let share = alarms.count() as f64 / 4_000.0;
            assert!(share < 0.06, "{share} at a correlation of {shared}");
        }
    }

    #[test]
    fn simes_of_two_costs_nothing_where_both_are_small() {
        assert_eq!(simes(&[0.04, 0.04]), 0.04);
        check(&[simes(&[0.01, 0.9]), simes(&[0.3])], &[0.02, 0.3]);
        assert_eq!(simes(&[]), 1.0);
    }

    proptest! {
        #[test]
        fn simes_lies_between_the_least_and_bonferroni(
            p in prop::collection::vec(0.0..=1.0_f64, 1..20),
        ) {
            let least = p.iter().copied().fold(1.0, f64::min);
            let found = simes(&p);
            prop_assert!(least <= found + 1e-12);
            prop_assert!(found <= (p.len() as f64 * least).min(1.0) + 1e-12);
        }

        #[test]
        fn adjusted_values_are_larger_ordered_and_holm_above_bh(
            p in prop::collection::vec(0.0..=1.0_f64, 0..40),
        ) {
            let (holm, bh) = (holm(&p), benjamini_hochberg(&p));
            for i in 0..p.len() {
                prop_assert!(p[i] <= bh[i] + 1e-12 && bh[i] <= holm[i] + 1e-12 && holm[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || (holm[i] <= holm[j] && bh[i] <= bh[j]));
                }
            }
        }
    }
}
