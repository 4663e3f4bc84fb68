//! What the tests of the report's page and of the action need: a browser, Node,
//! and packages of npm under `target/tools/node_modules`.
//!
//! Without them those tests are skipped and say so, hence no error here.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::command::{must_succeed, on_path, say};
use crate::setup::{install_packages, running_as_root};

/// The newest that Debian 12's Node 18 runs.
const PACKAGES: [&str; 4] = [
    "puppeteer-core@24.43.1",
    "axe-core@4.14.1",
    "@action-validator/cli@0.6.0",
    "@action-validator/core@0.6.0",
];
/// Each with the package of Debian that has it.
const PROGRAMS: [(&str, &str); 3] = [("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")];

/// Installs what is missing: programs where this is Debian and root may, packages
/// where the network allows it.
pub fn ready(root: &Path) {
    if std::env::var_os("UNIONBENCH_NODE_MODULES").is_some() {
        return;
    }
    if let Err(error) = programs().and_then(|()| packages(&root.join("target/tools"))) {
        say(&format!("the report's page and the action are not tested ({error:#})"));
    }
}

fn programs() -> Result<()> {
    // Only what is missing: a Node from elsewhere does not go with Debian's npm.
    let missing: Vec<_> =
        PROGRAMS.into_iter().filter(|(program, _)| on_path(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (programs, packages): (Vec<&str>, Vec<&str>) = missing.into_iter().unzip();
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    let remedy = format!("no {}: type `{line}` (Debian)", programs.join(", no "));
    if on_path("apt-get").is_none() || !running_as_root() {
        anyhow::bail!(remedy);
    }
    say("installing what tests of the report's page need (about 1 minute)");
    install_packages(&line).context(remedy)
}

/// Exactly [`PACKAGES`]; a stamp tells that they are there.
fn packages(folder: &Path) -> Result<()> {
    let (modules, wanted) = (folder.join("node_modules"), PACKAGES.join("\n"));
    let stamp = modules.join("unionbench-packages");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    say(&format!(
        "installing {} into target/tools, for tests of the report's page and the action (40 MB, about 15 s)",
        PACKAGES.join(", ")
    ));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]);
    npm.args(["--no-save", "--loglevel", "error", "--prefix"]).arg(folder).args(PACKAGES);
    must_succeed(npm.stdout(Stdio::null())).context("npm could not install its packages")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
