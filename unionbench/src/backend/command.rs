//! Any mount command, given in the scenario.
//!
//! The command is split into words as a shell would, but no shell runs it, and
//! placeholders are filled in afterwards, so that paths with spaces stay whole.
//! It may mount and end, serve in the foreground, or leave a daemon behind.

use std::ffi::OsString;
use std::path::Path;

use super::call::Call;
use super::{Backend, BackendError, Request, Union, fuse};
use crate::plan::BackendPlan;
use crate::record::Availability;
use crate::stack::Whiteout;

/// The key of `extra` that holds the command.
pub const COMMAND: &str = "command";
/// The key that says which whiteouts the layers shall hold.
pub const WHITEOUTS: &str = "whiteouts";

pub(super) struct Command;

impl Backend for Command {
    fn availability(&self) -> Availability {
        Availability::Ok
    }

    fn availability_of(&self, plan: &BackendPlan) -> Availability {
        let program = split(plan).into_iter().next().unwrap_or_default();
        match fuse::find(&program) {
            Some(_) => Availability::Ok,
            None => Availability::Unsupported {
                reason: format!("no {program} on this machine: install what `command` starts"),
            },
        }
    }

    fn options(&self, plan: &BackendPlan, _: bool) -> Vec<String> {
        fuse::options(plan)
    }

    fn whiteouts(&self, plan: &BackendPlan) -> Whiteout {
        match plan.extra.get(WHITEOUTS).map(String::as_str) {
            Some("aufs") => Whiteout::Aufs,
            Some("unionfs-fuse") => Whiteout::Unionfs,
            _ => Whiteout::CharDev,
        }
    }

    fn calls(&self, request: &Request<'_>) -> Result<Vec<Call>, BackendError> {
        let argv = split(request.plan).into_iter().flat_map(|word| filled(&word, request));
        Ok(vec![Call::Keep { argv: argv.map(OsString::from).collect() }])
    }

    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError> {
        fuse::mount(request, &self.calls(request)?)
    }
}

/// The words of the command; the scenario's check has seen that it has some.
fn split(plan: &BackendPlan) -> Vec<String> {
    plan.extra.get(COMMAND).and_then(|text| shlex::split(text)).unwrap_or_default()
}

/// A word with its placeholders filled in; one with `{each}` becomes a word
/// for each lower layer.
fn filled(word: &str, request: &Request<'_>) -> Vec<String> {
    if word.contains("{each}") {
        let each = request.lower.iter().map(|path| word.replace("{each}", &text(path)));
        return each.map(|word| filled_once(&word, request)).collect();
    }
    vec![filled_once(word, request)]
}

fn filled_once(word: &str, request: &Request<'_>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        // An unknown placeholder was refused with the scenario: what is left
        // of one here comes from a path and stays.
        let Some((name, behind)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        match value(name, request) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&format!("{{{name}}}")),
        }
        rest = behind;
    }
    out + rest
}

fn value(name: &str, request: &Request<'_>) -> Option<String> {
    let (name, suffix) = name.split_once(':').unwrap_or((name, ""));
    Some(match name {
        "lower" => {
            let layers = request.lower.iter().map(|path| text(path) + suffix);
            layers.collect::<Vec<_>>().join(":")
        }
        "upper" => text(request.upper),
        "work" => text(request.work),
        "target" => text(request.target),
        "options" => fuse::options(request.plan).join(","),
        _ => return None,
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::backend::tests::{plan, request};

    fn check(command: &str, expected: &[&str]) {
        let mut plan = plan("command", &[("ro", ""), ("x", "1")]);
        plan.extra.insert(COMMAND.to_owned(), command.to_owned());
        let lower = [PathBuf::from("/a b/l0"), PathBuf::from("/l1")];
        let calls = Command.calls(&request(&plan, &lower)).expect("calls");
        let argv = expected.iter().map(OsString::from).collect();
        assert_eq!(calls, [Call::Keep { argv }], "{command}");
    }

    #[test]
    fn placeholders_are_filled_in_after_splitting() {
        check(
            "mount -t overlay -o 'lowerdir={lower},upperdir={upper},workdir={work},{options}' o {target}",
            &[
                "mount",
                "-t",
                "overlay",
                "-o",
                "lowerdir=/a b/l0:/l1,upperdir=/u,workdir=/w,ro,x=1",
                "o",
                "/m",
            ],
        );
        check("u {upper}=RW:{lower:=RO} {target}", &["u", "/u=RW:/a b/l0=RO:/l1=RO", "/m"]);
        check("u --layer={each} -- {target}", &["u", "--layer=/a b/l0", "--layer=/l1", "--", "/m"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let mut plan = plan("command", &[]);
        plan.extra.insert(COMMAND.to_owned(), "no-such-union {target}".to_owned());
        let found = Command.availability_of(&plan);
        assert!(
            matches!(found, Availability::Unsupported { reason } if reason.contains("no-such-union"))
        );
    }
}
