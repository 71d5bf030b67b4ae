//! A server connection on loan.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use deadpool::managed::Object;

use crate::server::ServerConn;
use crate::task::Moment;

use super::manager::{Pool, Stored};

/// A loan. [`checkin`](Self::checkin) returns the connection; dropping the lease closes it.
#[derive(Debug)]
pub struct ServerLease {
    object: Option<Stored>,
    pool: Arc<Pool>,
}

impl ServerLease {
    pub(super) fn new(object: Stored, pool: Arc<Pool>) -> Self {
        pool.node.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { object: Some(object), pool }
    }

    /// The pool it came from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns the connection if it is clean, closes it otherwise. The oldest waiter gets it at once.
    pub fn checkin(self) {
        self.checkin_at(Moment::now());
    }

    /// The same for somebody who has looked at the clock just now.
    pub fn checkin_at(mut self, now: Moment) {
        if self.is_clean()
            && let Some(mut object) = self.object.take()
        {
            self.pool.node.in_flight.fetch_sub(1, Ordering::Relaxed);
            // Whoever has parsed it may use it again, and does not want to find one of before here.
            object.unnamed = None;
            self.pool.take_back(object, now);
        }
        // Otherwise the drop closes it.
    }
}

impl Deref for ServerLease {
    type Target = ServerConn;

    #[allow(
        clippy::expect_used,
        reason = "the object leaves only in checkin and drop, which consume the lease"
    )]
    fn deref(&self) -> &ServerConn {
        self.object.as_ref().expect("a lease holds its connection until it ends")
    }
}

impl DerefMut for ServerLease {
    #[allow(
        clippy::expect_used,
        reason = "the object leaves only in checkin and drop, which consume the lease"
    )]
    fn deref_mut(&mut self) -> &mut ServerConn {
        self.object.as_mut().expect("a lease holds its connection until it ends")
    }
}

impl Drop for ServerLease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        self.pool.node.in_flight.fetch_sub(1, Ordering::Relaxed);
        object.identity().come_back();
        // `Object` alone would return silently: take the connection out of the store and close it.
        let mut connection = Object::take(*object);
        connection.say_goodbye();
        self.pool.stats.add(|stats| &stats.closed, 1);
        self.pool.forget(&connection);
        drop(connection);
        self.pool.lease_ended();
    }
}
