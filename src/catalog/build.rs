//! From rows to a snapshot.
//!
//! Tables tied by inheritance or partitioning are one node: a write to any of them counts for all, a read of
//! any heeds all. That is coarser than need be for who reads single partitions, and keeps every set small.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::cluster::TableId;
use crate::sql::{BuiltinMeaning, NameHash, builtin};

use super::reason::{ResolveReason, Volatility};

/// OIDs below are PostgreSQL's own.
const FIRST_USER_OID: u32 = 16_384;

/// Extensions whose C functions are volatile only because each call gives another answer.
const HARMLESS_EXTENSIONS: &[&str] = &["uuid-ossp", "pgcrypto"];

/// Operators that the grammar uses unasked: BETWEEN, IN, LIKE, DISTINCT, USING, ORDER BY, CASE.
const IMPLIED_OPERATORS: &[&str] =
    &["=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~", "~*", "!~*"];

/// Rows that are not what `load.sql` gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row} of the catalog is not understood")]
pub struct CatalogError {
    /// Which, from 1.
    pub row: usize,
}

/// What one database's catalog says. Immutable.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(super) schemas: Vec<Box<str>>,
    pub(super) relations: HashMap<Box<str>, SmallVec<[Relation; 1]>>,
    /// Nodes of which there is something to say.
    pub(super) facts: HashMap<TableId, Facts>,
    pub(super) functions: HashMap<Box<str>, SmallVec<[Function; 1]>>,
    /// Operators, types and row functions with a function that is not immutable behind them.
    pub(super) behind: Vec<Behind>,
    /// Some domain's check calls such a function: any write may.
    pub(super) volatile_domain: bool,
    weight: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Relation {
    pub(super) schema: u32,
    pub(super) node: TableId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) schema: u32,
    pub(super) volatility: Volatility,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mention {
    /// In any statement, perhaps.
    Always,
    Name(NameHash),
    Operator(NameHash),
}

#[derive(Debug)]
pub(super) struct Behind {
    pub(super) mention: Mention,
    pub(super) volatility: Volatility,
    pub(super) function: Box<str>,
    pub(super) what: Box<str>,
}

/// What there is to say of a node.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// It holds no rows of its own.
    pub(super) is_view: bool,
    /// Reading it is for the primary.
    pub(super) primary: Option<Box<ResolveReason>>,
    /// Reading it may tell the time of the transaction.
    pub(super) tells_time: bool,
    /// Reading it calls a user function that reads what it likes.
    pub(super) reads_anything: bool,
    /// Reading it calls a function that may write anything.
    pub(super) reads_write: bool,
    /// Writing it may write anything.
    pub(super) writes_anything: bool,
    /// Nodes read with it.
    pub(super) reads: Vec<TableId>,
    /// Nodes written with it.
    pub(super) writes: Vec<TableId>,
}

type Row = Vec<Option<String>>;

#[derive(Default)]
struct Builder {
    catalog: Catalog,
    schemas: HashMap<String, u32>,
    /// Relations by OID, with their full names.
    relations: HashMap<u32, RelationRow>,
    /// Of tables tied by inheritance: the one that stands for it.
    groups: HashMap<u32, u32>,
    functions: HashMap<u32, FunctionRow>,
    domains: HashMap<u32, DomainRow>,
}

struct RelationRow {
    schema: u32,
    name: Box<str>,
    kind: u8,
    persistence: u8,
}

struct FunctionRow {
    schema: u32,
    name: Box<str>,
    volatility: Volatility,
}

struct DomainRow {
    name: Box<str>,
    base: u32,
    calls: Option<(Volatility, Box<str>)>,
}

impl Catalog {
    /// The name of a table, for people; of a tree of partitions, the first in order.
    pub fn name_of(&self, table: TableId) -> String {
        let all = self.relations.iter().filter_map(|(name, relations)| {
            let relation = relations.iter().find(|relation| relation.node == table)?;
            let schema = self.schemas.get(relation.schema as usize)?;
            Some(format!("{schema}.{name}"))
        });
        let first = all.min_by_key(|name| (name.len(), name.clone()));
        first.unwrap_or_else(|| table.to_string())
    }

