//! All pools, by what they are for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::cluster::Node;
use crate::config::PoolSettings;
use crate::server::ServerTarget;
use crate::task::{Moment, micros};

use super::listener::Listeners;
use super::manager::{Pool, PoolKey};
use super::replication::ReplicationServers;
use super::stats::{Averages, StatsSnapshot};

/// The statistics period, as PgBouncer's `stats_period`.
const STATS_PERIOD: Duration = Duration::from_mins(1);

/// A (database, user), over all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey {
    /// Database as clients name it.
    pub database: String,
    /// User as clients name it.
    pub user: String,
}

/// All pools.
#[derive(Debug, Default)]
pub struct PoolRegistry {
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    /// Totals of pools that were closed, so that counters of a database never go back.
    retired: Mutex<BTreeMap<String, StatsSnapshot>>,
    period: Mutex<Period>,
    /// Workers that serve clients.
    workers: usize,
    /// Connections that receive notifications, outside the pools.
    pub listeners: Listeners,
    /// Connections that belong to no pool.
    pub replication: Arc<ReplicationServers>,
}

/// The statistics period under way, and what the last one came to.
#[derive(Debug, Default)]
struct Period {
    began: Option<Moment>,
    totals_then: BTreeMap<String, StatsSnapshot>,
    last: BTreeMap<String, Averages>,
}

impl PoolRegistry {
    /// No pools yet, for so many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, ..Self::default() }
    }

    /// The pool for `key`, made if there is none.
    pub fn pool(
        &self,
        key: PoolKey,
        make: impl FnOnce() -> (Arc<Node>, ServerTarget, PoolSettings),
    ) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&key) {
            return Arc::clone(pool);
        }
        let (node, target, settings) = make();
        let pool = Pool::new(key.clone(), node, target, settings, self.workers);
        pools.insert(key, Arc::clone(&pool));
        pool
    }

    /// All of them, in order of their keys.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let mut all: Vec<_> = self.pools.lock().values().cloned().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Takes out and closes the pools that `keep` refuses (their database, user or node is gone, or their
    /// password changed).
    pub fn close_unless(&self, keep: impl Fn(&Pool) -> bool) {
        let removed: Vec<_> = {
            let mut pools = self.pools.lock();
            let keys: Vec<_> =
                pools.values().filter(|pool| !keep(pool)).map(|pool| pool.key.clone()).collect();
            keys.iter().filter_map(|key| pools.remove(key)).collect()
        };
        for pool in removed {
            pool.close();
            let mut retired = self.retired.lock();
            let total = retired.entry(pool.key.database.clone()).or_default();
            *total = total.plus(pool.stats.snapshot());
        }
    }

    /// Totals by database since the process began.
    pub fn totals(&self) -> BTreeMap<String, StatsSnapshot> {
        let mut totals = self.retired.lock().clone();
        for pool in self.pools() {
            let total = totals.entry(pool.key.database.clone()).or_default();
            *total = total.plus(pool.stats.snapshot());
        }
        totals
    }

    /// What was counted by database in the last whole statistics period.
    pub fn averages(&self) -> BTreeMap<String, Averages> {
        self.period.lock().last.clone()
    }

    /// Ends a statistics period if it is time.
    pub(super) fn roll_averages(&self, now: Moment) {
        let mut period = self.period.lock();
        let Some(began) = period.began else {
            period.began = Some(now);
            return;
        };
        let period_micros = now.micros_since(began);
        if period_micros < micros(STATS_PERIOD) {
            return;
        }
        let totals = self.totals();
        period.last = totals
            .iter()
            .map(|(database, total)| {
                let before = period.totals_then.get(database).copied().unwrap_or_default();
                (database.clone(), Averages { delta: total.since(before), period_micros })
            })
            .collect();
        period.began = Some(now);
        period.totals_then = totals;
    }
}
