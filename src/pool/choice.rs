//! What a decision about a statement needs to know of a database: what the statement does there, how fresh a
//! replica must be for it, and what there is to choose from. For sessions, and for whoever explains them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use crate::catalog::{LearnedWrites, ResolveReason, Resolved, SearchPath, Snapshot};
use crate::cluster::{Freshness, Node, NodeState, TableSet};
use crate::config::Reads;
use crate::route::{NodeView, Reason, Work};
use crate::sql::{Effect, Statement};
use crate::task::micros;

use super::topology::DatabaseEntry;

/// What is known of a database when a batch begins.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its catalog, or the lack of one.
    pub snapshot: &'a Snapshot,
    /// Where the client's tables are.
    pub path: &'a SearchPath,
    /// Where they are once something may have changed that.
    pub anywhere: &'a SearchPath,
    /// Statements that standbys refused.
    pub learned: &'a LearnedWrites,
    /// There should be a catalog.
    pub expected: bool,
}

/// What a statement is in a database.
#[derive(Clone, Debug)]
pub struct Judgment {
    /// For the route.
    pub work: Work,
    /// What it reads and writes.
    pub resolved: Arc<Resolved>,
    /// It may write what nobody can name.
    pub writes_anything: bool,
    /// There should be a catalog, and there is none.
    pub misses_catalog: bool,
}

impl Facts<'_> {
    /// What `statement` is; `moved`: something in front of it may have changed where its tables are.
    pub fn judge(&self, statement: &Statement, moved: bool) -> Judgment {
        let path = if moved { self.anywhere } else { self.path };
        let resolved = self.snapshot.resolve(statement, path);
        let (mut effect, mut blame) = (resolved.effect, blame(statement, &resolved));
        let (mut writes_anything, mut misses_catalog) = (false, false);
        if effect < Effect::Write && self.learned.knows(statement.fingerprint) {
            (effect, blame, writes_anything) = (Effect::Write, Some(Reason::LearnedWrite), true);
        }
        let is_blind = self.expected && self.snapshot.catalog().is_none();
        if is_blind && effect == Effect::Read && reads_tables(statement) {
            // Whatever it reads may be a view with functions that write.
            (effect, blame) = (Effect::Write, Some(Reason::NoCatalog));
            (writes_anything, misses_catalog) = (true, true);
        }
        let work = Work::with_effect(statement, effect, blame);
        Judgment { work, resolved, writes_anything, misses_catalog }
    }
}

/// What in the catalog makes more of a statement than its text.
fn blame(statement: &Statement, resolved: &Resolved) -> Option<Reason> {
    if resolved.effect <= statement.own_effect {
        return None;
    }
    match &resolved.reason {
        ResolveReason::Text(_) => None,
        ResolveReason::VolatileFunction { .. } => Some(Reason::VolatileFunction),
        ResolveReason::UnknownFunction(_) => Some(Reason::UnknownFunction),
        ResolveReason::UnknownTable(_) => Some(Reason::UnknownTable),
        ResolveReason::PrimaryOnly { .. } => Some(Reason::PrimaryOnlyTable),
    }
}

/// Whether anything but built-in functions decides what it answers.
fn reads_tables(statement: &Statement) -> bool {
    !statement.tables.read.is_empty() || !statement.tables.reads_complete
}

/// What there is to choose from.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The primary; nobody asks how it is where reads do not go there.
    pub primary: NodeView,
    /// Who else may read, in the order of `Cluster::reader`.
    pub replicas: SmallVec<[NodeView; 4]>,
}

impl DatabaseEntry {
    /// What is known of it. `path` is where the client's tables are.
    pub fn facts<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        path: &'a SearchPath,
        anywhere: &'a SearchPath,
    ) -> Facts<'a> {
        let expected = !self.settings.routing.catalog_refresh.is_zero();
        Facts { snapshot, path, anywhere, learned: &self.learned, expected }
    }

    /// How fresh a replica must be for `strong` reads.
    pub fn strong_freshness(&self, work: Work, resolved: &[Arc<Resolved>]) -> Freshness {
        if work.begins_read_only {
            // What it will read is not known when it begins.
            return self.horizons.freshness(&TableSet::All);
        }
        self.horizons.freshness_of(resolved.iter().map(|resolved| &resolved.reads))
    }

    /// The nodes as they are. `turn` leaves those out that have just come back, now and then.
    pub fn choice(&self, turn: u32) -> Choice {
        let cluster = &self.cluster;
        let max_lag = self.settings.routing.max_replica_lag;
        let max_lag = if max_lag.is_zero() { u64::MAX } else { micros(max_lag) };
        let lead = cluster.leadership.lead();
        let mut replicas: SmallVec<[NodeView; 4]> = SmallVec::new();
        let (mut any_takes_part, mut all_take_part) = (false, true);
        let mut add = |index: usize, node: &Node, weight: u32| {
            let follows = cluster.leadership.follows(index);
            let view = node_view(node, weight, cluster.is_near(index), follows, max_lag);
            let takes_part = node.takes_part(turn);
            any_takes_part |= view.usable && takes_part;
            all_take_part &= takes_part;
            replicas.push(view);
        };
        for (place, replica) in cluster.replicas.iter().enumerate() {
            add(place + 1, &replica.node, replica.weight);
        }
        if cluster.readers(lead) > cluster.replicas.len() {
            add(0, &cluster.primary, 1);
        }
        // As long as there is another.
        if any_takes_part && !all_take_part {
            for (place, view) in replicas.iter_mut().enumerate() {
                view.usable &= cluster.node(cluster.reader(place)).takes_part(turn);
            }
        }
        let primary = if self.settings.routing.reads == Reads::ReplicaOrPrimary {
            let near = cluster.is_near(lead.index);
            node_view(cluster.node(lead.index), 1, near, lead.has_primary(), u64::MAX)
        } else {
            NodeView::UNKNOWN
        };
        Choice { primary, replicas }
    }
}

#[inline]
fn node_view(node: &Node, weight: u32, near: bool, has_role: bool, max_lag_micros: u64) -> NodeView {
    let late = node.lag().1 > max_lag_micros;
    NodeView {
        usable: has_role && node.state() == NodeState::Up && !late && !node.is_banned(),
        replayed: node.position(),
        in_flight: node.in_flight.load(Ordering::Relaxed),
        weight,
        latency: node.latency(),
        near,
    }
}
