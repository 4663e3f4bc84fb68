//! Waiting for a guest: its frames, its end, its deadlines.
//!
//! A reader thread turns the port into events; the caller's thread owns QEMU
//! and all decisions. The reader ends with the stream, which ends at the
//! latest when QEMU is killed: nobody else has the other end.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::error::{ConsoleTail, LabError};
use super::guest::OutFile;
use super::handed::MemoryFile;
use super::protocol::{ACKNOWLEDGED, CONSOLE_MARK, End, Exit, Frame};
use super::qemu::Process;
use crate::unit::Bytes;

pub(crate) struct Limits<'a> {
    pub boot: Duration,
    pub run: Duration,
    pub memory: Bytes,
    pub stop: &'a AtomicBool,
}

/// A guest that reported to the end.
#[derive(Debug)]
pub(crate) struct Report {
    pub exit: Exit,
    pub files: Vec<OutFile>,
    pub console: String,
}

type Event = Result<Frame, String>;

const TICK: Duration = Duration::from_millis(50);
/// From the last frame to the power-off.
const POWER_OFF: Duration = Duration::from_secs(5);
const TAIL_LINES: usize = 20;

pub(crate) fn watch(
    process: &mut Process,
    results: UnixStream,
    console: &MemoryFile,
    errors: &MemoryFile,
    limits: &Limits<'_>,
) -> Result<Report, LabError> {
    let mut collected = Collected::default();
    let ended = collect(process, results, &mut collected, limits);
    let console = text(console);
    let tail = ConsoleTail::of(&console, TAIL_LINES);
    match ended {
        Ended::Reported(end) if end.oom_kills > 0 => {
            Err(LabError::OutOfMemory { victims: end.oom_kills, memory: limits.memory, tail })
        }
        Ended::Reported(end) => Ok(Report { exit: end.exit, files: collected.files, console }),
        Ended::Stopped => Err(LabError::Interrupted),
        Ended::Broken(why) => Err(LabError::Protocol { why, tail }),
        Ended::TimedOut if collected.hello => Err(LabError::Timeout { limit: limits.run, tail }),
        Ended::TimedOut if console.is_empty() => Err(LabError::DidNotBoot),
        Ended::TimedOut => Err(LabError::BootTimeout { limit: limits.boot, tail }),
        // A CPU that cannot go on resets, and QEMU ends as if all were well.
        Ended::Quit(status) if status.success() && console.is_empty() && !collected.hello => {
            Err(LabError::DidNotBoot)
        }
        Ended::Quit(status) => Err(why_it_quit(status, &console, &text(errors), limits, tail)),
    }
}

fn text(file: &MemoryFile) -> String {
    String::from_utf8_lossy(&file.contents().unwrap_or_default()).into_owned()
}

enum Ended {
    Reported(End),
    Quit(ExitStatus),
    TimedOut,
    Stopped,
    Broken(String),
}

#[derive(Default)]
struct Collected {
    hello: bool,
    files: Vec<OutFile>,
    expected: u64,
}

