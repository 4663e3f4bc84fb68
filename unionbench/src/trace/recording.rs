//! Reads recordings: a header, an event on each line, an end.
//!
//! A recording may be cut off anywhere, since what wrote it may have been
//! killed: what is whole is read, and [`Ending`] tells that the rest is missing.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{End, Event, FORMAT, Header, Line};

/// A line past this is no event: paths end at 4 KiB.
const LONGEST_LINE: u64 = 1 << 20;

const AFTER_END: &str =
    "something follows the end, as where two recordings are in one file, which are read apart";

/// Why a recording could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("cannot open the recording {path}", path = .path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("cannot read the recording {name} at line {line}")]
    Read { name: String, line: u64, source: std::io::Error },
    #[error(
        "cannot read the recording {name}: it is empty; what recorded it was stopped before it began"
    )]
    Empty { name: String },
    #[error(
        "cannot read the recording {name}: its first line is no header; give a file that `unionbench trace --record FILE` wrote"
    )]
    NoHeader { name: String },
    #[error(
        "cannot read the recording {name}: it has format {found} and this unionbench reads {FORMAT}; use the version that wrote it, or a newer one"
    )]
    OtherFormat { name: String, found: u64 },
    #[error("cannot read line {line} of the recording {name}: {problem}; remove it")]
    Malformed { name: String, line: u64, problem: String },
}

/// How a recording ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Not read to its end yet.
    Open,
    Whole(End),
    /// It stops before its end line.
    Cut,
}

/// A recording that is being read; yields its events.
pub struct Recording {
    name: String,
    reader: Box<dyn BufRead + Send>,
    header: Header,
    line: u64,
    n_events: u64,
    ending: Ending,
    buffer: Vec<u8>,
}

#[derive(Deserialize)]
struct AnyHeader {
    line: String,
    format: u64,
}

impl Recording {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read, is empty, or is no recording of this format.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        if path == Path::new("-") {
            return Self::read("-", Box::new(BufReader::new(std::io::stdin())));
        }
        let failed = |source| RecordingError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        Self::read(&path.display().to_string(), Box::new(BufReader::new(file)))
    }

    /// The same from any reader; `name` is for messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(name: &str, reader: Box<dyn BufRead + Send>) -> Result<Self, RecordingError> {
        let header = Header {
            format: FORMAT,
            program: String::new(),
            kernel: String::new(),
            began_unix_ns: 0,
            kinds: Vec::new(),
            engines: Default::default(),
            mounts: Vec::new(),
        };
        let (name, buffer) = (name.to_owned(), Vec::new());
        let mut recording =
            Self { name, reader, header, line: 0, n_events: 0, ending: Ending::Open, buffer };
        let name = || recording.name.clone();
        let no_header = RecordingError::NoHeader { name: name() };
        let empty = RecordingError::Empty { name: name() };
        if !recording.fill()? {
            return Err(empty);
        }
        let any: AnyHeader = match serde_json::from_slice(&recording.buffer) {
            Ok(any) => any,
            Err(_) => return Err(no_header),
        };
        if any.line != "header" {
            return Err(no_header);
        }
        // Before the rest is looked at, which another format may write otherwise.
        if any.format != u64::from(FORMAT) {
            return Err(RecordingError::OtherFormat { name: recording.name, found: any.format });
        }
        match serde_json::from_slice(&recording.buffer) {
            Ok(Line::Header(header)) => recording.header = header,
            Ok(_) => return Err(no_header),
            Err(error) => return Err(recording.malformed(&error.to_string())),
        }
        Ok(recording)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How it ends; known once it has yielded all its events.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Events that the end line counts and that are not in the file, as when
    /// lines were removed.
    pub fn n_missing(&self) -> u64 {
        match self.ending {
            Ending::Whole(end) => end.n_events.saturating_sub(self.n_events),
            Ending::Open | Ending::Cut => 0,
        }
    }

    /// The next line into `buffer`, without its line break; false at the end.
    fn fill(&mut self) -> Result<bool, RecordingError> {
        self.buffer.clear();
        self.line += 1;
        let read = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.buffer);
        let n = read.map_err(|source| {
            let (name, line) = (self.name.clone(), self.line);
            RecordingError::Read { name, line, source }
        })?;
        Ok(n > 0)
    }

    fn step(&mut self) -> Result<Option<Event>, RecordingError> {
        loop {
            if self.ending != Ending::Open {
                return Ok(None);
            }
            if !self.fill()? {
                self.ending = Ending::Cut;
                return Ok(None);
            }
            let whole = self.buffer.last() == Some(&b'\n');
            if whole && self.buffer.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(&self.buffer) {
                Ok(Line::Event(event)) => {
                    self.n_events += 1;
                    return Ok(Some(*event));
                }
                Ok(Line::End(end)) => {
                    self.ending = Ending::Whole(end);
                    if self.fill()? && !self.buffer.trim_ascii().is_empty() {
                        return Err(self.malformed(AFTER_END));
                    }
                }
                Ok(Line::Header(_)) => {
                    return Err(self.malformed("a second header, as of two recordings in one file"));
                }
                // The line that was being written when the recorder ended.
                Err(_) if !whole && (self.buffer.len() as u64) < LONGEST_LINE => {
                    self.ending = Ending::Cut;
                }
                Err(error) => return Err(self.malformed(&error.to_string())),
            }
        }
    }

    fn malformed(&self, problem: &str) -> RecordingError {
        let problem = problem.to_owned();
        RecordingError::Malformed { name: self.name.clone(), line: self.line, problem }
    }
}

