//! What it costs to see the callers of FUSE requests run again, for which a
//! program runs at every switch of the scheduler's: requests of a caller that
//! asks alone, in turns with nothing watched, with that left out, and with it.
//!
//!     cargo xtask bench --bench replies

use std::time::Instant;

use unionbench::probe::{Family, Request, Session, Watch};
use unionbench_fuse::MountOptions;

const ROUNDS: usize = 21;
/// Each is a request of its own: what a file system holds is not cached.
const REQUESTS: usize = 10_000;

fn main() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let [lower, merged] = ["lower", "merged"].map(|name| dir.path().join(name));
    for folder in [&lower, &merged] {
        std::fs::create_dir(folder).expect("a folder");
    }
    let options = MountOptions::parse(&format!("lowerdir={}", lower.display()));
    let options = options.expect("well-formed options");
    let mounted = unionbench_fuse::mount(&options, &merged).expect("root and /dev/fuse");
    let open = |replies| {
        let family = Family::Bundled;
        Session::open(&Request { family, functions: false, sampling_hertz: None, replies })
            .expect("root, and probes in this program")
    };
    let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    let mut sessions = [None, Some(open(false)), Some(open(true))];
    let mut rounds: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (session, times) in sessions.iter_mut().zip(&mut rounds) {
            if let Some(session) = session {
                session.begin(Watch::Threads(&[own])).expect("maps can be written");
            }
            let start = Instant::now();
            for _ in 0..REQUESTS {
                rustix::fs::statfs(&merged).expect("it is mounted");
            }
            times.push(start.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64);
            if let Some(session) = session {
                let seen = session.end().expect("maps can be read");
                assert!(seen.losses.is_zero(), "{:?}", seen.losses);
                session.rest();
            }
        }
    }
    let ratio = |of: usize, to: usize| {
        median(rounds[of].iter().zip(&rounds[to]).map(|(new, base)| new / base).collect())
    };
    let name = ["not watched", "watched, replies left out", "watched"];
    for (name, times) in name.iter().zip(&rounds) {
        println!("{name}: {:.0} ns a request", median(times.clone()));
    }
    println!("watched over not watched: {:.3}", ratio(2, 0));
    println!("watched over replies left out: {:.3}", ratio(2, 1));
    drop(sessions);
    mounted.unmount().expect("nobody uses it");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
