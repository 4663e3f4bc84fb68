//! `unionbench export`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::events::{Events, Next};
use super::signal::stop_on_signal;
use super::trace::Filter;
use crate::export::Metrics;
use crate::export::server::Server;
use crate::trace::Kind;

/// How long a signal may wait for its effect, and a loss until it is told.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to trace [default: copyup,whiteout,readdir,fsync,requests]
    #[arg(value_enum, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Address and port; another than loopback lets everyone who reaches it
    /// read names of mounts and containers
    #[arg(long, default_value = "127.0.0.1:9435", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Tells at most N sets of mount, container and pod apart; what comes
    /// beyond counts under `other`
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_label_sets: u32,
    /// Exports what a recording holds instead of what happens now
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // First: a port in use ends the program before anything is attached.
    let server = Server::bind(args.listen)?;
    let (stop, _listener) = stop_on_signal()?;
    let mut events = Events::open(args.replay.as_deref(), &args.kinds, &args.filter)?;
    let mut metrics = Metrics::new(&events.header().kernel, args.max_label_sets as usize);
    metrics.set_sources(events.sources());
    let metrics = Arc::new(Mutex::new(metrics));
    eprintln!("unionbench: listening on http://{}/metrics", server.address()?);
    let (over, is_over) = tokio::sync::oneshot::channel::<()>();
    let served = Arc::clone(&metrics);
    let server = std::thread::spawn(move || {
        server.serve(served, async {
            let _ = is_over.await;
        });
    });
    take(&mut events, &metrics, &stop);
    // What was seen is told until the end, and /healthz says why no more is.
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(PATIENCE);
    }
    drop(over);
    server.join().map_err(|_| anyhow!("the server ended in a panic"))?;
    Ok(ExitCode::SUCCESS)
}

/// Takes events in until there are no more, or a signal comes.
fn take(events: &mut Events, metrics: &Mutex<Metrics>, stop: &AtomicBool) {
    let lock = || metrics.lock().unwrap_or_else(PoisonError::into_inner);
    let mut told = Instant::now();
    let reason = loop {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let next = events.next(PATIENCE);
        if told.elapsed() >= PATIENCE || matches!(next, Ok(Next::Over)) {
            told = Instant::now();
            match events.losses() {
                Ok(losses) => lock().set_lost(losses.n_lost + losses.n_missing),
                Err(error) => break format!("{error:#}"),
            }
        }
        match next {
            Ok(Next::Event(event)) => lock().add(&event),
            Ok(Next::Quiet) => {}
            Ok(Next::Over) => break "the recording has ended".to_owned(),
            Err(error) => break format!("{error:#}"),
        }
    };
    // Whoever started the program may have closed stderr since.
    let _ = writeln!(std::io::stderr(), "unionbench: nothing more is traced: {reason}");
    lock().end(&reason);
}
