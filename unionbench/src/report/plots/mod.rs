//! Plots of a record as SVG, and PNG made from the SVG.
//!
//! `growth` draws medians against a parameter, `distribution` all samples of
//! one set of coordinates; both describe a [`chart::Chart`], which alone knows
//! the drawing library.

pub(in crate::report) mod axis;
mod chart;
mod distribution;
mod growth;
mod kernels;
mod raster;

pub use raster::png;

use super::{Analysis, ReportError};

/// One plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// File name without extension; unique in the record.
    pub name: String,
    pub svg: String,
}

/// Every plot that the record has figures for; may be empty.
pub fn svgs(analysis: &Analysis<'_>) -> Result<Vec<Plot>, ReportError> {
    let mut charts = growth::charts(analysis);
    charts.extend(distribution::charts(analysis));
    charts.extend(kernels::charts(analysis));
    charts.iter().map(chart::Chart::draw).collect()
}

/// A file name from text: all but letters, digits, dot, `=` and `-` becomes
/// `_`.
fn file_name(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '=');
    text.chars().map(|c| if keep(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::record::sample;

    #[test]
    fn sample_record_has_every_kind_of_plot_once() {
        let record = sample::record();
        let plots = svgs(&Analysis::of(&record).expect("reads")).expect("draws");
        let names: BTreeSet<&str> = plots.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), plots.len(), "names are unique");
        let expected = [
            "cold-lookup-by-stack.layers",
            "cold-lookup-ecdf",
            "cold-lookup-percentiles",
            "first-write-by-size",
            "first-write-ecdf",
            "first-write-percentiles",
        ];
        assert_eq!(names, BTreeSet::from(expected));
    }

    #[test]
    fn plots_name_axes_backends_and_samples() {
        let record = sample::record();
        let plots = svgs(&Analysis::of(&record).expect("reads")).expect("draws");
        let depth = plots.iter().find(|p| p.name == "cold-lookup-by-stack.layers").expect("drawn");
        for text in ["stack.layers", "median latency", "overlayfs, n = 1,600, +100.0 ns per layer"]
        {
            assert!(depth.svg.contains(text), "{text} is missing");
        }
    }
}
