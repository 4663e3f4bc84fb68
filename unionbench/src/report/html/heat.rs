//! Latency over time: how many samples of a given latency lie where in the
//! run. Made of the raw samples in one pass, in memory that does not depend on
//! how many there are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;

use super::chart::open;
use super::text::escaped;
use crate::report::Analysis;
use crate::report::figure::latency;
use crate::unit::LatencyUnit;

/// Columns: parts of the run.
const COLUMNS: usize = 48;
/// Rows for each factor of two of the latency.
const PER_OCTAVE: f64 = 3.0;

/// Counts by cell, column and row.
#[derive(Debug, Default)]
pub struct Timeline {
    cells: BTreeMap<String, BTreeMap<(usize, u32), u64>>,
}

impl Timeline {
    /// Reads the samples of `record`'s rounds without probes, as `samples.csv`
    /// holds them.
    pub fn read(record: &crate::record::Record, samples: impl Read) -> Result<Self, csv::Error> {
        // Of each cell and round: where its samples begin, and how many the
        // cell has in all.
        let mut places: BTreeMap<&str, (BTreeMap<u32, u64>, u64)> = BTreeMap::new();
        for cell in &record.cells {
            let place = places.entry(&cell.id).or_default();
            for round in cell.rounds.iter().filter(|round| !round.probes) {
                place.0.insert(round.round, place.1);
                place.1 += round.latency.map_or(0, |summary| summary.n);
            }
        }
        let mut timeline = Self::default();
        let mut reader = csv::Reader::from_reader(samples);
        let mut line = csv::ByteRecord::new();
        // Rows of one cell and round lie together, so its place is looked up
        // once and not for each sample.
        let mut current: (Vec<u8>, Vec<u8>) = Default::default();
        let mut place: Option<(u64, u64)> = None;
        let mut counts = BTreeMap::new();
        while reader.read_byte_record(&mut line)? {
            let (Some(cell), Some(round)) = (line.get(0), line.get(1)) else { continue };
            if current.0 != cell || current.1 != round {
                timeline.add(&current.0, std::mem::take(&mut counts));
                current = (cell.to_vec(), round.to_vec());
                place = number(round)
                    .zip(std::str::from_utf8(cell).ok().and_then(|id| places.get(id)))
                    .and_then(|(round, (rounds, n))| Some((*rounds.get(&(round as u32))?, *n)));
            }
            if line.get(2) != Some(b"false") {
                continue;
            }
            let figures = line.get(3).and_then(number).zip(line.get(4).and_then(number));
            if let (Some((begin, n)), Some((index, value))) = (place, figures)
                && begin + index < n
            {
                let column = ((begin + index) as usize * COLUMNS) / n as usize;
                *counts.entry((column, row_of(value))).or_default() += 1;
            }
        }
        timeline.add(&current.0, counts);
        Ok(timeline)
    }

    fn add(&mut self, cell: &[u8], counts: BTreeMap<(usize, u32), u64>) {
        if counts.is_empty() {
            return;
        }
        let all = self.cells.entry(String::from_utf8_lossy(cell).into_owned()).or_default();
        for (place, n) in counts {
            *all.entry(place).or_default() += n;
        }
    }

