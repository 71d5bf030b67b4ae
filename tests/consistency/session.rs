//! A connection through pgweir and the forms in which it sends statements.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Error, NoTls, Row, SimpleQueryMessage, Statement};

/// How a statement travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A Query message with everything in its text.
    Simple,
    /// Bind and Execute of a named statement that was prepared once in this connection.
    Prepared,
    /// Parse, Bind and Execute of the unnamed statement.
    Unnamed,
}

impl Form {
    pub const ALL: [Self; 3] = [Self::Simple, Self::Prepared, Self::Unnamed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Prepared => "prepared",
            Self::Unnamed => "unnamed",
        }
    }
}

/// What a prepared statement is for: writing or reading, the way, the table or partition.
pub type Key = (bool, u8, u8);

/// A version that was read, and the number of the node that said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: i64,
    pub node: usize,
}

/// What stands for a version that was not there: older than all.
const ABSENT: i64 = -1;

/// A connection with its prepared statements.
pub struct Session {
    pub client: Client,
    statements: HashMap<Key, Statement>,
}

impl Session {
    pub async fn connect(config: &Config) -> Result<Self, Error> {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(Self { client, statements: HashMap::new() })
    }

    /// Runs SQL whose rows do not matter.
    pub async fn simple(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }

    /// The versions in all rows of all results.
    pub async fn simple_values(&self, sql: &str) -> Result<Vec<Seen>, Error> {
        let messages = self.client.simple_query(sql).await?;
        let mut seen = Vec::with_capacity(2);
        for message in &messages {
            if let SimpleQueryMessage::Row(row) = message {
                fields(&mut seen, (0..row.len()).map(|at| row.get(at)));
            }
        }
        Ok(seen)
    }

    /// The versions in the lines of a COPY.
    pub async fn copy_values(&self, sql: &str) -> Result<Vec<Seen>, Error> {
        let out = self.client.copy_out(sql).await?;
        futures_util::pin_mut!(out);
        let mut text = Vec::new();
        while let Some(part) = out.next().await {
            let part: Bytes = part?;
            text.extend_from_slice(&part);
        }
        let mut seen = Vec::new();
        for line in String::from_utf8_lossy(&text).lines() {
            fields(&mut seen, line.split('\t').map(Some));
        }
        Ok(seen)
    }

    /// Runs a statement with parameters.
    pub async fn extended(
        &mut self,
        form: Form,
        key: Key,
        sql: impl FnOnce() -> String,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        if form == Form::Unnamed {
            return self.client.query_typed(&sql(), parameters).await;
        }
        let statement = self.prepared(key, sql).await?;
        let values: Vec<_> = parameters.iter().map(|parameter| parameter.0).collect();
        self.client.query(&statement, &values).await
    }

    /// The statement of this connection for `key`, prepared if it has none.
    pub async fn prepared(&mut self, key: Key, sql: impl FnOnce() -> String) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(&key) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&sql()).await?;
        self.statements.insert(key, statement.clone());
        Ok(statement)
    }
}

/// Rows as they are read by [`crate::reads`]: versions, and the name of the node as the last column.
pub fn rows(rows: &[Row]) -> Vec<Seen> {
    let mut seen = Vec::with_capacity(2);
    for row in rows {
        let last = row.len() - 1;
        let node = node(row.try_get(last).unwrap_or_default());
        seen.extend((0..last).map(|at| Seen {
            version: row.try_get::<_, Option<i64>>(at).ok().flatten().unwrap_or(ABSENT),
            node,
        }));
    }
    seen
}

fn fields<'a>(seen: &mut Vec<Seen>, fields: impl Iterator<Item = Option<&'a str>>) {
    let begun = seen.len();
    let mut name = "";
    for field in fields {
        let version = field.map_or(Some(ABSENT), |text| text.parse().ok());
        match version {
            Some(version) => seen.push(Seen { version, node: 0 }),
            None => name = field.unwrap_or_default(),
        }
    }
    let node = node(name);
    for one in &mut seen[begun..] {
        one.node = node;
    }
}

/// The number of a node of a local cluster.
fn node(name: &str) -> usize {
    name.strip_prefix("replica-").and_then(|number| number.parse().ok()).unwrap_or(0)
}
