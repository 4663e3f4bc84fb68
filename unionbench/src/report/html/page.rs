//! The page around the figures: one part for each record.

use super::Timeline;
use super::sections::{copy_up, counters, ecdf, functions, growth, heat_maps, layers, percentiles};
use super::style::CSS;
use super::text::{escaped, folded, list, table};
use crate::record::{Availability, Record};
use crate::report::Analysis;
use crate::report::figure::{grouped, is_size, latency};
use crate::report::sentences;
use crate::report::table::tables;
use crate::report::words::words;
use crate::unit::{Bytes, LatencyUnit, Nanos};

/// One record as HTML.
pub struct Part {
    title: String,
    lead: String,
    body: String,
}

impl Part {
    pub fn of(analysis: &Analysis<'_>, timeline: Option<&Timeline>) -> Self {
        let record = analysis.record;
        let mut body = String::new();
        let mut section = |heading: &str, inner: String| {
            if !inner.is_empty() {
                body += &format!("<section><h3>{}</h3>{inner}</section>", escaped(heading));
            }
        };
        section("In words", in_words(analysis));
        let figures = |figures: Vec<String>| match figures.is_empty() {
            true => String::new(),
            false => format!("<div class=\"grid\">{}</div>", figures.concat()),
        };
        section("Against depth", figures(growth(analysis, |key| key == "stack.layers")));
        section("Against size", figures(growth(analysis, is_size)));
        section(
            "Against other parameters",
            figures(growth(analysis, |key| key != "stack.layers" && !is_size(key))),
        );
        section("Growth", list(&sentences::fits(analysis)));
        section("All cells", cells(analysis));
        section("Percentiles", figures(percentiles(analysis)));
        section("Distribution", figures(ecdf(analysis)));
        if let Some(timeline) = timeline {
            let (maps, left_out) = heat_maps(analysis, timeline);
            let note = match left_out {
                0 => String::new(),
                n => format!("<p class=\"soft\">{n} further cells are not drawn.</p>"),
            };
            section("Latency over time", figures(maps) + &note);
        }
        section("Parts of a copy-up", figures(copy_up(analysis)));
        section("Which layer is asked", figures(layers(analysis)));
        section("Where the kernel was", functions(analysis).unwrap_or_default());
        section("Counters", counters(analysis));
        section("Cost of the probes", cost_of_probes(analysis));
        section("Losses", losses(analysis));
        let warnings = sentences::warnings(analysis);
        if !warnings.is_empty() {
            section("Warnings", format!("<div class=\"warn\">{}</div>", list(&warnings)));
        }
        section("Environment", environment(record));
        section("How to reproduce", reproduce(record));
        Self { title: record.scenario.title.clone(), lead: lead(record), body }
    }
}

/// The whole page.
pub fn page(parts: &[Part]) -> String {
    let title = match parts {
        [only] => only.title.clone(),
        _ => format!("unionbench: {} records", parts.len()),
    };
    let mut main = String::new();
    let mut links = String::new();
    for (index, part) in parts.iter().enumerate() {
        let id = format!("record-{}", index + 1);
        links += &format!(
            "<li><a href=\"#{id}\">{} ({})</a></li>",
            escaped(&part.title),
            escaped(&part.lead)
        );
        main += &match parts.len() {
            1 => format!("<article id=\"{id}\"><h2>Results</h2>{}</article>", part.body),
            _ => format!(
                "<article id=\"{id}\"><h2>{}</h2><p class=\"lead\">{}</p>{}</article>",
                escaped(&part.title),
                escaped(&part.lead),
                part.body
            ),
        };
    }
    let navigation = match parts.len() {
        1 => String::new(),
        _ => format!("<nav aria-label=\"Records\"><ul>{links}</ul></nav>"),
    };
    let lead = match parts {
        [only] => escaped(&only.lead),
        _ => "Each record is told by itself.".to_owned(),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"generator\" content=\"unionbench {}\">\n<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<header><h1>{title}</h1><p class=\"lead\">{lead}</p></header>\n{navigation}\n<main>{main}</main>\n<footer>Made by unionbench {} from its own record; nothing on this page is fetched or run.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_VERSION"),
        title = escaped(&title),
    )
}

fn lead(record: &Record) -> String {
    let place = match &record.lab {
        Some(lab) if record.latency_unit == LatencyUnit::Instructions => format!(
            "counted in guest instructions on Linux {} in QEMU {}",
            record.host.kernel_release, lab.qemu_version
        ),
        Some(lab) => {
            format!("timed on Linux {} in QEMU {}", record.host.kernel_release, lab.qemu_version)
        }
        None => format!("timed on Linux {}, {}", record.host.kernel_release, record.host.cpu_model),
    };
    format!("{}, {place}, {}", record.scenario.name, record.started)
}

fn in_words(analysis: &Analysis<'_>) -> String {
    let lines = words(analysis);
    if lines.is_empty() {
        return "<p>Nothing was measured beside the control.</p>".to_owned();
    }
    let items: String = lines.iter().map(|l| format!("<li>{}</li>", escaped(l))).collect();
    format!(
        "<ul class=\"words\">{items}</ul><p class=\"soft\">Ratios are of medians of one run, with 95 % bootstrap intervals over rounds; a comparison of two unions stands only where the whole interval bears it out.</p>"
    )
}

