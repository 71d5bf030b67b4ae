//! Whether the columns of keys are on a shard's server what `pooler.yaml` says of them: one task for each shard, and a
//! connection to the primary that lasts as long as a look. It looks when the configuration is new, when the catalog has
//! been changed by way of us, and from time to time. What is wrong is told once, and refused from then on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::pool::{DatabaseEntry, ShardSet, Topology};
use crate::server::ServerConn;
use crate::shard::{WrongColumn, key_columns, wrong_columns};

/// How often it is looked whether there is a reason to look.
const PERIOD: Duration = Duration::from_millis(300);
/// Time from a failure to the next look.
const RETRY: Duration = Duration::from_secs(5);
/// Time between two looks, where the catalog is not to be read again.
const REFRESH: Duration = Duration::from_mins(1);

/// Looks at one shard.
pub(super) struct KeyColumns {
    pub(super) set: Arc<ShardSet>,
    pub(super) entry: Arc<DatabaseEntry>,
    pub(super) topology: Arc<Topology>,
}

impl KeyColumns {
    /// Looks until dropped.
    pub(super) async fn run(self) {
        let refresh = Some(self.entry.settings.routing.catalog_refresh).filter(|refresh| !refresh.is_zero());
        let limit = self.topology.config.health.timeout;
        let mut pause;
        loop {
            while !self.entry.cluster.leadership.lead().has_primary() {
                tokio::time::sleep(PERIOD).await;
            }
            let epoch = self.epoch();
            match timeout(limit, self.look()).await {
                Ok(Ok(wrong)) => {
                    self.found(wrong);
                    pause = refresh.unwrap_or(REFRESH);
                }
                Ok(Err(error)) => {
                    tracing::debug!(
                        database = self.entry.name,
                        shard = self.entry.shard,
                        error,
                        "columns not read"
                    );
                    pause = RETRY;
                }
                Err(_) => pause = RETRY,
            }
            let looked = Instant::now();
            while self.epoch() == epoch && looked.elapsed() < pause {
                tokio::time::sleep(PERIOD).await;
            }
        }
    }

    fn epoch(&self) -> u64 {
        self.entry.catalog_epoch.load(Ordering::Acquire)
    }

    fn found(&self, wrong: Vec<WrongColumn>) {
        let shard = self.entry.shard.unwrap_or(0);
        for wrong in self.set.found_wrong(shard, wrong) {
            tracing::error!(
                database = self.entry.name,
                shard,
                table = format!("{}.{}", wrong.schema, wrong.table),
                column = wrong.column,
                found = wrong.found,
                declared = wrong.declared,
                "the key's column is not as declared: statements that need it are refused"
            );
        }
    }

    async fn look(&self) -> Result<Vec<WrongColumn>, String> {
        read(&self.topology, &self.set, &self.entry).await
    }
}

/// Asks a shard's primary for the columns of its keys. Those that are not as declared.
pub async fn read(
    topology: &Topology,
    set: &ShardSet,
    entry: &DatabaseEntry,
) -> Result<Vec<WrongColumn>, String> {
    let user = topology.probe_user(entry).ok_or("no user may use this database")?;
    let target = topology.target(entry, &user, entry.cluster.writer());
    let mut connection = ServerConn::connect(&target).await.map_err(|error| error.to_string())?;
    let rows =
        connection.simple_query(&key_columns(set.schema())).await.map_err(|error| error.to_string())?;
    connection.say_goodbye();
    Ok(wrong_columns(set.schema(), &rows))
}
