//! Synthetic recordings.

use unionbench::trace::{
    Container, CopiedBy, End, Event, FORMAT, Header, Kind, Line, Mount, Object, Trigger,
};
use unionbench::unit::Nanos;

/// When every recording begins.
pub const BEGAN: u64 = 1_790_000_000_000_000_000;

pub fn header() -> Header {
    Header {
        format: FORMAT,
        program: "unionbench 0.1.0".into(),
        kernel: "6.12.0".into(),
        began_unix_ns: BEGAN,
        kinds: vec![Kind::Copyup],
        engines: Default::default(),
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

/// A copy-up of `path` in `container` after `i` milliseconds.
pub fn copy_up(i: u64, path: &str, container: &str) -> Event {
    Event {
        kind: Kind::Copyup,
        at_unix_ns: BEGAN + i * 1_000_000,
        latency_ns: Nanos(100_000 + i),
        pid: 100,
        tid: 100,
        process: "chown".into(),
        cgroup: None,
        container: Some(Container { runtime: "docker".into(), id: container.into(), pod: None }),
        device: 42,
        mount: Some("/merged".into()),
        file_system: "overlay".into(),
        path: Some(path.into()),
        object: Some(Object::File),
        size_bytes: Some(4096),
        layer: Some(2),
        trigger: Some(Trigger::Chown),
        copied_bytes: Some(4096),
        copied_by: Some(CopiedBy::Splice),
        n_fsyncs: Some(1),
        data_ns: Some(Nanos(30_000)),
        fsync_ns: Some(Nanos(40_000)),
        opcode: None,
        errno: 0,
    }
}

/// The text of a whole recording.
pub fn text(events: &[Event]) -> String {
    let n_events = events.len() as u64;
    let end = End { duration_ns: Nanos(n_events * 1_000_000), n_events, n_lost: 0 };
    let events = events.iter().cloned().map(|event| Line::Event(Box::new(event)));
    let lines = [Line::Header(header())].into_iter().chain(events).chain([Line::End(end)]);
    lines.map(|line| serde_json::to_string(&line).expect("is JSON") + "\n").collect()
}
