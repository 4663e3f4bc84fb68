//! How far the gate can be believed: how often it alarms where nothing changed,
//! and how often it finds a change of known size.
//!
//! In the lab equal runs are equal, so that an A/A comparison of them would tell
//! nothing: its runs differ in what should not matter. Natively its runs differ
//! in nothing but the moment.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use crate::compare::{
    Comparison, Figure, OPERATIONS, Policy, QUANTILES, Subject, Verdict, compare_subjects,
};
use crate::stats::proportion::{Proportion, proportion};
use crate::stats::signed_rank::hodges_lehmann;

/// What a run of the selftest was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// As the scenario has it, but for what is named.
    Same { perturbed: String },
    /// With a slowdown injected.
    Injected(Injection),
}

/// An injected slowdown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// As in `bundled spin=400` or `fsync=strict`.
    pub what: String,
    /// Nominal share by which the target becomes slower, if it has one.
    pub size: Option<f64>,
    /// Cells that it must be found in, as a part of their ids.
    pub target: String,
}

/// How bases and new runs were taken from the A/A runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// So many runs drawn for a base and one of the rest for new, again and
    /// again: many comparisons of few runs, which are not independent.
    Drawn { base_runs: usize },
    /// So many runs, taken evenly from all, are one base, and each other run is
    /// compared with it once: as many comparisons as there are runs left, each
    /// of a run of its own.
    Apart { base_runs: usize },
    /// The first against the second, the third against the fourth.
    Disjoint,
}

/// One base of `base_runs` of `runs`, taken evenly, and each other run for new.
/// With too few runs there are none.
pub fn apart(runs: usize, base_runs: usize) -> Vec<(Vec<usize>, usize)> {
    if base_runs == 0 || runs <= base_runs {
        return Vec::new();
    }
    let base: Vec<usize> = (0..base_runs).map(|k| k * runs / base_runs).collect();
    (0..runs).filter(|run| !base.contains(run)).map(|new| (base.clone(), new)).collect()
}

/// `n` draws of `base_runs` of `runs` for a base, and one other for new. With
/// too few runs there are none.
pub fn draws(runs: usize, base_runs: usize, n: usize, seed: u64) -> Vec<(Vec<usize>, usize)> {
    if base_runs == 0 || runs <= base_runs {
        return Vec::new();
    }
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..runs).collect();
    (0..n)
        .map(|k| {
            order.shuffle(&mut rng);
            // Each run is the new one about equally often.
            let new = k % runs;
            let base = order.iter().copied().filter(|run| *run != new).take(base_runs);
            (base.collect(), new)
        })
        .collect()
}

/// One comparison of the selftest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub class: Class,
    pub alarmed: bool,
    pub inconclusive: bool,
    /// `cell metric` of each alarm.
    pub alarms: Vec<String>,
    /// Largest rise of an exact figure of the target, as a share; of ratios the
    /// centre.
    pub rise: f64,
}

/// What the selftest found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    /// `lab` with its kernel, or `native`.
    pub place: String,
    pub pairing: Pairing,
    pub n_runs: usize,
    pub outcomes: Vec<Outcome>,
    /// Wall time of one run and its verdict, in milliseconds: median.
    pub verdict_ms: u64,
    /// Largest spread of each metric over all A/A runs: (highest − lowest) over
    /// lowest, with the cell where it was.
    pub spreads: BTreeMap<String, (f64, String)>,
}

impl Report {
    /// How often A/A comparisons alarmed.
    pub fn false_alarms(&self) -> Proportion {
        let same = |o: &&Outcome| matches!(o.class, Class::Same { .. });
        let all: Vec<&Outcome> = self.outcomes.iter().filter(same).collect();
        proportion(all.iter().filter(|o| o.alarmed).count() as u64, all.len() as u64)
    }

