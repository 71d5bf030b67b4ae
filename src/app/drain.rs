//! Stopping: no new clients, open transactions finish, then a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clients::{Order, Registry};
use crate::session::SessionContext;

/// How far shutting down has got. Only ever goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    Immediate,
}

/// The stop signal: cloned to whoever may stop the process, and to those who must.
#[derive(Clone, Debug)]
pub struct Shutdown {
    sender: watch::Sender<Stage>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { sender: watch::Sender::new(Stage::Running) }
    }
}

impl Shutdown {
    /// Asks for a drain; asked a second time, for an immediate end.
    pub fn drain(&self) {
        self.sender.send_modify(|stage| {
            *stage = if *stage == Stage::Running { Stage::Draining } else { Stage::Immediate };
        });
    }

    /// Asks for an immediate end.
    pub fn stop(&self) {
        self.sender.send_replace(Stage::Immediate);
    }

    /// Waits until a drain or an end is asked for.
    pub async fn requested(&self) {
        let _ = self.sender.subscribe().wait_for(|stage| *stage != Stage::Running).await;
    }

    async fn immediate(&self) {
        let _ = self.sender.subscribe().wait_for(|stage| *stage == Stage::Immediate).await;
    }
}

/// Time between two looks at deadlines of clients: what timeouts are exact to.
const SWEEP_PERIOD: Duration = Duration::from_millis(100);
/// Time between two looks at how many clients are left.
const DRAIN_PERIOD: Duration = Duration::from_millis(20);
/// How long sessions have to say good-bye when their time is over.
const GOODBYE: Duration = Duration::from_secs(2);

/// Sweeps between two looks of the allocator at what it could give back.
const SWEEPS_TO_GIVE_BACK: u32 = 10;
/// More than the allocator keeps for the next time; never touched, so it costs no memory.
const LARGE_BYTES: usize = 2 << 20;

/// Gives clients the orders whose deadlines have passed, and memory back to the system. Runs until dropped.
pub(super) async fn sweep(clients: Arc<Registry>) {
    let mut ticks = tokio::time::interval(SWEEP_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for sweep in (0..SWEEPS_TO_GIVE_BACK).cycle() {
        ticks.tick().await;
        clients.sweep(Instant::now());
        if sweep == 0 {
            // mimalloc gives memory back a second after it was freed, but only when something large is freed: what
            // thousands of clients needed at the same moment stayed for as long as they were idle.
            drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES)));
        }
    }
}

/// Drains: idle clients are closed, the others at the end of their transaction, all at the deadline.
pub(super) async fn drain(context: &SessionContext, accepting: Vec<JoinHandle<()>>, shutdown: Shutdown) {
    context.draining.store(true, Ordering::Release);
    for task in accepting {
        task.abort();
        let _ = task.await;
    }
    let limit = context.topology.load().config.timeouts.shutdown;
    tracing::info!(clients = context.clients.count(), limit_ms = limit.as_millis(), "draining");
    context.clients.order_all(Order::Drain);
    tokio::select! {
        () = empty(context) => tracing::info!("all clients have gone"),
        () = tokio::time::sleep(limit) => tracing::warn!(clients = context.clients.count(), "drain timed out"),
        () = shutdown.immediate() => tracing::info!(clients = context.clients.count(), "immediate shutdown"),
    }
    context.clients.order_all(Order::Shutdown);
    let _ = tokio::time::timeout(GOODBYE, empty(context)).await;
    context.pools.close_unless(|_| false);
    context.pools.listeners.close_unless(|_| false);
}

async fn empty(context: &SessionContext) {
    while context.clients.count() > 0 {
        // Clients that logged in while the order was given are told, too.
        context.clients.order_all(Order::Drain);
        tokio::time::sleep(DRAIN_PERIOD).await;
    }
}
