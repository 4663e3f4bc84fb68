use super::*;
use crate::record::sample;
use crate::record::{Counter, Lab};
use crate::unit::LatencyUnit;

const POLICY: Uniform = Uniform { instructions: 0.005, min_effect: 0.1 };

/// The sample record with `n` rounds without probes that scatter a little.
fn record(n: u32) -> Record {
    scaled(n, "", 1.0)
}

/// The same with all latencies of `backend` multiplied; `all` means each.
fn scaled(n: u32, backend: &str, factor: f64) -> Record {
    let mut record = sample::record();
    for (position, cell) in record.cells.iter_mut().enumerate() {
        let factor = if cell.backend == backend || backend == "all" { factor } else { 1.0 };
        let probed: Vec<_> = cell.rounds.iter().filter(|r| r.probes).cloned().collect();
        let Some(first) = cell.rounds.first().cloned() else { continue };
        cell.rounds = (0..n)
            .map(|number| {
                let mut round = first.clone();
                round.round = number;
                // A fixed pattern of up to 2 %, another for each cell.
                let noise = 1.0 + f64::from((number * 7 + position as u32 * 3) % 5) / 250.0;
                if let Some(latency) = &mut round.latency {
                    latency.median = (latency.median as f64 * factor * noise) as u64;
                    for quantile in [&mut latency.p25, &mut latency.p75, &mut latency.min] {
                        *quantile = (*quantile as f64 * factor) as u64;
                    }
                }
                round
            })
            .chain(probed)
            .collect();
    }
    record
}

/// As if measured in the lab.
fn lab(factor: f64) -> Record {
    let mut record = scaled(2, "overlayfs", factor);
    record.latency_unit = LatencyUnit::Instructions;
    record.lab = Some(Lab {
        mode: "count".into(),
        qemu_version: "7.2".into(),
        machine: "pc-q35-7.2".into(),
        cpu_model: "Nehalem".into(),
        accelerator: "tcg".into(),
        n_cpus: 1,
        memory_bytes: 2 << 30,
        kernel_release: "6.1.0".into(),
        kernel_sha256: "aa".into(),
        kernel_package: None,
        initramfs_sha256: "bb".into(),
        binary_sha256: "cc".into(),
        kernel_command_line: "nokaslr".into(),
        wall_ms: 1,
    });
    record
}

fn ratios(base: &Record, new: &Record) -> Vec<Verdict> {
    let comparison = compare(base, new, &POLICY).expect("comparable");
    let rows = comparison.rows.iter().filter(|row| row.basis == Basis::Ratio);
    rows.map(|row| row.verdict).collect()
}

fn refusal(base: &Record, new: &Record) -> String {
    compare(base, new, &POLICY).expect_err("refused").to_string()
}

#[test]
fn slower_backend_is_found_in_every_cell() {
    assert_eq!(ratios(&record(12), &scaled(12, "overlayfs", 1.3)), vec![Verdict::Fail; 8]);
    assert_eq!(ratios(&record(12), &scaled(12, "overlayfs", 0.7)), vec![Verdict::Better; 8]);
}

#[test]
fn slower_machine_changes_nothing() {
    assert_eq!(ratios(&record(12), &scaled(12, "all", 2.0)), vec![Verdict::Pass; 8]);
}

#[test]
fn change_below_the_smallest_effect_passes() {
    assert_eq!(ratios(&record(12), &scaled(12, "overlayfs", 1.05)), vec![Verdict::Pass; 8]);
}

#[test]
fn few_rounds_tell_nothing_and_say_how_many_would() {
    for n in [1, 4, 7] {
        let comparison =
            compare(&record(n), &scaled(n, "overlayfs", 2.0), &POLICY).expect("comparable");
        let row = comparison.rows.iter().find(|row| row.basis == Basis::Ratio).expect("ratios");
        assert_eq!(row.verdict, Verdict::Inconclusive, "{n} rounds");
        assert!(row.why.contains("need 8 rounds"), "{}", row.why);
        assert_ne!(comparison.verdict(), Verdict::Pass);
    }
}

