//! Axes: where the ticks lie and what is written at them. A logarithmic axis is
//! drawn as a linear one of logarithms, so that the drawing library need not
//! know about it and ticks fall on whole powers.

use crate::report::figure::grouped;
use crate::unit::{Bytes, LatencyUnit};

/// Largest quotient of two latencies that a linear axis still shows well.
const LINEAR_SPAN: f64 = 50.0;
/// About how many ticks a linear axis gets.
const N_TICKS: f64 = 7.0;

/// One axis. `low`, `high` and ticks are where they are drawn, after
/// [`Axis::place`].
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub title: String,
    pub low: f64,
    pub high: f64,
    /// Ascending.
    pub ticks: Vec<(f64, String)>,
    is_log: bool,
}

impl Axis {
    /// Latencies: linear from zero, or logarithmic where `values` span more
    /// than a factor of fifty or `log` asks for it.
    pub fn latency(title: &str, values: &[f64], unit: LatencyUnit, log: bool) -> Self {
        let (low, high) = range(values);
        let title = match unit {
            LatencyUnit::Nanoseconds => title.to_owned(),
            LatencyUnit::Instructions => format!("{title} (guest instructions)"),
        };
        if low > 0.0 && (log || high / low > LINEAR_SPAN) {
            let ticks = decimal_ticks(low, high).into_iter().map(|t| (t, latency_tick(t, unit)));
            return Self::log(title, low, high, ticks.collect());
        }
        Self::linear(title, 0.0, high * 1.05, |t| latency_tick(t, unit))
    }

    /// A plain number, such as a depth: logarithmic where `values` span more
    /// than a factor of fifty, with ticks at the values themselves.
    pub fn number(title: &str, values: &[f64]) -> Self {
        let (low, high) = range(values);
        if low > 0.0 && high / low > LINEAR_SPAN {
            let ticks = values.iter().map(|&t| (t, trimmed(t))).collect();
            return Self::log(title.to_owned(), low, high, ticks);
        }
        Self::linear(title.to_owned(), 0.0, high, trimmed)
    }

    /// Positions from `low` to `high`, evenly spaced where they are drawn.
    pub fn spread(&self, low: f64, high: f64) -> Vec<f64> {
        const N: u32 = 64;
        let share = |i: u32| f64::from(i) / f64::from(N);
        (0..=N)
            .map(|i| match self.is_log {
                true => low * (high / low).powf(share(i)),
                false => low + (high - low) * share(i),
            })
            .collect()
    }

    /// Bytes, with a tick at every second power of two.
    pub fn size(title: &str, values: &[f64]) -> Self {
        let (low, high) = range(values);
        let low = low.max(1.0);
        let first = low.log2().floor() as i32;
        let last = high.log2().ceil() as i32;
        let ticks = (first..=last)
            .step_by(2)
            .map(|power| 2_f64.powi(power))
            .map(|t| (t, Bytes(t as u64).to_string()))
            .collect();
        Self::log(format!("{title} (bytes)"), low, high.max(low * 4.0), ticks)
    }

    /// Names at equal distances, the first at 0.
    pub fn names(title: &str, names: &[&str]) -> Self {
        let ticks = names.iter().enumerate().map(|(at, name)| (at as f64, (*name).to_owned()));
        let high = names.len() as f64 - 0.7;
        Self { title: title.to_owned(), low: -0.3, high, ticks: ticks.collect(), is_log: false }
    }

    /// Quotients, from zero.
    pub fn quotient(title: &str, values: &[f64]) -> Self {
        Self::linear(title.to_owned(), 0.0, range(values).1.max(1.0) * 1.1, trimmed)
    }

    /// Shares from 0 to 1.
    pub fn share(title: &str) -> Self {
        Self::linear(title.to_owned(), 0.0, 1.0, trimmed)
    }

    /// Quantiles p drawn at log(1/(1 - p)), up to one sample in `n`: each step
    /// to the right is ten times rarer.
    pub fn rarity(title: &str, n: u64) -> Self {
        let high = (n.max(10)) as f64;
        let named = [(1.0, "p0"), (2.0, "p50"), (10.0, "p90"), (100.0, "p99"), (1e3, "p99.9")];
        let rarer = [(1e4, "p99.99"), (1e5, "p99.999"), (1e6, "p99.9999"), (1e7, "p99.99999")];
        let ticks = named.into_iter().chain(rarer).map(|(t, name)| (t, name.to_owned())).collect();
        Self::log(title.to_owned(), 1.0, high, ticks)
    }

