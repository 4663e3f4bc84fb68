//! Cases on a mounted union, each in fresh layers; after each the lower layers
//! must be unchanged and a remount must show the same tree.
//!
//! The program runs itself again below `unshare`, so that nothing it mounts is
//! seen outside. Without root or `/dev/fuse` every case is listed as skipped.

mod answers;
mod cases;
mod daemon;
mod hostile;
mod interop;
mod kept;
mod linked;
mod linked_kernel;
mod model;
mod mounting;
mod near;
mod probed;
mod world;

use std::process::{Command, ExitCode};

const INSIDE: &str = "UNIONBENCH_FUSE_INSIDE";

fn main() -> ExitCode {
    if daemon::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let both_ways = [
        cases::ALL,
        hostile::ALL,
        interop::ALL,
        answers::ALL,
        kept::ALL,
        linked::ALL,
        linked_kernel::ALL,
        model::ALL,
    ];
    let both_ways: Vec<_> = both_ways.into_iter().flatten().collect();
    let one_way = daemon::ALL.iter().chain(mounting::ALL).chain(near::ALL).chain(probed::ALL);
    // Directories are read at once, or never for the sake of one name.
    let plain = both_ways
        .iter()
        .copied()
        .chain(one_way)
        .map(|(name, case)| ((*name).to_owned(), case, None));
    let asked = both_ways
        .iter()
        .map(|(name, case)| (format!("{name}_asked_by_name"), case, Some(u32::MAX)));
    let cases: Vec<_> = plain.chain(asked).collect();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        cases.iter().for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = missing() {
        cases.iter().for_each(|(name, ..)| eprintln!("skipped: {name}: {reason}"));
        println!("test result: ok. {} passed; 0 failed", cases.len());
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() {
        return again_inside();
    }
    let filter = args.iter().find(|a| !a.starts_with('-'));
    let chosen = cases.iter().filter(|(name, ..)| filter.is_none_or(|f| name.contains(f.as_str())));
    let (mut passed, mut failed) = (0, 0);
    for (name, case, probes) in chosen {
        world::ask_by_name(*probes);
        let outcome = std::panic::catch_unwind(case);
        passed += usize::from(outcome.is_ok());
        failed += usize::from(outcome.is_err());
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why nothing can be mounted here.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root");
    }
    if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        return Some("/dev/fuse cannot be opened");
    }
    let unshared = Command::new("unshare").args(["-m", "true"]).status();
    if unshared.is_ok_and(|s| s.success()) { None } else { Some("unshare -m is refused") }
}

fn again_inside() -> ExitCode {
    let Ok(me) = std::env::current_exe() else { return ExitCode::FAILURE };
    let status = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status();
    if status.is_ok_and(|s| s.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