    /// The heat map of one cell with its label and table; absent without
    /// samples of it.
    pub fn draw(&self, analysis: &Analysis<'_>, cell: &str, label: &str) -> Option<Map> {
        let counts = self.cells.get(cell)?;
        let unit = analysis.record.latency_unit;
        let low = counts.keys().map(|(_, row)| *row).min()?;
        let high = counts.keys().map(|(_, row)| *row).max()?;
        let most = *counts.values().max()? as f64;
        let (left, top, width, height) = (62.0, 8.0, 330.0, 180.0);
        let rows = f64::from(high - low + 1);
        let (w, h) = (width / COLUMNS as f64, height / rows);
        let mut svg = open(label, 230.0);
        for ((column, row), n) in counts {
            let y = top + height - f64::from(row - low + 1) * h;
            // The root keeps rare latencies in sight beside common ones.
            let opacity = 0.12 + 0.88 * (*n as f64 / most).sqrt();
            let _ = write!(
                svg,
                "<rect class=\"heat\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" opacity=\"{opacity:.2}\"/>",
                left + *column as f64 * w,
                w + 0.2,
                h + 0.2
            );
        }
        let every = (rows / 5.0).ceil().max(1.0) as usize;
        for row in (low..=high).step_by(every) {
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                top + height - f64::from(row - low) * h,
                escaped(&short(value_of(row), unit))
            );
        }
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{}\" y1=\"{b}\" y2=\"{b}\"/><text x=\"{left}\" y=\"{t}\">first sample</text><text x=\"{}\" y=\"{t}\" text-anchor=\"end\">last sample</text></svg>",
            left + width,
            left + width,
            b = top + height,
            t = top + height + 18.0
        );
        Some(Map { svg, table: table(counts, unit) })
    }
}

/// A drawn heat map.
pub struct Map {
    pub svg: String,
    /// Quarter of the run, samples, lowest and highest latency.
    pub table: Vec<Vec<String>>,
}

fn table(counts: &BTreeMap<(usize, u32), u64>, unit: LatencyUnit) -> Vec<Vec<String>> {
    (0..4)
        .map(|quarter| {
            let own = counts.iter().filter(|((column, _), _)| column * 4 / COLUMNS == quarter);
            let rows: Vec<(u32, u64)> = own.map(|((_, row), n)| (*row, *n)).collect();
            let n: u64 = rows.iter().map(|r| r.1).sum();
            let bound =
                |row: Option<u32>| row.map_or("-".to_owned(), |row| latency(value_of(row), unit));
            vec![
                format!("{} to {} %", quarter * 25, quarter * 25 + 25),
                n.to_string(),
                bound(rows.iter().map(|r| r.0).min()),
                bound(rows.iter().map(|r| r.0 + 1).max()),
            ]
        })
        .collect()
}

fn row_of(value: u64) -> u32 {
    ((value.max(1) as f64).log2() * PER_OCTAVE) as u32
}

fn value_of(row: u32) -> f64 {
    (f64::from(row) / PER_OCTAVE).exp2()
}

fn short(value: f64, unit: LatencyUnit) -> String {
    match unit {
        LatencyUnit::Nanoseconds => latency(value, unit),
        LatencyUnit::Instructions if value >= 1e6 => format!("{:.1} M", value / 1e6),
        LatencyUnit::Instructions if value >= 1e3 => format!("{:.1} k", value / 1e3),
        LatencyUnit::Instructions => format!("{value:.0}"),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn samples_with_probes_and_of_unknown_cells_take_no_part() {
        let record = sample::record();
        let id = &record.cells[0].id;
        let mut text = "cell,round,probes,index,latency\n".to_owned();
        for index in 0..200 {
            text += &format!("\"{id}\",0,false,{index},1000\n\"{id}\",0,true,{index},9000\n");
            text += &format!("unknown,0,false,{index},1\n");
        }
        let timeline = Timeline::read(&record, text.as_bytes()).expect("reads");
        assert_eq!(timeline.cells.len(), 1);
        let counts = &timeline.cells[id];
        assert_eq!(counts.values().sum::<u64>(), 200);
        assert!(counts.keys().all(|(column, _)| *column < COLUMNS / 2), "one round of two");
        let analysis = Analysis::of(&record).expect("reads");
        let map = timeline.draw(&analysis, id, "x").expect("it has samples");
        assert!(map.svg.matches("<rect").count() >= 20);
        assert!(map.table[0][1].parse::<u64>().expect("a count") > 0);
    }

    #[test]
    fn rows_hold_their_values() {
        for value in [1, 2, 3, 1_000, 123_456_789] {
            let row = row_of(value);
            assert!(value_of(row) <= value as f64 * 1.0001 && (value as f64) < value_of(row + 1));
        }
        assert_eq!(number(b"12x"), None);
        assert_eq!(number(b"99999999999999999999"), None);
    }
}