    /// The snapshot that these rows of `load.sql` describe.
    pub fn from_rows(rows: &[Row]) -> Result<Self, CatalogError> {
        let mut builder = Builder::default();
        // Each pass needs what those before it found.
        for pass in [Builder::names, Builder::ties, Builder::calls, Builder::rest] {
            for (index, row) in rows.iter().enumerate() {
                let fields = Fields(row);
                pass(&mut builder, fields).ok_or(CatalogError { row: index + 1 })?;
            }
            builder.after_pass();
        }
        Ok(builder.finish())
    }

    /// Bytes it takes, near enough.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// How many relations and functions it knows.
    pub fn counts(&self) -> (usize, usize) {
        (self.relations.values().map(SmallVec::len).sum(), self.functions.values().map(SmallVec::len).sum())
    }

    fn weigh(&self) -> usize {
        let name = |name: &str| name.len() + 16 + size_of::<Box<str>>() + 8;
        let more = |len: usize, size: usize| if len > 1 { len * size } else { 0 };
        let relations = self.relations.iter().map(|(n, list)| {
            name(n) + size_of::<SmallVec<[Relation; 1]>>() + more(list.len(), size_of::<Relation>())
        });
        let functions = self.functions.iter().map(|(n, list)| {
            name(n) + size_of::<SmallVec<[Function; 1]>>() + more(list.len(), size_of::<Function>())
        });
        let facts = self
            .facts
            .values()
            .map(|f| size_of::<Facts>() + 16 + (f.reads.capacity() + f.writes.capacity()) * 4 + 64);
        relations.sum::<usize>() + functions.sum::<usize>() + facts.sum::<usize>() + self.behind.len() * 128
    }
}

#[derive(Clone, Copy)]
struct Fields<'a>(&'a Row);

impl<'a> Fields<'a> {
    fn text(self, at: usize) -> Option<&'a str> {
        self.0.get(at)?.as_deref()
    }

    fn oid(self, at: usize) -> Option<u32> {
        self.text(at)?.parse().ok()
    }

    fn byte(self, at: usize) -> Option<u8> {
        self.text(at)?.bytes().next()
    }
}

impl Builder {
    fn schema(&mut self, name: &str) -> u32 {
        if let Some(known) = self.schemas.get(name) {
            return *known;
        }
        let id = self.catalog.schemas.len() as u32;
        self.catalog.schemas.push(name.into());
        self.schemas.insert(name.to_owned(), id);
        id
    }

    fn full(&self, schema: u32, name: &str) -> Box<str> {
        match self.catalog.schemas.get(schema as usize) {
            Some(schema) => format!("{schema}.{name}").into(),
            None => name.into(),
        }
    }

    /// Pass 1: relations, functions, domains.
    fn names(&mut self, row: Fields<'_>) -> Option<()> {
        match row.text(0)? {
            "relation" => {
                let schema = self.schema(row.text(2)?);
                let (kind, persistence) = (row.byte(4)?, row.byte(5)?);
                let relation = RelationRow { schema, name: row.text(3)?.into(), kind, persistence };
                self.relations.insert(row.oid(1)?, relation);
            }
            "function" => {
                let schema = self.schema(row.text(2)?);
                let harmless = row.text(5)? == "c"
                    && row.text(6).is_some_and(|extension| HARMLESS_EXTENSIONS.contains(&extension));
                let volatility = match row.text(4)? {
                    _ if harmless => Volatility::Immutable,
                    "i" => Volatility::Immutable,
                    "s" => Volatility::Stable,
                    _ => Volatility::Volatile,
                };
                let function = FunctionRow { schema, name: row.text(3)?.into(), volatility };
                self.functions.insert(row.oid(1)?, function);
            }
            "domain" => {
                let domain = DomainRow { name: row.text(2)?.into(), base: row.oid(3)?, calls: None };
                self.domains.insert(row.oid(1)?, domain);
            }
            "inherits" | "attribute" | "operator" | "cast" | "trigger" | "rule" | "cascade" | "uses" => {}
            _ => return None,
        }
        Some(())
    }