#[test]
fn lab_figures_are_compared_exactly() {
    let base = lab(1.0);
    let verdict =
        |factor: f64| compare(&base, &lab(factor), &POLICY).expect("comparable").verdict();
    assert_eq!(verdict(1.0), Verdict::Pass);
    assert_eq!(verdict(1.004), Verdict::Pass);
    assert_eq!(verdict(1.01), Verdict::Fail);
    assert_eq!(verdict(0.9), Verdict::Pass);
}

/// A lab subject whose cells have these quantiles: median, p25, p75, min.
fn quantiles(values: [f64; 4]) -> Subject {
    let mut subject = Subject::of(&lab(1.0)).expect("figures");
    for cell in subject.cells.iter_mut().filter(|cell| !cell.metrics.is_empty()) {
        cell.metrics = QUANTILES
            .iter()
            .zip(values)
            .map(|(name, value)| ((*name).to_owned(), Figure::Exact(value)))
            .collect();
    }
    subject
}

#[test]
fn a_quantile_that_jumps_between_modes_alone_does_not_fail() {
    let base = quantiles([230e3, 190e3, 240e3, 188e3]);
    let verdict = |values| {
        compare_subjects(&base, &quantiles(values), &POLICY).expect("comparable").verdict()
    };
    assert_eq!(verdict([230e3, 226e3, 240e3, 188e3]), Verdict::Pass);
    assert_eq!(verdict([236e3, 197e3, 246e3, 192e3]), Verdict::Fail, "all of them rose");
}

#[test]
fn base_of_several_runs_is_judged_by_the_two_quantiles_that_moved_least() {
    let runs =
        [quantiles([230e3, 190e3, 240_000.0, 188e3]), quantiles([231e3, 226e3, 240_100.0, 195e3])];
    let base = Subject::merged(&runs.iter().collect::<Vec<_>>()).expect("one identity");
    let check = |values, metric: &str, verdict| {
        let compared = compare_subjects(&base, &quantiles(values), &POLICY).expect("comparable");
        for row in &compared.rows {
            assert_eq!((row.metric.as_str(), row.verdict), (metric, verdict), "{values:?}");
        }
    };
    // One that jumps says nothing, be it that which moved least before.
    check([231e3, 290e3, 260_000.0, 250e3], "instructions.median", Verdict::Pass);
    check([260e3, 290e3, 240_050.0, 250e3], "instructions.p75", Verdict::Pass);
    // Median and p75 rose by one percent, which is told of the one that rose less.
    check([233_500.0, 190e3, 242_500.0, 188e3], "instructions.p75", Verdict::Fail);
    check([227e3, 190e3, 237_500.0, 188e3], "instructions.p75", Verdict::Better);
}

#[test]
fn runs_of_another_seed_or_none_make_no_base() {
    let (one, mut other) = (quantiles([1.0; 4]), quantiles([1.0; 4]));
    other.identity.seed += 1;
    assert!(matches!(Subject::merged(&[&one, &other]), Err(CompareError::Different { .. })));
    assert!(matches!(Subject::merged(&[]), Err(CompareError::Empty)));
}

#[test]
fn one_more_of_what_is_counted_fails_and_names_the_counter() {
    let base = record(12);
    let mut new = record(12);
    for round in new.cells.iter_mut().flat_map(|c| &mut c.rounds) {
        for counter in &mut round.counters {
            counter.value += 1;
        }
    }
    let comparison = compare(&base, &new, &POLICY).expect("comparable");
    assert_eq!(comparison.verdict(), Verdict::Fail);
    assert!(comparison.of(Verdict::Fail).all(|row| row.metric == "copy_ups"));
    assert!(comparison.text(true).contains("copy_ups"), "{comparison:?}");
}

#[test]
fn count_that_was_zero_may_not_rise() {
    let with = |value| {
        let mut record = record(12);
        for round in record.cells.iter_mut().flat_map(|c| &mut c.rounds).filter(|r| r.probes) {
            let engine = "tracepoint".to_owned();
            round.counters.push(Counter { name: "fsyncs".into(), engine, value });
        }
        record
    };
    let comparison = compare(&with(0), &with(1), &POLICY).expect("comparable");
    assert!(comparison.of(Verdict::Fail).count() > 0);
    assert!(comparison.of(Verdict::Fail).all(|r| r.metric == "fsyncs" && r.quotient.is_none()));
}

