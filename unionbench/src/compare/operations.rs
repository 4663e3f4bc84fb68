//! All operations of a cell of the lab, so that another run can be laid over them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::record::Round;
use crate::stats::alignment::{Alignment, Shares};
use crate::stats::hdr::{HdrError, decode};

/// Fewest runs that tell how far one strays from the others.
const FEWEST_RUNS: usize = 4;

/// Instructions of each operation, as histograms keep them (within 0.1 %).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operations {
    /// Instructions and how many operations took so many, ascending; in a file
    /// `236159x80` where it was more than one.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    all: Vec<(u64, u64)>,
    /// How much more like the other runs each of the runs was with a larger factor
    /// than unchanged, the least and the most; absent of too few runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<(f64, f64)>,
    /// The same with a smaller factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<(f64, f64)>,
}

impl Operations {
    /// Those of `rounds`; absent if there are none.
    pub(super) fn of(rounds: &[&Round]) -> Result<Option<Self>, HdrError> {
        let mut counts = BTreeMap::new();
        for round in rounds {
            for value in decode(&round.histogram)?.iter_recorded() {
                *counts.entry(value.value_iterated_to()).or_default() +=
                    value.count_since_last_iteration();
            }
        }
        let all: Vec<(u64, u64)> = counts.into_iter().collect();
        Ok((!all.is_empty()).then_some(Self { all, rise: None, fall: None }))
    }

    /// Takes those of another run in.
    pub(super) fn add(&mut self, other: &Self) {
        let mut counts: BTreeMap<u64, u64> = self.all.iter().copied().collect();
        for (value, n) in &other.all {
            *counts.entry(*value).or_default() += n;
        }
        *self = Self { all: counts.into_iter().collect(), rise: None, fall: None };
    }

    /// Notes how far each of `runs` strays from the others together: what is no
    /// more than that is no change.
    pub(super) fn note_strays(&mut self, runs: &[&Self]) {
        (self.rise, self.fall) = (None, None);
        if runs.len() < FEWEST_RUNS {
            return;
        }
        let strays: Vec<Alignment> = (0..runs.len())
            .filter_map(|own| {
                let others = runs.iter().enumerate().filter(|(index, _)| *index != own);
                let others = Shares::of(others.flat_map(|(_, run)| &run.all))?;
                Some(others.align(&Shares::of(&runs[own].all)?, STRAYS_WITHIN))
            })
            .collect();
        self.rise = range(strays.iter().map(Alignment::rise));
        self.fall = range(strays.iter().map(Alignment::fall));
    }

    /// Where these are most like `new`.
    pub(super) fn align(&self, new: &Self, tolerance: f64) -> Option<Alignment> {
        Some(Shares::of(&self.all)?.align(&Shares::of(&new.all)?, tolerance))
    }

    /// They are in order, of one operation at least, and their strays are numbers.
    pub(super) fn is_sound(&self) -> bool {
        let ascending = self.all.is_sorted_by(|a, b| a.0 < b.0);
        let counted = !self.all.is_empty() && self.all.iter().all(|(_, n)| *n > 0);
        let mut strays = [self.rise, self.fall].into_iter().flatten();
        ascending && counted && strays.all(|(low, high)| low <= high && high.is_finite())
    }
}

/// The tolerance by which strays are noted: that of a gate without a budget.
const STRAYS_WITHIN: f64 = 0.005;

/// Lowest and highest, to four digits behind the point.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let rounded: Vec<f64> = values.map(|value| (value * 1e4).round() / 1e4).collect();
    let low = rounded.iter().copied().min_by(f64::total_cmp)?;
    Some((low, rounded.iter().copied().max_by(f64::total_cmp)?))
}

fn to_text<S: Serializer>(all: &[(u64, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let words = all.iter().map(|(value, n)| match n {
        1 => value.to_string(),
        n => format!("{value}x{n}"),
    });
    serializer.serialize_str(&words.collect::<Vec<_>>().join(" "))
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(u64, u64)>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let read = |word: &str| {
        let (value, n) = word.split_once('x').unwrap_or((word, "1"));
        let pair = value.parse().ok().zip(n.parse().ok());
        pair.ok_or_else(|| {
            D::Error::custom(format!("{word:?} is no number of instructions, as 236159x80"))
        })
    };
    text.split_whitespace().map(read).collect()
}
