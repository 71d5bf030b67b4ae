//! From the parser's tree: the tables a query reads.
//!
//! CTE names are left out where they hide tables, and only there: in `WITH t AS (SELECT * FROM t) …` the
//! inner `t` is the table.

use super::statement::TableName;
use sqlparser::ast::{Ident, ObjectName, Query, Statement, TableFactor, Visit, Visitor};
use std::ops::ControlFlow;

/// Tables read by `statement`; `None` if some name is written in a way we do not resolve.
pub(super) fn tables_read(statement: &Statement) -> Option<Vec<TableName>> {
    let mut reader = Reader { scopes: Vec::new(), tables: Vec::new(), unresolved: false };
    let _ = statement.visit(&mut reader);
    (!reader.unresolved).then_some(reader.tables)
}

/// One query on the way down.
struct Scope {
    names: Vec<String>,
    recursive: bool,
    /// How many of its CTEs have been entered; the last of them may be the one we are in.
    entered: usize,
    /// A CTE of this scope is being visited.
    inside: bool,
    /// This query is a CTE of the scope below.
    is_cte: bool,
}

struct Reader {
    scopes: Vec<Scope>,
    tables: Vec<TableName>,
    unresolved: bool,
}

impl Reader {
    fn is_cte(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| {
            let visible = match (scope.recursive, scope.inside) {
                (true, _) | (_, false) => scope.names.len(),
                (false, true) => scope.entered.saturating_sub(1),
            };
            scope.names[..visible.min(scope.names.len())].iter().any(|n| n == name)
        })
    }

    fn table(&mut self, name: &ObjectName) {
        let parts: Option<Vec<String>> = name.0.iter().map(|p| p.as_ident().map(folded)).collect();
        let table = match parts.as_deref() {
            Some([name]) if self.is_cte(name) => return,
            Some([name]) => TableName { schema: None, name: cut(name) },
            Some([schema, name]) => TableName { schema: Some(cut(schema)), name: cut(name) },
            _ => {
                self.unresolved = true;
                return;
            }
        };
        if !self.tables.contains(&table) {
            self.tables.push(table);
        }
    }
}

impl Visitor for Reader {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let mut is_cte = false;
        if let Some(scope) = self.scopes.last_mut()
            && !scope.inside
            && scope.entered < scope.names.len()
        {
            scope.entered += 1;
            scope.inside = true;
            is_cte = true;
        }
        let (names, recursive) = query.with.as_ref().map_or((Vec::new(), false), |with| {
            (with.cte_tables.iter().map(|c| folded(&c.alias.name)).collect(), with.recursive)
        });
        self.scopes.push(Scope { names, recursive, entered: 0, inside: false, is_cte });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        let is_cte = self.scopes.pop().is_some_and(|scope| scope.is_cte);
        if let Some(scope) = self.scopes.last_mut()
            && is_cte
        {
            scope.inside = false;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.table(name);
        }
        ControlFlow::Continue(())
    }
}

/// A name as PostgreSQL stores it, not yet cut.
pub(super) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

pub(super) fn cut(name: &str) -> Box<str> {
    name[..name.floor_char_boundary(63)].into()
}
