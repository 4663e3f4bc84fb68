//! Writing a record, whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::{HISTOGRAMS, RECORD, SAMPLES, StoreError, hlog};
use crate::record::Record;

/// Marks a folder that is being written.
const PARTIAL: &str = ".partial-";

/// A results folder in the making. Dropped before [`Writer::finish`], it takes
/// its folder with it.
#[derive(Debug)]
pub struct Writer {
    partial: PathBuf,
    target: PathBuf,
    samples: csv::Writer<BufWriter<File>>,
    finished: bool,
}

impl Writer {
    /// Makes the folder, so that a results folder that cannot be written is
    /// found out before anything is measured. `started` is RFC 3339, as in the
    /// record.
    pub fn create(
        results: &Path,
        scenario: &str,
        started: &str,
        hostname: &str,
    ) -> Result<Self, StoreError> {
        let parent = results.join(file_name(scenario));
        fs::create_dir_all(&parent)
            .map_err(|source| StoreError::Create { path: parent.clone(), source })?;
        let (partial, target) =
            claim(&parent, &format!("{}-{}", stamp(started), file_name(hostname)))?;
        let path = partial.join(SAMPLES);
        let fail = |source| StoreError::Create { path: path.clone(), source };
        let file = File::create_new(&path).map_err(fail)?;
        // Held until the writer goes; tells a live run from an abandoned one.
        file.lock().map_err(fail)?;
        let mut samples = csv::Writer::from_writer(BufWriter::new(file));
        samples
            .write_record(["cell", "round", "probes", "index", "latency"])
            .map_err(|e| fail(e.into()))?;
        Ok(Self { partial, target, samples, finished: false })
    }

    /// Appends the samples of one round in the order they were taken, in the
    /// record's latency unit.
    pub fn samples(
        &mut self,
        cell: &str,
        round: u32,
        probes: bool,
        latencies: &[u64],
    ) -> Result<(), StoreError> {
        for row in latencies.iter().enumerate().map(|(i, l)| (cell, round, probes, i, l)) {
            self.samples.serialize(row).map_err(|e| StoreError::Write {
                path: self.partial.join(SAMPLES),
                source: e.into(),
            })?;
        }
        Ok(())
    }

    /// Writes the record and its histograms, brings all of it to the disk and
    /// gives the folder its name, which is returned.
    pub fn finish(mut self, record: &Record) -> Result<PathBuf, StoreError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Write { path, source }
        };
        let path = self.partial.join(SAMPLES);
        self.samples.flush().map_err(fail(&path))?;
        self.samples.get_ref().get_ref().sync_all().map_err(fail(&path))?;

        let path = self.partial.join(HISTOGRAMS);
        let mut log = Vec::new();
        hlog::write(record, &mut log, &path)?;
        write_synced(&path, &log).map_err(fail(&path))?;

        let path = self.partial.join(RECORD);
        let mut text = serde_json::to_vec_pretty(record)
            .map_err(|source| StoreError::Encode { path: path.clone(), source })?;
        text.push(b'\n');
        write_synced(&path, &text).map_err(fail(&path))?;

        fs::rename(&self.partial, &self.target).map_err(fail(&self.target))?;
        self.finished = true;
        // The name is durable once the folder that holds it is on disk.
        let parent = self.target.parent().unwrap_or(&self.target);
        File::open(parent).and_then(|d| d.sync_all()).map_err(fail(parent))?;
        Ok(self.target.clone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be told from here; what stays has the partial prefix
            // and is found by `remove_abandoned`.
            let _ = fs::remove_dir_all(&self.partial);
            // The scenario's folder goes too, if no other run has left its results
            // in it: this call removes empty folders only.
            let _ = self.partial.parent().map(fs::remove_dir);
        }
    }
}

/// Removes what killed runs left under `results`, and nothing that a live run
/// holds. Returns the folders removed; a missing `results` has none.
pub fn remove_abandoned(results: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut removed = Vec::new();
    for scenario in folders(results)? {
        for folder in folders(&scenario)? {
            let is_partial =
                folder.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PARTIAL));
            if is_partial && is_abandoned(&folder) {
                fs::remove_dir_all(&folder)
                    .map_err(|source| StoreError::Write { path: folder.clone(), source })?;
                removed.push(folder);
            }
        }
    }
    Ok(removed)
}

