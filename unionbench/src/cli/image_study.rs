//! What `run --image` measures where no scenario is given: a study of that
//! image, as a scenario like any other.

use std::fmt::Write as _;

use crate::record::ParamValue;
use crate::report::{self, Analysis, Row};
use crate::stack::image::Image;

/// Layers are told apart one by one up to this number; of deeper images some,
/// evenly spread, with the topmost and the bottom one among them.
const MAX_TOLD: usize = 32;

/// A layer with fewer lookups than this is not ranked: the median of two
/// lookups says more about the moment than about the layer.
const MIN_RANKED: u64 = 30;

/// The study as the text of a scenario.
pub(super) fn scenario(reference: &str, image: &Image) -> String {
    let stored: u64 = image.layers.iter().map(|layer| layer.blob.size).sum();
    let layers = told_layers(image.layers.len());
    let listed: Vec<String> = layers.iter().map(ToString::to_string).collect();
    // Three copies (layers, squashed, control) of what packs to a third.
    let mib = (stored * 16).div_ceil(1 << 20).max(1024);
    format!(
        r#"# Written by `unionbench run --image`.
name = "image-study"
title = "A study of one image"
description = "Lookups by layer, first writes of the largest files, and what squashing saves."
rounds = 3

[stack]
image = {reference:?}
squash = [false, true]

[backing]
fs = "tmpfs"
size = "{mib}MiB"

[[backend]]
kind = "bare"

[[backend]]
kind = "overlayfs"

[[phase]]
name = "lookup-by-layer"
workload = "lookup"
layer = [{}]

[[phase]]
name = "lookup-missing"
workload = "lookup"
missing = true

[[phase]]
name = "list-all"
workload = "walk"

[[phase]]
name = "first-write-largest"
workload = "first-write"
files = "group:largest"
trigger = "write"
"#,
        listed.join(", ")
    )
}

fn told_layers(n: usize) -> Vec<usize> {
    if n <= MAX_TOLD {
        return (0..n).collect();
    }
    (0..MAX_TOLD).map(|i| i * (n - 1) / (MAX_TOLD - 1)).collect()
}

/// What the study found, in sentences.
pub(super) fn findings(analysis: &Analysis<'_>) -> String {
    let mut text = String::new();
    let unit = analysis.record.latency_unit;
    let lookups = |squashed: bool| {
        let mut found: Vec<(u64, f64)> = overlay(analysis, "lookup-by-layer", squashed)
            .filter(|row| row.n() >= MIN_RANKED)
            .filter_map(|row| Some((layer(row)?, median(row)?)))
            .collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        found
    };
    let (stacked, squashed) = (lookups(false), lookups(true));
    let few: Vec<String> = overlay(analysis, "lookup-by-layer", false)
        .filter(|row| row.n() < MIN_RANKED)
        .filter_map(|row| Some(layer(row)?.to_string()))
        .collect();
    if let (Some(worst), Some(best)) = (stacked.first(), stacked.last()) {
        let shown: Vec<String> = stacked
            .iter()
            .take(3)
            .map(|(layer, median)| format!("layer {layer}: {}", report::latency(*median, unit)))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "A cold lookup costs most in {} ({:.2} times the cheapest, layer {}).",
            shown.join(", "),
            worst.1 / best.1,
            best.0
        );
        let twin = squashed.iter().find(|(layer, _)| *layer == worst.0);
        if let Some((_, median)) = twin {
            let _ = writeln!(
                text,
                "Squashed into one layer, those of layer {} cost {} instead: {:.2} of it.",
                worst.0,
                report::latency(*median, unit),
                median / worst.1
            );
        }
    }
    if !few.is_empty() {
        let _ = writeln!(
            text,
            "Not ranked, for fewer than {MIN_RANKED} lookups: layer {}.",
            few.join(", ")
        );
    }
    for (phase, what) in [
        ("lookup-missing", "A name that is nowhere"),
        ("list-all", "Listing a directory with `ls -l`"),
        ("first-write-largest", "The first byte written to one of the largest files"),
    ] {
        let of = |squashed| overlay(analysis, phase, squashed).find_map(median);
        if let (Some(stacked), Some(squashed)) = (of(false), of(true)) {
            let _ = writeln!(
                text,
                "{what} costs {}, squashed {}: {:.2} of it.",
                report::latency(stacked, unit),
                report::latency(squashed, unit),
                squashed / stacked
            );
        }
    }
    text
}

fn overlay<'a>(
    analysis: &'a Analysis<'a>,
    phase: &'a str,
    squashed: bool,
) -> impl Iterator<Item = &'a Row<'a>> {
    let squash = ParamValue::Bool(squashed);
    analysis.rows.iter().filter(move |row| {
        row.cell.backend == "overlayfs"
            && row.cell.phase == phase
            && row.counts()
            && row.cell.params.get("stack.squash") == Some(&squash)
    })
}

fn layer(row: &Row<'_>) -> Option<u64> {
    match row.cell.params.get("lookup-by-layer.layer")? {
        ParamValue::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn median(row: &Row<'_>) -> Option<f64> {
    row.quantile(0.5).map(|median| median as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_images_are_told_by_some_layers() {
        assert_eq!(told_layers(3), [0, 1, 2]);
        let some = told_layers(100);
        assert_eq!((some.len(), some[0], some[MAX_TOLD - 1]), (MAX_TOLD, 0, 99));
    }
}
