//! The summary as text: for people, as JSON, CSV and Markdown.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table as Grid, presets};
use serde_json::{Value, json};

use super::{Summary, Table, Tally, copied_by, span};
use crate::unit::Nanos;

/// For a terminal: `top` rows of each table.
pub fn human(summary: &Summary, top: usize) -> String {
    let mut out = head(summary);
    for section in sections(summary, top) {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING).set_header(&section.columns);
        section.rows.iter().for_each(|row| _ = grid.add_row(row));
        for column in grid.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _ = write!(out, "\n{}\n", section.heading);
        for line in grid.lines() {
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out
}

/// As GitHub's Markdown.
pub fn md(summary: &Summary, top: usize) -> String {
    let mut out = head(summary);
    for section in sections(summary, top) {
        let _ = writeln!(out, "\n### {}\n", section.heading);
        let _ = writeln!(out, "| {} |", section.columns.join(" | "));
        let _ = writeln!(out, "|---|{}", "---:|".repeat(section.columns.len() - 1));
        for row in section.rows {
            let row: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
    }
    out
}

/// One table for all: `section,key,n,failed,p50_ns,…`; what a section has no
/// figure for is empty.
pub fn csv(summary: &Summary, top: usize) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "section",
        "key",
        "n",
        "failed",
        "p50_ns",
        "p95_ns",
        "p99_ns",
        "max_ns",
        "latency_ns",
        "copied_bytes",
        "fsyncs",
    ])?;
    let text = |value: Option<u64>| value.map_or(String::new(), |v| v.to_string());
    for (name, operation) in &summary.operations {
        let p = operation.percentiles();
        let failed = operation.n_failed;
        let figures = [Some(p.n), Some(failed), p.p50_ns, p.p95_ns, p.p99_ns, p.max_ns];
        let row = ["operation".to_owned(), name.clone()].into_iter().chain(figures.map(text));
        writer.write_record(row.chain(["", "", ""].map(String::from)))?;
    }
    let mut line = |section: &str, key: &str, t: &Tally| {
        let figures = [Some(t.n), None, None, None, None, None];
        let sums = [Some(t.latency_ns), Some(t.bytes), Some(t.n_fsyncs)];
        let row = [section.to_owned(), key.to_owned()].into_iter();
        writer.write_record(row.chain(figures.map(text)).chain(sums.map(text)))
    };
    for (_, section, table) in tables(summary) {
        let (rows, _, rest) = table.top(top);
        for (key, tally) in rows {
            line(section, key, &tally)?;
        }
        if rest.n > 0 {
            line(section, "(others)", &rest)?;
        }
    }
    for (by, tally) in &summary.copied {
        line("copied", copied_by(*by), tally)?;
    }
    let lost = summary.losses.n_lost + summary.losses.n_missing;
    line("lost", "events", &Tally { n: lost, ..Tally::default() })?;
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Everything, as one object.
pub fn json(summary: &Summary, top: usize) -> Value {
    let operations: serde_json::Map<String, Value> = summary
        .operations
        .iter()
        .map(|(name, operation)| {
            let p = operation.percentiles();
            let figures = json!({
                "n": p.n, "failed": operation.n_failed, "p50_ns": p.p50_ns, "p95_ns": p.p95_ns,
                "p99_ns": p.p99_ns, "max_ns": p.max_ns,
            });
            (name.clone(), figures)
        })
        .collect();
    let mut out = json!({
        "kernel": summary.kernel,
        "n_events": summary.n_events,
        "span_ns": span(summary).0,
        "losses": summary.losses,
        "operations": operations,
        "copied": summary.copied.iter().map(|(by, tally)| (copied_by(*by), tally)).collect::<std::collections::BTreeMap<_, _>>(),
    });
    for (_, section, table) in tables(summary) {
        let (rows, n_rest, rest) = table.top(top);
        let rows: Vec<Value> =
            rows.into_iter().map(|(key, tally)| merged(json!({ "key": key }), &tally)).collect();
        let rest = merged(json!({ "n_keys": n_rest, "n_past_the_bound": table.n_other() }), &rest);
        out[section] = json!({ "top": rows, "others": rest });
    }
    out
}

fn merged(mut object: Value, tally: &Tally) -> Value {
    object["n"] = tally.n.into();
    object["latency_ns"] = tally.latency_ns.into();
    object["copied_bytes"] = tally.bytes.into();
    object["fsyncs"] = tally.n_fsyncs.into();
    object
}

