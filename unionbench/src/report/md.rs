//! The report as Markdown.

use super::table::{Table, tables};
use super::{Analysis, figure, kernels, sentences, unions};

/// The whole report as Markdown that ends with a line feed.
pub fn md(analysis: &Analysis<'_>) -> String {
    let record = analysis.record;
    let mut text = format!(
        "# {}\n\nScenario `{}`, Linux {} on {}, {} CPUs, seed {}.\n",
        record.scenario.title,
        record.scenario.name,
        figure::releases(record),
        record.host.cpu_model,
        record.host.n_cpus,
        record.seed
    );
    for table in tables(analysis)
        .into_iter()
        .chain(unions::tables(analysis))
        .chain(kernels::tables(analysis))
    {
        text += &format!("\n## {}\n\n{}", escaped(&table.heading), drawn(&table));
    }
    let lists = [
        ("Growth", sentences::fits(analysis)),
        ("Cost of the probes", sentences::probes_cost(analysis)),
        ("Warnings", sentences::warnings(analysis)),
    ];
    for (heading, lines) in lists {
        if !lines.is_empty() {
            text += &format!("\n## {heading}\n\n");
            for line in lines {
                text += &format!("- {}\n", escaped(&line));
            }
        }
    }
    text
}

fn drawn(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|c| escaped(c)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rules: Vec<String> = (0..table.columns.len())
        .map(|i| if i < 2 { "---".to_owned() } else { "---:".to_owned() })
        .collect();
    let mut text = line(&table.columns) + &line(&rules);
    for row in &table.rows {
        text += &line(row);
    }
    text
}

/// A bar would start a new column, a line feed a new row.
pub(super) fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn report_of_the_sample_record() {
        let record = sample::record();
        insta::assert_snapshot!(md(&Analysis::of(&record).expect("reads")));
    }

    #[test]
    fn bars_do_not_start_columns() {
        assert_eq!(escaped("a|b\nc"), "a\\|b c");
    }
}
