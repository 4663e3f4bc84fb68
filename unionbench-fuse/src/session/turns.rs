//! Which thread takes the next request, and where it runs.
//!
//! On an idle machine a request that is answered on another processor than its
//! caller's costs two wake-ups of a sleeping processor, several times the work
//! itself. So while one caller asks alone, one thread (the near one) serves it
//! on the caller's own processor, in the scheduler's idle class: a processor
//! that runs only such a thread counts as idle, so the kernel wakes the caller
//! in place instead of moving it away (`sched_idle_cpu`, Linux 5.4, in
//! `select_idle_sibling`), and the near thread goes on once the caller sleeps.
//! The other threads stay away from the device, since each request would wake
//! one of them.
//!
//! A thread in the idle class starves beside other work. A thread of the usual
//! class therefore looks every [`LOOK`]: a near thread that answered
//! few requests since the last look, whatever the cause (no more callers, one
//! long request, a processor busy with others), gets its class back and all
//! threads serve again. How long they then do so doubles each time that the
//! near thread did not last.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::Request;
use parking_lot::{Condvar, Mutex};

use crate::counters::Counters;
use crate::sys::probe_points::take_request;
use crate::sys::schedule::{self, Thread};

/// Requests in a row of one caller before a thread goes near it.
const STREAK: u32 = 32;
/// How often the near thread is looked after.
const LOOK: Duration = Duration::from_millis(2);
/// Fewer answers than this between two looks end it.
const LEAST: u64 = 8;
/// Changes of caller, one taken off by each [`STREAK`] requests without, that
/// end it.
const STRANGERS: u32 = 4;
/// A near thread that lasted this long was worth it.
const WORTH_IT: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turns {
    counters: Arc<Counters>,
    enabled: bool,
    /// A thread serves alone; the details are in `state`.
    is_near: AtomicBool,
    answered: AtomicU64,
    caller: AtomicU32,
    streak: AtomicU32,
    strangers: AtomicU32,
    near: AtomicI32,
    state: Mutex<State>,
    /// `state` has changed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    near: Option<Near>,
    /// The session has ended.
    over: bool,
    pause: Duration,
    not_before: Instant,
}

#[derive(Debug)]
struct Near {
    thread: Thread,
    since: Instant,
}

/// One request being served. Dropped after the reply.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    /// The caller's thread, 0 if it is not known.
    caller: u32,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.answered(self.caller);
    }
}

impl Turns {
    fn new(enabled: bool, counters: Arc<Counters>) -> Self {
        Self {
            counters,
            enabled,
            is_near: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            caller: AtomicU32::new(0),
            streak: AtomicU32::new(0),
            strangers: AtomicU32::new(0),
            near: AtomicI32::new(0),
            state: Mutex::new(State {
                near: None,
                over: false,
                pause: FIRST_PAUSE,
                not_before: Instant::now(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes a request.
    pub(super) fn take(&self, request: &Request) -> Turn<'_> {
        take_request(request.unique().0);
        Counters::add(&self.counters.requests, 1);
        Turn { turns: self, caller: request.pid() }
    }

    fn answered(&self, caller: u32) {
        if !self.enabled {
            return;
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        let same = caller == 0 || self.caller.swap(caller, Ordering::Relaxed) == caller;
        if !same {
            self.streak.store(0, Ordering::Relaxed);
        }
        let streak = self.streak.fetch_add(u32::from(caller != 0), Ordering::Relaxed);
        if !self.is_near.load(Ordering::Acquire) {
            if streak != 0 && streak.is_multiple_of(STREAK) {
                self.go_near(caller);
            }
        } else if self.near.load(Ordering::Relaxed) != schedule::own_number() {
            self.stay_away();
        } else if !same {
            if self.strangers.fetch_add(1, Ordering::Relaxed) >= STRANGERS {
                self.spread(&mut self.state.lock());
            }
        } else if streak.is_multiple_of(STREAK) {
            let strangers = self.strangers.load(Ordering::Relaxed);
            self.strangers.store(strangers.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Makes the calling thread the near one.
    fn go_near(&self, caller: u32) {
        let Some(mut state) = self.state.try_lock() else { return };
        let now = Instant::now();
        if state.near.is_some() || now < state.not_before {
            return;
        }
        let Some(processor) = schedule::processor_of(caller) else { return };
        let mut thread = Thread::current();
        if thread.go_idle(processor).is_err() {
            state.not_before = now + LONGEST_PAUSE;
            return;
        }
        self.near.store(thread.number(), Ordering::Relaxed);
        self.strangers.store(0, Ordering::Relaxed);
        state.near = Some(Near { thread, since: now });
        self.is_near.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends the near thread's time.
    fn spread(&self, state: &mut State) {
        let Some(near) = state.near.take() else { return };
        near.thread.come_back();
        let now = Instant::now();
        state.pause = if now - near.since >= WORTH_IT {
            FIRST_PAUSE
        } else {
            (state.pause * 2).min(LONGEST_PAUSE)
        };
        state.not_before = now + state.pause;
        self.streak.store(0, Ordering::Relaxed);
        self.is_near.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// Keeps the calling thread from the device while another is near.
    fn stay_away(&self) {
        let mut state = self.state.lock();
        while state.near.is_some() {
            self.changed.wait(&mut state);
        }
    }

    /// Looks after near threads until the session is over.
    fn watch(&self) {
        let mut state = self.state.lock();
        while !state.over {
            let Some(near) = &state.near else {
                self.changed.wait(&mut state);
                continue;
            };
            let (since, seen) = (near.since, self.answered.load(Ordering::Relaxed));
            self.changed.wait_for(&mut state, LOOK);
            let Some(near) = &mut state.near else { continue };
            if near.since != since {
                continue;
            }
            if self.answered.load(Ordering::Relaxed) - seen < LEAST {
                self.spread(&mut state);
            } else if let Some(at) = schedule::processor_of(self.caller.load(Ordering::Relaxed)) {
                near.thread.follow_to(at);
            }
        }
    }
}

/// The turns of a session, and the thread that looks after them.
#[derive(Debug)]
pub(super) struct Watched(Arc<Turns>);

impl Watched {
    /// Turns that know no near thread unless `wanted`.
    pub(super) fn new(wanted: bool, counters: &Arc<Counters>) -> Self {
        let new = |enabled| Arc::new(Turns::new(enabled, Arc::clone(counters)));
        let turns = new(wanted && Thread::may_return());
        if turns.enabled {
            let watched = turns.clone();
            let watch = move || watched.watch();
            let started = std::thread::Builder::new().name("union-turns".into()).spawn(watch);
            if started.is_err() {
                return Self(new(false));
            }
        }
        Self(turns)
    }
}

impl Deref for Watched {
    type Target = Turns;

    fn deref(&self) -> &Turns {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        self.0.spread(&mut state);
        state.over = true;
        self.0.changed.notify_all();
    }
}
