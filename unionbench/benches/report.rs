//! A record of a million samples to its page. `cargo xtask bench --bench report`
//! prints the time; `-- --once` makes one page and prints time, peak memory and
//! the ratio to reading the same bytes and counting their lines.

use std::hint::black_box;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Instant;

use criterion::Criterion;
use unionbench::record::Record;
use unionbench::report::{HtmlSubject, html, timeline};
use unionbench::stats::{hdr, summary};
use unionbench::store::{self, RECORD, SAMPLES};

const CELLS: u64 = 50;
const ROUNDS: u32 = 5;
const SAMPLES_PER_ROUND: u64 = 4_000;

/// Fifty cells of five rounds of 4,000 samples in a folder of its own.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("room for a bench");
    // A kept record lends all that a round has beside its samples.
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/reference/deep-layers");
    let mut record: Record = store::read(&kept).expect("a record");
    let (cell, first) = (record.cells[0].clone(), record.cells[0].rounds[0].clone());
    let file = std::fs::File::create(folder.path().join(SAMPLES)).expect("room for a bench");
    let mut samples = std::io::BufWriter::new(file);
    writeln!(samples, "cell,round,probes,index,latency").expect("room");
    record.cells.clear();
    let mut state = 1_u64;
    for number in 0..CELLS {
        let mut cell = cell.clone();
        cell.id = format!("{} {number}", cell.id);
        cell.phase = format!("phase-{}", number / 10);
        cell.params
            .insert("stack.layers".into(), unionbench::record::ParamValue::Integer(number % 10));
        cell.rounds.clear();
        for round in 0..ROUNDS {
            let mut drawn: Vec<u64> = (0..SAMPLES_PER_ROUND)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    2_000 + (state >> 50) + (number % 10) * 900
                })
                .collect();
            for (index, value) in drawn.iter().enumerate() {
                writeln!(samples, "{},{round},false,{index},{value}", cell.id).expect("room");
            }
            let mut own = first.clone();
            (own.round, own.probes, own.n_ops) = (round, false, SAMPLES_PER_ROUND);
            own.histogram = hdr::of_samples(&drawn).and_then(|h| hdr::encode(&h)).expect("encodes");
            own.latency = summary(&mut drawn);
            cell.rounds.push(own);
        }
        record.cells.push(cell);
    }
    samples.flush().expect("room");
    let text = serde_json::to_vec(&record).expect("encodes");
    std::fs::write(folder.path().join(RECORD), text).expect("room for a bench");
    folder
}

/// What no report can do without.
fn lines(folder: &Path) -> usize {
    let file = std::fs::File::open(folder.join(SAMPLES)).expect("samples");
    std::io::BufReader::new(file).split(b'\n').count()
}

fn page(folder: &Path) -> String {
    let record = store::read(folder).expect("a record");
    let timeline = timeline(&record, folder).expect("samples");
    html(&[HtmlSubject { record: &record, timeline }]).expect("draws")
}

fn main() {
    let folder = folder();
    if std::env::args().any(|argument| argument == "--once") {
        let began = Instant::now();
        assert_eq!(black_box(lines(folder.path())), 1_000_001);
        let counted = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let bytes = page(folder.path()).len();
        let seconds = began.elapsed().as_secs_f64();
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        println!(
            "1,000,000 samples: {seconds:.2} s, {:.1} times a count of their lines, {bytes} bytes of HTML, {peak}",
            seconds / counted
        );
        return;
    }
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    criterion.bench_function("report of 1,000,000 samples", |b| {
        b.iter(|| black_box(page(folder.path())));
    });
    criterion.final_summary();
}
