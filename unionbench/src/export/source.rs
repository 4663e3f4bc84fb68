//! What the exporter sees of unions and what it cannot: one sample for each kind
//! of event and union, with the reason as one of a few words, since the kernel's
//! own text would be a label without bounds.

use super::{Family, Value};
use crate::trace::Source;

/// `unionbench_source_up`, of all sources.
pub fn family(sources: &[Source]) -> Family {
    let mut family = Family::gauge(
        "unionbench_source_up",
        "1 for operations of a kind of union that are seen, by what; 0 for those that are not, and why.",
    );
    for source in sources {
        let (by, reason) = match &source.seen {
            Ok(by) => (by.as_str(), ""),
            Err(said) => ("", reason(said)),
        };
        let labels = [
            ("operation", source.kind.name()),
            ("union", source.union),
            ("by", by),
            ("reason", reason),
        ];
        let labels = labels.map(|(name, value)| (name, value.to_owned())).to_vec();
        let value = if source.seen.is_ok() { 1.0 } else { 0.0 };
        // Several mounts of one kind may lack the same.
        if family.samples.iter().all(|(there, _)| *there != labels) {
            family.add(labels, Value::Number(value));
        }
    }
    family
}

/// The word for what the kernel, or this program, said.
fn reason(said: &str) -> &'static str {
    const WORDS: [(&str, &str); 6] = [
        ("tells nothing of it", "daemon_tells_nothing"),
        ("no probe tells it", "daemon_tells_nothing"),
        ("is the module loaded", "no_function"),
        ("no tracepoint", "no_tracepoint"),
        ("not permitted", "refused"),
        ("ermission denied", "refused"),
    ];
    WORDS.iter().find(|(part, _)| said.contains(part)).map_or(super::OTHER, |(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Kind;

    #[test]
    fn sources_have_a_word_for_a_reason_and_stand_once() {
        let unseen =
            |said: &str| Source { kind: Kind::Copyup, union: "fuse", seen: Err(said.to_owned()) };
        let seen = Ok("tracepoint fuse:fuse_request_send".to_owned());
        let sources = [
            Source { kind: Kind::Requests, union: "fuse", seen },
            unseen("the daemon of /a (fuse.mergerfs) tells nothing of it: trace `requests`"),
            unseen("the daemon of /b (fuse.mergerfs) tells nothing of it: trace `requests`"),
            unseen("ovl_copy_up_one: fentry: Operation not permitted (os error 1)"),
            unseen("something new with /a/path"),
        ];
        let family = family(&sources);
        let told: Vec<_> = family
            .samples
            .iter()
            .map(|(labels, value)| {
                let Value::Number(value) = value else { panic!("a gauge") };
                (labels[0].1.as_str(), labels[3].1.as_str(), *value)
            })
            .collect();
        let expected = [
            ("requests", "", 1.0),
            ("copyup", "daemon_tells_nothing", 0.0),
            ("copyup", "refused", 0.0),
            ("copyup", "other", 0.0),
        ];
        assert_eq!(told, expected);
    }
}
