//! The only place where a task is born, and the threads that run them.
//!
//! Each worker is a runtime on a thread of its own; nothing is stolen from it. A session stays on the worker
//! it began on, and [`home`] tells which one that is, so that pools can prefer server connections whose
//! sockets are watched by the same thread.
//!
//! Every background activity has a name and a span, so that a panic or a leak can be told apart in
//! the logs. A panic ends the task that panicked and nothing else; it is logged and counted.

mod counted;
mod moment;
mod scheduling;
mod turn;

pub use counted::PerWorker;
pub use moment::{AtomicMoment, Moment, micros};
pub use turn::after_others;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::watch;
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

thread_local! {
    static HOME: Cell<usize> = const { Cell::new(NO_WORKER) };
}

/// What a thread that is no worker calls home.
const NO_WORKER: usize = usize::MAX;

/// The worker this thread is; 0 for threads that are none.
#[inline]
pub fn home() -> usize {
    let home = HOME.get();
    if home == NO_WORKER { 0 } else { home }
}

/// One thread that serves clients.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// Tasks given to it that have not ended.
    load: Arc<AtomicUsize>,
}

/// The workers. Worker 0 is the runtime that made them; the others end when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Workers {
    all: Arc<[Worker]>,
    /// Dropped with the last clone, which the threads notice.
    _alive: Arc<watch::Sender<()>>,
}

impl Workers {
    /// The present runtime, and threads for the rest of `count`.
    ///
    /// # Errors
    /// When the system gives no more threads or descriptors.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        // On a runtime of several threads its tasks are everywhere: no thread is that worker alone.
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            HOME.set(0);
        }
        let alive = watch::Sender::new(());
        let mut all = vec![Worker { handle: Handle::current(), load: Arc::default() }];
        for index in 1..count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            all.push(Worker { handle: runtime.handle().clone(), load: Arc::default() });
            let mut stop = alive.subscribe();
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                HOME.set(index);
                // Ends with an error once the sender is gone.
                runtime.block_on(async move { while stop.changed().await.is_ok() {} });
                runtime.shutdown_background();
            })?;
        }
        Ok(Self { all: all.into(), _alive: Arc::new(alive) })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The worker with the fewest tasks.
    pub fn least_loaded(&self) -> usize {
        let load = |worker: &Worker| worker.load.load(Ordering::Relaxed);
        (0..self.all.len()).min_by_key(|index| self.all.get(*index).map(load)).unwrap_or(0)
    }

    /// Lets each worker ask for its turns on a processor in the way that suits the load; for programs whose
    /// threads are all the workers' own.
    pub fn adapt_scheduling(&self) {
        for worker in &*self.all {
            worker.handle.spawn(scheduling::adapt());
        }
    }

    /// Starts a task on the worker with this number; `make` runs there.
    pub fn spawn_on<M, F>(&self, index: usize, make: M)
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(worker) = self.all.get(index) else { return };
        let load = Loaded::new(&worker.load);
        // Boxed: a task is as large as all that it has ever held.
        let make = Box::new(make);
        worker.handle.spawn(async move {
            let _load = load;
            make().await;
        });
    }
}

/// Counts a task for as long as it lives.
#[derive(Debug)]
struct Loaded(Arc<AtomicUsize>);

impl Loaded {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A future on the heap that is not made in the caller's frame.
///
/// The compiler gives a future that is boxed where it is called room on the caller's stack first. Where that happens
/// seldom and the caller is polled for each transaction, what the caller does use would lie kilobytes apart, and each
/// page of it would be touched (large frames are probed page by page).
#[inline(never)]
pub fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
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