struct Section {
    heading: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// What was seen and what was not, in a few sentences.
fn head(summary: &Summary) -> String {
    let losses = summary.losses;
    let mut out = match summary.n_events {
        0 => "No event was seen.\n".to_owned(),
        n => format!("{n} events within {}.\n", span(summary)),
    };
    let mut lost = Vec::new();
    if losses.n_lost > 0 {
        lost.push(format!("{} events were lost on the way from the kernel", losses.n_lost));
    }
    if losses.n_missing > 0 {
        lost.push(format!(
            "{} of the events that the recording counts are not in it",
            losses.n_missing
        ));
    }
    if losses.cut {
        lost.push(
            "the recording is cut off: what followed, and what was lost, is not known".into(),
        );
    }
    match lost.is_empty() {
        true if summary.n_events > 0 => out.push_str("No event was lost.\n"),
        true => {}
        false => {
            let _ = writeln!(out, "Losses: {}.", lost.join("; "));
        }
    }
    out
}

fn sections(summary: &Summary, top: usize) -> Vec<Section> {
    let mut sections = Vec::new();
    let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let nanos = |value: Option<u64>| value.map_or("-".to_owned(), |v| Nanos(v).to_string());
    if !summary.operations.is_empty() {
        let row = |(name, operation): (&String, &super::Operation)| {
            let p = operation.percentiles();
            let (n, failed) = (p.n.to_string(), operation.n_failed.to_string());
            let latencies = [p.p50_ns, p.p95_ns, p.p99_ns, p.max_ns].map(nanos);
            [name.clone(), n, failed].into_iter().chain(latencies).collect()
        };
        sections.push(Section {
            heading: "Operations".into(),
            columns: columns(&["operation", "n", "failed", "median", "p95", "p99", "max"]),
            rows: summary.operations.iter().map(row).collect(),
        });
    }
    for (heading, section, table) in tables(summary) {
        let (rows, n_rest, rest) = table.top(top);
        if rows.is_empty() {
            continue;
        }
        let mut rows: Vec<Vec<String>> = rows.iter().map(|(key, t)| tally_row(key, t)).collect();
        if rest.n > 0 {
            let more = if table.n_other() > 0 { " and more" } else { "" };
            rows.push(tally_row(&format!("({n_rest}{more} others)"), &rest));
        }
        let columns = columns(&[section, "n", "time", "copied", "fsyncs"]);
        sections.push(Section { heading: heading.into(), columns, rows });
    }
    if !summary.copied.is_empty() {
        let rows = summary.copied.iter().map(|(by, t)| tally_row(copied_by(*by), t)).collect();
        let columns = columns(&["by", "n", "time", "copied", "fsyncs"]);
        sections.push(Section { heading: "How data was copied up".into(), columns, rows });
    }
    sections
}

fn tally_row(key: &str, tally: &Tally) -> Vec<String> {
    let (time, bytes) = (Nanos(tally.latency_ns).to_string(), size(tally.bytes));
    vec![printable(key), tally.n.to_string(), time, bytes, tally.n_fsyncs.to_string()]
}

/// A name with escapes for the letters that would move the cursor of a terminal,
/// or turn the order of those around them.
pub fn printable(name: &str) -> String {
    let acts = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let one = |letter: char| match acts(letter) {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    name.chars().map(one).collect()
}

/// Heading, name of the keys, table.
fn tables(summary: &Summary) -> [(&'static str, &'static str, &Table); 6] {
    [
        ("Copy-ups by trigger", "trigger", &summary.triggers),
        ("Copy-ups by layer (0 is the topmost)", "layer", &summary.layers),
        ("Mounts", "mount", &summary.mounts),
        ("Containers", "container", &summary.containers),
        ("Processes", "process", &summary.processes),
        ("Files", "file", &summary.files),
    ]
}

/// Bytes to three digits, in binary units.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::super::tests::of;
    use super::super::{Losses, Summary};
    use super::*;

    #[test]
    fn a_trace_is_summed_up_for_people() {
        let mut summary = of(1200);
        summary.set_losses(Losses { n_lost: 7, n_missing: 1, cut: false });
        insta::assert_snapshot!(human(&summary, 2));
    }

    #[test]
    fn a_trace_is_summed_up_in_markdown() {
        insta::assert_snapshot!(md(&of(3), 2));
    }

    #[test]
    fn csv_has_as_many_fields_in_each_line() {
        let text = csv(&of(20), 3).expect("writes");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Result<Vec<_>, _> = reader.records().collect();
        let rows = rows.expect("every line has the fields of the first");
        assert_eq!(rows.iter().filter(|r| &r[0] == "file").count(), 4);
        assert_eq!(&rows[0][2], "20");
    }

    #[test]
    fn names_cannot_act_on_a_terminal() {
        let path = Some("/a\u{1b}[2J\nb|c".to_owned());
        let mut summary = Summary::new(&sample::header());
        summary.add(&crate::trace::Event { path, ..sample::event(1) });
        let text = human(&summary, 5) + &md(&summary, 5);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("b\\|c"), "{text}");
    }

    #[test]
    fn an_empty_trace_is_told_as_such() {
        let summary = Summary::new(&sample::header());
        assert_eq!(human(&summary, 5), "No event was seen.\n");
        assert_eq!(json(&summary, 5)["n_events"], 0);
        assert_eq!(csv(&summary, 5).expect("writes").lines().count(), 2);
    }
}
