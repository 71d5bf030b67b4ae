//! A statement and a catalog: what it does, what it reads, what it may write.

use crate::cluster::{TableId, TableSet};
use crate::sql::{BuiltinMeaning, Effect, FunctionName, Statement, TableName, builtin};

use super::build::{Catalog, Mention};
use super::path::SearchPath;
use super::reason::{ResolveReason, Volatility};

/// A read of more tables than this counts as a read of all.
const TABLES_MAX: usize = 4_000;

/// What is known of a statement in one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What it does.
    pub effect: Effect,
    /// What decided that.
    pub reason: ResolveReason,
    /// It calls nothing, not even by way of views, but what is built in or IMMUTABLE.
    pub is_plain: bool,
    /// Tables whose writes it must see.
    pub reads: TableSet,
    /// Tables that a replica must have caught up on once it has committed.
    pub writes: TableSet,
}

impl Resolved {
    /// Bytes it takes in a cache, near enough.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.reads.weight() + self.writes.weight() + 64
    }
}

/// What is known without a catalog.
pub fn unresolved(statement: &Statement) -> Resolved {
    let writes = if may_write(statement, statement.effect) { TableSet::All } else { TableSet::none() };
    Resolved {
        effect: statement.effect,
        reason: ResolveReason::Text(statement.reason.clone()),
        is_plain: false,
        reads: TableSet::All,
        writes,
    }
}

/// Whether the statement may change a table at all.
fn may_write(statement: &Statement, effect: Effect) -> bool {
    effect >= Effect::Write || !statement.tables.writes_complete || !statement.tables.written.is_empty()
}

/// The most dangerous of what is called.
#[derive(Default)]
struct Calls {
    volatility: Volatility,
    reason: Option<ResolveReason>,
}

impl Calls {
    fn add(&mut self, volatility: Volatility, reason: impl FnOnce() -> ResolveReason) {
        self.volatility = self.volatility.max(volatility);
        if volatility == Volatility::Volatile && self.reason.is_none() {
            self.reason = Some(reason());
        }
    }
}

impl Catalog {
    /// What `statement` does in this database, for a session with this search path.
    pub fn resolve(&self, statement: &Statement, path: &SearchPath) -> Resolved {
        let calls = self.calls(statement);
        let (mut effect, mut reason) =
            (statement.own_effect, ResolveReason::Text(statement.own_reason.clone()));
        let mut raise = |blame: ResolveReason| {
            if effect < Effect::Write {
                effect = Effect::Write;
                reason = blame;
            }
        };
        let volatile = calls.volatility == Volatility::Volatile;
        if let Some(blame) = calls.reason {
            raise(blame);
        }
        let tables = &statement.tables;
        let mut read = Walk::new(self, |facts| &facts.reads);
        // An unknown name may be a view that calls anything.
        let mut writes_all = volatile;
        let mut is_plain = tables.reads_complete && calls.volatility == Volatility::Immutable;
        let mut reads_all = !tables.reads_complete || calls.volatility > Volatility::Immutable;
        for table in &tables.read {
            if !read.start(table, path) {
                reads_all = true;
                writes_all = true;
                is_plain = false;
                raise(ResolveReason::UnknownTable(table.clone()));
            }
        }
        read.run(|facts| {
            reads_all |= facts.reads_anything || facts.reads_write;
            writes_all |= facts.reads_write;
            is_plain &= !(facts.tells_time || facts.reads_anything || facts.reads_write);
            if let Some(blame) = &facts.primary {
                raise((**blame).clone());
            }
        });
        let reads = read.into_set(reads_all);
        let writes = if may_write(statement, effect) {
            let mut all = writes_all || !tables.writes_complete;
            // A read that only the primary can serve checks no domain but those it names.
            all |= self.volatile_domain && statement.own_effect >= Effect::Write;
            let mut written = Walk::new(self, |facts| &facts.writes);
            for table in &tables.written {
                all |= !written.start(table, path);
            }
            written.run(|facts| all |= facts.writes_anything);
            written.into_set(all)
        } else {
            TableSet::none()
        };
        Resolved { effect, reason, is_plain, reads, writes }
    }