#[test]
fn what_only_the_new_side_counted_does_not_pass() {
    let mut new = record(12);
    for round in new.cells.iter_mut().flat_map(|c| &mut c.rounds).filter(|r| r.probes) {
        let engine = "tracepoint".to_owned();
        round.counters.push(Counter { name: "fsyncs".into(), engine, value: 3 });
    }
    let comparison = compare(&record(12), &new, &POLICY).expect("comparable");
    assert_eq!(comparison.verdict(), Verdict::Inconclusive);
    // The control's cells held nothing before, so all of them is new.
    let mut unsure = comparison.of(Verdict::Inconclusive);
    assert!(unsure.all(|row| matches!(row.metric.as_str(), "fsyncs" | "figures")));
}

#[test]
fn a_probe_that_saw_nothing_counted_zero() {
    let with = |seen: bool| {
        let mut record = record(12);
        record.probes.push(crate::record::ProbeStatus {
            operation: "ext4_fsync".into(),
            backend: "any".into(),
            engine: "tracepoint".into(),
            symbol: "ext4_sync_file_enter".into(),
            attached: true,
            errno: None,
            reason: String::new(),
        });
        for round in record.cells.iter_mut().flat_map(|c| &mut c.rounds).filter(|r| r.probes) {
            if let (true, Some(first)) = (seen, round.kernel.first().cloned()) {
                let operation = "ext4_fsync".to_owned();
                round.kernel.push(crate::record::KernelHistogram { operation, ..first });
            }
        }
        record
    };
    let comparison = compare(&with(false), &with(true), &POLICY).expect("comparable");
    assert_eq!(comparison.verdict(), Verdict::Fail);
    assert!(comparison.of(Verdict::Fail).all(|row| row.metric == "calls.ext4_fsync"));
}

#[test]
fn what_is_never_twice_the_same_is_not_compared() {
    let with = |value| {
        let mut record = record(12);
        for round in record.cells.iter_mut().flat_map(|c| &mut c.rounds).filter(|r| r.probes) {
            for name in ["samples", "user_samples", "syscalls.202", "page_cache_added"] {
                let engine = "tracepoint".to_owned();
                round.counters.push(Counter { name: name.into(), engine, value });
            }
        }
        record
    };
    let comparison = compare(&with(1), &with(50), &POLICY).expect("comparable");
    assert_eq!(comparison.verdict(), Verdict::Pass, "{comparison:?}");
}

#[test]
fn missing_cell_or_metric_is_inconclusive_with_its_reason() {
    let base = record(12);
    let mut new = record(12);
    let gone = new.cells.remove(1).id;
    let comparison = compare(&base, &new, &POLICY).expect("comparable");
    assert_eq!(comparison.verdict(), Verdict::Inconclusive);
    let row = comparison.of(Verdict::Inconclusive).next().expect("told");
    assert_eq!(
        (row.cell.as_str(), row.why.as_str()),
        (gone.as_str(), "the new record does not hold the cell")
    );
    let mut new = record(12);
    new.cells.iter_mut().flat_map(|c| &mut c.rounds).for_each(|r| r.counters.clear());
    let comparison = compare(&base, &new, &POLICY).expect("comparable");
    assert!(comparison.of(Verdict::Inconclusive).all(|r| r.why.contains("metric")));
    assert_eq!(comparison.verdict(), Verdict::Inconclusive);
}

#[test]
fn cell_that_became_invalid_is_not_passed() {
    let base = record(12);
    let mut new = record(12);
    new.cells[1].status = crate::record::CellStatus::Invalid { reason: "2 events lost".into() };
    let comparison = compare(&base, &new, &POLICY).expect("comparable");
    assert_eq!(comparison.verdict(), Verdict::Inconclusive);
    assert!(comparison.text(true).contains("2 events lost"), "{comparison:?}");
}

