//! An event as a line: for people, and as CSV.

use super::event::{CopiedBy, Event, Kind, Object, Trigger};
use super::summary::printable;
use crate::unit::Bytes;

/// The columns of [`csv_row`].
pub const COLUMNS: [&str; 25] = [
    "kind",
    "at_unix_ns",
    "latency_ns",
    "pid",
    "tid",
    "process",
    "cgroup",
    "runtime",
    "container",
    "pod",
    "device",
    "mount",
    "file_system",
    "path",
    "object",
    "size_bytes",
    "layer",
    "trigger",
    "copied_bytes",
    "copied_by",
    "n_fsyncs",
    "data_ns",
    "fsync_ns",
    "opcode",
    "errno",
];

/// The fields in the order of [`COLUMNS`]; what is absent is empty.
pub fn csv_row(event: &Event) -> [String; 25] {
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let container = event.container.as_ref();
    [
        event.kind.name().to_owned(),
        event.at_unix_ns.to_string(),
        event.latency_ns.0.to_string(),
        event.pid.to_string(),
        event.tid.to_string(),
        event.process.clone(),
        text(&event.cgroup),
        container.map(|found| found.runtime.clone()).unwrap_or_default(),
        container.map(|found| found.id.clone()).unwrap_or_default(),
        container.and_then(|found| found.pod.clone()).unwrap_or_default(),
        event.device.to_string(),
        text(&event.mount),
        event.file_system.clone(),
        text(&event.path),
        event.object.map(object).unwrap_or_default().to_owned(),
        number(event.size_bytes),
        number(event.layer.map(u64::from)),
        event.trigger.map(trigger).unwrap_or_default().to_owned(),
        number(event.copied_bytes),
        event.copied_by.map(copied_by).unwrap_or_default().to_owned(),
        number(event.n_fsyncs.map(u64::from)),
        number(event.data_ns.map(|time| time.0)),
        number(event.fsync_ns.map(|time| time.0)),
        text(&event.opcode),
        event.errno.to_string(),
    ]
}

/// The heading over [`human_line`].
pub fn human_heading() -> String {
    format!(
        "{:<15} {:>10} {:<8} {:<16} {:>7} {:<21} WHAT",
        "TIME", "LATENCY", "KIND", "PROCESS", "PID", "CONTAINER"
    )
}

/// One event in columns; what stands last has no fixed width.
pub fn human_line(event: &Event) -> String {
    format!(
        "{:<15} {:>10} {:<8} {:<16} {:>7} {:<21} {}",
        clock(event.at_unix_ns),
        event.latency_ns.to_string(),
        event.kind.name(),
        printable(&event.process),
        event.pid,
        container(event),
        what(event),
    )
}

/// The time of day, in UTC as records have it.
fn clock(unix_ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default();
    time.strftime("%H:%M:%S%.6f").to_string()
}

fn container(event: &Event) -> String {
    match &event.container {
        Some(found) => format!("{}:{}", found.runtime, found.id.get(..12).unwrap_or(&found.id)),
        None => "-".to_owned(),
    }
}

fn what(event: &Event) -> String {
    let mut words = Vec::new();
    if let Some(opcode) = &event.opcode {
        words.push(opcode.clone());
    }
    if let Some(trigger) = event.trigger {
        words.push(self::trigger(trigger).replace('_', "-"));
    }
    words.push(place(event));
    if let Some(size) = event.size_bytes {
        words.push(Bytes(size).to_string());
    }
    if event.kind == Kind::Copyup {
        match event.layer {
            Some(layer) => words.push(format!("layer {layer}")),
            None => words.push("layer unknown".to_owned()),
        }
        match (event.copied_bytes, event.copied_by) {
            (_, Some(CopiedBy::Nothing)) => words.push("no data".to_owned()),
            (Some(bytes), Some(by)) => {
                words.push(format!("{} by {}", Bytes(bytes), copied_by(by).replace('_', "-")));
            }
            _ => {}
        }
        match (event.n_fsyncs.filter(|n| *n > 0), event.fsync_ns) {
            (Some(n), Some(spent)) => words.push(format!("{n} fsync {spent}")),
            (Some(n), None) => words.push(format!("{n} fsync")),
            (None, _) => {}
        }
    }
    // aufs makes the object known only after its lookup.
    let is_told = event.file_system == "overlay" && event.errno == 0;
    if event.kind == Kind::Lookup && event.object.is_none() && is_told {
        words.push("not there".to_owned());
    }
    if event.errno < 0 {
        words.push(std::io::Error::from_raw_os_error(-event.errno).to_string());
    }
    words.join("  ")
}

/// Mount and path, told apart by a colon: the path is the union's, which may
/// be mounted elsewhere in a container.
fn place(event: &Event) -> String {
    let mount = event.mount.as_deref().map_or_else(|| format!("dev {}", event.device), printable);
    match &event.path {
        Some(path) => format!("{mount}:{}", printable(path)),
        None => mount,
    }
}