fn cells(analysis: &Analysis<'_>) -> String {
    let drawn = tables(analysis).into_iter().map(|t| {
        let rows = t.rows.len();
        let inner = table(&t.heading, &t.columns, &t.rows);
        if rows <= 12 {
            format!("<h4>{}</h4>{inner}", escaped(&t.heading))
        } else {
            folded(&format!("{}: {rows} cells", t.heading), &inner)
        }
    });
    drawn.collect()
}

fn cost_of_probes(analysis: &Analysis<'_>) -> String {
    let lines = sentences::probes_cost(analysis);
    if lines.is_empty() {
        return "<p>The run had no rounds with probes beside those without.</p>".to_owned();
    }
    list(&lines)
}

fn losses(analysis: &Analysis<'_>) -> String {
    let lines: Vec<Vec<String>> = analysis
        .rows
        .iter()
        .filter(|row| !row.losses.is_zero())
        .map(|row| {
            let l = row.losses;
            let counts = [l.events, l.unpaired, l.overflow, l.stacks].map(grouped);
            [vec![row.cell.id.clone()], counts.to_vec()].concat()
        })
        .collect();
    if lines.is_empty() {
        return "<p>Nothing was lost between the kernel and the record.</p>".to_owned();
    }
    let columns =
        ["cell", "events", "unpaired", "past the last bucket", "stacks"].map(String::from);
    table("Losses", &columns, &lines)
}

fn environment(record: &Record) -> String {
    let host = &record.host;
    let mut facts = vec![
        ("Kernel", format!("{} {}", host.kernel_release, host.kernel_version)),
        ("Processor", format!("{}, {} in use", host.cpu_model, host.n_cpus)),
        ("Memory", Bytes(host.memory_bytes).to_string()),
        ("Load at the start", format!("{:.2}", host.load_1min)),
        ("Caches made cold by", host.cold_method.clone()),
        (
            "Program",
            format!(
                "unionbench {}{}, SHA-256 {}",
                record.program.version,
                record.program.commit.as_ref().map_or(String::new(), |c| format!(" of {c}")),
                record.program.sha256
            ),
        ),
        (
            "Own cost of the driver",
            format!(
                "{} in every sample, not subtracted",
                latency(record.driver.empty_sample as f64, record.latency_unit)
            ),
        ),
        ("Seed", record.seed.to_string()),
        ("Took", Nanos(record.elapsed_ms.saturating_mul(1_000_000)).to_string()),
    ];
    if let Some(lab) = &record.lab {
        facts.push((
            "Lab",
            format!(
                "{} mode, QEMU {}, {}, {}, {}, {}",
                lab.mode,
                lab.qemu_version,
                lab.machine,
                lab.cpu_model,
                lab.accelerator,
                Bytes(lab.memory_bytes)
            ),
        ));
        facts.push((
            "Kernel image",
            format!(
                "{}, SHA-256 {}",
                lab.kernel_package.as_deref().unwrap_or("no package"),
                lab.kernel_sha256
            ),
        ));
        facts.push(("Command line", lab.kernel_command_line.clone()));
    }
    let list: String = facts
        .iter()
        .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value)))
        .collect();
    format!("<dl>{list}</dl>{}{}", backends(record), engines(record))
}

fn backends(record: &Record) -> String {
    let rows: Vec<Vec<String>> = record
        .backends
        .iter()
        .map(|b| {
            let state = match &b.availability {
                Availability::Ok if b.control => "control".to_owned(),
                Availability::Ok => "measured".to_owned(),
                Availability::Unsupported { reason } => format!("unsupported: {reason}"),
            };
            let options = if b.options_in_force.is_empty() {
                &b.options_requested
            } else {
                &b.options_in_force
            };
            vec![b.name.clone(), b.kind.clone(), state, options.join(" ")]
        })
        .collect();
    let columns = ["backend", "kind", "here", "options"].map(String::from);
    folded("Backends and their options", &table("Backends", &columns, &rows))
}

fn engines(record: &Record) -> String {
    if record.engines.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = record
        .engines
        .iter()
        .map(|e| {
            let works = if e.available { "yes" } else { "no" };
            vec![e.engine.clone(), works.to_owned(), e.reason.clone(), e.remedy.clone()]
        })
        .collect();
    let columns = ["engine", "works", "reason", "remedy"].map(String::from);
    folded("Engines of the probes", &table("Engines", &columns, &rows))
}

fn reproduce(record: &Record) -> String {
    let mut command =
        format!("unionbench run {}.toml --seed {}", record.scenario.name, record.seed);
    if let Some(lab) = &record.lab {
        let kernel = record.host.kernel_release.split('.').take(2).collect::<Vec<_>>().join(".");
        command += &format!(
            " --lab --mode {} --kernel {kernel} --memory {}",
            lab.mode,
            Bytes(lab.memory_bytes)
        );
    }
    for change in &record.scenario.overrides {
        command += &format!(" --set '{}'", change.replace('\'', "'\\''"));
    }
    let file = match record.scenario.toml.is_empty() {
        true => String::new(),
        false => folded(
            &format!("{}.toml", record.scenario.name),
            &format!("<pre tabindex=\"0\"><code>{}</code></pre>", escaped(&record.scenario.toml)),
        ),
    };
    format!("<pre tabindex=\"0\"><code>{}</code></pre>{file}", escaped(&command))
}
