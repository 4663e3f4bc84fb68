//! A metric as both expositions see it.

use super::Latencies;

/// Names and values of labels, in the order in which they are written.
pub type Labels = Vec<(&'static str, String)>;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Counter,
    Gauge,
    Histogram,
}

/// One sample.
#[derive(Debug, Clone)]
pub enum Value {
    Number(f64),
    Latencies(Latencies),
}

/// All samples of one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// A counter's without `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub shape: Shape,
    pub samples: Vec<(Labels, Value)>,
}

impl Family {
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, shape: Shape::Counter, samples: Vec::new() }
    }

    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { shape: Shape::Gauge, ..Self::counter(name, help) }
    }

    pub fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { shape: Shape::Histogram, ..Self::counter(name, help) }
    }

    pub fn add(&mut self, labels: Labels, value: Value) {
        self.samples.push((labels, value));
    }
}