    /// How often A/A comparisons could not tell.
    pub fn inconclusive(&self) -> Proportion {
        let same = |o: &&Outcome| matches!(o.class, Class::Same { .. });
        let all: Vec<&Outcome> = self.outcomes.iter().filter(same).collect();
        proportion(all.iter().filter(|o| o.inconclusive).count() as u64, all.len() as u64)
    }

    /// Each injection, the mean rise it made, and how often it was found; in
    /// the order of first appearance.
    pub fn power(&self) -> Vec<(Injection, f64, Proportion)> {
        let mut found: Vec<(Injection, Vec<&Outcome>)> = Vec::new();
        for outcome in &self.outcomes {
            let Class::Injected(injection) = &outcome.class else { continue };
            match found.iter_mut().find(|(known, _)| known == injection) {
                Some((_, outcomes)) => outcomes.push(outcome),
                None => found.push((injection.clone(), vec![outcome])),
            }
        }
        let summed = found.into_iter().map(|(injection, outcomes)| {
            let rise = outcomes.iter().map(|o| o.rise).sum::<f64>() / outcomes.len() as f64;
            let hits = outcomes.iter().filter(|o| o.alarmed).count();
            (injection, rise, proportion(hits as u64, outcomes.len() as u64))
        });
        summed.collect()
    }
}

/// Compares `new` with `base` under `policy`, both as if of the same seed and
/// stack: the selftest perturbs them on purpose.
pub fn outcome(base: &Subject, new: &Subject, class: Class, policy: &dyn Policy) -> Outcome {
    let mut new = new.clone();
    new.identity = base.identity.clone();
    let comparison = match compare_subjects(base, &new, policy) {
        Ok(comparison) => comparison,
        // Figures of one program's own runs are sound; if not, that is an alarm.
        Err(error) => {
            let alarms = vec![error.to_string()];
            return Outcome { class, alarmed: true, inconclusive: false, alarms, rise: 0.0 };
        }
    };
    let target = match &class {
        Class::Injected(injection) => injection.target.as_str(),
        Class::Same { .. } => "",
    };
    let hits: Vec<String> = comparison
        .of(Verdict::Fail)
        .filter(|row| row.cell.contains(target))
        .map(|row| format!("{} {}", row.cell, row.metric))
        .collect();
    Outcome {
        rise: rise(&comparison, target),
        alarmed: !hits.is_empty(),
        inconclusive: hits.is_empty() && comparison.verdict() == Verdict::Inconclusive,
        alarms: hits,
        class,
    }
}

/// The largest rise among the target's rows, 0 if nothing rose.
fn rise(comparison: &Comparison, target: &str) -> f64 {
    let rises = comparison
        .rows
        .iter()
        .filter(|row| row.cell.contains(target))
        .filter_map(|row| row.quotient.map(|quotient| quotient.value - 1.0));
    rises.fold(0.0, f64::max)
}

/// The largest relative spread of each metric over `runs`, and of the quantile
/// of instructions that would be chosen in each cell.
pub fn spreads(runs: &[&Subject]) -> BTreeMap<String, (f64, String)> {
    let mut found: BTreeMap<String, (f64, String)> = BTreeMap::new();
    let Some(first) = runs.first() else { return found };
    let mut widen = |name: &str, spread: f64, cell: &str| {
        let widest = found.entry(name.to_owned()).or_insert((0.0, cell.to_owned()));
        if spread > widest.0 {
            *widest = (spread, cell.to_owned());
        }
    };
    for cell in &first.cells {
        let mut least: Option<f64> = None;
        for metric in cell.metrics.keys().filter(|metric| *metric != OPERATIONS) {
            let spread = spread(runs, &cell.id, metric);
            widen(metric, spread, &cell.id);
            if QUANTILES.contains(&metric.as_str()) {
                least = Some(least.map_or(spread, |l| l.min(spread)));
            }
        }
        if let Some(least) = least {
            widen("instructions, the quantile chosen", least, &cell.id);
        }
    }
    found
}

