//! The scenario file.

use std::fmt::Write as _;

use super::Replay;
use crate::plan::ListedKind;

pub(super) fn toml(replay: &Replay, name: &str, backing: &str) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| _ = writeln!(out, "{text}");
    line(format_args!("# Made from a trace: what was copied up, in its order."));
    for note in &replay.notes {
        line(format_args!("# Not as it was: {note}."));
    }
    line(format_args!("name = {}", quoted(name)));
    line(format_args!("title = \"A traced workload again\""));
    line(format_args!("rounds = 5\n\n[stack]"));
    line(format_args!("layers = {}\nfiles_per_layer = 0\nfile = [", replay.n_layers));
    let mut room: u64 = 0;
    for file in &replay.files {
        let (path, layer) = (quoted(&file.path), file.layer);
        match file.kind {
            ListedKind::File { size } => {
                room = room.saturating_add(size.0.next_multiple_of(4096)).saturating_add(4096);
                let size = size.0;
                line(format_args!("  {{ path = {path}, layer = {layer}, size = {size} }},"));
            }
            ListedKind::Directory => {
                line(format_args!("  {{ path = {path}, layer = {layer}, kind = \"directory\" }},"));
            }
            ListedKind::Symlink => {
                line(format_args!("  {{ path = {path}, layer = {layer}, kind = \"symlink\" }},"));
            }
        }
    }
    // The layers, the control and what is copied up, and as much again for the
    // file system itself.
    let size = (room.saturating_mul(4) >> 20) + 256;
    line(format_args!("]\n\n[backing]\nfs = {}\nsize = \"{size}MiB\"\n", quoted(backing)));
    line(format_args!(
        "[[backend]]\nkind = \"bare\"\n\n[[backend]]\nkind = \"{}\"",
        replay.backend
    ));
    let options = replay.options.iter().map(|(name, value)| match value {
        Some(value) => format!("{name} = {}", quoted(value)),
        None => format!("{name} = true"),
    });
    let options: Vec<String> = options.collect();
    if !options.is_empty() {
        line(format_args!("options = {{ {} }}", options.join(", ")));
    }
    line(format_args!("\n[[phase]]\nname = \"replay\"\nworkload = \"replay\""));
    if !replay.up.is_empty() {
        line(format_args!("# In the upper layer before the first operation."));
        let up: Vec<String> = replay.up.iter().map(|path| quoted(path)).collect();
        line(format_args!("up = [{}]", up.join(", ")));
    }
    line(format_args!("operation = ["));
    for operation in &replay.operations {
        let (by, on) = (operation.by.name(), quoted(&operation.on));
        line(format_args!("  {{ by = \"{by}\", on = {on} }},"));
    }
    line(format_args!("]"));
    out
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
