//! The ways in which versions are written.

use std::fmt::Display;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Error;
use tokio_postgres::types::{ToSql, Type};

use crate::random::Random;
use crate::registers::Claim;
use crate::schema::{
    BLOCK, CHILD, FUNC, HEIR, LATE, LOG, MERGED, NOTED, PART, PLAIN, PROC, RULED, SEEN, UPSERT, partition_of,
};
use crate::session::{Form, Session};

/// Added to versions that are rolled back: nobody may ever see them.
const NEVER: i64 = 1 << 40;

/// One way of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Write {
    Update,
    Returning,
    SqlPrepared,
    Cte,
    Upsert,
    CascadeOnUpdate,
    CascadeOnDelete,
    Trigger,
    InsteadTrigger,
    DeferredTrigger,
    View,
    Rule,
    RuleInstead,
    Function,
    FunctionInFrom,
    Operator,
    Do,
    Call,
    CallThatCommits,
    Partition,
    PartitionLeaf,
    Copy,
    Insert,
    Merge,
    Several,
    Transaction,
    TransactionInOneString,
    Savepoints,
    ForUpdate,
    TwoPhase,
    LateInTransaction,
    RolledBack,
}

impl Write {
    /// The pooler can tell which tables it writes. The others hold back the reads of all tables, so with them
    /// around nothing is learned about single tables.
    pub fn names_its_tables(self) -> bool {
        !matches!(
            self,
            Self::Trigger
                | Self::InsteadTrigger
                | Self::DeferredTrigger
                | Self::LateInTransaction
                | Self::Rule
                | Self::RuleInstead
                | Self::Function
                | Self::FunctionInFrom
                | Self::Operator
                | Self::Do
                | Self::Call
                | Self::CallThatCommits
                | Self::TwoPhase
        )
    }

