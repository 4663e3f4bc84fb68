//! Two samples of positive values laid over each other: by which factor must one
//! be multiplied to be most like the other?
//!
//! What is measured falls into modes. How often each is taken differs from run to
//! run, and a quantile jumps between them; where the modes lie does not. So two
//! runs of the same are most alike where neither is multiplied, however the shares
//! of their modes differ, and a run in which everything became 1 % slower is most
//! like the other multiplied by 1.01. How alike they are is told by Bhattacharyya's
//! coefficient, the sum over all values of the root of the product of both shares:
//! 1 for equal samples, 0 for samples without a value in common. Of the usual
//! measures it is the one that least minds shares.

use std::collections::BTreeMap;

/// Width of a class on the scale of logarithms: half of what a histogram of three
/// digits tells apart.
const CLASS: f64 = 0.000_5;
/// A value counts for the classes less than so many away from its own, the nearer
/// the more: 0.15 %.
const REACH: i64 = 3;
/// The largest factor that is tried. What is further off moves every quantile.
const LARGEST: f64 = 1.25;

/// A sample as the roots of its shares by class.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// Class of the first root.
    first: i64,
    roots: Vec<f64>,
}

/// One sample multiplied by `factor`, and how like the other it is then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    pub factor: f64,
    pub likeness: f64,
    /// The value of the sample that contributes most, before the multiplication.
    pub value: f64,
}

/// Where one sample is most like the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alignment {
    /// With a factor within the tolerance.
    pub unchanged: Match,
    /// With a larger one.
    pub above: Match,
    /// With a smaller one.
    pub below: Match,
}

impl Shares {
    /// Of values with how often each was found; absent if there are none.
    pub fn of<'a>(values: impl IntoIterator<Item = &'a (u64, u64)>) -> Option<Self> {
        let mut shares: BTreeMap<i64, f64> = BTreeMap::new();
        let mut total = 0.0;
        for &(value, n) in values {
            let class = (value.max(1) as f64).ln() / CLASS;
            for away in 1 - REACH..REACH {
                let weight = (REACH - away.abs()) as f64 / (REACH * REACH) as f64;
                *shares.entry(class.round() as i64 + away).or_default() += n as f64 * weight;
            }
            total += n as f64;
        }
        let (&first, &last) = shares.keys().next().zip(shares.keys().next_back())?;
        let mut roots = vec![0.0; usize::try_from(last - first).ok()? + 1];
        for (class, share) in shares {
            roots[usize::try_from(class - first).ok()?] = (share / total).sqrt();
        }
        (total > 0.0).then_some(Self { first, roots })
    }

    /// Where `self`, multiplied, is most like `new`; factors within `tolerance` are
    /// no change.
    pub fn align(&self, new: &Self, tolerance: f64) -> Alignment {
        let within = ((1.0 + tolerance).ln() / CLASS).round() as i64;
        let largest = ((LARGEST.ln() / CLASS).round() as i64).max(within + 1);
        // Of most classes `new` holds nothing.
        let held: Vec<(i64, f64)> =
            (new.first..).zip(new.roots.iter().copied()).filter(|(_, root)| *root > 0.0).collect();
        let best = |shifts: std::ops::RangeInclusive<i64>| {
            // Of equals the one that changes least.
            let (shift, likeness) = shifts
                .map(|shift| (shift, self.laid_over(&held, shift).map(|(_, both)| both).sum()))
                .max_by(|a: &(i64, f64), b| a.1.total_cmp(&b.1).then(b.0.abs().cmp(&a.0.abs())))
                .unwrap_or_default();
            let most = self.laid_over(&held, shift).max_by(|a, b| a.1.total_cmp(&b.1));
            let value = most.map_or(0.0, |(class, _)| (class as f64 * CLASS).exp());
            Match { factor: (shift as f64 * CLASS).exp(), likeness, value }
        };
        Alignment {
            unchanged: best(-within..=within),
            above: best(within + 1..=largest),
            below: best(-largest..=-within - 1),
        }
    }

    /// Each class of `self` that, moved by `shift`, is one of `held`, with what both
    /// have in common.
    fn laid_over(&self, held: &[(i64, f64)], shift: i64) -> impl Iterator<Item = (i64, f64)> {
        held.iter().filter_map(move |(class, other)| {
            let own = class - shift;
            let root = self.roots.get(usize::try_from(own - self.first).ok()?)?;
            Some((own, root * other))
        })
    }
}

