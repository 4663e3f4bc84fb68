//! Compares the union with a bare directory, kernel overlayfs and the unions
//! of others that are installed. Every round measures each row on each union
//! once, on fresh layers and a fresh mount. Printed are, for each union, the
//! median, its ratio to the median of the row's base, and in brackets the
//! smallest and largest ratio of the rounds; then each target of the union
//! with what was measured for it. With five rounds the brackets hold the true
//! median ratio with a confidence of 94 %, with seven 98 % (order statistics).
//!
//! Run as root below `unshare -m --propagation private`:
//! `cargo run --release -p unionbench-fuse --example ratios -- [FOLDER [ROW]]`.
//! It begins no round that would end past `RATIOS_SECONDS` (540) and makes at
//! most `RATIOS_ROUNDS` (7). `FUSE_OVERLAYFS_2` names a second fuse-overlayfs.

mod measures;
mod targets;
mod unions;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use measures::{ROWS, Row};
use unions::{Mounted, Union};

/// What was measured: for each row, for each union, one value a round.
pub struct Measured {
    pub rows: Vec<&'static Row>,
    pub values: Vec<Vec<Vec<f64>>>,
}

fn main() -> ExitCode {
    if unions::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let base = std::env::args().nth(1).map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let wanted = std::env::args().nth(2).unwrap_or_default();
    let rounds: usize = setting("RATIOS_ROUNDS", 7);
    let limit = Duration::from_secs(setting("RATIOS_SECONDS", 540));
    let installed: Vec<Union> = unions::ALL.iter().copied().filter(|u| u.is_installed()).collect();
    let rows: Vec<&Row> = ROWS.iter().filter(|r| r.name.contains(&wanted)).collect();
    let values = vec![vec![Vec::new(); unions::ALL.len()]; rows.len()];
    let mut measured = Measured { rows, values };
    let start = Instant::now();
    for round in 0..rounds {
        let spent = start.elapsed();
        if round > 0 && spent + spent / round as u32 > limit {
            break;
        }
        for (at, row) in measured.rows.iter().enumerate() {
            for union in installed.iter().filter(|u| row.unions.contains(u)) {
                measured.values[at][*union as usize].push(once(&base, *union, row));
            }
        }
        eprintln!("round {} of at most {rounds} after {:.0?}", round + 1, start.elapsed());
    }
    measured.print(&installed);
    targets::print(&measured);
    ExitCode::SUCCESS
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

impl Measured {
    fn print(&self, unions: &[Union]) {
        let head: Vec<_> = unions.iter().map(|u| u.name()).collect();
        println!("| measure | base | {} |", head.join(" | "));
        println!("|---|---|{}", "---|".repeat(unions.len()));
        for (row, values) in self.rows.iter().zip(&self.values) {
            let cells: Vec<String> = unions
                .iter()
                .map(|u| {
                    let own = &values[*u as usize];
                    if own.is_empty() {
                        return "–".into();
                    }
                    let ratio = ratio(own, &values[row.base as usize]);
                    format!(
                        "{:.2}{}",
                        median(own),
                        ratio.map_or(String::new(), |r| format!(" = {r}"))
                    )
                })
                .collect();
            println!("| {} | {} | {} |", row.name, row.base.name(), cells.join(" | "));
        }
        let rounds = self.values.iter().flatten().map(Vec::len).max().unwrap_or(0);
        println!("\n{rounds} rounds.\n");
    }
}

/// A ratio of medians, with the smallest and largest ratio of the rounds.
pub struct Ratio {
    pub middle: f64,
    least: f64,
    most: f64,
}

impl Ratio {
    pub fn about(middle: f64, each: &[f64]) -> Self {
        let least = each.iter().copied().fold(f64::INFINITY, f64::min);
        let most = each.iter().copied().fold(0.0, f64::max);
        Self { middle, least, most }
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Ratios far below one need more digits than those about it.
        let digits = if self.middle < 0.1 && self.most > 0.0 { 4 } else { 2 };
        let Self { middle, least, most } = self;
        write!(f, "{middle:.digits$} [{least:.digits$}, {most:.digits$}]")
    }
}

/// None where the base was not measured or is 0.
pub fn ratio(values: &[f64], base: &[f64]) -> Option<Ratio> {
    let middle = median(values) / median(base);
    let each: Vec<f64> = values.iter().zip(base).map(|(v, b)| v / b).collect();
    middle.is_finite().then(|| Ratio::about(middle, &each))
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn once(base: &Path, union: Union, row: &Row) -> f64 {
    let dir = base.join(format!("unionbench-ratios-{}", std::process::id()));
    let layer = |i| if union == Union::Bare { dir.join("m") } else { dir.join(format!("l{i}")) };
    for name in ["u", "w", "m"] {
        std::fs::create_dir_all(dir.join(name)).expect("the folder can be written");
    }
    let lower: Vec<PathBuf> = (0..row.layers).map(layer).collect();
    for path in &lower {
        std::fs::create_dir_all(path).expect("the folder can be written");
    }
    (row.fill)(&lower);
    let mounted = Mounted::new(union, &dir, &lower, row.options);
    let value = (row.measure)(&dir.join("m"));
    drop(mounted);
    std::fs::remove_dir_all(&dir).expect("the folder can be removed");
    value
}
