//! Counts by key, with a bound on the number of keys.

use std::collections::HashMap;

use serde::Serialize;

use super::super::Event;

/// Keys that a table tells apart; those that come later are summed up in one.
pub const MAX_KEYS: usize = 100_000;

/// What the events of one key come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub n: u64,
    pub latency_ns: u64,
    pub bytes: u64,
    pub n_fsyncs: u64,
}

impl Tally {
    pub fn add(&mut self, event: &Event) {
        self.merge(&Self {
            n: 1,
            latency_ns: event.latency_ns.0,
            bytes: event.copied_bytes.unwrap_or(0),
            n_fsyncs: event.n_fsyncs.unwrap_or(0).into(),
        });
    }

    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.latency_ns = self.latency_ns.saturating_add(other.latency_ns);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.n_fsyncs += other.n_fsyncs;
    }
}

/// A tally for each key.
#[derive(Debug, Clone, Default)]
pub struct Table {
    tallies: HashMap<String, Tally>,
    other: Tally,
}

impl Table {
    pub fn add(&mut self, key: impl FnOnce() -> String, event: &Event) {
        let key = key();
        if let Some(tally) = self.tallies.get_mut(&key) {
            tally.add(event);
        } else if self.tallies.len() < MAX_KEYS {
            self.tallies.entry(key).or_default().add(event);
        } else {
            self.other.add(event);
        }
    }

    /// All keys, those that took longest first; what came past the bound is
    /// not among them.
    pub fn rows(&self) -> Vec<(&str, Tally)> {
        let mut rows: Vec<_> = self.tallies.iter().map(|(key, t)| (key.as_str(), *t)).collect();
        rows.sort_by(|a, b| b.1.latency_ns.cmp(&a.1.latency_ns).then_with(|| a.0.cmp(b.0)));
        rows
    }

    /// The first `n` rows, and what all others come to, with their number.
    pub fn top(&self, n: usize) -> (Vec<(&str, Tally)>, u64, Tally) {
        let mut rows = self.rows();
        let mut rest = self.other;
        let n_rest = rows.len().saturating_sub(n) as u64;
        rows.iter().skip(n).for_each(|(_, tally)| rest.merge(tally));
        rows.truncate(n);
        (rows, n_rest, rest)
    }

    /// Events of keys past the bound.
    pub fn n_other(&self) -> u64 {
        self.other.n
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn keys_past_the_bound_are_summed_up() {
        let mut table = Table::default();
        let event = sample::event(1);
        for i in 0..MAX_KEYS + 5 {
            table.add(|| i.to_string(), &event);
        }
        assert_eq!((table.rows().len(), table.n_other()), (MAX_KEYS, 5));
        let (top, n_rest, rest) = table.top(10);
        assert_eq!((top.len(), n_rest), (10, MAX_KEYS as u64 - 10));
        assert_eq!(rest.n, MAX_KEYS as u64 - 10 + 5);
    }
}
