//! Histograms as an HdrHistogram interval log, for the tools that read such
//! logs. One line per round; the tag is the cell's id, with `+probes` behind it
//! for rounds with probes, because the two are never merged. Tags may hold
//! neither comma nor blank: both become `_`.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::StoreError;
use crate::record::{Record, Round};
use crate::stats::hdr;
use crate::unit::LatencyUnit;

/// Writes the histograms of all rounds to `out`; `path` is for messages.
pub fn write(record: &Record, out: &mut impl Write, path: &Path) -> Result<(), StoreError> {
    let refusal = |e: &dyn std::fmt::Display| StoreError::Histogram {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment(&format!(
        "unionbench: scenario {}, latencies in {}",
        record.scenario.name,
        record.latency_unit.suffix()
    ));
    if let Ok(started) = record.started.parse::<jiff::Timestamp>() {
        let since_epoch = u64::try_from(started.as_millisecond()).unwrap_or(0);
        builder.with_start_time(SystemTime::UNIX_EPOCH + Duration::from_millis(since_epoch));
    }
    let mut log = builder.begin_log_with(out, &mut serializer).map_err(|e| refusal(&e))?;
    for cell in &record.cells {
        for round in &cell.rounds {
            let histogram = hdr::decode(&round.histogram).map_err(|source| StoreError::Hdr {
                cell: cell.id.clone(),
                round: round.round,
                source,
            })?;
            let tag = tag(&cell.id, round.probes);
            let (start, duration) = interval(record, round);
            log.write_histogram(&histogram, start, duration, Tag::new(&tag))
                .map_err(|e| refusal(&e))?;
        }
    }
    Ok(())
}

fn tag(cell: &str, probes: bool) -> String {
    let mut tag = cell.replace([',', ' ', '\r', '\n'], "_");
    if probes {
        tag.push_str("+probes");
    }
    tag
}

/// Start since the start of the run, and length. The length is zero where
/// latencies are not times.
fn interval(record: &Record, round: &Round) -> (Duration, Duration) {
    let step = record.order.get(round.step as usize);
    let duration = match record.latency_unit {
        LatencyUnit::Nanoseconds => Duration::from_nanos(round.elapsed),
        LatencyUnit::Instructions => Duration::ZERO,
    };
    (Duration::from_millis(step.map_or(0, |s| s.at_ms)), duration)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::record::sample::record;

    #[test]
    fn log_holds_every_round_under_its_cells_tag() {
        let record = record();
        let mut log = Vec::new();
        write(&record, &mut log, Path::new("histograms.hlog")).expect("memory has room");
        let found: Vec<_> = IntervalLogIterator::new(&log)
            .filter_map(|entry| match entry.expect("the log reads back") {
                LogEntry::Interval(i) => {
                    let h = hdr::decode(i.encoded_histogram()).expect("decodes");
                    Some((i.tag().expect("tagged").as_str().to_owned(), h.len()))
                }
                _ => None,
            })
            .collect();
        let expected: Vec<_> = record
            .cells
            .iter()
            .flat_map(|c| c.rounds.iter().map(|r| (tag(&c.id, r.probes), r.n_ops)))
            .collect();
        assert_eq!(found, expected);
        assert!(!found.is_empty());
    }

    #[test]
    fn tags_hold_no_separator() {
        assert_eq!(tag("a b,c", true), "a_b_c+probes");
    }
}