    /// Pass 2: which tables are one node; functions that arguments' defaults call; checks of domains.
    fn ties(&mut self, row: Fields<'_>) -> Option<()> {
        match row.text(0)? {
            "inherits" => {
                let (a, b) = (self.root(row.oid(1)?), self.root(row.oid(2)?));
                self.groups.insert(a.max(b), a.min(b));
                self.groups.insert(a.min(b), a.min(b));
            }
            "uses" if row.text(1)? == "function" && row.text(3)? == "call" => {
                let (volatility, _) = self.called(row.text(4)?, false);
                if let Some(function) = self.functions.get_mut(&row.oid(2)?) {
                    function.volatility = function.volatility.max(volatility);
                }
            }
            _ => {}
        }
        Some(())
    }

    /// Pass 3: what domains call, now that the functions are what they are.
    fn calls(&mut self, row: Fields<'_>) -> Option<()> {
        if row.text(0)? == "uses" && row.text(1)? == "domain" && row.text(3)? == "call" {
            let called = self.called(row.text(4)?, false);
            if let Some(domain) = self.domains.get_mut(&row.oid(2)?)
                && domain.calls.as_ref().is_none_or(|before| before.0 < called.0)
            {
                domain.calls = Some(called);
            }
        }
        Some(())
    }

    fn after_pass(&mut self) {
        // A domain over a domain makes both checks. Chains are short; each round carries one link.
        for _ in 0..8 {
            let inherited: Vec<_> = self
                .domains
                .iter()
                .filter_map(|(oid, domain)| {
                    let base = self.domains.get(&domain.base)?.calls.clone()?;
                    domain.calls.as_ref().is_none_or(|own| own.0 < base.0).then_some((*oid, base))
                })
                .collect();
            if inherited.is_empty() {
                return;
            }
            for (oid, calls) in inherited {
                if let Some(domain) = self.domains.get_mut(&oid) {
                    domain.calls = Some(calls);
                }
            }
        }
    }

    /// Pass 4: everything else.
    fn rest(&mut self, row: Fields<'_>) -> Option<()> {
        match row.text(0)? {
            "relation" => self.relation(row.oid(1)?),
            "attribute" => {
                if let Some(function) = self.functions.get(&row.oid(1)?) {
                    let name = function.name.clone();
                    let (volatility, full) = (function.volatility, self.full(function.schema, &name));
                    let what = format!("the attribute {name}");
                    self.behind(Mention::Name(NameHash::of(&name)), volatility, full, &what);
                }
            }
            "operator" => {
                let name = row.text(1)?;
                let (volatility, function) = self.called(row.text(2)?, false);
                let mention = if IMPLIED_OPERATORS.contains(&name) {
                    Mention::Always
                } else {
                    Mention::Operator(NameHash::of(name))
                };
                self.behind(mention, volatility, function, &format!("the operator {name}"));
            }
            "cast" => {
                let name = row.text(1)?;
                let (volatility, function) = self.called(row.text(3)?, false);
                let mention =
                    if row.text(2)? == "i" { Mention::Always } else { Mention::Name(NameHash::of(name)) };
                self.behind(mention, volatility, function, &format!("the cast to {name}"));
            }
            "domain" => {
                let domain = self.domains.get(&row.oid(1)?)?;
                if let Some((volatility, function)) = domain.calls.clone() {
                    let name = domain.name.clone();
                    self.catalog.volatile_domain |= volatility == Volatility::Volatile;
                    let mention = Mention::Name(NameHash::of(&name));
                    self.behind(mention, volatility, function, &format!("the domain {name}"));
                }
            }
            "trigger" | "rule" => self.facts(row.oid(1)?).writes_anything = true,
            "cascade" => {
                let child = self.node(row.oid(2)?);
                self.facts(row.oid(1)?).writes.push(child);
            }
            "uses" => self.uses(row)?,
            _ => {}
        }
        Some(())
    }

    fn relation(&mut self, oid: u32) {
        let node = self.node(oid);
        let Some(row) = self.relations.get(&oid) else { return };
        let (kind, persistence, schema, name) = (row.kind, row.persistence, row.schema, row.name.clone());
        let what = match (kind, persistence) {
            (b'f', _) => Some("a foreign table"),
            (b'S', _) => Some("a sequence"),
            (_, b'u') => Some("an unlogged table"),
            _ => None,
        };
        if let Some(what) = what {
            let table = self.full(schema, &name);
            self.facts(oid).primary = Some(Box::new(ResolveReason::PrimaryOnly { table, what }));
        }
        if kind == b'v' && oid >= FIRST_USER_OID {
            self.facts(oid).is_view = true;
        }
        self.catalog.relations.entry(name).or_default().push(Relation { schema, node });
    }