impl Collected {
    fn take(&mut self, frame: Frame) -> Result<Option<End>, String> {
        match frame {
            Frame::Hello(_) => self.hello = true,
            Frame::File(head) => {
                self.check_whole()?;
                if !is_below(&head.path) {
                    return Err(format!("the guest sent a file outside its folder: {}", head.path));
                }
                self.expected = head.size;
                self.files.push(OutFile { path: head.path, bytes: Vec::new() });
            }
            Frame::Data(bytes) => match self.files.last_mut() {
                Some(file) => file.bytes.extend_from_slice(&bytes),
                None => return Err("data came before a file".into()),
            },
            Frame::End(end) => {
                self.check_whole()?;
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn check_whole(&self) -> Result<(), String> {
        match self.files.last() {
            Some(file) if file.bytes.len() as u64 != self.expected => Err(format!(
                "{} has {} bytes instead of {}",
                file.path,
                file.bytes.len(),
                self.expected
            )),
            _ => Ok(()),
        }
    }
}

fn is_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

fn collect(
    process: &mut Process,
    results: UnixStream,
    collected: &mut Collected,
    limits: &Limits<'_>,
) -> Ended {
    let events = read_in_background(results);
    let mut deadline = Instant::now() + limits.boot;
    loop {
        if limits.stop.load(Ordering::Relaxed) {
            return Ended::Stopped;
        }
        if Instant::now() >= deadline {
            return Ended::TimedOut;
        }
        match events.recv_timeout(TICK) {
            Ok(Err(why)) => return Ended::Broken(why),
            Ok(Ok(frame)) => {
                let said_hello = collected.hello;
                match collected.take(frame) {
                    Err(why) => return Ended::Broken(why),
                    Ok(Some(end)) => {
                        wait_for_power_off(process);
                        return Ended::Reported(end);
                    }
                    Ok(None) if !said_hello && collected.hello => {
                        deadline = Instant::now() + limits.run;
                    }
                    Ok(None) => {}
                }
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
        }
        // Asked only when no frame waits: what came before the end counts.
        if let Ok(Some(status)) = process.0.try_wait() {
            return drain(&events, collected, status);
        }
    }
}

/// QEMU has ended; frames it had passed on may still wait.
fn drain(events: &Receiver<Event>, collected: &mut Collected, status: ExitStatus) -> Ended {
    while let Ok(event) = events.recv_timeout(TICK) {
        let Ok(frame) = event else { break };
        match collected.take(frame) {
            Ok(Some(end)) => return Ended::Reported(end),
            Ok(None) => {}
            Err(why) => return Ended::Broken(why),
        }
    }
    Ended::Quit(status)
}

fn wait_for_power_off(process: &mut Process) {
    let deadline = Instant::now() + POWER_OFF;
    while Instant::now() < deadline && matches!(process.0.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn read_in_background(mut stream: UnixStream) -> Receiver<Event> {
    let (sender, events) = channel();
    std::thread::spawn(move || {
        loop {
            let event = match Frame::read_from(&mut stream) {
                Ok(Some(frame)) => Ok(frame),
                Ok(None) => return,
                // A guest that dies in the middle of a frame is told apart by
                // QEMU's end, not here.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return,
                Err(error) => Err(error.to_string()),
            };
            if matches!(event, Ok(Frame::End(_))) {
                // Init powers off when it hears this; if it cannot be said, the
                // wait for the power-off ends by itself.
                let _ = stream.write_all(&[ACKNOWLEDGED]);
            }
            let broken = event.is_err();
            if sender.send(event).is_err() || broken {
                return;
            }
        }
    });
    events
}

fn why_it_quit(
    status: ExitStatus,
    console: &str,
    errors: &str,
    limits: &Limits<'_>,
    tail: ConsoleTail,
) -> LabError {
    let find = |part: &str| console.lines().find(|line| line.contains(part));
    if let Some(line) = find(CONSOLE_MARK) {
        let message = line.split_once(CONSOLE_MARK).map_or(line, |(_, rest)| rest);
        return LabError::GuestSetup { message: format!("cannot {}", message.trim()), tail };
    }
    let panicked = find("Kernel panic - not syncing");
    if panicked.is_some_and(|line| line.contains("memory"))
        || (panicked.is_some() && find("Initramfs unpacking failed: write error").is_some())
    {
        let victims = console.matches("Killed process").count() as u64;
        return LabError::OutOfMemory { victims, memory: limits.memory, tail };
    }
    if let Some(last) = panicked {
        let first = find("BUG: ").or_else(|| find("Oops: ")).unwrap_or(last);
        return LabError::Panic { line: without_time(first).to_owned(), tail };
    }
    if status.success() {
        return LabError::NoExitStatus { tail };
    }
    let stderr = errors.lines().last().unwrap_or("it said nothing").to_owned();
    LabError::QemuFailed { status: status.to_string(), stderr, tail }
}

/// `[    1.234567] text` → `text`.
fn without_time(line: &str) -> &str {
    match line.split_once("] ") {
        Some((time, text)) if time.trim_start().starts_with('[') => text.trim(),
        _ => line.trim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::protocol::FileHead;

    fn head(path: &str, size: u64) -> Frame {
        Frame::File(FileHead { path: path.into(), size })
    }

    fn check(frames: Vec<Frame>, expected: Result<usize, &str>) {
        let mut collected = Collected::default();
        let result = frames.into_iter().try_for_each(|frame| collected.take(frame).map(drop));
        match (result, expected) {
            (Ok(()), Ok(n_files)) => assert_eq!(collected.files.len(), n_files),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (got, _) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn files_are_taken_whole() {
        let end = Frame::End(End { exit: Exit::Code(0), oom_kills: 0 });
        check(vec![head("a/b", 2), Frame::Data(b"xy".to_vec()), end.clone()], Ok(1));
        check(vec![head("a", 3), Frame::Data(b"xy".to_vec()), end], Err("2 bytes instead of 3"));
        check(vec![Frame::Data(b"xy".to_vec())], Err("before a file"));
    }

    #[test]
    fn a_guest_cannot_name_files_outside_its_folder() {
        for path in ["../x", "/etc/passwd", "a/../../x", ""] {
            check(vec![head(path, 0)], Err("outside its folder"));
        }
    }

    #[test]
    fn ends_without_a_report_are_told_apart() {
        let stop = AtomicBool::new(false);
        let second = Duration::from_secs(1);
        let limits = Limits { boot: second, run: second, memory: Bytes(1 << 30), stop: &stop };
        let why = |console: &str| {
            let status = std::os::unix::process::ExitStatusExt::from_raw(0);
            why_it_quit(status, console, "", &limits, ConsoleTail::default())
        };
        assert!(matches!(why("boot\n"), LabError::NoExitStatus { .. }));
        assert!(matches!(why("unionbench-lab: cannot find x\n"), LabError::GuestSetup { .. }));
        let panic = "[ 1.0] BUG: unable to handle page\n[ 1.1] Kernel panic - not syncing: Fatal\n";
        match why(panic) {
            LabError::Panic { line, .. } => assert_eq!(line, "BUG: unable to handle page"),
            other => panic!("{other}"),
        }
        assert!(matches!(
            why("Kernel panic - not syncing: System is deadlocked on memory\n"),
            LabError::OutOfMemory { .. }
        ));
    }
}
