//! Compares the union with a bare directory, kernel overlayfs and the unions
//! of others that are installed. Every round measures each union once, on
//! fresh layers and a fresh mount; printed are the medians and, for each
//! union, the ratio of medians to the row's base with the smallest and largest
//! ratio of the rounds in brackets. With seven rounds these hold the true
//! median ratio with a confidence of 98 % (order statistics).
//!
//! Run as root below `unshare -m --propagation private`:
//! `cargo run --release -p unionbench-fuse --example ratios -- [FOLDER [ROW]]`.
//! `FUSE_OVERLAYFS_2` names a second fuse-overlayfs to measure,
//! `RATIOS_ROUNDS` another number of rounds.

mod measures;
mod unions;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use measures::{Fill, Measure, Row};
use unions::{Mounted, Union};

fn main() -> ExitCode {
    if unions::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let base = std::env::args().nth(1).map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let wanted = std::env::args().nth(2).unwrap_or_default();
    let rounds = std::env::var("RATIOS_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    let unions: Vec<Union> = unions::ALL.iter().copied().filter(|u| u.is_installed()).collect();
    let head: Vec<_> = unions.iter().map(|u| u.name()).collect();
    println!("| measure | base | {} |", head.join(" | "));
    println!("|---|---|{}", "---|".repeat(unions.len()));
    for row in measures::ROWS.iter().filter(|r| r.name.contains(&wanted)) {
        print_row(&base, &unions, row, rounds);
    }
    ExitCode::SUCCESS
}

fn print_row(base: &Path, unions: &[Union], row: &Row, rounds: usize) {
    let measured: Vec<_> = unions.iter().map(|u| row.unions.contains(u)).collect();
    let mut all = vec![Vec::new(); unions.len()];
    for _ in 0..rounds {
        for (i, union) in unions.iter().enumerate().filter(|(i, _)| measured[*i]) {
            all[i].push(once(base, *union, row.layers, row.fill, row.measure));
        }
    }
    let at = unions.iter().position(|u| *u == row.base);
    let reference = at.map(|i| all[i].clone()).unwrap_or_default();
    let cells: Vec<String> = all
        .iter()
        .map(|values| {
            if values.is_empty() {
                return "–".into();
            }
            let middle = median(values);
            let ratios: Vec<f64> = values.iter().zip(&reference).map(|(v, r)| v / r).collect();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            let ratio = middle / median(&reference);
            format!("{middle:.2} = {ratio:.2} [{least:.2}, {most:.2}]")
        })
        .collect();
    println!("| {} | {} | {} |", row.name, row.base.name(), cells.join(" | "));
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn once(base: &Path, union: Union, layers: usize, fill: Fill, measure: Measure) -> f64 {
    let dir = base.join(format!("unionbench-ratios-{}", std::process::id()));
    let layer = |i| if union == Union::Bare { dir.join("m") } else { dir.join(format!("l{i}")) };
    for name in ["u", "w", "m"] {
        std::fs::create_dir_all(dir.join(name)).expect("the folder can be written");
    }
    let lower: Vec<PathBuf> = (0..layers).map(layer).collect();
    for path in &lower {
        std::fs::create_dir_all(path).expect("the folder can be written");
    }
    fill(&lower);
    let mounted = Mounted::new(union, &dir, &lower);
    let value = measure(&dir.join("m"));
    drop(mounted);
    std::fs::remove_dir_all(&dir).expect("the folder can be removed");
    value
}
