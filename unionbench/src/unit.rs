//! Typed quantities. At a boundary (JSON, CSV) the name of the field says the
//! unit; inside the program the type does.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a latency figure counts. Natively a clock's nanoseconds, in the lab's
/// `count` mode guest instructions; the two are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LatencyUnit {
    /// Nanoseconds of CLOCK_MONOTONIC.
    Nanoseconds,
    /// Guest instructions, from a virtual clock that advances one nanosecond
    /// per instruction.
    Instructions,
}

impl LatencyUnit {
    /// The suffix printed behind a figure.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Instructions => "instr",
        }
    }
}

/// Nanoseconds of a monotonic clock.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0 as f64;
        match self.0 {
            0..=9_999 => write!(f, "{} ns", self.0),
            10_000..=9_999_999 => write!(f, "{:.1} µs", v / 1e3),
            10_000_000..=9_999_999_999 => write!(f, "{:.1} ms", v / 1e6),
            _ => write!(f, "{:.2} s", v / 1e9),
        }
    }
}

/// Reads `10s`, `1ms`, `250us`, `90ns`, `5m`, `1h`.
impl std::str::FromStr for Nanos {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 7] = [
            ("ns", 1),
            ("us", 1_000),
            ("µs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit.trim());
        number
            .parse::<u64>()
            .ok()
            .zip(factor)
            .and_then(|(number, (_, factor))| number.checked_mul(*factor))
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "cannot read {text:?} as a time: write a whole number and one of ns, us, ms, s, m, h, as in \"10ms\""
                )
            })
    }
}

/// So many of a thing that takes an s, as in `1 round` and `2 rounds`.
pub fn so_many<N: fmt::Display + PartialEq + From<u8>>(n: N, thing: &str) -> String {
    let ending = if n == N::from(1) { "" } else { "s" };
    format!("{n} {thing}{ending}")
}

/// A size in bytes. Reads `4096`, `"4KiB"`, `"1GiB"`; prints the largest
/// binary unit that divides it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const BINARY_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in BINARY_UNITS {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let refusal = || {
            format!(
                "cannot read {text:?} as a size: write a whole number and one of B, KiB, MiB, GiB, TiB, as in \"64KiB\""
            )
        };
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let number: u64 = trimmed[..digits].parse().map_err(|_| refusal())?;
        let unit = trimmed[digits..].trim();
        let factor = match unit {
            "" => 1,
            _ => BINARY_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refusal)?.1,
        };
        number.checked_mul(factor).map(Self).ok_or_else(refusal)
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 4096 or \"64KiB\"")
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Bytes, E> {
                u64::try_from(v).map(Bytes).map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Bytes, E> {
                v.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A size in bytes: a whole number, or text with a binary unit, such as \"64KiB\".",
            "oneOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB|TiB)?$" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_printed() {
        for text in ["0B", "1B", "4KiB", "1536MiB", "1GiB", "500B"] {
            assert_eq!(text.parse::<Bytes>().map(|b| b.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn sizes_without_a_known_unit_are_refused() {
        for text in ["", "KiB", "-1", "4 kb", "1.5MiB", "99999999999999999999", "17179869184GiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn one_thing_is_told_as_one() {
        let told = [0_u64, 1, 2].map(|n| so_many(n, "round"));
        assert_eq!(told, ["0 rounds", "1 round", "2 rounds"]);
    }

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, expected) in [
            ("10s", 10_000_000_000),
            ("1ms", 1_000_000),
            ("250us", 250_000),
            ("0ns", 0),
            ("1h", 3_600_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Nanos(expected)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "1d", "99999999999999999999s"] {
            assert!(text.parse::<Nanos>().is_err(), "{text}");
        }
    }
}
