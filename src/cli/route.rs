//! `pgweir route`: what the router makes of a statement, offline.

use std::fmt::Write;
use std::process::ExitCode;

use crate::cluster::Lsn;
use crate::config::Reads;
use crate::route::{ClusterView, Freshness, NodeView, SessionView, Target, Work, decide};
use crate::sql::{LexOptions, Statement, StatementCache};

use super::args::RouteOptions;
use super::print;

/// Explains one string of SQL.
pub(super) fn route(options: &RouteOptions) -> ExitCode {
    let lex = LexOptions {
        standard_conforming_strings: options.standard_conforming_strings == "on",
        ..LexOptions::default()
    };
    let statement = StatementCache::new(1 << 20).analyze(options.sql.as_bytes(), lex);
    print::out(&explain(&statement));
    ExitCode::SUCCESS
}

/// The explanation, a line for each fact. A healthy primary with one fresh replica is assumed.
pub(crate) fn explain(statement: &Statement) -> String {
    let node = NodeView { usable: true, replayed: Lsn(0), in_flight: 0, weight: 1 };
    let session = SessionView { reads: Reads::Replica, freshness: Freshness::Any };
    let route = decide(Work::of(statement), session, ClusterView { primary: node, replicas: &[node] }, 0);
    let target = match route.target {
        Target::Primary => "primary",
        Target::Replica(_) => "replica",
    };
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("target", target);
    line("reason", route.reason.label());
    line("effect", statement.effect.label());
    line("because", &statement.reason.to_string());
    line("statements", &statement.statement_count.to_string());
    let list = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let tables = &statement.tables;
    let more = if tables.complete { "" } else { " (perhaps others)" };
    line("reads", &format!("{}{more}", list(tables.read.iter().map(ToString::to_string).collect())));
    line("writes", &list(tables.written.iter().map(ToString::to_string).collect()));
    line("functions", &list(statement.functions.iter().map(ToString::to_string).collect()));
    line("session", &format!("{:?}", statement.session));
    out
}
