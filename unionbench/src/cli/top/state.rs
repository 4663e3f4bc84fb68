//! What `top` shows: a fold over events and keys, without a terminal.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;

use crate::stats::hdr;
use crate::trace::summary::{self, Losses, Percentiles, Tally};
use crate::trace::{Event, Kind};

/// Over which rates and percentiles are taken.
pub const WINDOW_NS: u64 = 10_000_000_000;

/// A step of the window, so that what leaves it does so smoothly.
const SLICE_NS: u64 = 1_000_000_000;

/// Keys that one slice tells apart in each table.
const MAX_KEYS: usize = 10_000;

/// Under which the others of a slice are summed up.
const OTHERS: &str = "(others)";

/// Which table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    Mounts,
    Containers,
    Processes,
    Files,
}

impl View {
    pub const ALL: [Self; 4] = [Self::Mounts, Self::Containers, Self::Processes, Self::Files];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mounts => "mounts",
            Self::Containers => "containers",
            Self::Processes => "processes",
            Self::Files => "files",
        }
    }
}

/// What a table is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Time,
    Number,
    Bytes,
    Fsyncs,
}

impl Sort {
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Number => "n",
            Self::Bytes => "copied",
            Self::Fsyncs => "fsyncs",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Time => Self::Number,
            Self::Number => Self::Bytes,
            Self::Bytes => Self::Fsyncs,
            Self::Fsyncs => Self::Time,
        }
    }
}

/// A key, as far as it means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    Next,
}

/// Everything on the screen.
pub struct State {
    pub view: View,
    pub sort: Sort,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    pub help: bool,
    pub quit: bool,
    pub scroll: usize,
    pub losses: Losses,
    pub n_events: u64,
    /// The recording is over, or why nothing more comes.
    pub ended: Option<String>,
    slices: VecDeque<Slice>,
    /// What is shown while it is paused.
    held: Option<Window>,
}

#[derive(Default)]
struct Slice {
    number: u64,
    operations: BTreeMap<String, Histogram<u64>>,
    tables: [BTreeMap<String, Tally>; View::ALL.len()],
    bytes: u64,
    fsyncs: u64,
    copy_ups: u64,
}

/// The last [`WINDOW_NS`] of events.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// Name, rate a second, percentiles.
    pub operations: Vec<(String, f64, Percentiles)>,
    pub tables: [BTreeMap<String, Tally>; View::ALL.len()],
    pub copy_ups: f64,
    pub bytes: f64,
    pub fsyncs: f64,
}

impl State {
    pub fn new() -> Self {
        Self {
            view: View::Mounts,
            sort: Sort::Time,
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
            quit: false,
            scroll: 0,
            losses: Losses::default(),
            n_events: 0,
            ended: None,
            slices: VecDeque::new(),
            held: None,
        }
    }

    /// Takes one event in, by the time of its end.
    pub fn add(&mut self, event: &Event) {
        self.n_events += 1;
        let number = event.at_unix_ns.saturating_add(event.latency_ns.0) / SLICE_NS;
        self.advance(number);
        // Events come nearly in order; one from before the window is counted
        // above and shown nowhere.
        let Some(slice) = self.slices.iter_mut().rev().find(|slice| slice.number == number) else {
            return;
        };
        let latencies =
            slice.operations.entry(summary::operation(event)).or_insert_with(hdr::empty);
        summary::record(latencies, event.latency_ns.0);
        let mount = summary::mount(event);
        let file = event.path.as_ref().map(|path| format!("{mount}:{path}"));
        let keys =
            [Some(mount), Some(summary::container(event)), Some(event.process.clone()), file];
        for (table, key) in slice.tables.iter_mut().zip(keys) {
            let Some(key) = key else { continue };
            let fits = table.len() < MAX_KEYS || table.contains_key(&key);
            table.entry(if fits { key } else { OTHERS.to_owned() }).or_default().add(event);
        }
        if event.kind == Kind::Copyup {
            slice.copy_ups += 1;
            slice.bytes += event.copied_bytes.unwrap_or(0);
            slice.fsyncs += u64::from(event.n_fsyncs.unwrap_or(0));
        }
    }

    /// Time passes though nothing happens.
    pub fn tick(&mut self, now_unix_ns: u64) {
        self.advance(now_unix_ns / SLICE_NS);
    }

    fn advance(&mut self, number: u64) {
        let newest = self.slices.back().map(|slice| slice.number);
        let n_slices = WINDOW_NS / SLICE_NS;
        let first = match newest {
            Some(newest) if newest >= number => return,
            Some(newest) => (newest + 1).max(number.saturating_sub(n_slices - 1)),
            None => number.saturating_sub(n_slices - 1),
        };
        self.slices.extend((first..=number).map(|number| Slice { number, ..Slice::default() }));
        while self.slices.len() as u64 > n_slices {
            self.slices.pop_front();
        }
    }

