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
    fn text_needs_nothing() {
        assert_eq!(needs(Path::new("x"), b"#!/bin/sh\n").ok(), Some(Vec::new()));
    }
}
