//! Keeps what is known of a database's catalog up to date: one task for each database that is named in the
//! configuration, and a connection to the primary that lasts as long as a look.
//!
//! A look is one short query, the fingerprint; all is read only when that has changed. When a look fails nothing
//! counts as known until one succeeds, and the log says so; while the primary is away what was known stays so.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::catalog::{Catalog, FINGERPRINT, LOAD, SUSPICION_GAP};
use crate::pool::{DatabaseEntry, Topology};
use crate::server::{QueryError, ServerConn};

/// Bound on one look, loading included; `health.timeout` if that is longer.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Time from a failure to the next look, at most.
const RETRY: Duration = Duration::from_secs(5);
/// Time from a failure to the next look, at least, however often it is missed.
const RETRY_MISSED: Duration = Duration::from_millis(500);
/// Time between two looks whether there is a primary again.
const PRIMARY_AWAITED: Duration = Duration::from_millis(20);
/// Time between two looks, at least, however much DDL there is.
const GAP: Duration = Duration::from_millis(50);

/// Why a look came to nothing.
enum Failure {
    /// The primary cannot be asked now.
    Away(String),
    /// It can, and does not answer as it should.
    Refused(String),
}

/// Looks at one database.
pub(super) struct Keeper {
    entry: Arc<DatabaseEntry>,
    topology: Arc<Topology>,
    connection: Option<ServerConn>,
}

impl Keeper {
    pub(super) fn new(entry: Arc<DatabaseEntry>, topology: Arc<Topology>) -> Self {
        Self { entry, topology, connection: None }
    }

    /// Whether there is anything to keep: not without replicas, nor when it is switched off.
    pub(super) fn is_for(entry: &DatabaseEntry) -> bool {
        entry.splits_reads() && !entry.settings.routing.catalog_refresh.is_zero()
    }

    /// It was made of a name that a client thought of: the database may not be there, or not any more.
    fn may_be_gone(&self) -> bool {
        self.entry.settings.name == "*"
    }

    /// How many statements had a choice of nodes so far.
    fn uses(&self) -> u64 {
        self.entry.routes.iter().map(|(_, count)| count).sum()
    }

    /// Nobody needs what is known of a database that nobody uses; it is looked for again when it is missed.
    fn rests(&self, uses_before: u64) -> bool {
        self.may_be_gone() && self.uses() == uses_before
    }

    /// Looks until dropped.
    pub(super) async fn run(mut self) {
        let refresh = self.entry.settings.routing.catalog_refresh;
        let on_server =
            self.entry.settings.server_database.clone().unwrap_or_else(|| self.entry.name.clone());
        loop {
            self.await_primary().await;
            let uses = self.uses();
            let generation = self.entry.catalog.generation();
            let suspected = self.entry.catalog.looking(Instant::now());
            let limit = LOOK_LIMIT.max(self.topology.config.health.timeout);
            let outcome = if self.entry.cluster.writer().is_vacated(&on_server) {
                Err(Failure::Refused("somebody needs the database for himself".to_owned()))
            } else if !self.has_primary() {
                Err(Failure::Away("there is no primary".to_owned()))
            } else {
                let late = |_| Err(Failure::Refused(format!("not read within {} s", limit.as_secs())));
                timeout(limit, self.look(generation)).await.unwrap_or_else(late)
            };
            // Kept open it would be in the way of DROP DATABASE and of CREATE DATABASE … TEMPLATE.
            if let Some(mut connection) = self.connection.take() {
                connection.say_goodbye();
            }
            let mut pause = refresh;
            if let Err(failure) = outcome {
                pause = refresh.min(RETRY);
                self.failed(failure, generation);
            }
            tokio::time::sleep(if pause < refresh { RETRY_MISSED.min(refresh) } else { GAP }).await;
            // Nothing wakes us when the next look for a suspicion may begin.
            let first = if suspected { SUSPICION_GAP.min(pause) } else { Duration::ZERO };
            let late = timeout(first, self.wanted()).await.is_err()
                && timeout(pause.saturating_sub(first), self.wanted()).await.is_err();
            if late && self.rests(uses) {
                self.entry.catalog.forget_unused();
                self.wanted().await;
            }
        }
    }

