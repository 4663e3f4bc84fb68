//! `unionbench top`: a full screen, live or over a recording.

mod state;
mod view;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;

use super::Failure;
use super::events::{Events, Next};
use super::signal::stop_on_signal;
use super::trace::Filter;
use crate::trace::Kind;
use state::{Key, State};

/// How often the screen is drawn anew.
const FRAME: Duration = Duration::from_millis(250);

/// How long events are taken in before keys are looked at again.
const SLICE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to trace [default: copyup,whiteout,readdir,fsync,requests]
    #[arg(value_enum, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Shows the last seconds of a recording instead of what happens now
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() {
        let message = "top needs a terminal: use `unionbench trace --summary` for a file or a pipe";
        return Err(Failure::Usage(message.to_owned()).into());
    }
    let mut events = Events::open(args.replay.as_deref(), &args.kinds, &args.filter)?;
    // Before the screen is changed, so that no signal can come in between.
    let (stop, _listener) = stop_on_signal()?;
    // Restores the terminal if anything panics; what follows does so else.
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let shown = show(&mut terminal, &mut events, &stop);
    ratatui::restore();
    shown?;
    Ok(ExitCode::SUCCESS)
}

fn show(
    terminal: &mut DefaultTerminal,
    events: &mut Events,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut state = State::new();
    let mut drawn: Option<Instant> = None;
    while !state.quit && !stop.load(Ordering::Relaxed) {
        take(&mut state, events)?;
        let mut changed = false;
        // A recording that is over leaves nothing else to wait for.
        let patience = if state.ended.is_some() { SLICE } else { Duration::ZERO };
        while crossterm::event::poll(if changed { Duration::ZERO } else { patience })
            .context("cannot read the terminal")?
        {
            let happened = crossterm::event::read().context("cannot read the terminal")?;
            if let crossterm::event::Event::Key(pressed) = happened {
                key(&mut state, pressed);
            }
            changed = true;
        }
        if changed || drawn.is_none_or(|at| at.elapsed() >= FRAME) {
            state.losses = events.losses()?;
            if matches!(events, Events::Live(_)) {
                state.tick(now_unix_ns());
            }
            terminal.draw(|frame| view::draw(frame, &state)).context("cannot draw")?;
            drawn = Some(Instant::now());
        }
    }
    Ok(())
}

/// Takes in what comes within a slice of time.
fn take(state: &mut State, events: &mut Events) -> anyhow::Result<()> {
    let end = Instant::now() + SLICE;
    while state.ended.is_none() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match events.next(left)? {
            Next::Event(event) => state.add(&event),
            Next::Quiet => break,
            Next::Over => state.ended = Some("end of the recording".to_owned()),
        }
    }
    Ok(())
}

fn key(state: &mut State, pressed: KeyEvent) {
    if pressed.kind == KeyEventKind::Release {
        return;
    }
    let known = match pressed.code {
        // The terminal is in raw mode, where Ctrl-C is a key.
        KeyCode::Char('c') if pressed.modifiers.contains(KeyModifiers::CONTROL) => {
            state.quit = true;
            return;
        }
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Tab => Key::Next,
        _ => return,
    };
    state.key(known);
}

fn now_unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
