//! Facts of a trace.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::{Facts, Lookups, Part};
use crate::stats::{fit, hdr};
use crate::trace::probes::BUNDLED;
use crate::trace::summary::{self, Table};
use crate::trace::{CopiedBy, Event, Header, Kind, Object, Trigger};
use crate::unit::LatencyUnit;

/// Lookups in a layer below which its median is not used.
const LEAST_LOOKUPS: u64 = 30;

/// Gathers the facts of each mount.
#[derive(Debug, Default)]
pub struct Watcher {
    by_mount: BTreeMap<String, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    device: u64,
    n: u64,
    time: u64,
    attributes: Part,
    fsync: Part,
    copying: Part,
    lookups: BTreeMap<u32, Histogram<u64>>,
    lookup_time: u64,
    places: Table,
}

impl Watcher {
    pub fn add(&mut self, event: &Event) {
        if event.errno != 0 || !matches!(event.kind, Kind::Copyup | Kind::Lookup) {
            return;
        }
        let watched = self.by_mount.entry(summary::mount(event)).or_default();
        watched.device = event.device;
        match event.kind {
            Kind::Lookup => watched.lookup(event),
            _ => watched.copy_up(event),
        }
    }

    /// The facts of each mount, that with the longest copy-ups first. What is
    /// measured is instructions if the trace was made in the lab.
    pub fn facts(&self, header: &Header, unit: LatencyUnit) -> Vec<Facts> {
        let mut all: Vec<&String> = self.by_mount.keys().collect();
        all.sort_by_key(|mount| std::cmp::Reverse(self.by_mount[*mount].time));
        all.into_iter()
            .map(|mount| {
                let watched = &self.by_mount[mount];
                let mounted = header.mounts.iter().find(|m| m.device == watched.device);
                let options = mounted.map(|m| m.options.clone()).unwrap_or_default();
                watched.facts(mount, unit, options)
            })
            .collect()
    }
}

impl Watched {
    fn lookup(&mut self, event: &Event) {
        self.lookup_time = self.lookup_time.saturating_add(event.latency_ns.0);
        if let Some(layer) = event.layer {
            let latencies = self.lookups.entry(layer).or_insert_with(hdr::empty);
            summary::record(latencies, event.latency_ns.0);
        }
    }

    fn copy_up(&mut self, event: &Event) {
        self.n += 1;
        self.time = self.time.saturating_add(event.latency_ns.0);
        let data = event.data_ns.map(|ns| ns.0);
        let fsync = event.fsync_ns.map(|ns| ns.0);
        // The bundled union's daemon tells bytes and fsyncs, and no times of them.
        let whole = event.file_system == BUNDLED && data.is_none() && fsync.is_none();
        if whole && event.copied_bytes.is_some() {
            return self.copy_up_of_daemon(event);
        }
        let file = event.object == Some(Object::File);
        if file && event.size_bytes != Some(0) && event.trigger.is_some_and(of_attributes) {
            take(&mut self.attributes, data.map(|data| data + fsync.unwrap_or(0)));
        }
        take(&mut self.fsync, fsync);
        let bytewise = !matches!(event.copied_by, None | Some(CopiedBy::Clone | CopiedBy::Nothing));
        if bytewise && event.copied_bytes != Some(0) {
            take(&mut self.copying, data);
        }
        self.place(event);
    }

    /// What a part took is not known, only that it was there: at most the whole.
    fn copy_up_of_daemon(&mut self, event: &Event) {
        let n_bytes = event.copied_bytes.unwrap_or(0);
        let n_fsyncs = event.n_fsyncs.unwrap_or(0);
        let of = |is_there: bool| if is_there { event.latency_ns.0 } else { 0 };
        let attributes = event.trigger.is_some_and(of_attributes);
        if event.object == Some(Object::File) && event.size_bytes != Some(0) && attributes {
            take_whole(&mut self.attributes, of(n_bytes > 0 || n_fsyncs > 0));
        }
        take_whole(&mut self.fsync, of(n_fsyncs > 0));
        let bytewise = !matches!(event.copied_by, None | Some(CopiedBy::Clone | CopiedBy::Nothing));
        if bytewise && n_bytes > 0 {
            take_whole(&mut self.copying, event.latency_ns.0);
        }
        self.place(event);
    }

    /// Where a volume would have spared the copy-up.
    fn place(&mut self, event: &Event) {
        if let Some(path) = &event.path {
            let mut parts = path.trim_matches('/').split('/');
            // A file at the root has no directory to put a volume over.
            if let (Some(first), true) = (parts.next(), event.trigger != Some(Trigger::Parent)) {
                let below = parts.next().is_some() || event.object == Some(Object::Directory);
                if below {
                    self.places.add(|| format!("/{first}"), event);
                }
            }
        }
    }

    fn facts(&self, mount: &str, unit: LatencyUnit, options: Vec<String>) -> Facts {
        let none = "the trace has no copy-up; record `copyup`".to_owned();
        let phase = |part: Part, what: &str| match (self.n, part.n, part.n_known) {
            (0, ..) => Err(none.clone()),
            (_, n, 0) if n > 0 => Err(format!("{what} of copy-ups could not be watched here")),
            _ => Ok(part),
        };
        let places = self.places.rows().into_iter().take(10);
        let places = places.map(|(path, tally)| {
            let part = Part { n: tally.n, n_known: tally.n, n_whole: 0, time: tally.latency_ns };
            (path.to_owned(), part)
        });
        Facts {
            source: mount.to_owned(),
            unit,
            options,
            n_passes: 1,
            n_copy_ups: self.n,
            copy_up_time: self.time,
            attributes: phase(self.attributes, "the data"),
            fsync: phase(self.fsync, "the fsync"),
            copying: phase(self.copying, "the data"),
            lookups: self.lookups(),
            places: places.collect(),
        }
    }

