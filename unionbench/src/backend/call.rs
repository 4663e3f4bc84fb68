//! What a mount asks of the kernel or of a program, as data: made once, then
//! carried out or printed, so that a dry run shows what a run does.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// fsopen(2), one fsconfig(2) for each option, fsmount(2), move_mount(2).
    Fsconfig { fs_type: &'static str, options: Vec<(String, Option<String>)>, target: PathBuf },
    /// mount(2), from the working directory `base` where there is one.
    Mount {
        fs_type: &'static str,
        remount: bool,
        data: String,
        base: Option<PathBuf>,
        target: PathBuf,
    },
    /// A program that serves the mount until it is unmounted.
    Serve { argv: Vec<OsString> },
    /// A program that mounts and may leave a daemon behind.
    Keep { argv: Vec<OsString> },
}

/// One line for each call to the kernel, or the command as typed.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fsconfig { fs_type, options, target } => {
                writeln!(f, "fsopen({fs_type:?})")?;
                writeln!(f, "fsconfig(SET_STRING, \"source\", {:?})", super::SOURCE)?;
                for (key, value) in options {
                    match value {
                        Some(value) => writeln!(f, "fsconfig(SET_STRING, {key:?}, {value:?})")?,
                        None => writeln!(f, "fsconfig(SET_FLAG, {key:?})")?,
                    }
                }
                writeln!(f, "fsconfig(CMD_CREATE)")?;
                write!(f, "fsmount() and move_mount(to {:?})", target.display().to_string())
            }
            Self::Mount { fs_type, remount, data, base, target } => {
                if let Some(base) = base {
                    writeln!(f, "chdir({:?})", base.display().to_string())?;
                }
                let target = target.display().to_string();
                match remount {
                    true => write!(f, "mount(NULL, {target:?}, NULL, MS_REMOUNT, {data:?})"),
                    false => {
                        write!(
                            f,
                            "mount({:?}, {target:?}, {fs_type:?}, 0, {data:?})",
                            super::SOURCE
                        )
                    }
                }
            }
            Self::Serve { argv } | Self::Keep { argv } => {
                let words: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
                write!(f, "{}", words.join(" "))
            }
        }
    }
}

/// A word as a shell reads it back.
fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,.:/@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        let argv = ["a", "b c", "it's", ""].map(OsString::from).to_vec();
        assert_eq!(Call::Serve { argv }.to_string(), r"a 'b c' 'it'\''s' ''");
    }
}