/// No run holds the lock on the folder's samples. A folder without samples was
/// left between two system calls, or is about to get them: it stays.
fn is_abandoned(folder: &Path) -> bool {
    File::open(folder.join(SAMPLES)).is_ok_and(|file| file.try_lock().is_ok())
}

/// Folders directly in `path`, not following links.
fn folders(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Makes the partial folder under the first name that neither a finished nor a
/// running run has: runs of the same second get `-2`, `-3` and so on.
fn claim(parent: &Path, name: &str) -> Result<(PathBuf, PathBuf), StoreError> {
    let mut attempt = 1_u32;
    loop {
        let name = if attempt == 1 { name.to_owned() } else { format!("{name}-{attempt}") };
        let (partial, target) = (parent.join(format!("{PARTIAL}{name}")), parent.join(name));
        if !target.exists() {
            match fs::create_dir(&partial) {
                Ok(()) => return Ok((partial, target)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(StoreError::Create { path: partial, source }),
            }
        }
        attempt += 1;
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// `2026-11-24T02:00:00.5Z` as `20261124T020000Z`, which sorts and needs no
/// quoting.
fn stamp(started: &str) -> String {
    let whole = started.split('.').next().unwrap_or(started);
    let digits: String = whole.chars().filter(|c| c.is_ascii_digit() || *c == 'T').collect();
    format!("{digits}Z")
}

/// A name that stays in its folder whatever it was before.
fn file_name(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .collect();
    match clean.trim_start_matches('.') {
        "" => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample::record;
    use crate::store::read;

    const STARTED: &str = "2026-11-24T02:00:00.25Z";

    fn create(results: &Path) -> Writer {
        Writer::create(results, "deep-layers", STARTED, "host").expect("room for a test")
    }

    #[test]
    fn finished_record_reads_back_from_its_folder_and_file() {
        let results = tempfile::tempdir().expect("room for a test");
        let mut writer = create(results.path());
        writer.samples("a cell, with comma", 1, true, &[7, 9]).expect("room");
        let folder = writer.finish(&record()).expect("room");
        assert_eq!(folder, results.path().join("deep-layers/20261124T020000Z-host"));
        assert_eq!(read(&folder).expect("whole"), record());
        assert_eq!(read(&folder.join(RECORD)).expect("whole"), record());
        let samples = fs::read_to_string(folder.join(SAMPLES)).expect("written");
        assert_eq!(
            samples,
            "cell,round,probes,index,latency\n\"a cell, with comma\",1,true,0,7\n\"a cell, with comma\",1,true,1,9\n"
        );
    }

    #[test]
    fn aborted_run_leaves_nothing() {
        let results = tempfile::tempdir().expect("room for a test");
        let mut writer = create(results.path());
        writer.samples("cell", 0, false, &[1]).expect("room");
        drop(writer);
        assert_eq!(fs::read_dir(results.path()).expect("made").count(), 0);
    }

    #[test]
    fn runs_of_the_same_second_do_not_meet() {
        let results = tempfile::tempdir().expect("room for a test");
        let (first, second) = (create(results.path()), create(results.path()));
        let first = first.finish(&record()).expect("room");
        let second = second.finish(&record()).expect("room");
        let third = create(results.path()).finish(&record()).expect("room");
        assert!(first != second && second != third && first != third);
    }

    #[test]
    fn only_abandoned_folders_are_removed() {
        let results = tempfile::tempdir().expect("room for a test");
        let finished = create(results.path()).finish(&record()).expect("room");
        let live = create(results.path());
        let left = results.path().join("deep-layers/.partial-20250101T000000Z-host");
        fs::create_dir(&left).expect("room");
        fs::write(left.join(SAMPLES), "cell").expect("room");
        assert_eq!(remove_abandoned(results.path()).expect("readable"), [left]);
        assert!(finished.exists() && live.partial.exists());
        assert_eq!(remove_abandoned(&results.path().join("missing")).expect("none").len(), 0);
    }

    #[test]
    fn folder_that_cannot_be_made_is_refused_before_measuring() {
        let file = tempfile::NamedTempFile::new().expect("room for a test");
        let error = Writer::create(file.path(), "deep-layers", STARTED, "host")
            .expect_err("a file holds no folders");
        assert!(error.to_string().contains("--results"), "{error}");
    }

    #[test]
    fn names_stay_in_their_folder() {
        assert_eq!(file_name("../../etc"), "_.._etc");
        assert_eq!(file_name(".."), "unnamed");
    }
}
