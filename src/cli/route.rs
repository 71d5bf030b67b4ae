//! `pgweir route`: what the router makes of a statement, offline, or with what a database's catalog says.

mod shard;

use std::fmt::Write;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::catalog::{self, Catalog, Resolved, SearchPath};
use crate::cluster::TableSet;
use crate::config::{Consistency, Reads};
use crate::route::{ClusterView, Freshness, NodeView, SessionView, Target, Work, decide};
use crate::sql::{LexOptions, Statement, StatementCache};

use super::args::RouteOptions;
use super::print;

/// A catalog in a file: the rows as the server gave them.
#[derive(Debug, Serialize, Deserialize)]
struct Dump {
    format: u32,
    rows: Vec<Vec<Option<String>>>,
}

/// The format of dumps that this version writes and reads.
const FORMAT: u32 = 1;

/// Explains one string of SQL.
pub(super) fn route(options: &RouteOptions) -> ExitCode {
    match explained(options) {
        Ok(text) => {
            print::out(&text);
            ExitCode::SUCCESS
        }
        Err(complaint) => {
            print::error(&complaint);
            ExitCode::FAILURE
        }
    }
}

fn explained(options: &RouteOptions) -> Result<String, String> {
    let dump = dump(options)?;
    let Some(sql) = &options.sql else {
        return serde_json::to_string(&dump).map_err(|error| error.to_string());
    };
    let lex = LexOptions {
        standard_conforming_strings: options.standard_conforming_strings == "on",
        ..LexOptions::default()
    };
    let statement = StatementCache::new(1 << 20).analyze(sql.as_bytes(), lex);
    let shard = shard::explain(options, sql, lex, &statement.hint)?;
    let Some(dump) = dump else { return Ok(explain(&statement) + &shard) };
    let catalog = Catalog::from_rows(&dump.rows).map_err(|error| error.to_string())?;
    let path =
        options.search_path.as_deref().map_or_else(SearchPath::unknown, |p| SearchPath::parse(p, None));
    let resolved = catalog.resolve(&statement, &path);
    Ok(explain_resolved(&statement, &resolved, &dump) + &shard)
}

fn dump(options: &RouteOptions) -> Result<Option<Dump>, String> {
    if let Some(file) = &options.catalog {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let dump: Dump =
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        if dump.format != FORMAT {
            return Err(format!("{}: format {} is not {FORMAT}", file.display(), dump.format));
        }
        return Ok(Some(dump));
    }
    let Some(url) = &options.connect else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let rows = runtime.block_on(ask(url)).map_err(|error| match error.as_db_error() {
        Some(error) => error.to_string(),
        None => error.to_string(),
    })?;
    Ok(Some(Dump { format: FORMAT, rows }))
}

async fn ask(url: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let work = async {
        let answer = client.simple_query(catalog::LOAD).await?;
        let rows = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    };
    tokio::select! {
        rows = work => rows,
        ended = connection => ended.map(|()| Vec::new()),
    }
}

/// The explanation, a line for each fact. A healthy primary with one fresh replica is assumed.
pub(crate) fn explain(statement: &Statement) -> String {
    let mut out = Explanation::default();
    out.decision(Work::of(statement));
    out.line("effect", statement.effect.label());
    out.line("because", &statement.reason.to_string());
    out.text(statement);
    out.0
}

fn explain_resolved(statement: &Statement, resolved: &Resolved, dump: &Dump) -> String {
    let mut out = Explanation::default();
    out.decision(Work::with_effect(statement, resolved.effect, None));
    out.line("effect", resolved.effect.label());
    out.line("because", &resolved.reason.to_string());
    out.text(statement);
    out.line("sees", &names(&resolved.reads, dump));
    out.line("changes", &names(&resolved.writes, dump));
    out.0
}

/// The names of tables known by number.
fn names(tables: &TableSet, dump: &Dump) -> String {
    let TableSet::Some(ids) = tables else { return "all tables".to_owned() };
    let name = |id: &u32| {
        let id = id.to_string();
        let row = dump.rows.iter().find(|row| {
            let field = |at: usize| row.get(at).and_then(Option::as_deref);
            field(0) == Some("relation") && field(1) == Some(&id)
        });
        match row.map(Vec::as_slice) {
            Some([_, _, Some(schema), Some(name), ..]) => format!("{schema}.{name}"),
            _ => id,
        }
    };
    list(&ids.iter().map(name).collect::<Vec<_>>())
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

#[derive(Default)]
struct Explanation(String);

impl Explanation {
    fn line(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "{name:<12}{value}");
    }

    fn decision(&mut self, work: Work) {
        let node = NodeView { usable: true, ..NodeView::UNKNOWN };
        let session = SessionView {
            reads: Reads::Replica,
            freshness: Freshness::Any,
            consistency: Consistency::Strong,
        };
        let route = decide(work, session, ClusterView { primary: node, replicas: &[node] }, 0);
        let target = match route.target {
            Target::Primary => "primary",
            Target::Replica(_) => "replica",
        };
        self.line("target", target);
        self.line("reason", route.reason.label());
    }

    fn text(&mut self, statement: &Statement) {
        self.line("statements", &statement.statement_count.to_string());
        let tables = &statement.tables;
        let more = if tables.complete { "" } else { " (perhaps others)" };
        let read = list(&tables.read.iter().map(ToString::to_string).collect::<Vec<_>>());
        self.line("reads", &format!("{read}{more}"));
        self.line("writes", &list(&tables.written.iter().map(ToString::to_string).collect::<Vec<_>>()));
        self.line(
            "functions",
            &list(&statement.functions.iter().map(ToString::to_string).collect::<Vec<_>>()),
        );
        self.line("session", &format!("{:?}", statement.session));
    }
}