impl Iterator for Recording {
    type Item = Result<Event, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn read(text: &[u8]) -> Result<Recording, RecordingError> {
        Recording::read("t.jsonl", Box::new(std::io::Cursor::new(text.to_vec())))
    }

    #[test]
    fn a_whole_recording_yields_its_events_and_its_end() {
        let text = sample::recording(3);
        let mut recording = read(text.as_bytes()).expect("opens");
        let events: Result<Vec<_>, _> = recording.by_ref().collect();
        assert_eq!(events.expect("reads").len(), 3);
        assert!(matches!(recording.ending(), Ending::Whole(end) if end.n_events == 3));
        assert_eq!(recording.n_missing(), 0);
    }

    #[test]
    fn a_second_recording_in_the_same_file_is_not_passed_over() {
        let text = sample::recording(2).repeat(2);
        let mut recording = read(text.as_bytes()).expect("opens");
        let error = recording.find_map(Result::err).expect("the second one is refused");
        assert!(error.to_string().contains("two recordings"), "{error}");
        // Blank lines are nothing.
        let blank = sample::recording(2) + "\n\n";
        assert_eq!(read(blank.as_bytes()).expect("opens").filter(Result::is_ok).count(), 2);
    }

    #[test]
    fn a_recording_cut_at_any_byte_yields_what_is_whole() {
        let text = sample::recording(3);
        let first = text.find('\n').expect("a header") + 1;
        for cut in first..text.len() - 1 {
            let mut recording = read(&text.as_bytes()[..cut]).expect("opens");
            let n = recording.by_ref().filter(|event| event.is_ok()).count();
            // A line without its break may be whole all the same.
            let breaks = text[..cut].matches('\n').count() - 1;
            assert!(n == breaks || n == breaks + 1, "cut at {cut}: {n} events of {breaks} lines");
            assert_eq!(recording.ending(), Ending::Cut, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_recording_is_refused_with_the_reason() {
        let newer = sample::recording(1).replacen("\"format\":1", "\"format\":2", 1);
        assert!(matches!(
            read(newer.as_bytes()),
            Err(RecordingError::OtherFormat { found: 2, .. })
        ));
        assert!(matches!(read(b""), Err(RecordingError::Empty { .. })));
        for text in [&b"\n"[..], b"{}", b"\xff\xfe", b"[1]\n", b"{\"line\":\"end\",\"format\":1}"] {
            assert!(matches!(read(text), Err(RecordingError::NoHeader { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let text = sample::recording(2).replace("\"copyup\",\"at", "\"copydown\",\"at");
        let error = read(text.as_bytes()).expect("opens").find_map(Result::err);
        assert!(matches!(error, Some(RecordingError::Malformed { line: 2, .. })), "{error:?}");
        let twice = sample::recording(0).lines().next().expect("a header").to_owned() + "\n";
        let error = read(twice.repeat(2).as_bytes()).expect("opens").find_map(Result::err);
        assert!(error.is_some_and(|e| e.to_string().contains("two recordings")));
    }
}
