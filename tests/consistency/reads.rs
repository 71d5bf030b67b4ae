//! The ways in which versions are read.
//!
//! Each row ends with the name of the node that made it (`cluster_name`, which every node of a local cluster has of
//! its own), so every read tells who served it.

use std::fmt::Display;

use futures_util::future::try_join_all;
use tokio_postgres::Error;
use tokio_postgres::types::{ToSql, Type};

use crate::random::Random;
use crate::registers::Registers;
use crate::schema::{PART, partition_of};
use crate::session::{Form, Seen, Session, rows};

const NODE: &str = "current_setting('cluster_name')";

/// One way of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Read {
    Table,
    View,
    NestedView,
    SqlFunction,
    PlpgsqlFunction,
    Join,
    Subselect,
    Cte,
    Union,
    TwoOfOne,
    Leaf,
    SqlPrepared,
    Several,
    TransactionReadOnly,
    Snapshot,
    Cursor,
    TransactionReadWrite,
    CopyOut,
    Pipelined,
}

impl Read {
    /// The pooler takes it for something that may have written any table (as SQL's EXECUTE), so while this goes on
    /// replicas serve little.
    pub fn hides_its_tables(self) -> bool {
        matches!(self, Self::SqlPrepared | Self::Cursor)
    }

    /// Which registers this way reads, beginning with `first`, in the order of what [`Self::run`] returns.
    pub fn targets(self, first: usize, registers: &Registers, random: &mut Random) -> Vec<usize> {
        let family = registers.family(first);
        let families = registers.families().len();
        // Always the same for one family, so that a connection prepares few statements.
        let partner = registers.at((family + 1 + self as usize) % families, registers.id(first));
        match self {
            Self::Join | Self::Subselect | Self::Several | Self::TransactionReadOnly => vec![first, partner],
            // The last one on the primary.
            Self::TransactionReadWrite => vec![first, partner, first],
            // The same one at the end as at the beginning.
            Self::Snapshot => vec![first, first],
            Self::TwoOfOne => {
                let id = registers.id(first);
                let other = 1 + random.below(registers.per_family() as u64) as i32;
                if other == id {
                    return vec![first];
                }
                vec![registers.at(family, id.min(other)), registers.at(family, id.max(other))]
            }
            Self::Pipelined => {
                let mut all = vec![first, partner];
                all.extend((0..2).map(|_| random.index(registers.len())));
                all
            }
            _ => vec![first],
        }
    }

    /// Its statement, if any form of the protocol can carry it; `ids` are literals or parameters.
    fn statement(self, targets: &[usize], registers: &Registers, ids: [&dyn Display; 2]) -> Option<String> {
        let of = |target: usize| &registers.families()[registers.family(targets[target])];
        let (table, value) = (of(0).table, of(0).value);
        let [id, second] = ids;
        Some(match self {
            Self::Table => format!("SELECT {value}, {NODE} FROM {table} WHERE id = {id}"),
            Self::View => format!("SELECT version, {NODE} FROM {table}_v WHERE id = {id}"),
            Self::NestedView => format!("SELECT version, {NODE} FROM {table}_vv WHERE id = {id}"),
            Self::SqlFunction => format!("SELECT {table}_get({id}), {NODE}"),
            Self::PlpgsqlFunction => format!("SELECT {table}_look({id}), {NODE}"),
            Self::Join => {
                let other = of(1).table;
                format!(
                    "SELECT a.version, b.version, {NODE} FROM {table}_v a \
                     JOIN {other}_v b ON a.id = {id} AND b.id = {second}"
                )
            }
            Self::Subselect => {
                let (other, others) = (of(1).table, of(1).value);
                format!(
                    "SELECT (SELECT {value} FROM {table} WHERE id = {id}), \
                     (SELECT {others} FROM {other} WHERE id = {second}), {NODE}"
                )
            }
            Self::Cte => format!(
                "WITH q AS (SELECT {value} AS version FROM {table} WHERE id = {id}) SELECT version, {NODE} FROM q"
            ),
            Self::Union => format!(
                "SELECT max(version), {NODE} FROM \
                 (SELECT {value} AS version FROM {table} WHERE id = {id} UNION ALL SELECT 0) u"
            ),
            Self::TwoOfOne if targets.len() == 2 => {
                format!("SELECT version, {NODE} FROM {table}_v WHERE id IN ({id}, {second}) ORDER BY id")
            }
            Self::TwoOfOne => Self::View.statement(targets, registers, ids)?,
            Self::Leaf if registers.family(targets[0]) == PART && table == "part" => {
                let leaf = partition_of(registers.id(targets[0]));
                format!("SELECT version, {NODE} FROM part_{leaf} WHERE id = {id}")
            }
            Self::Leaf => format!("SELECT {value}, {NODE} FROM ONLY {table} WHERE id = {id}"),
            _ => return None,
        })
    }