impl Alignment {
    /// By how much more alike the samples are with a larger factor than unchanged or
    /// with a smaller one; below zero where nothing became larger.
    pub fn rise(&self) -> f64 {
        self.above.likeness - self.unchanged.likeness.max(self.below.likeness)
    }

    /// The same of a smaller factor.
    pub fn fall(&self) -> f64 {
        self.below.likeness - self.unchanged.likeness.max(self.above.likeness)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(values: &[(u64, u64)]) -> Shares {
        Shares::of(values).expect("not empty")
    }

    /// Three modes with so many values in each.
    fn modes(counts: [u64; 3], factor: f64) -> Shares {
        let at = [187_600.0, 236_100.0, 391_400.0].map(|value: f64| (value * factor) as u64);
        shares(&at.into_iter().zip(counts).collect::<Vec<_>>())
    }

    #[test]
    fn modes_taken_more_or_less_often_are_no_change() {
        let (base, new) = (modes([4, 24, 12], 1.0), modes([14, 12, 14], 1.0));
        let found = base.align(&new, 0.005);
        assert!(found.unchanged.likeness > 0.9, "{found:?}");
        assert!(found.rise() < -0.4 && found.fall() < -0.4, "{found:?}");
    }

    #[test]
    fn one_percent_is_found_while_the_median_jumps() {
        let found = modes([4, 24, 12], 1.0).align(&modes([25, 7, 8], 1.01), 0.005);
        assert!(found.rise() > 0.2 && found.fall() < -0.2, "{found:?}");
        assert!((found.above.factor - 1.01).abs() < 0.001, "{found:?}");
        assert!((found.above.value - 236_100.0).abs() < 200.0, "{found:?}");
        let back = modes([4, 24, 12], 1.01).align(&modes([25, 7, 8], 1.0), 0.005);
        assert!(back.fall() > 0.2 && back.rise() < -0.2, "{back:?}");
    }

    #[test]
    fn what_is_within_the_tolerance_is_no_change() {
        let found = modes([4, 24, 12], 1.0).align(&modes([4, 24, 12], 1.01), 0.02);
        assert!(found.unchanged.likeness > 0.99 && found.rise() < 0.0, "{found:?}");
    }

    #[test]
    fn nothing_is_like_nothing() {
        assert_eq!(Shares::of(&[]), None);
        assert_eq!(Shares::of(&[(5, 0)]), None);
        assert!(Shares::of(&[(0, 1)]).is_some(), "an operation of no instructions is one");
    }

    proptest! {
        // Each tries a thousand factors.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn likeness_lies_between_0_and_1_and_is_1_for_equals(
            values in prop::collection::vec((1_u64..1 << 30, 1_u64..9), 1..20),
            others in prop::collection::vec((1_u64..1 << 30, 1_u64..9), 1..20),
        ) {
            let (base, new) = (shares(&values), shares(&others));
            let same = base.align(&base, 0.005);
            prop_assert!((same.unchanged.likeness - 1.0).abs() < 1e-9);
            prop_assert!((same.unchanged.factor - 1.0).abs() < 1e-9);
            let found = base.align(&new, 0.005);
            for part in [found.unchanged, found.above, found.below] {
                prop_assert!((0.0..=1.0 + 1e-9).contains(&part.likeness));
            }
        }

        #[test]
        fn a_multiplied_sample_is_found_by_its_factor(
            values in prop::collection::vec((10_000_u64..1 << 30, 1_u64..9), 1..20),
            percent in 2_u64..24,
        ) {
            let factor = 1.0 + percent as f64 / 100.0;
            let multiplied: Vec<(u64, u64)> =
                values.iter().map(|(v, n)| ((*v as f64 * factor) as u64, *n)).collect();
            let found = shares(&values).align(&shares(&multiplied), 0.005);
            prop_assert!((found.above.factor / factor - 1.0).abs() < 0.001, "{:?}", found);
            prop_assert!(found.above.likeness > 0.85);
        }
    }
}
