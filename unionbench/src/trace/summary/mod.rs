//! What a trace comes to: a pure fold over its events, so that a live trace and
//! a recording give the same. Memory is bounded by [`MAX_KEYS`] for each table,
//! however many events there are.

mod tally;
mod text;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

pub use tally::{MAX_KEYS, Table, Tally};
pub use text::{csv, human, json, md, printable, size};

use super::{CopiedBy, Ending, Event, Header, Kind, Recording, RecordingError, Trigger};
use crate::stats::hdr;
use crate::unit::Nanos;

/// Events below which a percentile is not told: ten must lie above it, as the
/// report wants 10,000 samples for p99.9.
const MIN_FOR_P95: u64 = 200;
const MIN_FOR_P99: u64 = 1000;

/// Everything the printed forms show.
#[derive(Debug, Clone)]
pub struct Summary {
    pub kernel: String,
    /// Earliest beginning and latest end of an event, nanoseconds since 1970.
    pub span: Option<(u64, u64)>,
    pub n_events: u64,
    /// By operation: the kind, for requests with the opcode.
    pub operations: BTreeMap<String, Operation>,
    pub mounts: Table,
    pub files: Table,
    pub processes: Table,
    pub containers: Table,
    pub layers: Table,
    pub triggers: Table,
    /// How the data of copy-ups was moved.
    pub copied: BTreeMap<CopiedBy, Tally>,
    pub losses: Losses,
}

/// All events of one operation.
#[derive(Debug, Clone)]
pub struct Operation {
    pub latency: Histogram<u64>,
    pub n_failed: u64,
}

/// What is not in the summary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Events that happened and did not reach the trace.
    pub n_lost: u64,
    /// Events that the recording counts and does not hold.
    pub n_missing: u64,
    /// The recording has no end: what was lost is not known.
    pub cut: bool,
}

/// Percentiles of an operation; what too few events stand for is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub n: u64,
    pub p50_ns: Option<u64>,
    pub p95_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub max_ns: Option<u64>,
}

impl Summary {
    /// An empty one of a trace with this header.
    pub fn new(header: &Header) -> Self {
        Self {
            kernel: header.kernel.clone(),
            span: None,
            n_events: 0,
            operations: BTreeMap::new(),
            mounts: Table::default(),
            files: Table::default(),
            processes: Table::default(),
            containers: Table::default(),
            layers: Table::default(),
            triggers: Table::default(),
            copied: BTreeMap::new(),
            losses: Losses::default(),
        }
    }

    /// Of a whole recording.
    ///
    /// # Errors
    /// A line cannot be read.
    pub fn of(recording: &mut Recording) -> Result<Self, RecordingError> {
        let mut summary = Self::new(recording.header());
        summary.take_in(recording)?;
        Ok(summary)
    }

    /// Adds a whole recording to what is there. Mounts, files, processes and so
    /// on are the same where their names are.
    ///
    /// # Errors
    /// A line cannot be read.
    pub fn take_in(&mut self, recording: &mut Recording) -> Result<(), RecordingError> {
        let kernel = &recording.header().kernel;
        if !self.kernel.split(", ").any(|known| known == kernel) {
            self.kernel = format!("{}, {kernel}", self.kernel);
        }
        for event in recording.by_ref() {
            self.add(&event?);
        }
        let n_missing = recording.n_missing();
        let losses = match recording.ending() {
            Ending::Whole(end) => Losses { n_lost: end.n_lost, n_missing, cut: false },
            Ending::Open | Ending::Cut => Losses { cut: true, ..Losses::default() },
        };
        self.set_losses(Losses {
            n_lost: self.losses.n_lost + losses.n_lost,
            n_missing: self.losses.n_missing + losses.n_missing,
            cut: self.losses.cut || losses.cut,
        });
        Ok(())
    }

    /// Takes one event in.
    pub fn add(&mut self, event: &Event) {
        self.n_events += 1;
        let end = event.at_unix_ns.saturating_add(event.latency_ns.0);
        self.span = Some(match self.span {
            None => (event.at_unix_ns, end),
            Some((first, last)) => (first.min(event.at_unix_ns), last.max(end)),
        });
        let operation = self
            .operations
            .entry(operation(event))
            .or_insert_with(|| Operation { latency: hdr::empty(), n_failed: 0 });
        record(&mut operation.latency, event.latency_ns.0);
        operation.n_failed += u64::from(event.errno != 0);
        let mount = mount(event);
        self.mounts.add(|| mount.clone(), event);
        self.processes.add(|| event.process.clone(), event);
        if let Some(path) = &event.path {
            self.files.add(|| format!("{mount}:{path}"), event);
        }
        self.containers.add(|| container(event), event);
        if event.kind != Kind::Copyup {
            return;
        }
        if let Some(layer) = event.layer {
            self.layers.add(|| format!("{mount}:{layer}"), event);
        }
        self.triggers.add(|| trigger(event.trigger).to_owned(), event);
        if let Some(by) = event.copied_by {
            self.copied.entry(by).or_default().add(event);
        }
    }

    /// Everything lost so far; a live trace says so again and again.
    pub fn set_losses(&mut self, losses: Losses) {
        self.losses = losses;
    }

    /// All copy-ups together.
    pub fn copy_ups(&self) -> Tally {
        let mut all = Tally::default();
        for (_, tally) in self.triggers.rows() {
            all.merge(&tally);
        }
        all
    }
}

