//! Real work on a mount and on a bare directory: both must end with the same
//! output and the same files. Both lie at the same path, since programs write
//! it into what they make, and begin with the same files, which on the mount
//! are those of the lower layer.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::{Outcome, Place, Suite};
use crate::command::{must_succeed, on_path};

pub const SUITES: &[Suite] = &[
    ("workload-git", |place| compare(place, &GIT)),
    ("workload-cargo", |place| compare(place, &CARGO)),
    ("workload-npm", |place| compare(place, &NPM)),
    ("workload-dpkg", |place| compare(place, &DPKG)),
    ("workload-apt", |place| compare(place, &APT)),
    ("workload-sqlite", |place| compare(place, &SQLITE)),
];

struct Workload {
    programs: &'static [&'static str],
    /// Puts what the work begins with into a folder.
    seed: fn(&Place, &Path) -> Result<()>,
    /// Works in the folder; what it returns must not depend on the time.
    work: fn(&Place, &Path) -> Result<String>,
    /// Names of folders and files that differ from one run to the next.
    ignored: &'static [&'static str],
    /// It fetches from a registry, so without network it is skipped.
    online: bool,
}

/// Path to kind, mode and content.
type Tree = BTreeMap<PathBuf, String>;

fn compare(place: &Place, workload: &Workload) -> Result<Outcome> {
    if let Some(missing) = workload.programs.iter().find(|program| on_path(program).is_none()) {
        return Ok(Outcome::Skipped(format!("{missing} is not installed")));
    }
    let (lower, at) = (place.fresh("lower")?, place.fresh("at")?);
    match (workload.seed)(place, &lower) {
        Err(error) if workload.online => {
            return Ok(Outcome::Skipped(format!("it cannot be begun here: {error:#}")));
        }
        seeded => seeded?,
    }
    let before = tree(&lower, &[])?;
    must_succeed(Command::new("cp").args(["-a", "-T"]).arg(&lower).arg(&at))?;
    let bare_said = match (workload.work)(place, &at) {
        Err(error) if workload.online => {
            return Ok(Outcome::Skipped(format!("it does not work here at all: {error:#}")));
        }
        said => said?,
    };
    let bare = tree(&at, workload.ignored)?;
    let at = place.fresh("at")?;
    let served = place.mount(&lower, &at, "")?;
    let said = (workload.work)(place, &at)?;
    let shown = tree(&at, workload.ignored)?;
    served.end()?;
    let after = tree(&lower, &[])?;
    if before != after {
        return Ok(Outcome::Failed("the lower layer changed".into()));
    }
    if said != bare_said {
        return Ok(Outcome::Failed(format!("bare: {bare_said:?}; union: {said:?}")));
    }
    if let Some(path) = first_difference(&bare, &shown) {
        let (bare, union) = (bare.get(&path), shown.get(&path));
        return Ok(Outcome::Failed(format!("{}: bare {bare:?}, union {union:?}", path.display())));
    }
    let last = said.lines().last().unwrap_or_default();
    Ok(Outcome::Passed(format!("{} paths and the output agree: {last}", shown.len())))
}

fn first_difference(a: &Tree, b: &Tree) -> Option<PathBuf> {
    a.keys().chain(b.keys()).find(|path| a.get(*path) != b.get(*path)).cloned()
}

fn tree(root: &Path, ignored: &[&str]) -> Result<Tree> {
    let mut out = Tree::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(folder) = left.pop() {
        let listed = std::fs::read_dir(&folder);
        for entry in listed.with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry.context("cannot list an entry")?.path();
            if path.file_name().is_some_and(|name| ignored.iter().any(|i| name == *i)) {
                continue;
            }
            let meta = path
                .symlink_metadata()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            let content = if meta.is_dir() {
                left.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("link to {:?}", std::fs::read_link(&path)?)
            } else if !meta.is_file() {
                // A device is never read: it may have no end.
                format!("device {}", meta.rdev())
            } else {
                let mut hasher = DefaultHasher::new();
                std::fs::read(&path)?.hash(&mut hasher);
                format!("{} bytes, {} links, {:x}", meta.len(), meta.nlink(), hasher.finish())
            };
            let mode = meta.permissions().mode();
            out.insert(path.strip_prefix(root)?.to_path_buf(), format!("{mode:o} {content}"));
        }
    }
    Ok(out)
}

