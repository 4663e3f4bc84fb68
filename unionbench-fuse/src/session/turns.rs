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
//! The scheduler may move the caller all the same. Then each request takes
//! several times as long to come, which the near thread notices: after
//! [`FAR_IN_A_ROW`] such it looks where the caller is, and follows.
//!
//! A thread in the idle class starves beside other work. A thread of the usual
//! class therefore looks every [`LOOK`]: a near thread that answered few
//! requests since the last look, and is not waiting for one (one long request, a
//! processor busy with others), gets its class back and all threads serve
//! again. How long they then do so doubles each time that the near thread did
//! not last; after one long request, such as the first in a deep directory, for
//! which it had its processor, only until that is answered. For want of requests it ends
//! after [`IDLE_LOOKS`] only, and that does not count against it, since nobody
//! waits then.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::Request;
use parking_lot::{Condvar, Mutex};

use crate::counters::Counters;
use crate::sys::probe_points::take_request;
use crate::sys::schedule::{self, Thread};

/// Requests in a row of one caller before a thread goes near it. Each of them
/// costs as much as several answered near, and to go near costs about one.
const STREAK: u32 = 4;
/// How often the near thread is looked after.
const LOOK: Duration = Duration::from_millis(2);
/// Fewer answers than this between two looks end it if it is not that nobody
/// asked.
const LEAST: u64 = 8;
/// One that had less than this part of the time for itself is starving.
const STARVED: u32 = 8;
/// So many looks in a row without a request end it.
const IDLE_LOOKS: u32 = 3;
/// Changes of caller, one taken off by each [`CALM`] requests without, that
/// end it.
const STRANGERS: u32 = 4;
const CALM: u32 = 32;
/// A caller on the same processor asks again sooner than this, unless it does
/// something else meanwhile; from another one it takes three times as long.
const FAR: Duration = Duration::from_micros(25);
const FAR_IN_A_ROW: u32 = 2;
/// Where the caller is, is not looked up again sooner than this if it had not
/// moved; twice as long each further time, up to [`LOOK`].
const FIRST_WAIT: Duration = Duration::from_micros(200);
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
    /// The near thread has a request to answer.
    serving: AtomicBool,
    distance: Distance,
    state: Mutex<State>,
    /// `state` has changed.
    changed: Condvar,
}

/// What the near thread notices of where its caller is. Nobody else uses it.
#[derive(Debug)]
struct Distance {
    start: Instant,
    /// When the last answer was given, in nanoseconds since `start`.
    answered: AtomicU64,
    /// Requests in a row that took long to come.
    far: AtomicU32,
    /// When to look for the caller at the earliest, and how long to wait after
    /// that.
    look_at: AtomicU64,
    wait: AtomicU64,
}

impl Distance {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            answered: AtomicU64::new(0),
            far: AtomicU32::new(0),
            look_at: AtomicU64::new(0),
            wait: AtomicU64::new(FIRST_WAIT.as_nanos() as u64),
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// An answer was given.
    fn answer(&self) {
        self.answered.store(self.now(), Ordering::Relaxed);
    }

    /// A request has come; true if the caller seems to be far away.
    fn request(&self) -> bool {
        let now = self.now();
        if now.saturating_sub(self.answered.load(Ordering::Relaxed)) < FAR.as_nanos() as u64 {
            self.far.store(0, Ordering::Relaxed);
            return false;
        }
        let far = self.far.fetch_add(1, Ordering::Relaxed) + 1;
        far >= FAR_IN_A_ROW && now >= self.look_at.load(Ordering::Relaxed)
    }