    /// What is to be shown now.
    pub fn window(&self) -> Window {
        if let Some(held) = &self.held {
            return held.clone();
        }
        let seconds = WINDOW_NS as f64 / 1e9;
        let mut window = Window::default();
        let mut operations: BTreeMap<&str, Histogram<u64>> = BTreeMap::new();
        for slice in &self.slices {
            for (name, latencies) in &slice.operations {
                let sum = operations.entry(name).or_insert_with(hdr::empty);
                // Both grow by themselves, so that adding cannot fail.
                let _ = sum.add(latencies);
            }
            for (table, part) in window.tables.iter_mut().zip(&slice.tables) {
                for (key, tally) in part {
                    table.entry(key.clone()).or_default().merge(tally);
                }
            }
            window.copy_ups += slice.copy_ups as f64 / seconds;
            window.bytes += slice.bytes as f64 / seconds;
            window.fsyncs += slice.fsyncs as f64 / seconds;
        }
        window.operations = operations
            .into_iter()
            .map(|(name, h)| (name.to_owned(), h.len() as f64 / seconds, summary::percentiles(&h)))
            .collect();
        window
    }

    /// The rows of the table that is shown, sorted and filtered.
    pub fn rows<'a>(&self, window: &'a Window) -> Vec<(&'a str, Tally)> {
        let table = &window.tables[self.view as usize];
        let filter = self.filter.to_lowercase();
        let mut rows: Vec<(&str, Tally)> = table
            .iter()
            .filter(|(key, _)| key.to_lowercase().contains(&filter))
            .map(|(key, tally)| (key.as_str(), *tally))
            .collect();
        let by = |tally: &Tally| match self.sort {
            Sort::Time => tally.latency_ns,
            Sort::Number => tally.n,
            Sort::Bytes => tally.bytes,
            Sort::Fsyncs => tally.n_fsyncs,
        };
        rows.sort_by(|a, b| by(&b.1).cmp(&by(&a.1)).then_with(|| a.0.cmp(b.0)));
        rows
    }

    /// Does what a key asks for.
    pub fn key(&mut self, key: Key) {
        if self.typing {
            match key {
                Key::Enter => self.typing = false,
                Key::Escape => {
                    self.typing = false;
                    self.filter.clear();
                }
                Key::Backspace => _ = self.filter.pop(),
                Key::Char(c) => self.filter.push(c),
                Key::Up | Key::Down | Key::Next => {}
            }
            self.scroll = 0;
            return;
        }
        match key {
            Key::Char('q') => self.quit = true,
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('/') => self.typing = true,
            Key::Char('p' | ' ') => {
                let held = if self.paused { None } else { Some(self.window()) };
                self.paused = held.is_some();
                self.held = held;
            }
            Key::Char('?' | 'h') => self.help = !self.help,
            Key::Next => {
                let at = (self.view as usize + 1) % View::ALL.len();
                self.show(View::ALL[at]);
            }
            Key::Char(c @ '1'..='4') => self.show(View::ALL[c as usize - '1' as usize]),
            Key::Up | Key::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            Key::Down | Key::Char('j') => self.scroll += 1,
            Key::Escape if self.help => self.help = false,
            Key::Escape => self.filter.clear(),
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.scroll = 0;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::trace::sample;

    pub fn filled(n: u64) -> State {
        let mut state = State::new();
        (0..n).for_each(|i| state.add(&sample::event(i)));
        state
    }

    #[test]
    fn what_is_older_than_the_window_is_gone() {
        let mut state = filled(100);
        assert_eq!(state.rows(&state.window())[0].1.n, 100);
        state.tick(sample::BEGAN + WINDOW_NS + SLICE_NS);
        assert!(state.rows(&state.window()).is_empty());
        assert_eq!(state.n_events, 100);
    }

    #[test]
    fn keys_sort_filter_pause_and_quit() {
        let mut state = filled(9);
        state.key(Key::Char('3'));
        assert_eq!(state.rows(&state.window()).len(), 3);
        state.key(Key::Char('/'));
        "sqlQ".chars().for_each(|c| state.key(Key::Char(c)));
        state.key(Key::Backspace);
        state.key(Key::Enter);
        assert_eq!(state.rows(&state.window()).len(), 1);
        state.key(Key::Char('p'));
        state.add(&sample::event(10));
        assert_eq!(state.rows(&state.window())[0].1.n, 3);
        state.key(Key::Char('p'));
        assert_eq!(state.rows(&state.window())[0].1.n, 4);
        state.key(Key::Escape);
        state.key(Key::Char('s'));
        assert_eq!((state.sort, state.filter.as_str()), (Sort::Number, ""));
        state.key(Key::Char('q'));
        assert!(state.quit);
    }

    #[test]
    fn an_explosion_of_keys_is_bounded() {
        let mut state = State::new();
        for i in 0..20_000 {
            let path = Some(format!("/{i}"));
            state.add(&Event { path, at_unix_ns: sample::BEGAN, ..sample::event(0) });
        }
        state.key(Key::Char('4'));
        let window = state.window();
        let rows = state.rows(&window);
        assert_eq!(rows.len(), MAX_KEYS + 1);
        assert_eq!(rows.iter().map(|(_, t)| t.n).sum::<u64>(), 20_000);
    }
}
