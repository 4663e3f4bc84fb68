//! Random operations on the union and on a bare directory that begins with the
//! same merged content: every result and the final trees must agree.

use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{World, tree};

pub const ALL: &[(&str, fn())] = &[("random_operations_match_a_bare_directory", random)];

#[derive(Clone, Debug)]
enum Op {
    Write(usize),
    Append(usize),
    Truncate(usize),
    Mkdir(usize),
    Unlink(usize),
    Rmdir(usize),
    RemoveTree(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Symlink(usize),
    Chmod(usize, u32),
    List(usize),
}

/// Few names, so that operations meet.
const PATHS: &[&str] = &["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a", "f/d", "f/d/b"];

fn op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    prop_oneof![
        path().prop_map(Op::Write),
        path().prop_map(Op::Append),
        path().prop_map(Op::Truncate),
        path().prop_map(Op::Mkdir),
        path().prop_map(Op::Unlink),
        path().prop_map(Op::Rmdir),
        path().prop_map(Op::RemoveTree),
        (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
        (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        path().prop_map(Op::Symlink),
        (path(), 0o600u32..0o700).prop_map(|(p, m)| Op::Chmod(p, m)),
        path().prop_map(Op::List),
    ]
}

/// Carries an operation out below `root`; the errno, or what was seen.
fn run(root: &Path, op: &Op) -> Result<Vec<String>, Option<i32>> {
    use std::os::unix::fs::PermissionsExt;
    let at = |i: &usize| root.join(PATHS[*i]);
    let append = |i: &usize| fs::OpenOptions::new().append(true).open(at(i));
    let done = match op {
        Op::Write(p) => fs::write(at(p), "written"),
        Op::Append(p) => append(p).and_then(|mut f| f.write_all(b"+")),
        Op::Truncate(p) => append(p).and_then(|f| f.set_len(2)),
        Op::Mkdir(p) => fs::create_dir(at(p)),
        Op::Unlink(p) => fs::remove_file(at(p)),
        Op::Rmdir(p) => fs::remove_dir(at(p)),
        Op::RemoveTree(p) => fs::remove_dir_all(at(p)),
        Op::Rename(a, b) => fs::rename(at(a), at(b)),
        Op::Link(a, b) => fs::hard_link(at(a), at(b)),
        Op::Symlink(p) => std::os::unix::fs::symlink("target", at(p)),
        Op::Chmod(p, mode) => match at(p).symlink_metadata() {
            Ok(meta) if meta.is_symlink() => Ok(()),
            _ => fs::set_permissions(at(p), fs::Permissions::from_mode(*mode)),
        },
        Op::List(p) => {
            let listed = fs::read_dir(at(p)).map_err(|e| e.raw_os_error())?;
            let mut names: Vec<_> =
                listed.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            return Ok(names);
        }
    };
    done.map(|()| Vec::new()).map_err(|e| e.raw_os_error())
}

/// The merged content the union of `fill` should show.
fn fill(w: &World) {
    for (path, content) in [
        ("l0/a", "a0"),
        ("l1/a", "a1"),
        ("l1/d/a", "da"),
        ("l0/d/b", "db"),
        ("l1/d/e/a", "dea"),
        ("l1/f/a", "fa"),
        ("l1/f/d/b", "fdb"),
        ("u/d/e/a", "dea of the upper layer"),
        ("u/b", "b of it"),
    ] {
        w.put(path, content);
    }
    for (path, content) in [
        ("bare/a", "a0"),
        ("bare/d/a", "da"),
        ("bare/d/b", "db"),
        ("bare/d/e/a", "dea of the upper layer"),
        ("bare/b", "b of it"),
        ("bare/f/a", "fa"),
        ("bare/f/d/b", "fdb"),
    ] {
        w.put(path, content);
    }
}

fn random() {
    let config = Config { cases: 150, failure_persistence: None, ..Config::default() };
    let ops = proptest::collection::vec(op(), 1..60);
    let outcome = TestRunner::new(config).run(&ops, |ops| {
        let mut w = World::new(2);
        // By turns: read at once, after two names, or never for one name.
        w.options.test_probes = [w.options.test_probes, Some(2)][ops.len() % 2];
        fill(&w);
        let lowers = w.lower_trees();
        w.mount();
        for (i, op) in ops.iter().enumerate() {
            if i == ops.len() / 2 {
                w.unmount();
                w.mount();
            }
            let (union, bare) = (run(&w.path("m"), op), run(&w.path("bare"), op));
            prop_assert_eq!(union, bare, "{:?}", op);
        }
        let bare = tree(&w.path("bare"), false);
        prop_assert_eq!(&w.merged(), &bare);
        w.unmount();
        w.mount();
        prop_assert_eq!(&w.merged(), &bare, "after a remount");
        w.unmount();
        prop_assert_eq!(lowers, w.lower_trees());
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
}