    /// Reads the targets; the name of the form comes with the answer.
    pub async fn run(
        self,
        session: &mut Session,
        targets: &[usize],
        registers: &Registers,
        random: &mut Random,
    ) -> Result<(Vec<Seen>, &'static str), Error> {
        let first = registers.id(targets[0]);
        let family = registers.family(targets[0]);
        let table = |target: usize| {
            let id = registers.id(targets[target]);
            Self::Table.statement(&targets[target..], registers, [&id, &id]).unwrap_or_default()
        };
        match self {
            Self::SqlPrepared => {
                let sql = Self::Table.statement(targets, registers, [&"$1", &"$1"]).unwrap_or_default();
                session.simple(&format!("PREPARE r (int) AS {sql}")).await?;
                let seen = session.simple_values(&format!("EXECUTE r ({first})")).await?;
                session.simple("DEALLOCATE r").await?;
                Ok((seen, "simple"))
            }
            Self::Several => {
                let sql = format!("{}; {}", table(0), table(1));
                Ok((session.simple_values(&sql).await?, "simple"))
            }
            Self::TransactionReadOnly | Self::Snapshot => {
                let begin = match self {
                    Self::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                    _ => "START TRANSACTION READ ONLY",
                };
                session.simple(begin).await?;
                let mut seen = session.simple_values(&table(0)).await?;
                seen.extend(session.simple_values(&table(1)).await?);
                session.simple("COMMIT").await?;
                Ok((seen, "simple"))
            }
            Self::TransactionReadWrite => {
                session.simple("BEGIN").await?;
                let mut seen = session.simple_values(&table(0)).await?;
                seen.extend(session.simple_values(&table(1)).await?);
                session.simple("SAVEPOINT s").await?;
                seen.extend(session.simple_values(&table(2)).await?);
                session.simple("COMMIT").await?;
                Ok((seen, "simple"))
            }
            Self::Cursor => {
                session.simple("BEGIN READ ONLY").await?;
                session.simple(&format!("DECLARE c CURSOR FOR {}", table(0))).await?;
                let seen = session.simple_values("FETCH ALL FROM c").await?;
                session.simple("END").await?;
                Ok((seen, "simple"))
            }
            Self::CopyOut => {
                Ok((session.copy_values(&format!("COPY ({}) TO STDOUT", table(0))).await?, "simple"))
            }
            Self::Pipelined => {
                let mut statements = Vec::new();
                for target in targets {
                    statements.push(prepared_table(session, *target, registers).await?);
                }
                let ids: Vec<i32> = targets.iter().map(|target| registers.id(*target)).collect();
                let parameters: Vec<[&(dyn ToSql + Sync); 1]> =
                    ids.iter().map(|id| [id as &(dyn ToSql + Sync)]).collect();
                let client = &session.client;
                let queries = statements.iter().zip(&parameters).map(|(s, p)| client.query(s, p));
                let answers = try_join_all(queries).await?;
                Ok((answers.iter().flat_map(|answer| rows(answer)).collect(), "pipelined"))
            }
            _ => {
                let ids = [first, registers.id(targets[targets.len() - 1])];
                let form = random.pick(&Form::ALL);
                let seen = if form == Form::Simple {
                    let sql = self.statement(targets, registers, [&ids[0], &ids[1]]).unwrap_or_default();
                    session.simple_values(&sql).await?
                } else {
                    let sql =
                        || self.statement(targets, registers, [&"$1::int4", &"$2::int4"]).unwrap_or_default();
                    let leaf = self == Self::Leaf && family == PART;
                    let table = if leaf { 200 + partition_of(first) as u8 } else { family as u8 };
                    // One target may be what is left of two.
                    let key = (false, self as u8 + if targets.len() == 2 { 100 } else { 0 }, table);
                    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
                        [(&ids[0], Type::INT4), (&ids[1], Type::INT4)];
                    rows(&session.extended(form, key, sql, &parameters[..targets.len()]).await?)
                };
                Ok((seen, form.name()))
            }
        }
    }
}

/// The prepared statement that reads a register's table.
pub async fn prepared_table(
    session: &mut Session,
    register: usize,
    registers: &Registers,
) -> Result<tokio_postgres::Statement, Error> {
    let family = registers.family(register);
    let sql =
        || Read::Table.statement(&[register], registers, [&"$1::int4", &"$1::int4"]).unwrap_or_default();
    session.prepared((false, Read::Table as u8, family as u8), sql).await
}
