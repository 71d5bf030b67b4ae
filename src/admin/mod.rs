//! The admin console: what `SHOW …` answers. No sockets, no protocol: text in, tables out.
//!
//! PgBouncer's commands keep exactly its columns, in order and type, so that exporters and scripts
//! written for it work unchanged; what is ours is in commands of its own.

mod command;
mod explain;
mod help;
mod meters;
mod show;
mod table;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::clients::Registry;
use crate::cluster::{Node, Sight};
use crate::pool::{PoolRegistry, Topology};
use crate::protocol::{ErrorResponse, SqlState};

pub use command::Command;
pub use meters::Meters;
pub use table::{Cell, ColumnType, Table};

/// Our version as PgBouncer's clients look for one.
pub const SERVER_VERSION: &str = "1.25.2/pgweir";

/// What a console user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// SHOW only.
    Stats,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Rows; the tag is SHOW.
    Table(Table),
    /// Rows as of a SELECT: the tag counts them.
    Selected(Table),
    /// A notice with a detail, and a tag.
    Notice {
        /// Primary message.
        message: &'static str,
        /// Detail.
        detail: String,
    },
    /// Done; the command tag.
    Done(&'static str),
    /// There was no command.
    Empty,
}

/// What the console can see.
#[derive(Clone, Debug)]
pub struct Console {
    /// Clients.
    pub clients: Arc<Registry>,
    /// Pools.
    pub pools: Arc<PoolRegistry>,
    /// Databases, nodes, configuration.
    pub topology: Arc<ArcSwap<Topology>>,
    /// When the process began.
    pub started: Instant,
    /// Metrics of pools, nodes and routes.
    pub meters: Arc<Meters>,
    /// RELOAD and SHUTDOWN.
    pub controls: Arc<Controls>,
}

/// What the console can make the process do; whoever runs the process listens.
#[derive(Debug, Default)]
pub struct Controls {
    /// The configuration is to be read again.
    pub reload: tokio::sync::Notify,
    /// The process is to drain and end.
    pub shutdown: tokio::sync::Notify,
}

impl Console {
    /// Runs one command for `role`.
    ///
    /// # Errors
    /// What the client is told: unknown or unsupported commands, missing rights.
    pub fn execute(&self, role: Role, sql: &str) -> Result<Answer, ErrorResponse> {
        let command = Command::parse(sql)?;
        if role == Role::Stats && !command.is_harmless() {
            return Err(ErrorResponse::error(
                SqlState::INSUFFICIENT_PRIVILEGE,
                "permission denied: SHOW only",
            )
            .hint("Users listed in admin.users in pooler.yaml may run every command."));
        }
        Ok(match command {
            Command::Empty => Answer::Empty,
            Command::Set => Answer::Done("SET"),
            Command::Reload => {
                self.controls.reload.notify_one();
                Answer::Done("RELOAD")
            }
            Command::Shutdown => {
                self.controls.shutdown.notify_one();
                Answer::Done("SHUTDOWN")
            }
            Command::Ban(node) => self.ban(&node, true)?,
            Command::Unban(node) => self.ban(&node, false)?,
            Command::Trust(node) => self.trust(&node)?,
            Command::Explain { database, sql } => {
                Answer::Table(explain::explain(self, database.as_deref(), &sql)?)
            }
            Command::Show(what) => show::show(self, what),
            Command::Select(table) => Answer::Selected(table),
            Command::Setting(name, value) => {
                let mut table = Table::new(&[(name, ColumnType::Text)]);
                table.push(vec![Cell::text(value)]);
                Answer::Table(table)
            }
        })
    }

    fn node(&self, name: &str) -> Result<Arc<Node>, ErrorResponse> {
        let topology = self.topology.load();
        let found = topology.nodes().find(|node| node.address.to_string().eq_ignore_ascii_case(name));
        found.cloned().ok_or_else(|| {
            ErrorResponse::error(SqlState::UNDEFINED_OBJECT, format!("no such node: {name}"))
                .hint("SHOW CLUSTER lists them.")
        })
    }

    fn ban(&self, name: &str, is_banned: bool) -> Result<Answer, ErrorResponse> {
        let node = self.node(name)?;
        node.ban(is_banned);
        let what = if is_banned { "node is banned: no reads" } else { "node is not banned any more" };
        tracing::warn!(node = %node.address, "{what}");
        Ok(Answer::Done(if is_banned { "BAN" } else { "UNBAN" }))
    }

    fn trust(&self, name: &str) -> Result<Answer, ErrorResponse> {
        let node = self.node(name)?;
        if !matches!(node.sight(), Sight::Primary(_)) {
            return Err(ErrorResponse::error(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{} is not known to be out of recovery", node.address),
            )
            .hint("Promote it first; pgweir does not."));
        }
        tracing::warn!(node = %node.address, "an operator says that this node is the primary");
        for leadership in self.topology.load().leaderships() {
            if let Some(index) = leadership.position(&node) {
                leadership.trust(index);
            }
        }
        Ok(Answer::Done("TRUST"))
    }

    /// Brings the metrics of pools, clients, nodes and routes up to date.
    pub fn refresh_metrics(&self) {
        self.meters.refresh(self);
    }
}
