//! What is made of recordings: summaries, scenarios, advice, and a screen.

mod recording;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use tempfile::TempDir;
use unionbench::trace::Trigger;

const PROGRAM: &str = env!("CARGO_BIN_EXE_unionbench");

fn file(folder: &TempDir, text: &[u8]) -> PathBuf {
    let path = folder.path().join("trace.jsonl");
    std::fs::write(&path, text).expect("writes");
    path
}

fn run(words: &[&str], path: &Path) -> Output {
    Command::new(PROGRAM).args(words).arg(path).output().expect("runs")
}

fn thirty() -> String {
    let events: Vec<_> = (0..30)
        .map(|i| {
            let mut event = recording::copy_up(i, &format!("/dir{}/file{i}", i % 3), "abc");
            event.trigger = Some([Trigger::Chown, Trigger::OpenWrite][(i % 2) as usize]);
            event
        })
        .collect();
    recording::text(&events)
}

#[test]
fn every_tool_says_what_is_wrong_with_a_recording() {
    let folder = tempfile::tempdir().expect("a folder");
    let newer = thirty().replacen("\"format\":1", "\"format\":7", 1);
    let broken = thirty().replacen("\"copyup\",\"at", "\"copyleft\",\"at", 1);
    let cases: [(&[u8], &str); 5] = [
        (b"", "it is empty"),
        (b"{\"cells\": []}\n", "its first line is no header"),
        (b"\xff\xfe\x00", "its first line is no header"),
        (newer.as_bytes(), "it has format 7"),
        (broken.as_bytes(), "line 2"),
    ];
    for (text, expected) in cases {
        let path = file(&folder, text);
        for words in [&["summary"][..], &["scenario", "from-trace"], &["advise"]] {
            let output = run(words, &path);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
            assert!(said.contains(expected), "{words:?}: {said}");
        }
    }
    let output = run(&["summary"], Path::new("/nowhere/trace.jsonl"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_recording_that_is_cut_off_is_summed_up_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = thirty();
    let output = run(&["summary"], &file(&folder, &text.as_bytes()[..text.len() / 2]));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("the recording is cut off"), "{said}");
    let output = run(&["summary", "--format", "json"], &file(&folder, text.as_bytes()));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&json["n_events"], &json["losses"]["cut"]), (&30.into(), &false.into()));
}

#[test]
fn recordings_are_summed_up_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let text = thirty();
    std::fs::write(path("a"), &text).expect("written");
    // The last event and the end are missing, and another kernel ran.
    let cut = text.lines().take(30).collect::<Vec<_>>().join("\n") + "\n";
    std::fs::write(path("b"), cut.replacen("\"kernel\":\"", "\"kernel\":\"other-", 1))
        .expect("written");
    let (a, b) = (path("a"), path("b"));
    let output = run(&["summary", "--format", "json", a.to_str().expect("plain")], &b);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&json["n_events"], &json["losses"]["cut"]), (&59.into(), &true.into()));
    let kernel = json["kernel"].as_str().expect("told");
    assert!(kernel.contains(", other-"), "{kernel}");
    let twice = run(&["summary", a.to_str().expect("plain")], &a);
    assert_eq!(twice.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("named twice"));
}

#[test]
fn a_scenario_of_a_trace_hides_names_and_is_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = file(&folder, thirty().as_bytes());
    let scenario = folder.path().join("again.toml");
    let out = scenario.to_str().expect("plain");
    assert!(run(&["scenario", "from-trace", "-o", out], &path).status.success());
    let text = std::fs::read_to_string(&scenario).expect("was written");
    assert!(!text.contains("file3") && !text.contains("/merged"), "{text}");
    assert_eq!(text.matches("by = \"chown\"").count(), 15);
    assert!(run(&["validate"], &scenario).status.success());
    assert!(run(&["scenario", "from-trace", "--keep-names", "-o", out], &path).status.success());
    assert!(std::fs::read_to_string(&scenario).expect("was written").contains("dir0/file3"));
}