    fn uses(&mut self, row: Fields<'_>) -> Option<()> {
        let (kind, owner, what, used) = (row.text(1)?, row.oid(2)?, row.text(3)?, row.text(4)?);
        let reading = matches!(kind, "view" | "policy");
        match what {
            "relation" if reading => {
                let node = self.node(used.parse().ok()?);
                let facts = self.facts(owner);
                facts.reads.push(node);
                if kind == "view" {
                    facts.writes.push(node);
                }
            }
            "locks" => {
                let table = self.relation_name(owner);
                let what = "a view that locks rows";
                self.facts(owner).primary = Some(Box::new(ResolveReason::PrimaryOnly { table, what }));
            }
            "time" => self.facts(owner).tells_time = true,
            "call" | "domain" if reading || kind == "table" => {
                let (volatility, function) = match what {
                    "domain" => match self.domains.get(&used.parse().ok()?).and_then(|d| d.calls.clone()) {
                        Some(calls) => calls,
                        None => return Some(()),
                    },
                    _ => self.called(used, kind == "table"),
                };
                let behind = Some(self.relation_name(owner));
                let facts = self.facts(owner);
                if volatility == Volatility::Volatile {
                    facts.writes_anything = true;
                    if reading {
                        facts.reads_write = true;
                        let reason = ResolveReason::VolatileFunction { function, behind };
                        facts.primary.get_or_insert_with(|| Box::new(reason));
                    }
                }
                facts.reads_anything |= reading && volatility == Volatility::Stable;
            }
            _ => {}
        }
        Some(())
    }

    /// A function by OID if it is the user's, else by name. `writing`: only whether it may write tables counts.
    fn called(&self, function: &str, writing: bool) -> (Volatility, Box<str>) {
        let Ok(oid) = function.parse::<u32>() else {
            let dangerous = if writing {
                function.starts_with("lo_") || function.starts_with("query_to_xml")
            } else {
                builtin(function) != BuiltinMeaning::Read
            };
            let volatility = if dangerous { Volatility::Volatile } else { Volatility::Immutable };
            return (volatility, function.into());
        };
        match self.functions.get(&oid) {
            Some(row) => (row.volatility, self.full(row.schema, &row.name)),
            // A built-in function behind a user's operator or cast, or one that cannot be called otherwise.
            None => (Volatility::Volatile, function.into()),
        }
    }

    fn behind(&mut self, mention: Mention, volatility: Volatility, function: Box<str>, what: &str) {
        if volatility > Volatility::Immutable {
            self.catalog.behind.push(Behind { mention, volatility, function, what: what.into() });
        }
    }

    fn relation_name(&self, oid: u32) -> Box<str> {
        match self.relations.get(&oid) {
            Some(row) => self.full(row.schema, &row.name),
            None => oid.to_string().into(),
        }
    }

    fn root(&self, oid: u32) -> u32 {
        let mut at = oid;
        while let Some(next) = self.groups.get(&at)
            && *next != at
        {
            at = *next;
        }
        at
    }

    fn node(&self, oid: u32) -> TableId {
        self.root(oid)
    }

    fn facts(&mut self, oid: u32) -> &mut Facts {
        let node = self.node(oid);
        self.catalog.facts.entry(node).or_default()
    }

    fn finish(mut self) -> Catalog {
        for (_, row) in self.functions {
            let function = Function { schema: row.schema, volatility: row.volatility };
            self.catalog.functions.entry(row.name).or_default().push(function);
        }
        for facts in self.catalog.facts.values_mut() {
            for list in [&mut facts.reads, &mut facts.writes] {
                list.sort_unstable();
                list.dedup();
                list.shrink_to_fit();
            }
        }
        self.catalog.relations.shrink_to_fit();
        self.catalog.functions.shrink_to_fit();
        self.catalog.weight = self.catalog.weigh();
        self.catalog
    }
}