/// (highest − lowest) over lowest.
fn spread(runs: &[&Subject], cell: &str, metric: &str) -> f64 {
    let figures: Vec<f64> = runs
        .iter()
        .filter_map(|run| match run.cell(cell)?.metrics.get(metric)? {
            Figure::Ratios(ratios) => hodges_lehmann(ratios, 0.95).map(|c| c.value),
            figure => figure.bounds().map(|(_, high)| high),
        })
        .collect();
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures.iter().copied().fold(0.0, f64::max);
    match (low > 0.0, high > 0.0) {
        (true, _) => high / low - 1.0,
        (false, true) => f64::INFINITY,
        (false, false) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Uniform;
    use crate::record::sample;

    const POLICY: Uniform = Uniform { instructions: 0.005, min_effect: 0.1 };

    fn subject(copy_ups: f64) -> Subject {
        let mut subject = Subject::of(&sample::record()).expect("figures");
        for cell in &mut subject.cells {
            cell.metrics.retain(|name, _| name == "copy_ups");
        }
        for figure in subject.cells.iter_mut().filter_map(|c| c.metrics.get_mut("copy_ups")) {
            *figure = Figure::Exact(copy_ups);
        }
        subject
    }

    fn same() -> Class {
        Class::Same { perturbed: "seed".into() }
    }

    #[test]
    fn alarms_and_finds_are_counted() {
        let injection = Injection { what: "x".into(), size: Some(0.1), target: "overlayfs".into() };
        let elsewhere = Injection { target: "bundled".into(), ..injection.clone() };
        let outcomes = vec![
            outcome(&subject(1.0), &subject(1.0), same(), &POLICY),
            outcome(&subject(1.0), &subject(1.1), same(), &POLICY),
            outcome(&subject(1.0), &subject(1.1), Class::Injected(injection), &POLICY),
            outcome(&subject(1.0), &subject(1.1), Class::Injected(elsewhere), &POLICY),
        ];
        let report = Report {
            scenario: "s".into(),
            place: "lab".into(),
            pairing: Pairing::Drawn { base_runs: 1 },
            n_runs: 2,
            outcomes,
            verdict_ms: 0,
            spreads: BTreeMap::new(),
        };
        let alarms = report.false_alarms();
        assert_eq!((alarms.successes, alarms.trials), (1, 2));
        let power = report.power();
        assert_eq!((power[0].2.successes, power[0].2.trials), (1, 1));
        assert!((power[0].1 - 0.1).abs() < 1e-9);
        assert_eq!(power[1].2.successes, 0, "an alarm elsewhere is not a find");
    }

    #[test]
    fn a_run_is_never_its_own_base() {
        let all = draws(5, 3, 50, 1);
        assert_eq!(all.len(), 50);
        assert!(all.iter().all(|(base, new)| base.len() == 3 && !base.contains(new)));
        assert_eq!(draws(3, 3, 50, 1), []);
    }

    #[test]
    fn each_run_apart_from_the_base_is_compared_once() {
        let all = apart(23, 4);
        assert_eq!(all.len(), 19);
        assert_eq!(all[0].0, [0, 5, 11, 17]);
        let new: std::collections::BTreeSet<usize> = all.iter().map(|(_, new)| *new).collect();
        assert_eq!(new.len(), 19);
        assert!(all.iter().all(|(base, new)| !base.contains(new)));
        assert_eq!(apart(4, 4), []);
    }

    #[test]
    fn another_seed_is_compared_all_the_same() {
        let mut other = subject(1.0);
        other.identity.seed += 1;
        assert!(!outcome(&subject(1.0), &other, same(), &POLICY).alarmed);
    }

    #[test]
    fn widest_spread_is_named_with_its_cell() {
        let (a, b, c) = (subject(1.0), subject(1.2), subject(0.8));
        let found = spreads(&[&a, &b, &c]);
        assert!((found["copy_ups"].0 - 0.5).abs() < 1e-9, "{found:?}");
        assert!(found["copy_ups"].1.contains("overlayfs"));
    }
}
