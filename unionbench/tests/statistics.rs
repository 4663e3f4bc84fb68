//! The statistics against an independent implementation: scipy, where a Python
//! with it is at hand (`UNIONBENCH_PYTHON` names another than `python3`). The
//! values that are committed beside each function are checked everywhere.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use unionbench::stats::change_point::{Settings, change_points};
use unionbench::stats::correction::{benjamini_hochberg, holm, simes};
use unionbench::stats::proportion::proportion;
use unionbench::stats::signed_rank::{hodges_lehmann, signed_rank};

/// Runs `script` with `input` on stdin; `None` where `module` cannot be
/// imported, which is said.
fn python(module: &str, script: &str, input: &serde_json::Value) -> Option<serde_json::Value> {
    let program = std::env::var("UNIONBENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&program).args(["-c", &format!("import {module}")]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: {program} has no {module}: `pip install {module}`, or name another Python by UNIONBENCH_PYTHON"
        );
        return None;
    }
    let mut child = Command::new(&program)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.to_string().as_bytes()).expect("python reads");
    drop(stdin);
    let output = child.wait_with_output().expect("python ends");
    assert!(output.status.success(), "python failed");
    Some(serde_json::from_slice(&output.stdout).expect("python prints JSON"))
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

/// Differences without ties, with ties, and more than are counted out.
fn samples() -> Vec<Vec<f64>> {
    let mut rng = Pcg64Mcg::seed_from_u64(20_261_124);
    let mut all = Vec::new();
    for n in [5, 8, 12, 20, 35] {
        all.push((0..n).map(|_| rng.random_range(-1.0..1.5)).collect());
        all.push((0..n).map(|_| f64::from(rng.random_range(-4..=5_i32))).collect());
    }
    all.push((0..80).map(|_| rng.random_range(-1.0..1.2)).collect());
    all
}

#[test]
fn signed_rank_and_hodges_lehmann_agree_with_scipy() {
    let samples = samples();
    let script = "
import json, sys, numpy as np
from scipy import stats
out = []
for d in json.load(sys.stdin):
    d = np.array(d); nz = d[d != 0]
    # Exact with ties by all sign patterns where there are few enough.
    if len(nz) <= 20:
        r = stats.rankdata(abs(nz)); w = r[nz > 0].sum()
        sums = np.zeros(1)
        for x in r: sums = np.concatenate([sums, sums + x])
        g, l = (sums >= w - 1e-9).mean(), (sums <= w + 1e-9).mean()
    elif len(nz) <= 50 and len(set(abs(nz))) == len(nz):
        w = stats.wilcoxon(nz, alternative='greater', method='exact')
        g, l = w.pvalue, stats.wilcoxon(nz, alternative='less', method='exact').pvalue
    else:
        kw = dict(method='approx', correction=True)
        g = stats.wilcoxon(nz, alternative='greater', **kw).pvalue
        l = stats.wilcoxon(nz, alternative='less', **kw).pvalue
    i, j = np.triu_indices(len(d))
    out.append([g, l, float(np.median((d[i] + d[j]) / 2))])
json.dump(out, sys.stdout)";
    let input = serde_json::json!(samples);
    let Some(found) = python("scipy", script, &input) else { return };
    for (d, expected) in samples.iter().zip(found.as_array().expect("a list")) {
        let expected = numbers(expected);
        let test = signed_rank(d, 0.0);
        // Many ties: scipy approximates where this counts out.
        let tolerance = if d.len() > 20 { 1e-2 } else { 1e-9 };
        assert!((test.p_greater - expected[0]).abs() < tolerance, "{d:?}: {test:?} {expected:?}");
        assert!((test.p_less - expected[1]).abs() < tolerance, "{d:?}: {test:?} {expected:?}");
        let centre = hodges_lehmann(d, 0.95).expect("some").value;
        assert!((centre - expected[2]).abs() < 1e-9, "{centre} {expected:?}");
    }
}

#[test]
fn corrections_and_proportions_agree_with_scipy() {
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    let p: Vec<f64> = (0..25).map(|_| rng.random::<f64>().powi(3)).collect();
    let counts = [[0_u64, 100], [2, 100], [18, 20], [20, 20], [7, 13]];
    let script = "
import json, sys
from scipy import stats
p, counts = json.load(sys.stdin)
m = len(p); order = sorted(range(m), key=lambda i: p[i]); holm = [0.0] * m; top = 0.0
for k, i in enumerate(order):
    top = max(top, min(1.0, (m - k) * p[i])); holm[i] = top
cis = [list(stats.binomtest(k, n).proportion_ci(method='exact')) for k, n in counts]
simes = [min(stats.false_discovery_control(p[i:i + 2])) for i in range(m - 1)]
json.dump([holm, list(stats.false_discovery_control(p)), cis, simes], sys.stdout)";
    let input = serde_json::json!([p, counts]);
    let Some(found) = python("scipy", script, &input) else { return };
    for (own, theirs) in [(holm(&p), &found[0]), (benjamini_hochberg(&p), &found[1])] {
        for (a, b) in own.iter().zip(numbers(theirs)) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }
    for (pair, theirs) in p.windows(2).zip(numbers(&found[3])) {
        assert!((simes(pair) - theirs).abs() < 1e-12, "{pair:?} {theirs}");
    }
    for ([k, n], theirs) in counts.iter().zip(found[2].as_array().expect("a list")) {
        let (own, theirs) = (proportion(*k, *n), numbers(theirs));
        assert!(
            (own.low - theirs[0]).abs() < 1e-9 && (own.high - theirs[1]).abs() < 1e-9,
            "{own:?}"
        );
    }
}

/// MongoDB's implementation, as `signal-processing-algorithms` ships it.
#[test]
fn change_points_agree_with_another_e_divisive() {
    let mut rng = Pcg64Mcg::seed_from_u64(11);
    let levels: [&[(f64, usize)]; 4] = [
        &[(10.0, 15), (14.0, 15)],
        &[(10.0, 12), (13.0, 12), (17.0, 12)],
        &[(10.0, 30)],
        &[(5.0, 20), (9.0, 10)],
    ];
    let series: Vec<Vec<f64>> = levels
        .iter()
        .map(|levels| {
            let all = levels.iter().flat_map(|(level, n)| std::iter::repeat_n(*level, *n));
            all.map(|level| level + rng.random_range(-0.8..0.8)).collect()
        })
        .collect();
    let script = "
import json, sys
from signal_processing_algorithms.energy_statistics.energy_statistics import e_divisive
out = [sorted(int(i) for i in e_divisive(s, pvalue=0.01, permutations=200)) for s in json.load(sys.stdin)]
json.dump(out, sys.stdout)";
    let input = serde_json::json!(series);
    let module = "signal_processing_algorithms";
    let Some(found) = python(module, script, &input) else { return };
    for (series, theirs) in series.iter().zip(found.as_array().expect("a list")) {
        let own: Vec<f64> = change_points(series, Settings::default())
            .iter()
            .map(|change| change.at as f64)
            .collect();
        assert_eq!(own, numbers(theirs), "{series:?}");
    }
}
