//! Signals that ask a command to end in good order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// A flag that SIGINT and SIGTERM set, and what listens for them.
pub(super) fn stop_on_signal() -> anyhow::Result<(Arc<AtomicBool>, tokio::runtime::Runtime)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the signal handler")?;
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    drop(guard);
    runtime.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        set.store(true, Ordering::Relaxed);
    });
    Ok((stop, runtime))
}