    /// Where a value is drawn; absent if it cannot be (zero on a logarithmic
    /// axis).
    pub fn place(&self, value: f64) -> Option<f64> {
        match self.is_log {
            true => (value > 0.0).then(|| value.log10()),
            false => Some(value),
        }
    }

    /// What is written at a tick.
    pub fn label(&self, at: f64) -> String {
        let nearest =
            self.ticks.iter().min_by(|a, b| (a.0 - at).abs().total_cmp(&(b.0 - at).abs()));
        nearest.map_or(String::new(), |tick| tick.1.clone())
    }

    fn linear(title: String, low: f64, high: f64, name: impl Fn(f64) -> String) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = nice_step((high - low) / N_TICKS);
        let ticks = (0..=(high / step).floor() as u32)
            .map(|i| f64::from(i) * step)
            .map(|t| (t, name(t)))
            .collect();
        Self { title, low, high, ticks, is_log: false }
    }

    fn log(title: String, low: f64, high: f64, ticks: Vec<(f64, String)>) -> Self {
        // A little room on both ends, so that no point lies on the frame.
        let (low, high) = (low.log10() - 0.04, high.log10() + 0.04);
        let mut ticks: Vec<(f64, String)> = ticks
            .into_iter()
            .map(|(t, name)| (t.log10(), name))
            .filter(|(t, _)| (low..=high).contains(t))
            .collect();
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
        ticks.dedup_by(|a, b| a.0 == b.0);
        Self { title, low, high, ticks, is_log: true }
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) }
}

/// Powers of ten; over less than three decades also twice and five times them.
fn decimal_ticks(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = if high / low < 1e3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    decades.flat_map(|d| factors.iter().map(move |f| f * 10_f64.powi(d))).collect()
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|f| f * power).find(|s| *s >= step).unwrap_or(10.0 * power)
}

fn latency_tick(value: f64, unit: LatencyUnit) -> String {
    match unit {
        LatencyUnit::Instructions => grouped(value.round() as u64),
        LatencyUnit::Nanoseconds => match value {
            v if v >= 1e9 => format!("{} s", trimmed(v / 1e9)),
            v if v >= 1e6 => format!("{} ms", trimmed(v / 1e6)),
            v if v >= 1e3 => format!("{} µs", trimmed(v / 1e3)),
            v => format!("{} ns", trimmed(v)),
        },
    }
}

/// Up to three decimals, without zeros at the end.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|t| t.1.as_str()).collect()
    }

    #[test]
    fn wide_spans_are_logarithmic_with_ticks_at_powers() {
        let axis = Axis::latency("latency", &[900.0, 2e6], LatencyUnit::Nanoseconds, false);
        assert_eq!(labels(&axis), ["1 µs", "10 µs", "100 µs", "1 ms"]);
        assert_eq!(axis.place(1_000.0), Some(3.0));
        assert_eq!(axis.place(0.0), None);
    }

    #[test]
    fn narrow_spans_are_linear_from_zero() {
        let axis = Axis::latency("latency", &[900.0, 2_900.0], LatencyUnit::Nanoseconds, false);
        assert_eq!(axis.low, 0.0);
        assert_eq!(labels(&axis)[..3], ["0 ns", "500 ns", "1 µs"]);
    }

    #[test]
    fn depths_over_decades_are_logarithmic_with_ticks_where_they_were_measured() {
        let axis = Axis::number("stack.layers", &[500.0, 1.0, 8.0, 1.0]);
        assert_eq!(labels(&axis), ["1", "8", "500"]);
        let spread = axis.spread(1.0, 100.0);
        assert!((spread[spread.len() / 2] - 10.0).abs() < 1e-9);
        assert_eq!(labels(&Axis::number("stack.layers", &[1.0, 4.0]))[0], "0");
    }

    #[test]
    fn rare_quantiles_lie_ten_times_apart() {
        let axis = Axis::rarity("quantile", 1_000);
        assert_eq!(labels(&axis), ["p0", "p50", "p90", "p99", "p99.9"]);
    }

    #[test]
    fn sizes_have_binary_ticks() {
        let axis = Axis::size("size", &[4096.0, 1048576.0]);
        assert_eq!(labels(&axis), ["4KiB", "16KiB", "64KiB", "256KiB", "1MiB"]);
    }
}
