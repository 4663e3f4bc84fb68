//! Options for the mkfs of the backing file system. A scenario is run by root
//! and may come from elsewhere, so that nothing passes which could name a file
//! or a device: mkfs writes to what it is given.

use super::check::{Verdict, refuse};
use super::file::{Backing, FileSystem};

const KEY: &str = "backing.mkfs";

/// Parts of a value that name a file or a device.
const PLACES: [&str; 6] = ["device", "file", "logdev", "name", "rtdev", "journal_path"];

pub(super) fn check(backing: &Backing) -> Verdict {
    if backing.mkfs.values.iter().all(String::is_empty) {
        return Ok(());
    }
    let [fs] = backing.fs.values.as_slice() else {
        return refuse(KEY, "its options are of one mkfs, and `backing.fs` names several");
    };
    // Those that take a value and neither a file nor a device.
    let known = match fs {
        FileSystem::Ext4 => "-b -E -G -g -I -i -J -m -N -O -T",
        FileSystem::Xfs => "-b -d -i -l -m -n -s",
        FileSystem::Btrfs => "-d -m -n -O -R -s",
        FileSystem::Tmpfs | FileSystem::Dir => {
            return refuse(KEY, "`backing.fs` names a file system that is not made");
        }
    };
    for text in &backing.mkfs.values {
        let words: Vec<&str> = text.split_whitespace().collect();
        for pair in words.chunks(2) {
            let is_known = known.split(' ').any(|option| option == pair[0]);
            let [_, value] = pair else {
                return refuse(KEY, format!("{:?} lacks its value", pair[0]));
            };
            if !is_known {
                let problem = format!("{:?} is none of {known}, each with a value", pair[0]);
                return refuse(KEY, problem);
            }
            if !is_plain(value) {
                return refuse(KEY, format!("{value:?} may name a file or a device"));
            }
        }
    }
    Ok(())
}

fn is_plain(value: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "^_,=.:%-".contains(c);
    let is_place = |part: &str| PLACES.iter().any(|place| part.split('=').next() == Some(place));
    value.chars().all(allowed) && !value.starts_with('-') && !value.split(',').any(is_place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::value::Many;

    fn verdict(fs: FileSystem, words: &str) -> Result<(), String> {
        let backing =
            Backing { fs: Many::one(fs), mkfs: Many::one(words.to_owned()), ..Backing::default() };
        check(&backing).map_err(|problem| problem.problem)
    }

    #[test]
    fn options_with_plain_values_pass() {
        assert_eq!(verdict(FileSystem::Ext4, "-b 4096 -O verity,^has_journal -N 300"), Ok(()));
        assert_eq!(verdict(FileSystem::Xfs, "-m reflink=0 -d agcount=4"), Ok(()));
        assert_eq!(verdict(FileSystem::Btrfs, "-n 16k"), Ok(()));
    }

    #[test]
    fn nothing_that_could_name_a_file_or_a_device_passes() {
        for (fs, words) in [
            (FileSystem::Btrfs, "other.img"),
            (FileSystem::Btrfs, "-n 16k other.img"),
            (FileSystem::Btrfs, "-n 16k other.img more.img"),
            (FileSystem::Btrfs, "--rootdir folder"),
            (FileSystem::Ext4, "/dev/sda 100"),
            (FileSystem::Ext4, "-b ../x"),
            (FileSystem::Ext4, "-J device=LABEL"),
            (FileSystem::Ext4, "-d folder"),
            (FileSystem::Ext4, "-O"),
            (FileSystem::Ext4, "-b -n"),
            (FileSystem::Xfs, "-l size=100m,logdev=log"),
            (FileSystem::Xfs, "-d file,name=x"),
            (FileSystem::Xfs, "-r rtdev=x"),
        ] {
            assert!(verdict(fs, words).is_err(), "{words}");
        }
    }
}
