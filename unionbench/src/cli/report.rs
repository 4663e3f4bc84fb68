//! `unionbench report`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;

use super::gate::records;
use super::run::{Format, print_report};
use super::{Failure, step_summary};
use crate::record::Record;
use crate::report::{self, Analysis, HtmlSubject, write_all};
use crate::store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Records: record.json files, their folders, or folders of those
    #[arg(required = true)]
    records: Vec<PathBuf>,
    /// What is printed [default: human; nothing beside an -o FILE]
    #[arg(long, value_enum)]
    format: Option<Output>,
    /// Writes one self-contained page (a name in .html), the record itself,
    /// compressed to be committed (a name in .json.zst), or summary, figures,
    /// page and plots into a folder
    #[arg(short, long, value_name = "FILE.html|FILE.json.zst|FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Md,
    Csv,
    Json,
    Html,
    Openmetrics,
    /// Bencher's metric format
    Bmf,
    /// github-action-benchmark's customSmallerIsBetter
    GithubActionBenchmark,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(out) = &args.out {
        known_form(out)?;
    }
    let read = records(&args.records)?;
    if let Some(out) = &args.out {
        write(out, &read)?;
    }
    let format = match (args.format, &args.out) {
        (Some(format), _) => format,
        (None, Some(out)) if !matches!(Form::of(out), Form::Folder) => {
            return Ok(ExitCode::SUCCESS);
        }
        (None, _) => Output::Human,
    };
    print(format, &read)?;
    Ok(ExitCode::SUCCESS)
}

/// What an `-o` is by its name.
enum Form {
    Page,
    Packed,
    Folder,
}

impl Form {
    fn of(out: &Path) -> Self {
        match out.extension() {
            Some(extension) if extension == "html" => Self::Page,
            Some(extension) if extension == "zst" => Self::Packed,
            _ => Self::Folder,
        }
    }
}

/// Refuses a name that looks like a file of a format that is not written, rather
/// than to make a folder of it. A number behind the last point is no format.
fn known_form(out: &Path) -> Result<(), Failure> {
    let is_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    let extension = out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let named = extension.starts_with(|c: char| c.is_ascii_alphabetic());
    if is_folder || !named || !matches!(Form::of(out), Form::Folder) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "cannot write {}: -o takes FILE.html, FILE.json.zst or a folder ({0}/ to call one so); md, csv, json and others are printed with --format",
        out.display()
    )))
}

fn write(out: &Path, read: &[(PathBuf, Record)]) -> anyhow::Result<()> {
    let only = |what: &str| match read {
        [(_, record)] => Ok(record),
        _ => Err(Failure::Usage(format!("{what} one record: name a FILE.html for several"))),
    };
    let written = match Form::of(out) {
        Form::Page => {
            std::fs::write(out, page(read)?)
                .with_context(|| format!("cannot write {}", out.display()))?;
            vec![out.to_owned()]
        }
        Form::Packed => {
            store::pack(only("a packed record holds")?, out)?;
            vec![out.to_owned()]
        }
        Form::Folder => {
            let record = only("a folder takes the report of")?;
            std::fs::create_dir_all(out).with_context(|| {
                format!("cannot make the folder {} (a page is called FILE.html)", out.display())
            })?;
            write_all(record, out)?
        }
    };
    for path in written {
        eprintln!("unionbench: wrote {}", path.display());
    }
    Ok(())
}

fn print(format: Output, read: &[(PathBuf, Record)]) -> anyhow::Result<()> {
    let analyses = read.iter().map(|(_, r)| Analysis::of(r)).collect::<Result<Vec<_>, _>>()?;
    if matches!(format, Output::Openmetrics | Output::Bmf | Output::GithubActionBenchmark) {
        distinct(read)?;
    }
    let each = match format {
        Output::Html => {
            println!("{}", page(read)?.trim_end());
            return Ok(());
        }
        Output::Openmetrics => {
            print!("{}", report::openmetrics(&analyses));
            return Ok(());
        }
        Output::Bmf => {
            print!("{}", report::bmf(&analyses)?);
            return Ok(());
        }
        Output::GithubActionBenchmark => {
            print!("{}", report::github_action_benchmark(&analyses)?);
            return Ok(());
        }
        Output::Human => Format::Human,
        Output::Md => Format::Md,
        Output::Csv => Format::Csv,
        Output::Json => Format::Json,
    };
    if read.len() > 1 && matches!(each, Format::Csv | Format::Json) {
        let message = "csv and json hold one record: name one, or another --format";
        return Err(Failure::Usage(message.into()).into());
    }
    for (index, (_, record)) in read.iter().enumerate() {
        print_report(each, record)?;
        if index + 1 < read.len() {
            println!();
        }
    }
    if each == Format::Md {
        let page: String = analyses.iter().map(report::md).collect();
        step_summary::append(&page)?;
    }
    Ok(())
}

/// What these formats call a figure does not tell one run from the next.
fn distinct(read: &[(PathBuf, Record)]) -> Result<(), Failure> {
    let what = |record: &Record| {
        let kernel = record.host.kernel_release.clone();
        (record.scenario.name.clone(), kernel, record.lab.is_some())
    };
    let mut known = std::collections::BTreeMap::new();
    for (path, record) in read {
        if let Some(first) = known.insert(what(record), path) {
            let (first, path) = (first.display(), path.display());
            return Err(Failure::Usage(format!(
                "this format holds each cell once, and {first} and {path} are of one scenario on one kernel: name one of them"
            )));
        }
    }
    Ok(())
}

/// The page of all records, with their samples where those lie beside them.
fn page(read: &[(PathBuf, Record)]) -> anyhow::Result<String> {
    let mut subjects = Vec::new();
    for (path, record) in read {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        subjects.push(HtmlSubject { record, timeline: report::timeline(record, folder)? });
    }
    Ok(report::html(&subjects)?)
}
