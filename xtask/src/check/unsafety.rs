//! `unsafe` stands only where the conventions allow it. The compiler denies it
//! everywhere else; this check keeps the permission itself from spreading.

use std::path::Path;

use super::source::Source;

/// One line for each permission given in a place that may not have it.
pub fn violations(sources: &[Source]) -> Vec<String> {
    let permissions = ["allow(unsafe_code", "expect(unsafe_code"];
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !may_be_unsafe(&source.path)) {
        for (index, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("").trim_start();
            let given = code.starts_with("#") && permissions.iter().any(|p| code.contains(p));
            if given {
                found.push(format!(
                    "{}:{}: unsafe belongs into a `sys` module, unionbench-common or unionbench-ebpf",
                    source.path.display(),
                    index + 1
                ));
            }
        }
    }
    found
}

fn may_be_unsafe(path: &Path) -> bool {
    path.starts_with("unionbench-common")
        || path.starts_with("unionbench-ebpf")
        || path.iter().any(|part| part == "sys" || part == "sys.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str) -> usize {
        violations(&[Source { path: path.into(), text: "#![allow(unsafe_code)]".into() }]).len()
    }

    #[test]
    fn only_sys_and_the_kernel_side_may_be_unsafe() {
        assert_eq!(check("unionbench/src/sys/mount.rs"), 0);
        assert_eq!(check("unionbench-fuse/src/sys.rs"), 0);
        assert_eq!(check("unionbench-common/src/lib.rs"), 0);
        assert_eq!(check("unionbench/src/probe/session.rs"), 1);
    }
}
