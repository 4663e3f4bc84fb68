//! Synthetic events and recordings for tests.

use super::{Container, CopiedBy, End, Event, FORMAT, Header, Kind, Line, Mount, Object, Trigger};
use crate::unit::Nanos;

/// When every sample begins.
pub(crate) const BEGAN: u64 = 1_790_000_000_000_000_000;

pub(crate) fn header() -> Header {
    Header {
        format: FORMAT,
        program: "unionbench 0.1.0".into(),
        kernel: "6.12.0".into(),
        began_unix_ns: BEGAN,
        kinds: vec![Kind::Copyup],
        engines: [("copyup".to_owned(), "fentry".to_owned())].into(),
        mounts: vec![Mount {
            device: 42,
            path: "/merged".into(),
            file_system: "overlay".into(),
            lower: vec!["/l0".into(), "/l1".into(), "/l2".into()],
            upper: Some("/up".into()),
            options: vec!["index=off".into()],
        }],
    }
}

/// The `i`th of a series: files of 4 KiB times `i` in the bottom layer that one
/// of three processes writes to, one event each millisecond.
pub(crate) fn event(i: u64) -> Event {
    let names = ["npm", "sqlite3", "chown"];
    Event {
        kind: Kind::Copyup,
        at_unix_ns: BEGAN + i * 1_000_000,
        latency_ns: Nanos(100_000 + 1_000 * i),
        pid: 100 + (i % 3) as u32,
        tid: 100 + (i % 3) as u32,
        process: names[(i % 3) as usize].into(),
        cgroup: Some("/system.slice/docker-aa.scope".into()),
        container: i.is_multiple_of(2).then(|| Container {
            runtime: "docker".into(),
            id: "a".repeat(64),
            pod: None,
        }),
        device: 42,
        mount: Some("/merged".into()),
        file_system: "overlay".into(),
        path: Some(format!("/dir{}/file{i}", i % 2)),
        object: Some(Object::File),
        size_bytes: Some(4096 * i),
        layer: Some(2),
        trigger: Some(if i % 3 == 2 { Trigger::Chown } else { Trigger::OpenWrite }),
        copied_bytes: Some(4096 * i),
        copied_by: Some(CopiedBy::Splice),
        n_fsyncs: Some(1),
        data_ns: Some(Nanos(20_000)),
        fsync_ns: Some(Nanos(50_000)),
        opcode: None,
        errno: 0,
    }
}

pub(crate) fn end(n_events: u64) -> End {
    End { duration_ns: Nanos(n_events * 1_000_000), n_events, n_lost: 0 }
}

/// The text of a recording of the first `n` events.
pub(crate) fn recording(n: u64) -> String {
    let events: Vec<Event> = (0..n).map(event).collect();
    text(&header(), &events, Some(end(n)))
}

pub(crate) fn text(header: &Header, events: &[Event], end: Option<End>) -> String {
    let mut lines = vec![Line::Header(header.clone())];
    lines.extend(events.iter().cloned().map(|event| Line::Event(Box::new(event))));
    lines.extend(end.map(Line::End));
    lines.iter().map(|line| serde_json::to_string(line).expect("is JSON") + "\n").collect()
}
