//! The gate's selftest as text and as a plot: how often it alarms for nothing,
//! and how small a change it finds.

use std::fmt::Write as _;

use crate::gate::{Pairing, SelftestReport};
use crate::stats::proportion::Proportion;

/// The figures in words and lines. Ends with a line feed.
pub fn selftest_text(report: &SelftestReport) -> String {
    let mut text = format!("gate selftest of {} ({})\n", report.scenario, report.place);
    let pairs = match report.pairing {
        Pairing::Drawn { base_runs } => {
            format!("bases of {base_runs} runs drawn from them: not independent")
        }
        Pairing::Apart { base_runs } => {
            format!("each of the others against one base of {base_runs}")
        }
        Pairing::Disjoint => "pairs of their own".to_owned(),
    };
    let mut line = |content: String| {
        text += &content;
        text.push('\n');
    };
    line(format!(
        "  false alarms   {} over {} runs, {pairs}",
        of(&report.false_alarms()),
        report.n_runs
    ));
    line(format!("  inconclusive   {}", of(&report.inconclusive())));
    for (injection, rise, found) in report.power() {
        line(format!(
            "  found          {}: {} (measured rise {:.2} %)",
            of(&found),
            injection.what,
            rise * 100.0
        ));
    }
    let still = report.spreads.values().filter(|(spread, _)| *spread == 0.0).count();
    if still > 0 {
        line(format!("  A/A spread     none in {still} figures: equal in all runs"));
    }
    for (metric, (spread, cell)) in report.spreads.iter().filter(|(_, of)| of.0 > 0.0) {
        line(format!("  A/A spread     {metric}: {:.3} % at most, in {cell}", spread * 100.0));
    }
    for outcome in report.outcomes.iter().filter(|o| o.alarmed) {
        if let crate::gate::Class::Same { perturbed } = &outcome.class {
            line(format!("  false alarm    {} ({perturbed})", outcome.alarms.join(", ")));
        }
    }
    line(format!("  one verdict    {:.1} s", report.verdict_ms as f64 / 1e3));
    text
}

fn of(p: &Proportion) -> String {
    format!("{} of {} [{:.1} %, {:.1} %]", p.successes, p.trials, p.low * 100.0, p.high * 100.0)
}

/// Colours of the targets, in turn.
const COLOURS: [&str; 4] = ["#0b62a4", "#b3460f", "#2d7d32", "#6a3d9a"];

/// Share of runs that alarm against the measured rise, with 95 % intervals: a
/// line for each target of slowdowns, all from the false-alarm rate on the left.
pub fn selftest_svg(report: &SelftestReport) -> String {
    let mut lines: Vec<(String, Vec<(f64, Proportion)>)> = Vec::new();
    for (injection, rise, found) in report.power() {
        let point = (rise * 100.0, found);
        match lines.iter_mut().find(|(target, _)| *target == injection.target) {
            Some((_, points)) => points.push(point),
            None => lines.push((injection.target, vec![point])),
        }
    }
    if lines.is_empty() {
        lines.push((String::new(), Vec::new()));
    }
    for (_, points) in &mut lines {
        points.push((0.0, report.false_alarms()));
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let rises = lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.0));
    let highest = rises.fold(1.0, f64::max) * 1.05;
    let (left, top, width, height) = (70.0, 50.0, 620.0, 300.0);
    // The square root spreads small rises apart and keeps zero.
    let x = |rise: f64| left + width * (rise.max(0.0) / highest).sqrt();
    let y = |share: f64| top + height * (1.0 - share);
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 420\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"Share of runs that alarm against the measured rise\"><rect width=\"720\" height=\"420\" fill=\"white\"/><text x=\"{left}\" y=\"24\" font-size=\"15\">{}</text>",
        // What a distribution adds to a version would not fit.
        escaped(&format!(
            "gate selftest: {} ({})",
            report.scenario,
            report.place.split(" (").next().unwrap_or_default()
        ))
    );
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        let _ = write!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            left + width,
            left - 8.0,
            y(share) + 4.0,
            share * 100.0,
            y = y(share)
        );
    }
    for rise in [0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0].into_iter().filter(|r| *r <= highest) {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{rise} %</text>",
            x(rise),
            top + height + 20.0
        );
    }
    for (n, (target, points)) in lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|(rise, p)| format!("{:.1},{:.1}", x(*rise), y(share(p)))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>",
            path.join(" "),
            left + width,
            top + height * 0.75 + 18.0 * n as f64,
            escaped(target)
        );
        for (rise, p) in points {
            let _ = write!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/><circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"><title>{}</title></circle>",
                y(p.low),
                y(p.high),
                y(share(p)),
                escaped(&format!("rise {rise:.2} %: {}", of(p))),
                x = x(*rise)
            );
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">measured rise of the slowed figure (square-root scale); 0 = nothing changed</text><text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">runs that alarm, 95 % interval</text></svg>",
        left + width / 2.0,
        top + height + 48.0,
        top + height / 2.0
    );
    svg
}

fn share(p: &Proportion) -> f64 {
    if p.trials == 0 { 0.0 } else { p.successes as f64 / p.trials as f64 }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::gate::{Class, Injection, Outcome};

    #[test]
    fn each_target_has_a_line_that_begins_at_the_false_alarms() {
        let mut report = report();
        let other = Injection { what: "x".into(), size: None, target: "warm".into() };
        let outcome = Outcome { class: Class::Injected(other), ..report.outcomes[3].clone() };
        report.outcomes.push(outcome);
        let svg = selftest_svg(&report);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("rise 0.00 %: 1 of 3").count(), 2);
        assert!(svg.contains(">cold</text>") && svg.contains(">warm</text>"));
    }

    fn report() -> SelftestReport {
        let outcome = |class: Class, alarmed: bool, rise: f64| Outcome {
            class,
            alarmed,
            inconclusive: false,
            alarms: if alarmed { vec!["c instructions".into()] } else { Vec::new() },
            rise,
        };
        let same = Class::Same { perturbed: "seed +1".into() };
        let injected = Class::Injected(Injection {
            what: "stack.layers=101".into(),
            size: Some(0.01),
            target: "cold".into(),
        });
        SelftestReport {
            scenario: "s<1>".into(),
            place: "lab".into(),
            pairing: Pairing::Drawn { base_runs: 2 },
            n_runs: 3,
            outcomes: vec![
                outcome(same.clone(), false, 0.0),
                outcome(same.clone(), false, 0.0),
                outcome(same, true, 0.006),
                outcome(injected.clone(), true, 0.011),
                outcome(injected, true, 0.009),
            ],
            verdict_ms: 21_500,
            spreads: BTreeMap::from([
                ("copy_ups".into(), (0.0, "c".into())),
                ("instructions".into(), (0.006, "c".into())),
            ]),
        }
    }

    #[test]
    fn selftest_as_text() {
        insta::assert_snapshot!(selftest_text(&report()));
    }

    #[test]
    fn plot_has_a_point_for_each_size_and_is_well_formed() {
        let svg = selftest_svg(&report());
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("s&lt;1&gt;") && svg.contains("rise 1.00 %: 2 of 2"));
        assert_eq!(svg.matches("<polyline").count(), 1);
        resvg::usvg::Tree::from_str(&svg, &resvg::usvg::Options::default()).expect("an SVG");
    }
}