#[test]
fn what_is_not_the_same_measurement_is_refused() {
    let base = record(12);
    let change = |edit: &dyn Fn(&mut Record)| {
        let mut new = record(12);
        edit(&mut new);
        refusal(&base, &new)
    };
    assert!(change(&|r| r.scenario.name = "other".into()).contains("scenarios"));
    assert!(change(&|r| r.scenario.sha256 = "01".into()).contains("files differ"));
    assert!(change(&|r| r.scenario.overrides = vec!["stack.layers=9".into()]).contains("--set"));
    assert!(change(&|r| r.seed = 8).contains("seeds"));
    assert!(change(&|r| r.stacks[0].hash = "ff".into()).contains("stacks"));
    assert!(change(&|r| r.latency_unit = LatencyUnit::Instructions).contains("never converted"));
    assert!(change(&|r| r.cells.clear()).contains("no cell of it"));
    let mut new = lab(1.0);
    new.lab.as_mut().expect("it has one").qemu_version = "8.0".into();
    assert!(refusal(&lab(1.0), &new).contains("QEMU is 7.2 and 8.0"));
    new.lab = None;
    assert!(refusal(&lab(1.0), &new).contains("lab"));
}

#[test]
fn options_of_a_backend_are_what_is_compared() {
    let (base, mut new) = (record(12), record(12));
    new.scenario.overrides = vec!["backend.1.options.fsync=strict".into()];
    new.backends[1].options_in_force = vec!["fsync=strict".into()];
    let comparison = compare(&base, &new, &POLICY).expect("comparable");
    assert!(comparison.notes.iter().any(|note| note.contains("fsync=strict")));
}

#[test]
fn figures_that_are_no_numbers_are_refused() {
    let base = Subject::of(&record(12)).expect("figures");
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        let mut new = base.clone();
        let cell = new.cells.iter_mut().find(|c| c.metrics.contains_key("copy_ups"));
        cell.expect("counted").metrics.insert("copy_ups".into(), Figure::Exact(bad));
        let error = compare_subjects(&base, &new, &POLICY).expect_err("refused");
        assert!(matches!(error, CompareError::Unsound { .. }), "{error}");
    }
}

#[test]
fn a_record_compared_with_a_slower_one() {
    let comparison =
        compare(&record(12), &scaled(12, "overlayfs", 1.3), &POLICY).expect("comparable");
    insta::assert_snapshot!(format!("{}\nall:\n{}", comparison.text(false), comparison.text(true)));
}

#[test]
fn record_that_holds_a_cell_twice_is_refused() {
    let (base, mut new) = (record(8), record(8));
    let again = new.cells[1].clone();
    new.cells.push(again);
    let error = compare(&base, &new, &POLICY).expect_err("the second would go unseen");
    assert!(error.to_string().contains("holds it twice"), "{error}");
}

#[test]
fn of_stacks_that_differ_one_is_named() {
    let (base, mut new) = (record(8), record(8));
    let last = new.stacks.last_mut().expect("it has stacks");
    last.hash = "f00d".into();
    let error = compare(&base, &new, &POLICY).expect_err("other stacks").to_string();
    assert!(error.contains("hashes differ") && error.contains("and f00d;"), "{error}");
}

#[test]
fn more_runs_of_a_base_leave_less_room_beyond_their_range() {
    let runs = |n: usize| {
        let subject = |k: usize| {
            // Of the first two runs the second is 1 % above.
            Subject::of(&lab(if k == 1 { 1.01 } else { 1.0 })).expect("figures")
        };
        let all: Vec<Subject> = (0..n).map(subject).collect();
        Subject::merged(&all.iter().collect::<Vec<_>>()).expect("of one identity")
    };
    let fails = |base: &Subject, factor: f64| {
        let new = Subject::of(&lab(factor)).expect("figures");
        let compared = compare_subjects(base, &new, &POLICY).expect("comparable");
        compared.of(Verdict::Fail).any(|row| row.cell.starts_with("overlayfs"))
    };
    let (five, eleven) = (runs(5), runs(11));
    assert_eq!(five.cells[0].n_runs, Some(5));
    // 1 % of range, 0.5 % of tolerance, and of the range a half or two ninths.
    assert!(fails(&eleven, 1.019) && !fails(&five, 1.019));
    assert!(fails(&five, 1.022) && !fails(&eleven, 1.016));
    // A base that does not know of how many runs it is allows the whole width.
    let mut unknown = eleven;
    unknown.cells.iter_mut().for_each(|cell| cell.n_runs = None);
    assert!(!fails(&unknown, 1.022) && fails(&unknown, 1.027));
}