    /// The caller was looked for, and had moved or not.
    fn looked(&self, moved: bool) {
        let wait = self.wait.load(Ordering::Relaxed);
        let (look_at, wait) = if moved {
            // It may move on.
            (0, FIRST_WAIT.as_nanos() as u64)
        } else {
            (self.now() + wait, (wait * 2).min(LOOK.as_nanos() as u64))
        };
        self.look_at.store(look_at, Ordering::Relaxed);
        self.wait.store(wait, Ordering::Relaxed);
        self.far.store(0, Ordering::Relaxed);
    }
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
            serving: AtomicBool::new(false),
            distance: Distance::new(),
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
        let caller = request.pid();
        if self.is_own_turn() {
            self.serving.store(true, Ordering::Relaxed);
            if caller != 0 && self.distance.request() {
                self.follow(caller);
            }
        }
        Turn { turns: self, caller }
    }

    /// True in the near thread.
    fn is_own_turn(&self) -> bool {
        self.is_near.load(Ordering::Acquire)
            && self.near.load(Ordering::Relaxed) == schedule::own_number()
    }

    /// Moves the near thread, which is the calling one, to where its caller is.
    fn follow(&self, caller: u32) {
        let Some(mut state) = self.state.try_lock() else { return };
        let Some(near) = &mut state.near else { return };
        let at = schedule::processor_of(caller);
        self.distance.looked(at.is_some_and(|at| near.thread.follow_to(at)));
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
        } else {
            self.serving.store(false, Ordering::Relaxed);
            if caller != 0 {
                // What nobody waits for, as FORGET, comes whenever it likes.
                self.distance.answer();
            }
            if !same {
                if self.strangers.fetch_add(1, Ordering::Relaxed) >= STRANGERS {
                    self.spread(&mut self.state.lock(), true);
                }
            } else if streak.is_multiple_of(CALM) {
                let strangers = self.strangers.load(Ordering::Relaxed);
                self.strangers.store(strangers.saturating_sub(1), Ordering::Relaxed);
            }
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
        self.serving.store(false, Ordering::Relaxed);
        state.near = Some(Near { thread, since: now });
        self.is_near.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends the near thread's time, which was a mistake if it is so soon and
    /// callers had to wait for it.
    fn spread(&self, state: &mut State, waited: bool) {
        let Some(near) = state.near.take() else { return };
        near.thread.come_back();
        let now = Instant::now();
        state.pause = if !waited || now - near.since >= WORTH_IT {
            FIRST_PAUSE
        } else {
            (state.pause * 2).min(LONGEST_PAUSE)
        };
        state.not_before = if waited { now + state.pause } else { now };
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
        let mut idle_looks = 0;
        while !state.over {
            let Some(near) = &state.near else {
                self.changed.wait(&mut state);
                idle_looks = 0;
                continue;
            };
            let (since, seen) = (near.since, self.answered.load(Ordering::Relaxed));
            let (began, ran) = (Instant::now(), near.thread.cpu_time());
            self.changed.wait_for(&mut state, LOOK);
            let Some(near) = &state.near else { continue };
            if near.since != since {
                continue;
            }
            let answers = self.answered.load(Ordering::Relaxed) - seen;
            if answers >= LEAST {
                idle_looks = 0;
                continue;
            }
            let idle = !self.serving.load(Ordering::Relaxed) && near.thread.is_asleep();
            idle_looks = if idle && answers == 0 { idle_looks + 1 } else { 0 };
            // One long request is no mistake.
            let worked = || {
                let ran = near.thread.cpu_time()?.checked_sub(ran?)?;
                Some(ran * STARVED >= began.elapsed())
            };
            let starved = !idle && worked() != Some(true);
            if !idle || idle_looks == IDLE_LOOKS {
                self.spread(&mut state, starved);
                if !idle && !starved {
                    self.streak.store(STREAK, Ordering::Relaxed);
                }
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
        self.0.spread(&mut state, false);
        state.over = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_does_not_hide_that_the_caller_is_far() {
        const CALLER: u32 = 7;
        let turns = Turns::new(true, Arc::default());
        turns.near.store(schedule::own_number(), Ordering::Relaxed);
        turns.is_near.store(true, Ordering::Relaxed);
        for n in 1..=FAR_IN_A_ROW {
            turns.answered(CALLER);
            std::thread::sleep(FAR);
            // FORGET has no caller.
            turns.answered(0);
            assert_eq!(turns.distance.request(), n == FAR_IN_A_ROW, "{n} in a row");
        }
        // Whoever has moved may be looked for again at once, others later.
        turns.distance.looked(true);
        assert_eq!(turns.distance.look_at.load(Ordering::Relaxed), 0);
        turns.distance.looked(false);
        assert!(turns.distance.look_at.load(Ordering::Relaxed) > 0);
    }
}
