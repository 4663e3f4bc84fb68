//! The report on a terminal.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle};

use super::figure::{grouped, latency};
use super::table::{Table, tables};
use super::{Analysis, figure, kernels, sentences, unions};
use crate::unit::Nanos;

/// How the terminal wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appearance {
    /// Headings are bold. Off for NO_COLOR and where output is no terminal.
    pub styled: bool,
    /// Columns to fit into; absent for as wide as need be.
    pub width: Option<u16>,
}

/// The whole report as text that ends with a line feed.
pub fn human(analysis: &Analysis<'_>, appearance: Appearance) -> String {
    let mut text = header(analysis, appearance);
    for table in tables(analysis)
        .into_iter()
        .chain(unions::tables(analysis))
        .chain(kernels::tables(analysis))
    {
        text += &format!("\n{}\n", bold(&table.heading, appearance));
        text += &drawn(&table, appearance);
        text.push('\n');
    }
    let lists = [
        ("Growth", sentences::fits(analysis)),
        ("Cost of the probes", sentences::probes_cost(analysis)),
        ("Warnings", sentences::warnings(analysis)),
    ];
    for (heading, lines) in lists {
        if !lines.is_empty() {
            text += &format!("\n{}\n", bold(heading, appearance));
            for line in lines {
                text += &format!("  {line}\n");
            }
        }
    }
    text
}

fn header(analysis: &Analysis<'_>, appearance: Appearance) -> String {
    let record = analysis.record;
    let host = &record.host;
    format!(
        "{}\nLinux {} on {}, {} CPUs; seed {}; {} cells in {}\nEvery sample holds the driver's own {} (median of {}).\n",
        bold(&format!("{} ({})", record.scenario.title, record.scenario.name), appearance),
        figure::releases(analysis.record),
        host.cpu_model,
        host.n_cpus,
        record.seed,
        record.cells.len(),
        Nanos(record.elapsed_ms.saturating_mul(1_000_000)),
        latency(record.driver.empty_sample as f64, record.latency_unit),
        grouped(record.driver.n),
    )
}

fn bold(text: &str, appearance: Appearance) -> String {
    if appearance.styled { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
}

fn drawn(table: &Table, appearance: Appearance) -> String {
    let mut drawn = comfy_table::Table::new();
    drawn.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none())).force_no_tty();
    if let Some(width) = appearance.width {
        drawn.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    drawn.set_header(&table.columns);
    drawn.add_rows(&table.rows);
    // Parameters and backend are words; what follows are figures.
    for column in drawn.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    drawn.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn report_of_the_sample_record() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        insta::assert_snapshot!(human(&analysis, Appearance::default()));
    }

    #[test]
    fn only_styled_text_holds_escapes_and_width_is_kept() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        let plain = human(&analysis, Appearance { styled: false, width: Some(100) });
        assert!(!plain.contains('\u{1b}'));
        assert!(plain.lines().filter(|l| l.contains('─')).all(|l| l.chars().count() <= 100));
        assert!(human(&analysis, Appearance { styled: true, width: None }).contains("\u{1b}[1m"));
    }
}