/// What a command printed, standard output alone.
fn said(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null()).stderr(Stdio::null());
    crate::command::output(command)
}

fn nothing(_: &Place, _: &Path) -> Result<()> {
    Ok(())
}

const GIT: Workload = Workload {
    programs: &["git"],
    seed: nothing,
    work: |place, at| {
        let clone = at.join("clone");
        let source = format!("file://{}", place.root().display());
        said(Command::new("git").args(["clone", "--quiet", &source]).arg(&clone))?;
        let git = |words: &[&str]| {
            let mut command = Command::new("git");
            command.current_dir(&clone).args(["-c", "user.name=x", "-c", "user.email=x@y.z"]);
            command.env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z");
            said(command.env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z").args(words))
        };
        std::fs::write(clone.join("README.md"), "changed\n")?;
        git(&["mv", "CHANGELOG.md", "MOVED.md"])?;
        git(&["commit", "--quiet", "--all", "--message", "a change"])?;
        git(&["gc", "--quiet", "--prune=now"])?;
        git(&["checkout", "--quiet", "HEAD~1"])?;
        git(&["checkout", "--quiet", "-"])?;
        git(&["fsck", "--full"])?;
        Ok(format!("{}{}", git(&["status", "--porcelain"])?, git(&["rev-parse", "HEAD"])?))
    },
    ignored: &[".git"],
    online: false,
};

const CARGO: Workload = Workload {
    programs: &[],
    seed: |_, folder| {
        std::fs::create_dir_all(folder.join("crate/src"))?;
        std::fs::write(
            folder.join("crate/Cargo.toml"),
            "[package]\nname = \"small\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[workspace]\n",
        )?;
        let code = "pub fn twice(n: u32) -> u32 {\n    n * 2\n}\n\n#[test]\n\
                    fn doubles() {\n    assert_eq!(twice(21), 42);\n}\n";
        Ok(std::fs::write(folder.join("crate/src/lib.rs"), code)?)
    },
    work: |_, at| {
        let run = |word: &str| {
            let mut command = crate::command::cargo(&at.join("crate"));
            command.env_remove("CARGO_TARGET_DIR").args([word, "--offline", "--quiet"]);
            said(&mut command)
        };
        run("build")?;
        let text = run("test")?;
        std::fs::write(
            at.join("crate/src/main.rs"),
            "fn main() {\n    println!(\"{}\", small::twice(4));\n}\n",
        )?;
        let printed = run("run")?;
        let result: Vec<_> = text.lines().filter_map(|l| l.split("; finished").next()).collect();
        Ok(format!("{}\n{printed}", result.join("\n")))
    },
    ignored: &["target"],
    online: false,
};

const NPM: Workload = Workload {
    programs: &["npm", "node"],
    seed: |_, folder| {
        let text = "{\"name\": \"small\", \"version\": \"1.0.0\", \"private\": true}\n";
        Ok(std::fs::write(folder.join("package.json"), text)?)
    },
    work: |_, at| {
        let mut install = Command::new("npm");
        install.current_dir(at).args(["install", "--no-audit", "--no-fund", "--silent"]);
        said(install.arg("--cache").arg(at.join("cache")).args(["semver@7.7.2", "mkdirp@3.0.1"]))?;
        let mut node = Command::new("node");
        said(node.current_dir(at).args(["-p", "require('semver').inc('1.2.3', 'minor')"]))
    },
    ignored: &["cache"],
    online: true,
};

const DPKG: Workload = Workload {
    programs: &["dpkg", "apt-get"],
    seed: |_, folder| {
        for name in ["info", "updates", "triggers"] {
            std::fs::create_dir_all(folder.join("root/var/lib/dpkg").join(name))?;
        }
        for name in ["status", "available"] {
            std::fs::write(folder.join("root/var/lib/dpkg").join(name), "")?;
        }
        Ok(())
    },
    work: |place, at| {
        let archive = place.path("archive");
        std::fs::create_dir_all(&archive)?;
        let find = || {
            let listed = std::fs::read_dir(&archive).into_iter().flatten().flatten();
            listed.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"))
        };
        if find().is_none() {
            let mut fetch = Command::new("apt-get");
            said(fetch.current_dir(&archive).args(["download", "-q", "hello"]))?;
        }
        let Some(package) = find() else { bail!("apt-get fetched no package") };
        let root = at.join("root");
        let dpkg = |words: &[&str], more: Option<&Path>| {
            let mut command = Command::new("dpkg");
            command.arg(format!("--root={}", root.display())).arg("--force-depends");
            said(command.args(words).args(more))
        };
        dpkg(&["--unpack"], Some(&package))?;
        dpkg(&["--unpack"], Some(&package))?;
        let listed = dpkg(&["--listfiles", "hello"], None)?;
        dpkg(&["--purge", "hello"], None)?;
        dpkg(&["--unpack"], Some(&package))?;
        Ok(listed)
    },
    ignored: &["dpkg.log"],
    online: true,
};

/// A small Debian, changed by its own apt-get in a chroot.
const APT: Workload = Workload {
    programs: &["debootstrap", "chroot", "unshare"],
    seed: |_, folder| {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let name = name.context("this is no Debian: /etc/os-release names no release")?;
        said(Command::new("debootstrap").args(["--variant=minbase", name]).arg(folder))?;
        Ok(())
    },
    work: |_, at| {
        let inside = "set -e; export LC_ALL=C DEBIAN_FRONTEND=noninteractive; \
            apt-get update -q >&2; \
            apt-get install -qy --no-install-recommends hello ed >&2; \
            apt-get purge -qy ed >&2; apt-get install -qy --reinstall hostname >&2; \
            dpkg --verify; dpkg --audit; dpkg-query -W; hello";
        let outside = "mount --bind /dev \"$0/dev\" && exec chroot \"$0\" sh -c \"$1\"";
        let mut command = Command::new("unshare");
        said(command.args(["-m", "sh", "-c", outside]).arg(at).arg(inside))
    },
    // Times are written into the logs, the caches and what was fetched.
    ignored: &["log", "lists", "pkgcache.bin", "srcpkgcache.bin", "aux-cache"],
    online: true,
};

const SQL: &str = "\
create table if not exists t(id integer primary key, word text, n integer);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 5000)
insert into t(word, n) select printf('word %d', x), x * x % 997 from c;
create index if not exists by_n on t(n);
update t set word = word || '!' where n % 3 = 0;
begin; delete from t where n % 5 = 0; rollback;
delete from t where n % 7 = 0;
vacuum;
pragma integrity_check;
pragma foreign_key_check;
select count(*), sum(n), sum(length(word)) from t;
";

const SQLITE: Workload = Workload {
    programs: &["sqlite3"],
    seed: |_, folder| sqlite(&folder.join("seeded.db"), "delete").map(|_| ()),
    work: |_, at| {
        let mut out = String::new();
        for mode in ["delete", "truncate", "persist", "wal"] {
            out += &sqlite(&at.join("seeded.db"), mode)?;
            out += &sqlite(&at.join(format!("{mode}.db")), mode)?;
        }
        Ok(out)
    },
    // A journal that is kept begins with a random number.
    ignored: &["seeded.db-journal", "persist.db-journal"],
    online: false,
};

fn sqlite(database: &Path, journal: &str) -> Result<String> {
    let mut command = Command::new("sqlite3");
    command.arg("-bail").arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start sqlite3")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(format!("pragma journal_mode={journal};\n{SQL}").as_bytes())?;
    }
    let done = child.wait_with_output().context("cannot wait for sqlite3")?;
    if !done.status.success() {
        bail!("sqlite3 ended with {} on {}", done.status, database.display());
    }
    String::from_utf8(done.stdout).context("sqlite3 printed no text")
}
