//! Metrics for Prometheus, folded from the events of a trace.
//!
//! What is kept is bounded: a label set is a mount, a container and a pod, of
//! which [`Metrics::new`] takes a number. One that comes when all are taken has
//! the place of one that was not seen for [`IDLE_NS`]; if there is none its
//! events count under `other`, and how many did is a metric itself.

mod family;
pub mod histogram;
pub mod protobuf;
pub mod server;
mod source;
mod text;

use std::collections::{BTreeMap, HashMap};

pub use family::{Family, Labels, Shape, Value};
pub use histogram::Latencies;
pub use text::{openmetrics, plain};

use crate::probe::FUSE_NAMES;
use crate::trace::{Event, Kind, Source, summary};

/// After which a label set gives its place up: an hour.
pub const IDLE_NS: u64 = 3_600_000_000_000;

/// The name under which events past the bound count.
pub const OTHER: &str = "other";

/// The version of the exposition: a label or metric renamed raises it.
const EXPOSITION: &str = "1";

/// Everything that a scrape is answered from.
#[derive(Debug)]
pub struct Metrics {
    max_label_sets: usize,
    sets: HashMap<LabelSet, Counts>,
    other: Counts,
    n_folded: u64,
    n_evicted: u64,
    n_lost: u64,
    kernel: String,
    newest_ns: u64,
    ended: Option<String>,
    sources: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct LabelSet {
    mount: String,
    container: String,
    pod: String,
}

#[derive(Debug, Default)]
struct Counts {
    seen_ns: u64,
    operations: BTreeMap<Operation, Seen>,
    triggers: BTreeMap<&'static str, u64>,
    copied_bytes: BTreeMap<&'static str, u64>,
    n_fsyncs: u64,
}

type Operation = (Kind, Option<&'static str>);

#[derive(Debug, Default)]
struct Seen {
    latencies: Latencies,
    n_failed: u64,
}

impl Metrics {
    /// With at most `max_label_sets` label sets beside `other`.
    pub fn new(kernel: &str, max_label_sets: usize) -> Self {
        Self {
            max_label_sets,
            sets: HashMap::new(),
            other: Counts::default(),
            n_folded: 0,
            n_evicted: 0,
            n_lost: 0,
            kernel: kernel.to_owned(),
            newest_ns: 0,
            ended: None,
            sources: Vec::new(),
        }
    }

    /// What is seen and what is not; nothing of a recording.
    pub fn set_sources(&mut self, sources: &[Source]) {
        self.sources = sources.to_vec();
    }

    /// Takes one event in.
    pub fn add(&mut self, event: &Event) {
        self.newest_ns = self.newest_ns.max(event.at_unix_ns);
        let set = LabelSet {
            mount: summary::mount(event),
            container: summary::container(event),
            pod: event.container.as_ref().and_then(|c| c.pod.clone()).unwrap_or_default(),
        };
        let counts = match self.place(set) {
            Some(counts) => counts,
            None => {
                self.n_folded += 1;
                &mut self.other
            }
        };
        counts.add(event);
    }

    /// Events lost since the trace began.
    pub fn set_lost(&mut self, n_lost: u64) {
        self.n_lost = n_lost;
    }

    /// The trace has ended, and why.
    pub fn end(&mut self, reason: &str) {
        self.ended = Some(reason.to_owned());
    }

    /// Why the trace ended, if it has.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    fn place(&mut self, set: LabelSet) -> Option<&mut Counts> {
        if !self.sets.contains_key(&set) && self.sets.len() >= self.max_label_sets {
            let (oldest, seen_ns) = self
                .sets
                .iter()
                .min_by_key(|(_, counts)| counts.seen_ns)
                .map(|(oldest, counts)| (oldest.clone(), counts.seen_ns))?;
            if seen_ns.saturating_add(IDLE_NS) > self.newest_ns {
                return None;
            }
            self.sets.remove(&oldest);
            self.n_evicted += 1;
        }
        Some(self.sets.entry(set).or_default())
    }

    /// All metrics as they stand, in a fixed order.
    pub fn families(&self) -> Vec<Family> {
        let other = LabelSet { mount: OTHER.into(), container: OTHER.into(), pod: OTHER.into() };
        let mut sets: Vec<(&LabelSet, &Counts)> = self.sets.iter().collect();
        if self.n_folded > 0 {
            sets.push((&other, &self.other));
        }
        sets.sort_by(|a, b| a.0.cmp(b.0));
        let mut families = [
            Family::counter("unionbench_events", "Operations seen on unions."),
            Family::histogram(
                "unionbench_event_latency_seconds",
                "Latency of operations on unions.",
            ),
            Family::counter("unionbench_event_failures", "Operations that failed."),
            Family::counter("unionbench_copy_ups", "Objects copied up, by what made them be."),
            Family::counter("unionbench_copied_bytes", "Bytes of data copied up, by how."),
            Family::counter("unionbench_copy_up_fsyncs", "Synchronisations within copy-ups."),
        ];
        for (set, counts) in sets {
            let with = |more: &[(&'static str, &str)]| set.labels(more);
            let [events, latencies, failures, copy_ups, bytes, fsyncs] = &mut families;
            for ((kind, opcode), seen) in &counts.operations {
                let kind = kind.name();
                let labels = with(&[("operation", kind), ("opcode", opcode.unwrap_or(""))]);
                events.add(labels.clone(), Value::Number(seen.latencies.count() as f64));
                failures.add(labels.clone(), Value::Number(seen.n_failed as f64));
                latencies.add(labels, Value::Latencies(seen.latencies.clone()));
            }
            for (trigger, n) in &counts.triggers {
                copy_ups.add(with(&[("trigger", trigger)]), Value::Number(*n as f64));
            }
            for (by, n) in &counts.copied_bytes {
                bytes.add(with(&[("by", by)]), Value::Number(*n as f64));
            }
            if counts.operations.keys().any(|(kind, _)| *kind == Kind::Copyup) {
                fsyncs.add(with(&[]), Value::Number(counts.n_fsyncs as f64));
            }
        }
        let mut families = Vec::from(families);
        families.extend(self.own());
        families
    }

    /// What is told of the exporter itself.
    fn own(&self) -> Vec<Family> {
        let one = |mut family: Family, value: f64| {
            family.add(Labels::new(), Value::Number(value));
            family
        };
        let mut build = Family::gauge("unionbench_build_info", "This program and the kernel.");
        let labels = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("kernel", self.kernel.clone()),
            ("exposition", EXPOSITION.to_owned()),
        ];
        build.add(labels.into(), Value::Number(1.0));
        vec![
            one(
                Family::counter(
                    "unionbench_lost_events",
                    "Events that happened and were not seen.",
                ),
                self.n_lost as f64,
            ),
            one(
                Family::counter(
                    "unionbench_folded_events",
                    "Events that count under other, since all label sets were taken.",
                ),
                self.n_folded as f64,
            ),
            one(
                Family::counter(
                    "unionbench_evicted_label_sets",
                    "Label sets that others replaced.",
                ),
                self.n_evicted as f64,
            ),
            one(
                Family::gauge("unionbench_label_sets", "Label sets in use."),
                self.sets.len() as f64,
            ),
            one(
                Family::gauge("unionbench_label_sets_limit", "Label sets that there may be."),
                self.max_label_sets as f64,
            ),
            one(
                Family::gauge("unionbench_tracing", "1 while events are taken in."),
                if self.ended.is_none() { 1.0 } else { 0.0 },
            ),
            source::family(&self.sources),
            build,
        ]
    }
}

impl LabelSet {
    fn labels(&self, more: &[(&'static str, &str)]) -> Labels {
        let own = [
            ("mount", self.mount.clone()),
            ("container", self.container.clone()),
            ("pod", self.pod.clone()),
        ];
        own.into_iter()
            .chain(more.iter().map(|(name, value)| (*name, (*value).to_owned())))
            .collect()
    }
}

impl Counts {
    fn add(&mut self, event: &Event) {
        self.seen_ns = self.seen_ns.max(event.at_unix_ns);
        let opcode = match event.kind {
            Kind::Requests => event.opcode.as_deref().map(opcode),
            _ => None,
        };
        let seen = self.operations.entry((event.kind, opcode)).or_default();
        seen.latencies.add(event.latency_ns);
        seen.n_failed += u64::from(event.errno != 0);
        if event.kind != Kind::Copyup {
            return;
        }
        *self.triggers.entry(summary::trigger(event.trigger)).or_default() += 1;
        if let (Some(by), Some(bytes)) = (event.copied_by, event.copied_bytes) {
            *self.copied_bytes.entry(summary::copied_by(by)).or_default() += bytes;
        }
        self.n_fsyncs += u64::from(event.n_fsyncs.unwrap_or(0));
    }
}

/// What a daemon or a recording names beside the protocol's opcodes counts as one.
fn opcode(name: &str) -> &'static str {
    let name = name.strip_prefix("FUSE_").unwrap_or(name);
    FUSE_NAMES.iter().find(|known| **known == name && !name.is_empty()).copied().unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Container, sample};

    fn in_container(i: u64) -> Event {
        let id = format!("{i:064}").chars().rev().collect();
        let container = Some(Container { runtime: "docker".into(), id, pod: None });
        Event { container, ..sample::event(i) }
    }

    fn value(metrics: &Metrics, name: &str) -> f64 {
        let families = metrics.families();
        let family = families.iter().find(|f| f.name == name).expect("there is such a family");
        family.samples.iter().map(|(_, v)| if let Value::Number(n) = v { *n } else { 0.0 }).sum()
    }

    #[test]
    fn label_sets_past_the_bound_count_as_other() {
        let mut metrics = Metrics::new("6.12.0", 10);
        (0..1000).for_each(|i| metrics.add(&in_container(i)));
        assert_eq!(value(&metrics, "unionbench_events"), 1000.0);
        assert_eq!(value(&metrics, "unionbench_folded_events"), 990.0);
        assert_eq!(value(&metrics, "unionbench_label_sets"), 10.0);
        let families = metrics.families();
        let events = &families[0].samples;
        assert_eq!(events.len(), 11);
        let folded = events.iter().find(|(labels, _)| labels[1].1 == OTHER).expect("is there");
        assert!(matches!(folded.1, Value::Number(990.0)));
    }

    #[test]
    fn a_set_not_seen_for_long_gives_its_place_up() {
        let mut metrics = Metrics::new("6.12.0", 1);
        metrics.add(&in_container(1));
        let late = in_container(2).at_unix_ns + IDLE_NS;
        metrics.add(&Event { at_unix_ns: late, ..in_container(2) });
        assert_eq!(value(&metrics, "unionbench_evicted_label_sets"), 1.0);
        assert_eq!(value(&metrics, "unionbench_folded_events"), 0.0);
    }

    #[test]
    fn an_invented_opcode_makes_no_series() {
        let mut metrics = Metrics::new("6.12.0", 10);
        for name in ["LOOKUP", "FUSE_LOOKUP", "X1", "X2"] {
            let opcode = Some(name.to_owned());
            metrics.add(&Event { kind: Kind::Requests, opcode, ..sample::event(0) });
        }
        assert_eq!(metrics.families()[0].samples.len(), 2);
    }
}
