//! The report as one HTML file: no script, no network, figures drawn inline in
//! the colours of the reader's theme, and under each figure its numbers.

mod chart;
mod heat;
mod page;
mod sections;
mod style;
mod text;

pub use heat::Timeline;

use super::{Analysis, ReportError};
use crate::record::Record;

/// A record with what its samples tell beyond it.
pub struct Subject<'a> {
    pub record: &'a Record,
    /// Absent where the samples are not at hand: the heat map is left out.
    pub timeline: Option<Timeline>,
}

/// The whole page for `subjects`, one part each. Fails on a histogram that
/// cannot be read.
pub fn html(subjects: &[Subject<'_>]) -> Result<String, ReportError> {
    let mut parts = Vec::new();
    for subject in subjects {
        let analysis = Analysis::of(subject.record)?;
        parts.push(page::Part::of(&analysis, subject.timeline.as_ref()));
    }
    Ok(page::page(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    fn sample_page() -> String {
        let record = sample::record();
        html(&[Subject { record: &record, timeline: None }]).expect("draws")
    }

    #[test]
    fn page_stands_alone_and_needs_no_script() {
        let page = sample_page();
        for needless in ["<script", "http://", "https://", "<link", "@import", "url(", "<img"] {
            let found = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(needless), "{needless}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.contains("name=\"viewport\""));
    }

    #[test]
    fn page_has_every_section_its_record_has_figures_for() {
        let page = sample_page();
        for heading in [
            "In words",
            "Against depth",
            "Against size",
            "Percentiles",
            "Distribution",
            "Counters",
            "Environment",
            "Losses",
            "Cost of the probes",
            "How to reproduce",
        ] {
            assert!(page.contains(&format!(">{heading}</h3>")), "{heading}");
        }
        assert!(!page.contains("Latency over time"), "there are no samples");
    }

    #[test]
    fn names_from_a_record_cannot_break_out() {
        let mut record = sample::record();
        let evil = "<script>alert(1)</script>\"'&";
        record.scenario.title = evil.into();
        record.backends[1].name = evil.into();
        record.warnings.push(evil.into());
        for cell in record.cells.iter_mut().filter(|c| c.backend == "overlayfs") {
            cell.backend = evil.into();
            cell.phase = format!("{}{evil}", cell.phase);
        }
        let page = html(&[Subject { record: &record, timeline: None }]).expect("draws");
        assert!(!page.contains("<script"));
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn each_figure_has_a_name_and_a_table() {
        let page = sample_page();
        let figures = page.matches("<figure").count();
        assert!(figures >= 6, "{figures}");
        let named = page.matches("role=\"img\" aria-label=").count();
        let legends = page.matches("aria-hidden=\"true\"").count();
        assert_eq!(page.matches("<svg").count(), named + legends);
        assert!(page.matches("<table").count() >= figures);
    }

    #[test]
    fn ids_are_unique_over_several_records() {
        let record = sample::record();
        let subject = || Subject { record: &record, timeline: None };
        let page = html(&[subject(), subject()]).expect("draws");
        let mut ids: Vec<&str> =
            page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let n = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), n);
    }
}