/// The same with one figure of each round of overlayfs multiplied.
fn partly(n: u32, figure: fn(&mut crate::record::Summary) -> &mut u64, factor: f64) -> Record {
    let mut record = record(n);
    let cells = record.cells.iter_mut().filter(|cell| cell.backend == "overlayfs");
    for latency in cells.flat_map(|cell| &mut cell.rounds).filter_map(|r| r.latency.as_mut()) {
        let own = figure(latency);
        *own = (*own as f64 * factor) as u64;
    }
    record
}

#[test]
fn slowdown_of_some_operations_is_found_and_the_figure_named() {
    let check = |new: &Record, metric: &str| {
        let comparison = compare(&record(12), new, &POLICY).expect("comparable");
        let failed: Vec<&str> =
            comparison.of(Verdict::Fail).map(|row| row.metric.as_str()).collect();
        assert_eq!(failed, vec![metric; 8], "{comparison:?}");
    };
    check(&partly(12, |latency| &mut latency.median, 1.3), "latency.median");
    check(&partly(12, |latency| &mut latency.min, 1.3), "latency.min");
}

#[test]
fn what_became_slower_in_part_and_faster_in_part_does_not_pass() {
    let mut new = partly(12, |latency| &mut latency.min, 0.5);
    // So little that it does not fail, and so much that it is not told from that.
    for (n, latency) in (0..).zip(
        new.cells
            .iter_mut()
            .filter(|cell| cell.backend == "overlayfs")
            .flat_map(|cell| &mut cell.rounds)
            .filter_map(|round| round.latency.as_mut()),
    ) {
        latency.median = (latency.median as f64 * if n % 2 == 0 { 1.3 } else { 0.95 }) as u64;
    }
    let comparison = compare(&record(12), &new, &POLICY).expect("comparable");
    assert!(comparison.of(Verdict::Inconclusive).all(|row| row.metric == "latency.median"));
    assert_eq!(comparison.of(Verdict::Inconclusive).count(), 8, "{comparison:?}");
}

#[test]
fn what_slows_only_some_operations_of_the_control_changes_nothing() {
    let mut new = record(12);
    let control = new.backends.iter().find(|backend| backend.control).expect("one").name.clone();
    let cells = new.cells.iter_mut().filter(|cell| cell.backend == control);
    for latency in cells.flat_map(|cell| &mut cell.rounds).filter_map(|r| r.latency.as_mut()) {
        latency.median *= 2;
    }
    assert_eq!(ratios(&record(12), &new), vec![Verdict::Pass; 8]);
}

#[test]
fn eight_rounds_find_what_slows_every_operation_in_eight_cells() {
    assert_eq!(ratios(&record(8), &scaled(8, "overlayfs", 1.3)), vec![Verdict::Fail; 8]);
}

#[test]
fn a_pass_of_rounds_too_few_to_fail_says_so() {
    let comparison = compare(&record(5), &record(5), &POLICY).expect("comparable");
    let mut rows = comparison.rows.iter().filter(|row| row.basis == Basis::Ratio);
    assert!(rows.all(|row| row.verdict == Verdict::Pass
        && row.why.contains("too few rounds to find a slowdown: 8 cells need 8 rounds")));
    let text = comparison.text(true);
    assert!(text.contains("too few rounds for an interval") && !text.contains('?'), "{text}");
}

#[test]
fn base_of_an_older_program_is_not_passed_over() {
    let mut base = Subject::of(&record(12)).expect("figures");
    for cell in &mut base.cells {
        if let Some(medians) = cell.metrics.remove(RATIOS[0]) {
            cell.metrics.remove(RATIOS[1]);
            cell.metrics.insert(LATENCY.into(), medians);
        }
    }
    let new = Subject::of(&record(12)).expect("figures");
    let comparison = compare_subjects(&base, &new, &POLICY).expect("comparable");
    assert_eq!(comparison.verdict(), Verdict::Inconclusive);
    assert!(comparison.of(Verdict::Inconclusive).any(|row| row.why.contains("save it anew")));
}

