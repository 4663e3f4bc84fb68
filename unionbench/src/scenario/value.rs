//! Values that a scenario file may hold where plain TOML types do not do.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::unit::Bytes;

/// One value, or a list of values: an axis of the matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Many<T> {
    /// At least one.
    pub values: Vec<T>,
    /// Written as a list, even of one value: its values are coordinates.
    pub is_axis: bool,
}

impl<T> Many<T> {
    /// A single value.
    pub fn one(value: T) -> Self {
        Self { values: vec![value], is_axis: false }
    }
}

impl<T: Copy + Ord> Many<T> {
    /// The largest value.
    pub fn max(&self) -> T {
        *self.values.iter().max().expect("a list of values is never empty")
    }

    /// The smallest value.
    pub fn min(&self) -> T {
        *self.values.iter().min().expect("a list of values is never empty")
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // Through a value and not as an untagged enum, whose only message is
        // that nothing matched.
        let read = |v: toml::Value| T::deserialize(v).map_err(|e| D::Error::custom(e.message()));
        match toml::Value::deserialize(d)? {
            toml::Value::Array(items) if items.is_empty() => {
                Err(D::Error::custom("the list is empty"))
            }
            toml::Value::Array(items) => {
                let values = items.into_iter().map(read).collect::<Result<_, _>>()?;
                Ok(Self { values, is_axis: true })
            }
            value => Ok(Self::one(read(value)?)),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Many<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Many_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({
            "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }]
        })
    }
}

/// Sizes of generated files.
#[derive(Debug, Clone, PartialEq)]
pub enum Size {
    Fixed(Many<Bytes>),
    Uniform { min: Bytes, max: Bytes },
    LogNormal { median: Bytes, sigma: f64, max: Bytes },
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UniformTable {
    min: Bytes,
    max: Bytes,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LogNormalTable {
    median: Bytes,
    sigma: f64,
    max: Bytes,
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(d)?;
        let size = match &value {
            toml::Value::Table(t) if t.contains_key("median") => LogNormalTable::deserialize(value)
                .map(|t| Self::LogNormal { median: t.median, sigma: t.sigma, max: t.max }),
            toml::Value::Table(_) => {
                UniformTable::deserialize(value).map(|t| Self::Uniform { min: t.min, max: t.max })
            }
            _ => Many::deserialize(value).map(Self::Fixed),
        };
        size.map_err(|e| D::Error::custom(e.message()))
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fixed = generator.subschema_for::<Many<Bytes>>();
        let uniform = generator.subschema_for::<UniformTable>();
        let log_normal = generator.subschema_for::<LogNormalTable>();
        json_schema!({ "anyOf": [fixed, uniform, log_normal] })
    }
}

/// A lower layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Top,
    Bottom,
    Any,
    Index(u32),
}

impl std::str::FromStr for Layer {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "top" => Ok(Self::Top),
            "bottom" => Ok(Self::Bottom),
            "any" => Ok(Self::Any),
            other => other.parse().map(Self::Index).map_err(|_| format!("{text:?} is no layer")),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => f.write_str("top"),
            Self::Bottom => f.write_str("bottom"),
            Self::Any => f.write_str("any"),
            Self::Index(i) => i.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(d)? {
            toml::Value::String(s) => s.parse().map_err(D::Error::custom),
            other => {
                u32::deserialize(other).map(Self::Index).map_err(|e| D::Error::custom(e.message()))
            }
        }
    }
}

impl JsonSchema for Layer {
    fn schema_name() -> Cow<'static, str> {
        "Layer".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "enum": ["top", "bottom", "any"] },
            { "type": "integer", "minimum": 0, "maximum": 499 }
        ] })
    }
}

/// How names are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keys {
    Permutation,
    Uniform,
    Zipf(f64),
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct ZipfTable {
            zipf: f64,
        }
        match toml::Value::deserialize(d)? {
            toml::Value::String(s) if s == "permutation" => Ok(Self::Permutation),
            toml::Value::String(s) if s == "uniform" => Ok(Self::Uniform),
            toml::Value::String(s) => Err(D::Error::custom(format!("{s:?} is no distribution"))),
            other => ZipfTable::deserialize(other)
                .map(|t| Self::Zipf(t.zipf))
                .map_err(|e| D::Error::custom(e.message())),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permutation => f.write_str("permutation"),
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf {exponent}"),
        }
    }
}

impl JsonSchema for Keys {
    fn schema_name() -> Cow<'static, str> {
        "Keys".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "enum": ["permutation", "uniform"] },
            {
                "type": "object",
                "properties": { "zipf": { "type": "number", "exclusiveMinimum": 0 } },
                "required": ["zipf"],
                "additionalProperties": false
            }
        ] })
    }
}

/// Files that a first write takes: `group:NAME` or a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    Group(String),
    Layer(Layer),
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(d)?;
        match value.as_str().and_then(|s| s.strip_prefix("group:")) {
            Some(group) => Ok(Self::Group(group.to_owned())),
            None => Layer::deserialize(value)
                .map(Self::Layer)
                .map_err(|e| D::Error::custom(e.message())),
        }
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Layer(layer) => layer.fmt(f),
        }
    }
}

impl JsonSchema for Files {
    fn schema_name() -> Cow<'static, str> {
        "Files".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let layer = generator.subschema_for::<Layer>();
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^group:.+" }, layer] })
    }
}

/// A span of time such as `"2s"` or `"500ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub ms: u64,
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let factor = match &text[split..] {
            "ms" => Some(1),
            "s" => Some(1000),
            "min" => Some(60_000),
            _ => None,
        };
        let number = text[..split].parse::<u64>().ok();
        let ms = number.zip(factor).and_then(|(n, f)| n.checked_mul(f));
        let ms = ms.ok_or_else(|| D::Error::custom(format!("{text:?} is no span of time")))?;
        Ok(Self { ms })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.ms)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|min)$" })
    }
}

/// Value of a mount option: text as the kernel takes it, or `true` for an
/// option without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    Flag(bool),
    Text(String),
}

impl<'de> Deserialize<'de> for OptionValue {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(d)? {
            toml::Value::String(s) => Ok(Self::Text(s)),
            toml::Value::Boolean(b) => Ok(Self::Flag(b)),
            toml::Value::Integer(i) => Ok(Self::Text(i.to_string())),
            other => Err(D::Error::custom(format!("a {} is no option's value", other.type_str()))),
        }
    }
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl JsonSchema for OptionValue {
    fn schema_name() -> Cow<'static, str> {
        "OptionValue".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "boolean", "integer"] })
    }
}
