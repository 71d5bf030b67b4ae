//! `pgweir check`: is the configuration right, and with `--connect`, are the servers?

use std::process::ExitCode;
use std::sync::Arc;

use crate::auth::ScramCache;
use crate::config::Config;
use crate::health::read_key_columns;
use crate::net::tls::{ClientTlsAcceptor, ServerTlsConnector};
use crate::pool::{DatabaseEntry, Topology};
use crate::server::ServerConn;

use super::args::CheckOptions;
use super::print;

/// What a node is asked.
const ASK: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'replica' ELSE 'primary' END, \
pg_catalog.current_setting('server_version'), \
CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END";

/// Checks; says what it found.
pub(super) fn check(options: &CheckOptions) -> ExitCode {
    let loaded = super::run::load(&options.source);
    let config = match loaded {
        Ok(config) => config,
        Err(complaint) => {
            print::error(&complaint);
            return ExitCode::from(2);
        }
    };
    if let Err(error) = ClientTlsAcceptor::load(&config.tls.client) {
        print::error(&format!("tls.client: {error}"));
        return ExitCode::from(2);
    }
    let tls = match ServerTlsConnector::load(&config.tls.server) {
        Ok(tls) => tls.map(Arc::new),
        Err(error) => {
            print::error(&format!("tls.server: {error}"));
            return ExitCode::from(2);
        }
    };
    let source = config.source.as_ref().map_or_else(|| "flags".to_owned(), |path| path.display().to_string());
    let databases = config.databases.len() + usize::from(config.wildcard_database.is_some());
    print::out(&format!("{source}: ok ({databases} databases, {} users)", config.users.len()));
    if !options.connect {
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::error(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    if runtime.block_on(connect(config, tls)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Logs in to every node of every database; false if one failed or has the wrong role.
async fn connect(config: Config, tls: Option<Arc<ServerTlsConnector>>) -> bool {
    let topology = Topology::build(Arc::new(config), tls, Arc::new(ScramCache::new()), None);
    let mut entries = topology.databases();
    if entries.is_empty() {
        entries.extend(topology.database("postgres"));
    }
    let mut all_well = true;
    for entry in entries {
        for (index, node) in entry.cluster.nodes().enumerate() {
            let expected = if index == 0 { "primary" } else { "replica" };
            let label = format!("{} {expected} {}", entry.name, node.address);
            match ask(&topology, &entry, node).await {
                Ok((role, version, position)) if role == expected => {
                    print::out(&format!("{label}: ok, PostgreSQL {version}, at {position}"));
                }
                Ok((role, version, _)) => {
                    all_well = false;
                    print::error(&format!("{label}: it is a {role} (PostgreSQL {version})"));
                }
                Err(error) => {
                    all_well = false;
                    print::error(&format!("{label}: {error}"));
                }
            }
        }
    }
    for (name, set) in topology.shard_sets() {
        for entry in set.entries() {
            let label = format!("{name} shard {}", entry.shard.unwrap_or(0));
            match read_key_columns(&topology, set, entry).await {
                Ok(wrong) => {
                    all_well &= wrong.is_empty();
                    for wrong in &wrong {
                        print::error(&format!("{label}: {wrong}"));
                    }
                }
                Err(error) => {
                    all_well = false;
                    print::error(&format!("{label}: columns of keys are not read: {error}"));
                }
            }
        }
    }
    all_well
}

async fn ask(
    topology: &Topology,
    entry: &DatabaseEntry,
    node: &crate::cluster::Node,
) -> Result<(String, String, String), String> {
    let user = topology.probe_user(entry).ok_or("no user may use this database")?;
    let target = topology.target(entry, &user, node);
    let mut connection = ServerConn::connect(&target).await.map_err(|error| error.to_string())?;
    let rows = connection.simple_query(ASK).await.map_err(|error| error.to_string())?;
    connection.say_goodbye();
    let mut fields = rows.into_iter().next().unwrap_or_default().into_iter().map(Option::unwrap_or_default);
    let mut next = || fields.next().unwrap_or_default();
    Ok((next(), next(), next()))
}