    fn calls(&self, statement: &Statement) -> Calls {
        let mut calls = Calls::default();
        let tables = &statement.tables;
        if matches!(statement.own_effect, Effect::Empty | Effect::Transaction | Effect::Session)
            && statement.functions.is_empty()
            && tables.read.is_empty()
            && tables.written.is_empty()
        {
            // SET, BEGIN, FETCH: names in them are no columns.
            return calls;
        }
        for name in &statement.functions {
            self.call(name, &mut calls);
        }
        for behind in &self.behind {
            let mentioned = match behind.mention {
                Mention::Always => true,
                Mention::Name(hash) => statement.mentions.name(hash),
                Mention::Operator(hash) => statement.mentions.operator(hash),
            };
            if mentioned {
                calls.add(behind.volatility, || ResolveReason::VolatileFunction {
                    function: behind.function.clone(),
                    behind: Some(behind.what.clone()),
                });
            }
        }
        calls
    }

    /// All overloads in all schemas it could mean. A name that is built in may be the user's as well: the text
    /// has told what the built-in one does.
    fn call(&self, name: &FunctionName, calls: &mut Calls) {
        let mut known = name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
            && builtin(&name.name) != BuiltinMeaning::Unknown;
        for function in self.functions.get(&name.name).into_iter().flatten() {
            let schema = self.schemas.get(function.schema as usize).map_or("", |s| s);
            if name.schema.as_deref().is_none_or(|wanted| wanted == schema) {
                known = true;
                calls.add(function.volatility, || ResolveReason::VolatileFunction {
                    function: format!("{schema}.{}", name.name).into(),
                    behind: None,
                });
            }
        }
        if !known {
            calls.add(Volatility::Volatile, || ResolveReason::UnknownFunction(name.clone()));
        }
    }

    /// The nodes a table's name may stand for.
    fn nodes(&self, name: &TableName, path: &SearchPath) -> impl Iterator<Item = TableId> {
        self.relations.get(&name.name).into_iter().flatten().filter_map(move |relation| {
            let schema = self.schemas.get(relation.schema as usize)?;
            let fits = match &name.schema {
                Some(wanted) => wanted == schema,
                None => path.may_hold(schema),
            };
            fits.then_some(relation.node)
        })
    }
}

/// From some nodes along one kind of edge to all that can be reached.
struct Walk<'a> {
    catalog: &'a Catalog,
    edges: fn(&super::build::Facts) -> &Vec<TableId>,
    seen: Vec<TableId>,
    tables: Vec<TableId>,
    overflow: bool,
}

impl<'a> Walk<'a> {
    fn new(catalog: &'a Catalog, edges: fn(&super::build::Facts) -> &Vec<TableId>) -> Self {
        Self { catalog, edges, seen: Vec::new(), tables: Vec::new(), overflow: false }
    }

    /// False if the catalog has no such table.
    fn start(&mut self, name: &TableName, path: &SearchPath) -> bool {
        let before = self.seen.len();
        self.seen.extend(self.catalog.nodes(name, path).take(TABLES_MAX + 1));
        self.seen.len() > before
    }

    fn run(&mut self, mut look: impl FnMut(&super::build::Facts)) {
        let mut reached: std::collections::HashSet<TableId> = std::collections::HashSet::new();
        let mut next = std::mem::take(&mut self.seen);
        while let Some(node) = next.pop() {
            if !reached.insert(node) {
                continue;
            }
            let Some(facts) = self.catalog.facts.get(&node) else {
                self.tables.push(node);
                continue;
            };
            look(facts);
            if !facts.is_view {
                self.tables.push(node);
            }
            next.extend((self.edges)(facts));
        }
        self.overflow = self.tables.len() > TABLES_MAX;
    }

    fn into_set(self, all: bool) -> TableSet {
        if all || self.overflow { TableSet::All } else { TableSet::of(self.tables) }
    }
}