impl Operation {
    /// Its percentiles, as far as the number of its events allows.
    pub fn percentiles(&self) -> Percentiles {
        percentiles(&self.latency)
    }
}

/// The percentiles of a histogram of nanoseconds.
pub fn percentiles(latency: &Histogram<u64>) -> Percentiles {
    let n = latency.len();
    let at = |q, least| (n >= least).then(|| latency.value_at_quantile(q));
    Percentiles {
        n,
        p50_ns: at(0.5, 1),
        p95_ns: at(0.95, MIN_FOR_P95),
        p99_ns: at(0.99, MIN_FOR_P99),
        max_ns: (n > 0).then(|| latency.max()),
    }
}

/// Records a latency. A histogram refuses only what no clock gives, which then
/// counts as its largest value.
pub fn record(histogram: &mut Histogram<u64>, latency_ns: u64) {
    if histogram.record(latency_ns).is_err() {
        histogram.saturating_record(latency_ns);
    }
}

/// The name of an event's operation.
pub fn operation(event: &Event) -> String {
    match (event.kind, &event.opcode) {
        (Kind::Requests, Some(opcode)) => format!("request {opcode}"),
        (kind, _) => kind.name().to_owned(),
    }
}

/// Where an event's union is mounted, or its device where that is not known.
pub fn mount(event: &Event) -> String {
    match &event.mount {
        Some(path) => path.clone(),
        None => format!("device {}:{}", event.device >> 20, event.device & 0xf_ffff),
    }
}

/// The container of an event, short enough to read; `-` is the host.
pub fn container(event: &Event) -> String {
    match &event.container {
        None => "-".to_owned(),
        Some(container) => {
            let id: String = container.id.chars().take(12).collect();
            format!("{}:{id}", container.runtime)
        }
    }
}

/// The name of a trigger.
pub fn trigger(trigger: Option<Trigger>) -> &'static str {
    match trigger {
        None => "unknown",
        Some(Trigger::OpenWrite) => "open_write",
        Some(Trigger::OpenTruncate) => "open_truncate",
        Some(Trigger::Truncate) => "truncate",
        Some(Trigger::Chmod) => "chmod",
        Some(Trigger::Chown) => "chown",
        Some(Trigger::Utimes) => "utimes",
        Some(Trigger::Setxattr) => "setxattr",
        Some(Trigger::Removexattr) => "removexattr",
        Some(Trigger::Link) => "link",
        Some(Trigger::Rename) => "rename",
        Some(Trigger::Unlink) => "unlink",
        Some(Trigger::Create) => "create",
        Some(Trigger::Mkdir) => "mkdir",
        Some(Trigger::Parent) => "parent",
        Some(Trigger::Other) => "other",
    }
}

/// The name of a way of copying.
pub fn copied_by(by: CopiedBy) -> &'static str {
    match by {
        CopiedBy::Clone => "clone",
        CopiedBy::CopyFileRange => "copy_file_range",
        CopiedBy::Splice => "splice",
        CopiedBy::ReadWrite => "read and write",
        CopiedBy::Nothing => "nothing",
    }
}

/// The time from the first event's beginning to the last one's end.
pub fn span(summary: &Summary) -> Nanos {
    Nanos(summary.span.map_or(0, |(first, last)| last.saturating_sub(first)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;

    pub(super) fn of(n: u64) -> Summary {
        let mut summary = Summary::new(&sample::header());
        (0..n).for_each(|i| summary.add(&sample::event(i)));
        summary
    }

    #[test]
    fn every_event_is_in_each_table_once() {
        let summary = of(2000);
        let copyup = summary.operations["copyup"].percentiles();
        // The slowest took 2.099 ms; a bucket is at most 0.1 % wide.
        assert_eq!((copyup.n, copyup.max_ns.map(|max| max / 10_000)), (2000, Some(209)));
        for table in [&summary.files, &summary.processes, &summary.containers, &summary.layers] {
            assert_eq!(table.rows().iter().map(|(_, t)| t.n).sum::<u64>(), 2000);
        }
        assert_eq!(summary.copy_ups().n, 2000);
        assert_eq!(summary.copied[&CopiedBy::Splice].bytes, 4096 * (1999 * 2000 / 2));
        assert_eq!(summary.triggers.rows().len(), 2);
    }

    #[test]
    fn percentiles_that_too_few_events_stand_for_are_absent() {
        let at = |n| of(n).operations["copyup"].percentiles();
        assert_eq!((at(199).p95_ns, at(999).p99_ns), (None, None));
        assert!(at(200).p95_ns.is_some() && at(1000).p99_ns.is_some());
        assert!(of(0).operations.is_empty());
    }

    #[test]
    fn failed_events_and_requests_are_told_apart() {
        let mut summary = Summary::new(&sample::header());
        let opcode = Some("LOOKUP".to_owned());
        summary.add(&Event { kind: Kind::Requests, opcode, errno: -2, ..sample::event(1) });
        assert_eq!(summary.operations["request LOOKUP"].n_failed, 1);
        assert_eq!(summary.copy_ups().n, 0);
    }

    proptest! {
        #[test]
        fn the_order_of_events_does_not_matter(mut order in Just((0_u64..60).collect::<Vec<_>>()).prop_shuffle()) {
            let mut shuffled = Summary::new(&sample::header());
            order.iter().for_each(|&i| shuffled.add(&sample::event(i)));
            order.sort_unstable();
            prop_assert_eq!(json(&shuffled, 100), json(&of(60), 100));
        }
    }
}
