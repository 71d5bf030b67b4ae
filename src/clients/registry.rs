//! All clients, by number; limits on how many there may be.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use hashbrown::HashMap as FastMap;
use parking_lot::Mutex;

use super::ClientId;
use super::cancel::CancelTarget;
use super::handle::{ClientHandle, Order};
use super::pin::PinReason;

/// Why a client is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `limits.clients` is reached.
    TooManyClients,
    /// `limits.clients_per_user` is reached.
    TooManyOfUser,
}

/// The registry.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<FastMap<ClientId, Arc<ClientHandle>>>,
    per_user: Mutex<HashMap<String, usize>>,
    count: AtomicUsize,
    logins: AtomicUsize,
    /// Pins so far, by reason.
    pins: [AtomicU64; PinReason::ALL.len()],
}

/// Keeps a client in the registry; dropping it takes the client out.
#[derive(Debug)]
pub struct ClientGuard {
    registry: Arc<Registry>,
    handle: Arc<ClientHandle>,
    counted: bool,
}

impl ClientGuard {
    /// The client's handle.
    pub fn handle(&self) -> &Arc<ClientHandle> {
        &self.handle
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.registry.clients.lock().remove(&self.handle.id);
        if self.counted {
            self.registry.count.fetch_sub(1, Ordering::AcqRel);
            let mut per_user = self.registry.per_user.lock();
            if let Some(count) = per_user.get_mut(&self.handle.info.user) {
                *count -= 1;
                if *count == 0 {
                    per_user.remove(&self.handle.info.user);
                }
            }
        }
    }
}

impl Registry {
    /// Admits a client. `limits` is (all clients, clients of one user, 0 for no limit); `None` for the
    /// console, which is neither limited nor counted.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn admit(
        self: &Arc<Self>,
        handle: ClientHandle,
        limits: Option<(usize, usize)>,
    ) -> Result<ClientGuard, Refused> {
        let handle = Arc::new(handle);
        if let Some((all, of_user)) = limits {
            if self.count.fetch_add(1, Ordering::AcqRel) >= all {
                self.count.fetch_sub(1, Ordering::AcqRel);
                return Err(Refused::TooManyClients);
            }
            let mut per_user = self.per_user.lock();
            let count = per_user.entry(handle.info.user.clone()).or_insert(0);
            if of_user != 0 && *count >= of_user {
                self.count.fetch_sub(1, Ordering::AcqRel);
                return Err(Refused::TooManyOfUser);
            }
            *count += 1;
        }
        self.clients.lock().insert(handle.id, Arc::clone(&handle));
        Ok(ClientGuard { registry: Arc::clone(self), handle, counted: limits.is_some() })
    }

    /// Whether a number is in use.
    pub fn contains(&self, id: ClientId) -> bool {
        self.clients.lock().contains_key(&id)
    }

    /// The server that a cancel request with this id and secret must go to; `None` when the key is
    /// wrong or the client holds no server connection.
    pub fn cancel_target(&self, id: ClientId, secret: &[u8]) -> Option<CancelTarget> {
        let handle = self.clients.lock().get(&id).cloned()?;
        if handle.cancel_key.matches(secret) { handle.cancel_target() } else { None }
    }

    /// Counts a client that begins to keep its server connection.
    pub fn count_pin(&self, reason: PinReason) {
        if let Some(counter) = self.pins.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often clients have begun to keep their server connections, by reason.
    pub fn pins(&self) -> impl Iterator<Item = (PinReason, u64)> {
        PinReason::ALL.iter().zip(&self.pins).map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
    }

    /// Clients that count (the console's do not).
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Connections that have not logged in yet.
    pub fn logins(&self) -> usize {
        self.logins.load(Ordering::Relaxed)
    }

    /// Counts a connection that begins to log in; the guard ends it.
    pub fn login_begins(self: &Arc<Self>) -> LoginGuard {
        self.logins.fetch_add(1, Ordering::Relaxed);
        LoginGuard(Arc::clone(self))
    }

    /// A copy of all handles, by number.
    pub fn snapshot(&self) -> Vec<Arc<ClientHandle>> {
        let mut all: Vec<_> = self.clients.lock().values().cloned().collect();
        all.sort_by_key(|handle| handle.id);
        all
    }

    /// Gives every client an order.
    pub fn order_all(&self, order: Order) {
        for handle in self.snapshot() {
            handle.order(order);
        }
    }

    /// Gives the orders whose deadlines have passed.
    pub fn sweep(&self, now: Instant) {
        for handle in self.clients.lock().values() {
            handle.sweep(now);
        }
    }
}

/// Counts a login in progress.
#[derive(Debug)]
pub struct LoginGuard(Arc<Registry>);

impl Drop for LoginGuard {
    fn drop(&mut self) {
        self.0.logins.fetch_sub(1, Ordering::Relaxed);
    }
}
