//! What a program needs beside itself to run: its interpreter and libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use super::error::LabError;

/// Interpreter and libraries of the program `path`, sorted; empty for a static
/// program and for a file that is no ELF program.
///
/// The program's own interpreter resolves the libraries (`--list`), so that
/// run paths and the host's configuration hold as they do here.
pub(crate) fn needs(path: &Path, bytes: &[u8]) -> Result<Vec<PathBuf>, LabError> {
    let Some(interpreter) = interpreter(bytes) else { return Ok(Vec::new()) };
    let refuse = |why: String| LabError::GuestFile { path: path.to_owned(), why };
    let output =
        Command::new(&interpreter).arg("--list").arg(path).output().map_err(|error| {
            refuse(format!("its interpreter {interpreter} does not run ({error})"))
        })?;
    if !output.status.success() {
        return Err(refuse(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        return Err(refuse(format!("library missing here: {}", line.trim())));
    }
    let mut found: Vec<PathBuf> = text.lines().filter_map(listed_path).collect();
    found.push(PathBuf::from(interpreter));
    found.sort();
    found.dedup();
    Ok(found)
}

/// The part of an ELF program that is loaded when it runs: symbols and debug
/// information, most of its file, are left out. The guest would unpack them
/// into its memory, an instruction at a time. Other files stay as they are.
pub(crate) fn loaded_part(bytes: &[u8]) -> Vec<u8> {
    cut(bytes).unwrap_or_else(|| bytes.to_vec())
}

/// Offsets of the ELF-64 header (System V ABI): 0x28 `e_shoff` u64, 0x3c
/// `e_shnum` u16, 0x3e `e_shstrndx` u16. Zeros there mean: no sections.
fn cut(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    let ends = segments.iter().map(|segment| {
        let (start, length) = segment.file_range(endian);
        start.saturating_add(length)
    });
    let end = usize::try_from(ends.max()?).ok()?;
    let mut part = bytes.get(..end)?.to_vec();
    part.get_mut(0x28..0x30)?.fill(0);
    part.get_mut(0x3c..0x40)?.fill(0);
    Some(part)
}

/// `\tlibc.so.6 => /lib/libc.so.6 (0x7f…)` or `\t/lib64/ld.so (0x7f…)`.
fn listed_path(line: &str) -> Option<PathBuf> {
    let target = line.split_once("=>").map_or(line, |(_, target)| target).trim();
    let path = target.split(" (").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn interpreter(bytes: &[u8]) -> Option<String> {
    let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segment = header
        .program_headers(endian, bytes)
        .ok()?
        .iter()
        .find(|segment| segment.p_type(endian) == PT_INTERP)?;
    let data = segment.data(endian, bytes).ok()?;
    let text = data.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_interpreters_list() {
        let path = |line| listed_path(line).map(|p| p.to_string_lossy().into_owned());
        assert_eq!(
            path("\tlibc.so.6 => /lib/libc.so.6 (0x7f00)").as_deref(),
            Some("/lib/libc.so.6")
        );
        assert_eq!(path("\t/lib64/ld.so (0x7f00)").as_deref(), Some("/lib64/ld.so"));
        assert_eq!(path("\tlinux-vdso.so.1 (0x7f00)"), None);
        assert_eq!(path("\tstatically linked"), None);
    }

    #[test]
    fn the_loaded_part_of_a_program_still_runs() {
        let whole = std::fs::read("/proc/self/exe").expect("this test's own file");
        let part = loaded_part(&whole);
        assert!(part.len() < whole.len(), "symbols are left out");
        let path = tempfile::NamedTempFile::new().expect("room for a test").into_temp_path();
        std::fs::write(&path, part).expect("room for a test");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("an own file");
        let list = Command::new(&path).arg("--list").output().expect("it starts");
        assert!(list.status.success() && !list.stdout.is_empty());
        assert_eq!(loaded_part(b"text"), b"text");
    }

    #[test]
    fn text_needs_nothing() {
        assert_eq!(needs(Path::new("x"), b"#!/bin/sh\n").ok(), Some(Vec::new()));
    }
}