    /// The families whose registers it writes, one register of each.
    pub fn families(self) -> &'static [usize] {
        match self {
            Self::Update
            | Self::Returning
            | Self::SqlPrepared
            | Self::Cte
            | Self::ForUpdate
            | Self::TwoPhase => &[PLAIN],
            Self::Upsert => &[UPSERT],
            Self::CascadeOnUpdate => &[CHILD],
            Self::CascadeOnDelete => &[HEIR],
            Self::Trigger | Self::InsteadTrigger => &[NOTED],
            Self::DeferredTrigger | Self::LateInTransaction => &[LATE],
            Self::View => &[SEEN],
            Self::Rule | Self::RuleInstead => &[RULED],
            Self::Function | Self::FunctionInFrom | Self::Operator => &[FUNC],
            Self::Do => &[BLOCK],
            Self::Call | Self::CallThatCommits => &[PROC],
            Self::Partition | Self::PartitionLeaf => &[PART],
            Self::Copy | Self::Insert => &[LOG],
            Self::Merge => &[MERGED],
            Self::Several => &[PLAIN, MERGED],
            Self::Transaction | Self::TransactionInOneString => &[UPSERT, SEEN],
            Self::Savepoints => &[MERGED, PLAIN],
            Self::RolledBack => &[UPSERT],
        }
    }

    /// Its statement, if it is one that any form of the protocol can carry.
    fn statement(self, id: &dyn Display, version: &dyn Display, leaf: i32) -> Option<String> {
        let update = |table: &str| {
            format!("UPDATE {table} SET version = greatest(version, {version}) WHERE id = {id}")
        };
        Some(match self {
            Self::Update => update("plain"),
            Self::Returning => format!("{} RETURNING version", update("plain")),
            Self::Cte => format!("WITH u AS ({} RETURNING id) SELECT count(*) FROM u", update("plain")),
            Self::Upsert => format!(
                "INSERT INTO upsert AS u (id, version) VALUES ({id}, {version}) \
                 ON CONFLICT (id) DO UPDATE SET version = greatest(u.version, excluded.version)"
            ),
            Self::CascadeOnUpdate => update("parent"),
            Self::CascadeOnDelete => format!("DELETE FROM ancestor WHERE id = {id} AND version < {version}"),
            Self::Trigger => update("watched"),
            Self::InsteadTrigger => update("window_on_noted"),
            Self::DeferredTrigger => update("slow"),
            Self::View => update("seen_through"),
            Self::Rule => update("rules"),
            Self::RuleInstead => update("rules_instead"),
            Self::Function => format!("SELECT bump({id}, {version})"),
            Self::FunctionInFrom => format!("SELECT * FROM bump_many({id}, {version}) b"),
            Self::Operator => format!("SELECT {id} @+ {version}"),
            Self::Call => format!("CALL raise_to({id}, {version})"),
            Self::CallThatCommits => format!("CALL raise_and_commit({id}, {version})"),
            Self::Partition => update("part"),
            Self::PartitionLeaf => update(&format!("part_{leaf}")),
            Self::Insert => format!("INSERT INTO log (id, version) VALUES ({id}, {version})"),
            Self::Merge => merge(id, version),
            _ => return None,
        })
    }

    /// Writes what was claimed (a register of each of [`Self::families`]) and returns when that is committed.
    pub async fn run(
        self,
        session: &mut Session,
        claims: &[Claim<'_>],
        random: &mut Random,
    ) -> Result<(), Error> {
        let (id, version) = (claims[0].id(), claims[0].version);
        let leaf = partition_of(id);
        match self {
            Self::Do => {
                session
                    .simple(&format!(
                        "DO $do$ BEGIN UPDATE block SET version = greatest(version, {version}) \
                         WHERE id = {id}; END $do$"
                    ))
                    .await
            }
            Self::SqlPrepared => {
                // Not kept: while it is there, the client keeps its server connection.
                session
                    .simple(
                        "PREPARE w (int, bigint) AS \
                         UPDATE plain SET version = greatest(version, $2) WHERE id = $1",
                    )
                    .await?;
                session.simple(&format!("EXECUTE w ({id}, {version})")).await?;
                session.simple("DEALLOCATE w").await
            }
            Self::Copy => {
                let sink = session.client.copy_in("COPY log (id, version) FROM STDIN").await?;
                futures_util::pin_mut!(sink);
                sink.send(Bytes::from(format!("{id}\t{version}\n"))).await?;
                sink.finish().await?;
                // The driver stops waiting at CommandComplete, and the commit comes behind it.
                session.simple("").await
            }
            Self::Several => {
                let (first, second) =
                    (update("plain", id, version), merge(&claims[1].id(), &bigint(claims[1].version)));
                session.simple(&format!("SELECT 1; {first}; {second}; SELECT 2")).await
            }
            Self::TransactionInOneString => {
                let (first, second) =
                    (update("upsert", id, version), update("seen", claims[1].id(), claims[1].version));
                session.simple(&format!("BEGIN; {first}; {second}; COMMIT")).await
            }
            Self::Transaction => {
                session.simple("BEGIN").await?;
                session.simple(&update("upsert", id, version)).await?;
                let seen = session.simple_values("SELECT version FROM seen WHERE id = 1").await?;
                assert_eq!(seen.len(), 1);
                session.simple(&update("seen", claims[1].id(), claims[1].version)).await?;
                session.simple("COMMIT").await
            }
            Self::Savepoints => {
                session.simple("BEGIN").await?;
                session.simple("SAVEPOINT one").await?;
                session.simple(&update("merged", id, version + NEVER)).await?;
                session.simple("ROLLBACK TO SAVEPOINT one").await?;
                session.simple(&update("merged", id, version)).await?;
                session.simple("SAVEPOINT two").await?;
                session.simple(&update("plain", claims[1].id(), claims[1].version)).await?;
                session.simple("RELEASE SAVEPOINT two").await?;
                session.simple("COMMIT").await
            }
            Self::ForUpdate => {
                session.simple("BEGIN").await?;
                session.simple(&format!("SELECT version FROM plain WHERE id = {id} FOR UPDATE")).await?;
                session.simple(&update("plain", id, version)).await?;
                session.simple("END").await
            }
            Self::TwoPhase => {
                let name = format!("checker_{id}_{version}");
                session.simple("BEGIN").await?;
                session.simple(&update("plain", id, version)).await?;
                session.simple(&format!("PREPARE TRANSACTION '{name}'")).await?;
                session.simple(&format!("COMMIT PREPARED '{name}'")).await
            }
            Self::LateInTransaction => {
                session.simple("BEGIN").await?;
                session.simple(&update("slow", id, version)).await?;
                session.simple("COMMIT").await
            }
            Self::RolledBack => {
                session.simple("BEGIN").await?;
                session.simple(&update("upsert", id, version + NEVER)).await?;
                session.simple("ROLLBACK").await
            }
            // One statement, in one of the forms.
            _ => {
                let form = random.pick(&Form::ALL);
                match form {
                    Form::Simple => {
                        let sql = self.statement(&id, &bigint(version), leaf);
                        session.simple(&sql.unwrap_or_default()).await
                    }
                    Form::Prepared | Form::Unnamed => {
                        let key =
                            (true, self as u8, if self == Self::PartitionLeaf { leaf as u8 } else { 0 });
                        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
                            [(&id, Type::INT4), (&version, Type::INT8)];
                        let sql = || self.statement(&"$1::int4", &"$2::int8", leaf).unwrap_or_default();
                        session.extended(form, key, sql, &parameters).await.map(drop)
                    }
                }
            }
        }
    }

    /// It commits what it has claimed.
    pub fn commits(self) -> bool {
        self != Self::RolledBack
    }
}

fn update(table: &str, id: i32, version: i64) -> String {
    format!("UPDATE {table} SET version = greatest(version, {version}) WHERE id = {id}")
}

fn merge(id: &dyn Display, version: &dyn Display) -> String {
    format!(
        "MERGE INTO merged m USING (SELECT {id} AS id, {version} AS version) s ON m.id = s.id \
         WHEN MATCHED THEN UPDATE SET version = greatest(m.version, s.version) \
         WHEN NOT MATCHED THEN INSERT (id, version) VALUES (s.id, s.version)"
    )
}

/// A literal that is not taken for an int4.
fn bigint(version: i64) -> String {
    format!("{version}::bigint")
}
