//! Where statements really ran: each server is asked directly, not the pooler.

use tokio_postgres::{Client, NoTls};

use super::DemoError;
use crate::cli::local_cluster::ClusterAccess;
use crate::task;

/// Every statement of the workload names one of its tables.
const COUNT: &str = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_statements \
                     WHERE query LIKE '%demo\\_%' AND query NOT LIKE '%pg_stat_statements%'";

/// A direct connection to each node, with what the node had counted when we began.
pub(super) struct Census {
    nodes: Vec<Counter>,
}

struct Counter {
    name: String,
    client: Client,
    before: i64,
}

impl Census {
    /// Connects to all nodes; counting starts here.
    pub(super) async fn begin(access: &ClusterAccess) -> Result<Self, DemoError> {
        let mut nodes = Vec::new();
        for (number, node) in access.nodes.iter().enumerate() {
            let url = access.superuser_url(number, "postgres");
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.map_err(failed)?;
            // It ends with the client; its result says nothing that the next query does not.
            task::spawn("demo census", async { drop(connection.await) });
            let before = count(&client).await?;
            nodes.push(Counter { name: node.name.clone(), client, before });
        }
        Ok(Self { nodes })
    }

    /// Statements of the workload since the beginning, node by node.
    pub(super) async fn take(&self) -> Result<Vec<i64>, DemoError> {
        let mut counts = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            counts.push(count(&node.client).await? - node.before);
        }
        Ok(counts)
    }

    /// `primary 10, replica-1 20, …`
    pub(super) fn describe(&self, counts: &[i64]) -> String {
        let parts: Vec<_> =
            self.nodes.iter().zip(counts).map(|(node, count)| format!("{} {count}", node.name)).collect();
        parts.join(", ")
    }
}

async fn count(client: &Client) -> Result<i64, DemoError> {
    client.query_one(COUNT, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)
}

fn failed(source: tokio_postgres::Error) -> DemoError {
    DemoError::Database { doing: "counting statements (is postgresql-contrib installed?)", source }
}
