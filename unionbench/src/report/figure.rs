//! Figures as people read them.

use crate::record::{ParamValue, Params, Record};
use crate::stats::bootstrap::Estimate;
use crate::unit::{Bytes, LatencyUnit, Nanos};

/// A latency with its unit: nanoseconds scaled to µs, ms or s; instructions
/// whole, in groups of three digits.
pub fn latency(value: f64, unit: LatencyUnit) -> String {
    match unit {
        LatencyUnit::Nanoseconds => Nanos(value.round().max(0.0) as u64).to_string(),
        LatencyUnit::Instructions => {
            format!("{} {}", grouped(value.round().max(0.0) as u64), unit.suffix())
        }
    }
}

/// A whole number in groups of three digits, as in `1,234,567`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio with its interval, as in `1.53 [1.49, 1.60]`. One sample of one round
/// has none.
pub fn ratio(estimate: &Estimate) -> String {
    let Estimate { value, low, high, n_rounds } = estimate;
    if *n_rounds < 2 && low == high {
        return format!("{value:.2} [one round]");
    }
    format!("{value:.2} [{low:.2}, {high:.2}]")
}

/// Coordinates of a cell, as in `size=4KiB stack.layers=8`; `-` if it has none.
pub fn params(params: &Params) -> String {
    let parts: Vec<String> = params.iter().map(|(k, v)| param(k, v)).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
}

/// One coordinate, as in `size=4KiB`.
pub fn param(key: &str, value: &ParamValue) -> String {
    match value {
        ParamValue::Integer(bytes) if is_size(key) => format!("{key}={}", Bytes(*bytes)),
        value => format!("{key}={value}"),
    }
}

/// The kernel the record is of, or the kernels of a matrix.
pub fn releases(record: &Record) -> String {
    let kernels = record.kernels();
    if kernels.is_empty() { record.host.kernel_release.clone() } else { kernels.join(" and ") }
}

/// The parameter is a size in bytes.
pub fn is_size(key: &str) -> bool {
    key.rsplit('.').next() == Some("size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_printed_in_their_unit() {
        assert_eq!(latency(1_234.4, LatencyUnit::Nanoseconds), "1234 ns");
        assert_eq!(latency(1_234_567.0, LatencyUnit::Nanoseconds), "1234.6 µs");
        assert_eq!(latency(1_234_567.0, LatencyUnit::Instructions), "1,234,567 instr");
    }

    #[test]
    fn sizes_are_printed_in_binary_units() {
        let all = Params::from([
            ("phase.size".into(), ParamValue::Integer(4096)),
            ("stack.layers".into(), ParamValue::Integer(4096)),
        ]);
        assert_eq!(params(&all), "phase.size=4KiB stack.layers=4096");
        assert!(!is_size("stack.size_max"));
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
    }
}
