//! How much worse each metric may become: the defaults and `gate.toml`.

use serde::Deserialize;

use super::GateError;
use crate::compare::{AMOUNTS, INSTRUCTIONS, Policy, is_amount};

/// The policy of a gate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Share by which instructions may rise.
    pub instructions: f64,
    /// Share by which counts may rise.
    pub counters: f64,
    /// Share by which counters may rise that are amounts: memory of a daemon, and
    /// what writeback touched.
    pub amounts: f64,
    /// Smallest change of a ratio of wall time that blocks.
    pub min_effect: f64,
    #[serde(rename = "override")]
    pub overrides: Vec<Override>,
}

/// Another tolerance for some metrics. The last that fits counts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// The cell's id; `*` stands for anything.
    #[serde(default = "anything")]
    pub cell: String,
    /// The metric's name; `*` stands for anything.
    #[serde(default = "anything")]
    pub metric: String,
    /// Share by which it may rise; of `latency`, the smallest effect.
    pub tolerance: f64,
    /// Why; never empty.
    pub reason: String,
}

impl Default for Budget {
    /// ARCHITECTURE.md says by which measurement these were chosen.
    fn default() -> Self {
        Self {
            instructions: 0.005,
            counters: 0.0,
            amounts: AMOUNTS,
            min_effect: 0.1,
            overrides: Vec::new(),
        }
    }
}

impl Budget {
    /// Reads a `gate.toml`.
    pub fn from_text(text: &str) -> Result<Self, GateError> {
        let budget: Self = toml::from_str(text)
            .map_err(|e| GateError::Budget { reason: e.to_string().trim().to_owned() })?;
        let shares = [
            ("instructions", budget.instructions),
            ("counters", budget.counters),
            ("amounts", budget.amounts),
            ("min_effect", budget.min_effect),
        ];
        let own = budget.overrides.iter().map(|o| ("tolerance", o.tolerance));
        for (name, share) in shares.into_iter().chain(own) {
            if !(share.is_finite() && share >= 0.0) {
                let reason = format!("{name} is {share}; write a share from 0 up, as 0.02 for 2 %");
                return Err(GateError::Budget { reason });
            }
        }
        if let Some(silent) = budget.overrides.iter().find(|o| o.reason.trim().is_empty()) {
            let reason = format!(
                "the override of {} {} has no reason; say why it may rise",
                silent.cell, silent.metric
            );
            return Err(GateError::Budget { reason });
        }
        Ok(budget)
    }

    fn of(&self, cell: &str, metric: &str) -> Option<f64> {
        let fits = |o: &&Override| fits(&o.cell, cell) && fits(&o.metric, metric);
        self.overrides.iter().rev().find(fits).map(|o| o.tolerance)
    }
}

impl Policy for Budget {
    fn tolerance(&self, cell: &str, metric: &str) -> f64 {
        let default = match metric {
            INSTRUCTIONS => self.instructions,
            amount if is_amount(amount) => self.amounts,
            _ => self.counters,
        };
        self.of(cell, metric).unwrap_or(default)
    }

    fn min_effect(&self, cell: &str) -> f64 {
        self.of(cell, crate::compare::LATENCY).unwrap_or(self.min_effect)
    }
}

/// `text` is what `pattern` describes, `*` standing for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len())
                .filter(|at| tail.is_char_boundary(*at))
                .any(|at| fits(rest, &tail[at..]))
        }),
    }
}

fn anything() -> String {
    "*".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Budget::from_text(text).expect_err("refused").to_string()
    }

    #[test]
    fn last_override_that_fits_counts() {
        let budget = Budget::from_text(
            "counters = 0.0
            [[override]]
            cell = 'bundled*'
            tolerance = 0.02
            reason = 'its cache evicts by time'
            [[override]]
            cell = 'bundled*'
            metric = 'fsyncs'
            tolerance = 0.0
            reason = 'never more'",
        )
        .expect("reads");
        assert_eq!(budget.tolerance("bundled/x", "instructions"), 0.02);
        assert_eq!(budget.tolerance("bundled/x", "fsyncs"), 0.0);
        assert_eq!(budget.tolerance("overlayfs/x", "inodes_dirtied"), 0.05);
        assert_eq!(budget.tolerance("overlayfs/x", "instructions"), 0.005);
        assert_eq!(budget.min_effect("overlayfs/x"), 0.1);
    }

    #[test]
    fn budget_without_a_reason_or_a_number_is_refused() {
        assert!(refusal("[[override]]\ntolerance = 1.0\nreason = ' '").contains("no reason"));
        assert!(refusal("[[override]]\ntolerance = 1.0").contains("reason"));
        assert!(refusal("min_effect = nan").contains("min_effect"));
        assert!(refusal("instructions = -0.1").contains("instructions"));
        assert!(refusal("instruction = 0.1").contains("unknown field"));
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*b*", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
