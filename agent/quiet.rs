//! When nobody has called for a while, the agent gives memory back. Nothing ticks: one timer runs after the last call, and then none.

use berth_sys::memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Longer than the pauses of scripts that call again and again.
const QUIET: Duration = Duration::from_secs(20);

/// Counts calls.
#[derive(Clone, Default)]
pub struct Activity(Arc<Shared>);

#[derive(Default)]
struct Shared {
    calls: AtomicU64,
    wake: Notify,
}

impl Activity {
    /// A call has come.
    pub fn mark(&self) {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// Gives memory back each time that it becomes quiet; never returns.
    pub async fn watch(self) {
        loop {
            // Nobody waits here while the timer runs: a call costs no wake-up then.
            self.0.wake.notified().await;
            loop {
                let before = self.0.calls.load(Ordering::Relaxed);
                tokio::time::sleep(QUIET).await;
                if self.0.calls.load(Ordering::Relaxed) == before {
                    break;
                }
            }
            let given = tokio::task::spawn_blocking(|| (memory::give_back(), memory::forget_code()));
            match given.await {
                Ok((heap, Ok(code))) => tracing::debug!(heap, code, "quiet: memory was given back"),
                Ok((heap, Err(error))) => tracing::debug!(heap, %error, "quiet: the code stays in memory"),
                Err(e) => tracing::debug!("giving memory back: {e}"),
            }
        }
    }
}