    /// Until there is a reason to look.
    async fn wanted(&self) {
        let cell = &self.entry.catalog;
        poll_fn(|cx| if cell.poll_wanted(cx, Instant::now()) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    fn failed(&self, failure: Failure, generation: u64) {
        let error = match failure {
            // Nobody can change it by way of us meanwhile, and reads go on from the replicas.
            Failure::Away(_) if self.entry.catalog.state().present => return,
            Failure::Refused(_) if !self.has_primary() => return,
            Failure::Away(error) | Failure::Refused(error) => error,
        };
        let is_news = self.entry.catalog.failed(generation, &error);
        if self.may_be_gone() {
            tracing::debug!(database = self.entry.name, error, "catalog could not be read");
        } else if is_news {
            tracing::warn!(
                database = self.entry.name,
                error,
                "catalog could not be read; what reads a table goes to the primary"
            );
        }
    }

    /// At start the roles become known a moment later than this task begins, and whoever comes in that moment
    /// would wait for the next look; but what is known must be taken back if there is no primary for long.
    async fn await_primary(&self) {
        let begun = Instant::now();
        while !self.has_primary() && begun.elapsed() < RETRY {
            tokio::time::sleep(PRIMARY_AWAITED).await;
        }
    }

    fn has_primary(&self) -> bool {
        self.entry.cluster.leadership.lead().has_primary()
    }

    async fn look(&mut self, generation: u64) -> Result<(), Failure> {
        let sql =
            format!("SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_database(); {FINGERPRINT}");
        let rows = self.ask(&sql).await?;
        let field = |row: usize| rows.get(row).and_then(|row| row.first()).and_then(Option::as_deref);
        // What a standby shows may be older than what clients have done.
        if field(0) != Some("f") {
            return Err(Failure::Away("the node is in recovery, not the primary".to_owned()));
        }
        let unexpected = || Failure::Refused("unexpected answer".to_owned());
        let fingerprint = field(1).ok_or_else(unexpected)?.to_owned();
        let cell = Arc::clone(&self.entry.catalog);
        if cell.fingerprint().as_ref() == Some(&fingerprint) {
            cell.confirmed(generation, Instant::now());
            return Ok(());
        }
        let begun = Instant::now();
        let rows = self.ask(LOAD).await?;
        let catalog = Catalog::from_rows(&rows).map_err(|error| Failure::Refused(error.to_string()))?;
        let (relations, functions) = catalog.counts();
        let bytes = catalog.weight();
        let took = begun.elapsed();
        let first = cell.loaded(generation, fingerprint, catalog, Instant::now());
        tracing::debug!(
            database = self.entry.name,
            relations,
            functions,
            bytes,
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            current = first,
            "catalog read"
        );
        Ok(())
    }

    /// Asks on the connection there is, and once more on a new one if that has died.
    async fn ask(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        if let Some(mut connection) = self.connection.take()
            && let Ok(rows) = connection.simple_query(sql).await
        {
            self.connection = Some(connection);
            return Ok(rows);
        }
        let nobody = || Failure::Refused("no user may use this database".to_owned());
        let user = self.topology.probe_user(&self.entry).ok_or_else(nobody)?;
        let target = self.topology.target(&self.entry, &user, self.entry.cluster.writer());
        let mut connection = ServerConn::connect(&target).await.map_err(|error| {
            let text = error.to_string();
            if error.is_node_down() { Failure::Away(text) } else { Failure::Refused(text) }
        })?;
        let rows = connection.simple_query(sql).await.map_err(|error| match error {
            QueryError::Server { .. } => Failure::Refused(error.to_string()),
            _ => Failure::Away(error.to_string()),
        })?;
        self.connection = Some(connection);
        Ok(rows)
    }
}
