//! Where `export` and `top` have their events from: this host, or a recording.

use std::path::Path;
use std::time::Duration;

use super::trace::Filter;
use crate::trace::summary::Losses;
use crate::trace::{Ending, Event, Header, Kind, Recording, Source, Tracer};

/// What is traced without a choice: lookups are left out, since there are so
/// many of them that seeing each costs.
const KINDS: [Kind; 5] = [Kind::Copyup, Kind::Whiteout, Kind::Readdir, Kind::Fsync, Kind::Requests];

/// A stream of events.
pub enum Events {
    Live(Box<Tracer>),
    Recorded(Box<Recording>),
}

/// What came next.
pub enum Next {
    Event(Box<Event>),
    /// Nothing within the time.
    Quiet,
    /// The recording has no more.
    Over,
}

impl Events {
    /// Opens the recording, or begins to trace these kinds; those that cannot
    /// be seen here are told on stderr.
    pub fn open(recording: Option<&Path>, kinds: &[Kind], filter: &Filter) -> anyhow::Result<Self> {
        if let Some(path) = recording {
            return Ok(Self::Recorded(Box::new(Recording::open(path)?)));
        }
        let kinds = if kinds.is_empty() { &KINDS } else { kinds };
        let tracer = Tracer::open(&filter.request(kinds))?;
        for reason in tracer.unseen() {
            eprintln!("unionbench: not seen here: {reason}");
        }
        Ok(Self::Live(Box::new(tracer)))
    }

    pub fn header(&self) -> &Header {
        match self {
            Self::Live(tracer) => tracer.header(),
            Self::Recorded(recording) => recording.header(),
        }
    }

    /// What of this host is seen and what is not; nothing of a recording.
    pub fn sources(&self) -> &[Source] {
        match self {
            Self::Live(tracer) => tracer.sources(),
            Self::Recorded(_) => &[],
        }
    }

    pub fn next(&mut self, patience: Duration) -> anyhow::Result<Next> {
        let event = match self {
            Self::Live(tracer) => match tracer.next(patience)? {
                None => return Ok(Next::Quiet),
                event => event,
            },
            Self::Recorded(recording) => recording.next().transpose()?,
        };
        Ok(event.map_or(Next::Over, |event| Next::Event(Box::new(event))))
    }

    /// What was lost up to now.
    pub fn losses(&self) -> anyhow::Result<Losses> {
        Ok(match self {
            Self::Live(tracer) => Losses { n_lost: tracer.n_lost()?, ..Losses::default() },
            Self::Recorded(recording) => match recording.ending() {
                Ending::Whole(end) => {
                    Losses { n_lost: end.n_lost, n_missing: recording.n_missing(), cut: false }
                }
                Ending::Cut => Losses { cut: true, ..Losses::default() },
                Ending::Open => Losses::default(),
            },
        })
    }
}