/// A lab's record whose cells have three modes, so many operations in each, all of
/// overlayfs multiplied.
fn moded(counts: [usize; 3], factor: f64) -> Record {
    let mut record = lab(1.0);
    for cell in &mut record.cells {
        let factor = if cell.backend == "overlayfs" { factor } else { 1.0 };
        let samples = [187_600.0, 236_100.0, 391_400.0].into_iter().zip(counts);
        let mut samples: Vec<u64> =
            samples.flat_map(|(v, n)| std::iter::repeat_n((v * factor) as u64, n)).collect();
        for round in cell.rounds.iter_mut().filter(|round| !round.probes) {
            let histogram = crate::stats::hdr::of_samples(&samples).expect("in range");
            round.histogram = crate::stats::hdr::encode(&histogram).expect("encodes");
            round.latency = crate::stats::summary(&mut samples);
        }
    }
    record
}

/// A base of runs whose modes have other shares.
fn moded_base() -> Subject {
    let shares = [[4, 24, 12], [12, 16, 12], [25, 5, 10], [3, 15, 22], [10, 19, 11]];
    let runs = shares.map(|counts| Subject::of(&moded(counts, 1.0)).expect("figures"));
    Subject::merged(&runs.iter().collect::<Vec<_>>()).expect("of one identity")
}

fn verdicts(base: &Subject, new: &Record, backend: &str) -> Vec<(String, Verdict)> {
    let new = Subject::of(new).expect("figures");
    let compared = compare_subjects(base, &new, &POLICY).expect("comparable");
    let rows = compared
        .rows
        .into_iter()
        .filter(|row| row.cell.starts_with(backend) && row.metric.starts_with(INSTRUCTIONS));
    rows.map(|row| (row.metric, row.verdict)).collect()
}

#[test]
fn a_percent_is_found_where_quantiles_jump_between_modes() {
    let base = moded_base();
    let mut without = base.clone();
    without.cells.iter_mut().for_each(|cell| {
        cell.metrics.remove(OPERATIONS);
    });
    let new = moded([20, 8, 12], 1.01);
    let found = verdicts(&base, &new, "overlayfs");
    assert!(!found.is_empty());
    let expected = (OPERATIONS.to_owned(), Verdict::Fail);
    assert!(found.iter().all(|row| *row == expected), "{found:?}");
    let by_quantiles = verdicts(&without, &new, "overlayfs");
    assert!(by_quantiles.iter().all(|(_, v)| *v == Verdict::Pass), "{by_quantiles:?}");
    let faster = verdicts(&base, &moded([20, 8, 12], 0.99), "overlayfs");
    assert!(faster.iter().all(|(_, v)| *v == Verdict::Better), "{faster:?}");
}

#[test]
fn other_shares_of_the_same_modes_pass() {
    for counts in [[30, 2, 8], [2, 30, 8], [4, 6, 30], [13, 14, 13]] {
        let found = verdicts(&moded_base(), &moded(counts, 1.0), "");
        assert!(found.iter().all(|(_, v)| *v != Verdict::Fail), "{counts:?}: {found:?}");
    }
}

#[test]
fn two_runs_of_a_lab_tell_a_percent_by_all_operations() {
    let base = Subject::of(&moded([4, 24, 12], 1.0)).expect("figures");
    let found = verdicts(&base, &moded([10, 20, 10], 1.01), "overlayfs");
    assert!(found.iter().all(|row| *row == (OPERATIONS.to_owned(), Verdict::Fail)), "{found:?}");
}

#[test]
fn a_base_without_operations_is_judged_by_quantiles_and_says_so() {
    let mut base = moded_base();
    base.cells.iter_mut().for_each(|cell| {
        cell.metrics.remove(OPERATIONS);
    });
    let new = Subject::of(&moded([4, 24, 12], 1.0)).expect("figures");
    let compared = compare_subjects(&base, &new, &POLICY).expect("comparable");
    assert!(compared.notes.iter().any(|note| note.contains("save the base anew")));
    assert_eq!(compared.verdict(), Verdict::Pass, "{}", compared.text(true));
}

#[test]
fn damaged_histogram_is_refused_with_its_cell() {
    let mut new = moded([4, 24, 12], 1.0);
    let cell = new.cells.iter_mut().find(|cell| !cell.rounds.is_empty()).expect("rounds");
    let id = cell.id.clone();
    cell.rounds.iter_mut().for_each(|round| round.histogram = "not base64!".into());
    let error = compare(&moded([4, 24, 12], 1.0), &new, &POLICY).expect_err("refused");
    assert!(error.to_string().starts_with(&format!("cannot compare {id}: ")), "{error}");
}
