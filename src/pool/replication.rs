//! Replication connections: outside the pools, each for one client and as long as that client, but
//! counted, bounded and shown like the others.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::clients::Replication;
use crate::server::ServerInfo;

/// One of them, as the console shows it.
#[derive(Clone, Debug)]
pub struct ReplicationServer {
    /// Database as the client named it.
    pub database: String,
    /// User as the client named it.
    pub user: String,
    /// What kind.
    pub kind: Replication,
    /// The connection.
    pub info: Arc<ServerInfo>,
}

/// All replication connections.
#[derive(Debug, Default)]
pub struct ReplicationServers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Places taken: open ones and those being opened.
    taken: usize,
    next: u64,
    open: Vec<(u64, ReplicationServer)>,
}

/// A place among the replication connections; dropping it gives the place up.
#[derive(Debug)]
pub struct ReplicationPlace {
    servers: Arc<ReplicationServers>,
    id: u64,
}

impl ReplicationServers {
    /// Takes a place, if fewer than `limit` are taken.
    pub fn take_place(self: &Arc<Self>, limit: usize) -> Option<ReplicationPlace> {
        let mut state = self.0.lock();
        if state.taken >= limit {
            return None;
        }
        state.taken += 1;
        state.next += 1;
        Some(ReplicationPlace { servers: Arc::clone(self), id: state.next })
    }

    /// The open ones, the oldest first.
    pub fn snapshot(&self) -> Vec<ReplicationServer> {
        self.0.lock().open.iter().map(|(_, server)| server.clone()).collect()
    }
}

impl ReplicationPlace {
    /// The connection of this place is open.
    pub fn opened(&self, server: ReplicationServer) {
        self.servers.0.lock().open.push((self.id, server));
    }
}

impl Drop for ReplicationPlace {
    fn drop(&mut self) {
        let mut state = self.servers.0.lock();
        state.taken -= 1;
        state.open.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let servers = Arc::new(ReplicationServers::default());
        let first = servers.take_place(2);
        let second = servers.take_place(2);
        assert!(first.is_some() && second.is_some());
        assert!(servers.take_place(2).is_none() && servers.take_place(0).is_none());
        drop(first);
        assert!(servers.take_place(2).is_some());
    }
}