fn object(object: Object) -> &'static str {
    match object {
        Object::File => "file",
        Object::Directory => "directory",
        Object::Symlink => "symlink",
        Object::Special => "special",
    }
}

fn trigger(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::OpenWrite => "open_write",
        Trigger::OpenTruncate => "open_truncate",
        Trigger::Truncate => "truncate",
        Trigger::Chmod => "chmod",
        Trigger::Chown => "chown",
        Trigger::Utimes => "utimes",
        Trigger::Setxattr => "setxattr",
        Trigger::Removexattr => "removexattr",
        Trigger::Link => "link",
        Trigger::Rename => "rename",
        Trigger::Unlink => "unlink",
        Trigger::Create => "create",
        Trigger::Mkdir => "mkdir",
        Trigger::Parent => "parent",
        Trigger::Other => "other",
    }
}

fn copied_by(by: CopiedBy) -> &'static str {
    match by {
        CopiedBy::Clone => "clone",
        CopiedBy::CopyFileRange => "copy_file_range",
        CopiedBy::Splice => "splice",
        CopiedBy::ReadWrite => "read_write",
        CopiedBy::Nothing => "nothing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Container;
    use crate::unit::Nanos;

    fn event() -> Event {
        Event {
            kind: Kind::Copyup,
            at_unix_ns: 1_764_000_000_123_456_789,
            latency_ns: Nanos(1_234_567),
            pid: 42,
            tid: 43,
            process: "chown".into(),
            cgroup: Some("/docker/x".into()),
            container: Some(Container {
                runtime: "docker".into(),
                id: "0123456789abcdef".into(),
                pod: None,
            }),
            device: 51,
            mount: Some("/merged".into()),
            file_system: "overlay".into(),
            path: Some("/etc/a,\"b\"\n".into()),
            object: Some(Object::File),
            size_bytes: Some(4096),
            layer: Some(2),
            trigger: Some(Trigger::Chown),
            copied_bytes: Some(4096),
            copied_by: Some(CopiedBy::Splice),
            n_fsyncs: Some(1),
            data_ns: Some(Nanos(200)),
            fsync_ns: Some(Nanos(900_000)),
            opcode: None,
            errno: 0,
        }
    }

    #[test]
    fn a_line_says_who_what_where_and_how() {
        insta::assert_snapshot!(human_line(&event()), @r#"16:00:00.123456  1234.6 µs copyup   chown                 42 docker:0123456789ab   chown  /merged:/etc/a,"b"\n  4KiB  layer 2  4KiB by splice  1 fsync 900.0 µs"#);
    }

    #[test]
    fn no_name_acts_on_the_terminal() {
        let odd = "/a\u{1b}[2J\u{202e}\u{9b}b\r";
        let event = Event { path: Some(odd.into()), process: odd.into(), ..event() };
        let line = human_line(&event);
        assert_eq!(line.matches("\\u{202e}").count(), 2, "{line}");
        assert!(line.chars().all(|letter| !letter.is_control() && letter != '\u{202e}'), "{line}");
    }

    #[test]
    fn what_is_not_known_is_left_out_or_said_so() {
        let event = Event {
            container: None,
            mount: None,
            path: None,
            size_bytes: None,
            layer: None,
            trigger: None,
            copied_bytes: None,
            copied_by: None,
            n_fsyncs: None,
            errno: -28,
            ..event()
        };
        assert!(
            human_line(&event)
                .ends_with("dev 51  layer unknown  No space left on device (os error 28)")
        );
        let row = csv_row(&event);
        assert_eq!(row[COLUMNS.iter().position(|name| *name == "layer").expect("a column")], "");
    }

    #[test]
    fn a_row_of_csv_reads_back_as_it_was() {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS).expect("a vector takes it");
        writer.write_record(csv_row(&event())).expect("a vector takes it");
        let bytes = writer.into_inner().expect("a vector takes it");
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let headings = reader.headers().expect("a heading").clone();
        let row = reader.records().next().expect("a row").expect("well-formed");
        let field = |name: &str| &row[headings.iter().position(|h| h == name).expect("a column")];
        assert_eq!(field("path"), "/etc/a,\"b\"\n");
        assert_eq!(field("container"), "0123456789abcdef");
        assert_eq!(field("fsync_ns"), "900000");
        assert_eq!(field("opcode"), "");
    }

    /// The words are those of recordings.
    #[test]
    fn words_are_the_same_in_every_format() {
        let json = serde_json::to_value(event()).expect("an event");
        assert_eq!(json["trigger"], trigger(Trigger::Chown));
        assert_eq!(json["copied_by"], copied_by(CopiedBy::Splice));
        assert_eq!(json["object"], object(Object::File));
        assert_eq!(json["kind"], Kind::Copyup.name());
    }
}
