//! Latencies as Prometheus keeps them: classic buckets for every client, and
//! the sparse exponential ones of native histograms.

use std::collections::BTreeMap;

use crate::unit::Nanos;

/// Upper bounds of the classic buckets in nanoseconds: 1 µs to 10 s.
pub const BOUNDS_NS: [u64; 15] = [
    1_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Native buckets: each upper bound is 2^(1/8), 9 %, above the one before.
pub const SCHEMA: i32 = 3;

/// Latencies of one operation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latencies {
    count: u64,
    sum_ns: u128,
    classic: [u64; BOUNDS_NS.len()],
    zero: u64,
    native: BTreeMap<i32, u64>,
}

/// A run of native buckets that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Buckets left out before it; of the first span, its first index.
    pub offset: i32,
    pub length: u32,
}

impl Latencies {
    pub fn add(&mut self, latency: Nanos) {
        self.count += 1;
        self.sum_ns += u128::from(latency.0);
        if let Some(bucket) = BOUNDS_NS.iter().position(|bound| latency.0 <= *bound) {
            self.classic[bucket] += 1;
        }
        match latency.0 {
            0 => self.zero += 1,
            ns => *self.native.entry(index(ns as f64 * 1e-9)).or_default() += 1,
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 * 1e-9
    }

    pub fn n_zero(&self) -> u64 {
        self.zero
    }

    /// Upper bound in seconds and the number of latencies up to it, without
    /// the last one, which has no bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut sum = 0;
        BOUNDS_NS.iter().zip(&self.classic).map(move |(bound, n)| {
            sum += n;
            (*bound as f64 / 1e9, sum)
        })
    }

    /// Spans of native buckets that are not empty, and of each bucket in them
    /// the difference of its count to the one before.
    pub fn spans(&self) -> (Vec<Span>, Vec<i64>) {
        let (mut spans, mut deltas) = (Vec::<Span>::new(), Vec::new());
        let (mut next, mut before) = (0, 0);
        for (&index, &n) in &self.native {
            match spans.last_mut() {
                Some(span) if index == next => span.length += 1,
                _ => spans.push(Span { offset: index - next, length: 1 }),
            }
            next = index + 1;
            deltas.push(n as i64 - before);
            before = n as i64;
        }
        (spans, deltas)
    }
}

/// The bucket whose bounds are 2^((i-1)/8), exclusive, and 2^(i/8).
fn index(seconds: f64) -> i32 {
    (seconds.log2() * f64::from(1 << SCHEMA)).ceil() as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_native_bucket_holds_its_upper_bound() {
        assert_eq!((index(1.0), index(1.0001), index(0.5), index(2.0)), (0, 1, -8, 8));
    }

    proptest! {
        #[test]
        fn every_latency_is_in_one_bucket_of_each_kind(ns in prop::collection::vec(0_u64..20_000_000_000, 0..100)) {
            let mut all = Latencies::default();
            ns.iter().for_each(|&ns| all.add(Nanos(ns)));
            let within = ns.iter().filter(|&&n| n <= 10_000_000_000).count() as u64;
            prop_assert_eq!(all.cumulative().last().map(|(_, n)| n), Some(within));
            let (spans, deltas) = all.spans();
            let length: u32 = spans.iter().map(|span| span.length).sum();
            prop_assert_eq!(length as usize, deltas.len());
            let mut count = 0;
            let counts: Vec<i64> = deltas.iter().map(|d| { count += d; count }).collect();
            prop_assert!(counts.iter().all(|&n| n > 0));
            prop_assert_eq!(counts.iter().sum::<i64>() as u64 + all.n_zero(), all.count());
            prop_assert!(spans.iter().skip(1).all(|span| span.offset > 0));
        }
    }
}