#[test]
fn advice_is_computed_from_the_phases_of_a_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(&["advise", "--format", "json"], &file(&folder, thirty().as_bytes()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let advice = json[0]["advice"].as_array().expect("a list");
    let saving = |change: &str| {
        let found = advice.iter().find(|a| a["change"] == change).expect(change);
        found["predicted_saving"].as_u64().expect("a number")
    };
    // 15 chowns took 70 µs each for data and fsync, all 30 of them 40 for fsync.
    assert_eq!((saving("metacopy=on"), saving("volatile")), (15 * 70_000, 30 * 40_000));
    let none = recording::text(&[]);
    let output = run(&["advise"], &file(&folder, none.as_bytes()));
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A terminal with `top` in it, and what it shows.
struct Screen {
    child: Child,
    keyboard: File,
    size: OwnedFd,
    output: Receiver<Vec<u8>>,
    parser: vt100::Parser,
    raw: Vec<u8>,
    _folder: TempDir,
}

impl Screen {
    fn open(columns: u16, terminal: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = file(&folder, thirty().as_bytes());
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&pty).and_then(|()| unlockpt(&pty)).expect("a terminal");
        let name = ptsname(&pty, Vec::new()).expect("a name");
        let name = Path::new(name.to_str().expect("plain")).to_owned();
        let window = |columns| Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&pty, window(columns)).expect("a size");
        let inside =
            || Stdio::from(File::options().read(true).write(true).open(&name).expect("opens"));
        // `setsid -c` makes it the terminal that sends signals, as a shell's is.
        let child = Command::new("setsid")
            .args(["-c", "-w", PROGRAM, "top", "--replay"])
            .arg(&path)
            .env("TERM", terminal)
            .env("NO_COLOR", "1")
            .stdin(inside())
            .stdout(inside())
            .stderr(inside())
            .spawn()
            .expect("util-linux has setsid");
        let size = pty.try_clone().expect("a second descriptor");
        let keyboard = File::from(pty.try_clone().expect("a second descriptor"));
        let (send, output) = channel();
        let mut reader = File::from(pty);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let parser = vt100::Parser::new(24, columns, 0);
        Self { child, keyboard, size, output, parser, raw: Vec::new(), _folder: folder }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("types");
    }

    fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        loop {
            let shown = self.parser.screen().contents();
            if shown.contains(text) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no {text:?} in\n{shown}");
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
                self.parser.process(&bytes);
                self.raw.extend(bytes);
            }
        }
    }

    /// Waits for the program's end and looks at what it left.
    fn ended(mut self) {
        let status = self.child.wait().expect("ends");
        assert!(status.success(), "{status}");
        let mode = tcgetattr(&self.size).expect("a terminal").local_modes;
        assert!(mode.contains(rustix::termios::LocalModes::ECHO), "the terminal echoes again");
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(500)) {
            self.raw.extend(bytes);
        }
        let said = String::from_utf8_lossy(&self.raw).into_owned();
        assert!(said.contains("\u{1b}[?1049h") && said.contains("\u{1b}[?1049l"), "{said:?}");
    }
}

/// A test that fails leaves no program behind.
impl Drop for Screen {
    fn drop(&mut self) {
        // setsid ends when the program does; those below it are ended first, so
        // that none is handed on to another parent.
        for pid in unionbench::sys::process::descendants(self.child.id()).unwrap_or_default() {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_failed_test_leaves_no_top_behind() {
    let mut screen = Screen::open(100, "xterm");
    screen.wait_for("p99");
    let mut all = unionbench::sys::process::descendants(screen.child.id()).expect("is there");
    all.push(screen.child.id());
    drop(screen);
    for pid in all {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_gone = status.is_empty() || status.contains(") Z ");
        assert!(is_gone, "{pid} goes on: {status}");
    }
}

#[test]
fn top_is_driven_by_keys_and_leaves_the_terminal_as_it_was() {
    let mut screen = Screen::open(100, "xterm");
    screen.wait_for("end of the recording");
    screen.wait_for("30 events, 0 lost");
    screen.press("4");
    screen.wait_for("/merged:/dir1/file28");
    screen.press("/file7\r");
    screen.wait_for("only \"file7\"");
    assert!(!screen.parser.screen().contents().contains("file28"));
    screen.press("?");
    screen.wait_for("mounts, containers, processes, files");
    screen.press("?s");
    screen.wait_for("by n of");
    screen.press("q");
    screen.ended();
}

#[test]
fn top_follows_the_size_of_a_terminal_without_colour_and_ends_at_a_signal() {
    let mut screen = Screen::open(100, "vt100");
    screen.wait_for("p99");
    let narrow = Winsize { ws_row: 24, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&screen.size, narrow).expect("a size");
    screen.parser = vt100::Parser::new(24, 40, 0);
    screen.wait_for("operation   per s    median    max");
    // 39 is the terminal's own colour.
    let raw = String::from_utf8_lossy(&screen.raw);
    assert!((30..39).all(|code| !raw.contains(&format!("\u{1b}[{code}"))), "no colour is set");
    let children = unionbench::sys::process::descendants(screen.child.id()).expect("is there");
    // setsid makes a child of it only where it leads a group of processes.
    let top = children.first().copied().unwrap_or(screen.child.id());
    kill_process(Pid::from_raw(top.cast_signed()).expect("a pid"), Signal::TERM).expect("is told");
    screen.ended();
}

#[test]
fn top_without_a_terminal_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(&["top", "--replay"], &file(&folder, thirty().as_bytes()));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--summary"));
}