    fn lookups(&self) -> Result<Lookups, String> {
        let n: u64 = self.lookups.values().map(Histogram::len).sum();
        if n == 0 {
            return Err("the trace has no lookup whose layer is known; record `lookup`".to_owned());
        }
        let known = self.lookups.iter().filter(|(_, h)| h.len() >= LEAST_LOOKUPS);
        let points: Vec<(f64, f64)> =
            known.map(|(l, h)| (f64::from(*l), h.value_at_quantile(0.5) as f64)).collect();
        // A line through two points fits them whatever they are.
        let line = fit::line(&points).filter(|_| points.len() >= 3).ok_or_else(|| {
            format!("fewer than 3 layers have {LEAST_LOOKUPS} lookups, so their cost is not known")
        })?;
        Ok(Lookups {
            slope: line.slope,
            r_squared: line.r_squared,
            n_passed: self.lookups.iter().map(|(l, h)| u64::from(*l) * h.len()).sum(),
            n,
            time: self.lookup_time,
        })
    }
}

fn take(part: &mut Part, time: Option<u64>) {
    part.n += 1;
    if let Some(time) = time {
        part.n_known += 1;
        part.time = part.time.saturating_add(time);
    }
}

fn take_whole(part: &mut Part, time: u64) {
    take(part, Some(time));
    part.n_whole += u64::from(time > 0);
}

/// What changes attributes or names alone, so that metacopy leaves the data.
fn of_attributes(trigger: Trigger) -> bool {
    matches!(
        trigger,
        Trigger::Chmod
            | Trigger::Chown
            | Trigger::Utimes
            | Trigger::Setxattr
            | Trigger::Removexattr
            | Trigger::Link
            | Trigger::Rename
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::sample;
    use crate::unit::Nanos;

    #[test]
    fn facts_are_sums_over_the_events_they_concern() {
        let mut watcher = Watcher::default();
        (0..30).for_each(|i| watcher.add(&sample::event(i)));
        let facts = watcher.facts(&sample::header(), LatencyUnit::Nanoseconds).remove(0);
        // Every third is a chown; each took 20 µs for data and 50 for fsync.
        assert_eq!(
            facts.attributes,
            Ok(Part { n: 10, n_known: 10, n_whole: 0, time: 10 * 70_000 })
        );
        assert_eq!(facts.fsync, Ok(Part { n: 30, n_known: 30, n_whole: 0, time: 30 * 50_000 }));
        assert_eq!(facts.copying.map(|p| p.n), Ok(29));
        assert_eq!(facts.places.len(), 2);
        assert!(facts.lookups.is_err());
    }

    #[test]
    fn phases_that_were_not_watched_give_no_number() {
        let mut watcher = Watcher::default();
        let event = Event { data_ns: None, fsync_ns: None, ..sample::event(2) };
        watcher.add(&event);
        let facts = watcher.facts(&sample::header(), LatencyUnit::Nanoseconds).remove(0);
        assert!(facts.attributes.is_err() && facts.fsync.is_err() && facts.copying.is_err());
    }

    #[test]
    fn a_daemon_that_tells_no_times_of_parts_gives_a_bound() {
        let of = |trigger, by, bytes, n_fsyncs| Event {
            file_system: BUNDLED.to_owned(),
            trigger: Some(trigger),
            copied_by: Some(by),
            copied_bytes: Some(bytes),
            n_fsyncs: Some(n_fsyncs),
            latency_ns: Nanos(1000),
            data_ns: None,
            fsync_ns: None,
            ..sample::event(2)
        };
        let mut watcher = Watcher::default();
        for event in [
            of(Trigger::Chmod, CopiedBy::CopyFileRange, 4096, 1),
            of(Trigger::OpenWrite, CopiedBy::ReadWrite, 4096, 1),
            of(Trigger::Chown, CopiedBy::Nothing, 0, 0),
            of(Trigger::OpenWrite, CopiedBy::Clone, 4096, 1),
        ] {
            watcher.add(&event);
        }
        let facts = watcher.facts(&sample::header(), LatencyUnit::Nanoseconds).remove(0);
        let part = |n, n_whole, time| Ok(Part { n, n_known: n, n_whole, time });
        assert_eq!(facts.attributes, part(2, 1, 1000));
        assert_eq!(facts.fsync, part(4, 3, 3000));
        assert_eq!(facts.copying, part(2, 2, 2000));
        let found = super::super::findings(facts);
        assert!(found.advice.iter().any(|a| a.at_most && a.basis.contains("this daemon tells")));
    }

    #[test]
    fn lookups_are_fitted_by_layer() {
        let mut watcher = Watcher::default();
        for i in 0..120 {
            let layer = i % 3;
            let latency_ns = Nanos(1000 + 500 * u64::from(layer));
            let layer = Some(layer);
            watcher.add(&Event { kind: Kind::Lookup, layer, latency_ns, ..sample::event(1) });
        }
        let facts = watcher.facts(&sample::header(), LatencyUnit::Nanoseconds).remove(0);
        let lookups = facts.lookups.expect("three layers");
        assert!((lookups.slope - 500.0).abs() < 2.0 && lookups.n_passed == 120, "{lookups:?}");
    }
}
