//! A comparison as Markdown for a pull request: what became worse first, the
//! rest folded.

use super::md::escaped;
use crate::compare::{Comparison, Row, Verdict};

/// The comparison of `new` with `base`, as they are called. Ends with a line feed.
pub fn comparison_md(base: &str, new: &str, comparison: &Comparison) -> String {
    let count = |verdict| comparison.of(verdict).count();
    let (failed, unsure) = (count(Verdict::Fail), count(Verdict::Inconclusive));
    let (better, passed) = (count(Verdict::Better), count(Verdict::Pass));
    let headline = match comparison.verdict() {
        Verdict::Fail => format!("❌ {failed} became worse"),
        Verdict::Inconclusive => format!("❔ {unsure} cannot be told"),
        Verdict::Better | Verdict::Pass => "✅ nothing became worse".to_owned(),
    };
    let mut text = format!(
        "### {} `{}`: {headline}\n\n{failed} worse, {unsure} inconclusive, {better} better, {passed} unchanged; base `{}`, new `{}`.\n",
        "unionbench",
        escaped(&comparison.scenario),
        escaped(base),
        escaped(new)
    );
    let open: Vec<&Row> =
        comparison.of(Verdict::Fail).chain(comparison.of(Verdict::Inconclusive)).collect();
    let folded: Vec<&Row> =
        comparison.of(Verdict::Better).chain(comparison.of(Verdict::Pass)).collect();
    if !open.is_empty() {
        text += &format!("\n{}", table(&open));
    }
    for note in &comparison.notes {
        text += &format!("\n- differs: {}", escaped(note));
    }
    if !comparison.notes.is_empty() {
        text.push('\n');
    }
    if !folded.is_empty() {
        text += &format!(
            "\n<details><summary>{} that did not become worse</summary>\n\n{}\n</details>\n",
            folded.len(),
            table(&folded)
        );
    }
    for (cell, reason) in &comparison.left_out {
        text += &format!("\n- left out: {} ({})", escaped(cell), escaped(reason));
    }
    if !comparison.left_out.is_empty() {
        text.push('\n');
    }
    text.push('\n');
    text
}

fn table(rows: &[&Row]) -> String {
    let mut text =
        "| verdict | cell | metric | base → new | |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for row in rows {
        text += &format!(
            "| {} | {} | {} | {} | {} |\n",
            row.verdict,
            escaped(&row.cell),
            escaped(&row.metric),
            row.change(),
            escaped(&row.why)
        );
    }
    text
}
