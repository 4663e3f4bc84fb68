//! The HTML report as a browser shows it: no sideways scroll, no error, no
//! request, every figure drawn, and nothing serious that axe-core finds, at 1280
//! and 400 pixels in light and dark.
//!
//! Needs `chromium`, `node`, and npm's `puppeteer-core` and `axe-core`, which
//! are looked for in the folder `UNIONBENCH_NODE_MODULES` names, or in
//! `target/tools/node_modules`; says so where they are not.

mod skip;

use std::path::{Path, PathBuf};
use std::process::Command;

use skip::skipped;
use unionbench::report::{HtmlSubject, html, timeline};
use unionbench::store;

fn node_modules() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("UNIONBENCH_NODE_MODULES")
        .map_or_else(|| root.join("target/tools/node_modules"), PathBuf::from)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A run of the smoke scenario; `None` where this machine cannot mount.
fn record(folder: &Path) -> Option<PathBuf> {
    let output = Command::new(env!("CARGO_BIN_EXE_unionbench"))
        .args([
            "run",
            "--quiet",
            "--rounds",
            "2",
            "--format",
            "json",
            "--set",
            "stack.layers=[1,2,4]",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/smoke.toml"))
        .arg("--results")
        .arg(folder)
        .output()
        .expect("the program starts");
    if !output.status.success() {
        skipped("page", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let runs = std::fs::read_dir(folder.join("smoke")).expect("results").flatten();
    runs.map(|entry| entry.path()).next()
}

#[test]
fn browser_shows_the_page_whole_at_two_widths_and_in_both_themes() {
    let modules = node_modules();
    let (Some(chromium), Some(node)) = (on_path("chromium"), on_path("node")) else {
        skipped("page", "no chromium or node: `apt-get install chromium nodejs`");
        return;
    };
    for module in ["puppeteer-core", "axe-core"] {
        if !modules.join(module).is_dir() {
            let remedy = "`npm install --prefix target/tools puppeteer-core axe-core`";
            skipped("page", format!("no {module}: {remedy}"));
            return;
        }
    }
    let folder = tempfile::tempdir().expect("room for a test");
    let Some(run) = record(folder.path()) else { return };
    let record = store::read(&run).expect("a record");
    let subject =
        || HtmlSubject { record: &record, timeline: timeline(&record, &run).expect("samples") };
    let page = folder.path().join("page.html");
    std::fs::write(&page, html(&[subject(), subject()]).expect("draws")).expect("room");
    let output = Command::new(node)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/check.js"))
        .args([&chromium, &page, &modules])
        .output()
        .expect("node starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found.len(), 4);
    for view in &found {
        let empty = |key: &str| view[key].as_array().is_some_and(Vec::is_empty);
        assert_eq!(view["scrolls"], false, "{view}");
        assert_eq!(view["opened"], false, "with its tables open: {view}");
        assert!(empty("spoken") && empty("asked") && empty("violations"), "{view}");
        let figures = view["figures"].as_array().expect("a list");
        assert!(figures.len() >= 10 && figures.iter().all(|drawn| drawn == true), "{view}");
        assert!(view["smallest"].as_f64().is_some_and(|size| size >= 9.0), "{view}");
        assert!(view["passes"].as_u64().is_some_and(|n| n > 10), "axe looked at nothing: {view}");
    }
    let of = |width: u64, scheme: &str| {
        let view = found.iter().find(|v| v["width"] == width && v["scheme"] == scheme);
        view.expect("seen")["background"].clone()
    };
    assert_ne!(of(1280, "light"), of(1280, "dark"), "the themes are the same");
}
