//! From the parser's tree: the sharded tables of a statement, and what binds each to a key.
//!
//! A statement gives its whole answer on one shard exactly if every row of a sharded table that can matter to it
//! is there. So each *occurrence* of a sharded table must be bound by itself: by a condition that every row of
//! it must meet to matter. Those are the top-level conjuncts of WHERE and of the ON of inner joins; and, for the
//! side of an outer join that may be missing, equality with the key of the other side, in that direction
//! only. The same direction leads from a query to its correlated subqueries. Conditions anywhere else
//! (select list, CASE, FILTER, HAVING, ORDER BY, OR) bind nothing.
//!
//! What this walk has not seen, no one answers for: the tables and queries met are counted and compared with
//! what the parser's own visitor counts.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, Delete, Expr, FromTable, GroupByExpr, Ident, Insert,
    JoinConstraint, JoinOperator, ObjectName, OnConflictAction, OnInsert, Query, Select, SelectItem, SetExpr,
    Statement, TableFactor, TableObject, TableWithJoins, UnaryOperator, Update, UpdateTableFromKind, Value,
    Visit, Visitor,
};

use crate::shard::{KeyType, ShardedSchema, TableClass};

use super::super::tables::{cut, folded};
use super::constant::cast_type;
use super::fill::Written;
use super::refusal::Refusal;
use super::row::Column;
use super::unnest::Unnesting;

/// What a column of a key is equal to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// One literal or parameter.
    Constant { token: usize, negative: bool, cast: Option<KeyType> },
    /// The word `true` or `false`.
    Bool(bool),
    /// One of a list; the token is its opening bracket.
    List { open: usize, cast: Option<KeyType> },
    /// One of an array's elements.
    Array { token: usize, cast: Option<KeyType> },
    /// What stands in its place in a row, or in one of several.
    Row(Column),
    /// What is stored: the elements of one of the arrays that are unnested.
    Unnested { arrays: Vec<usize>, column: usize, cast: Option<KeyType> },
}

/// A sharded table where it stands in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Occurrence {
    /// Its name, for messages.
    pub(super) table: String,
    /// Its group in the schema.
    pub(super) group: usize,
    /// What binds each column of its key.
    pub(super) key: Vec<Option<Origin>>,
}

/// Rows that are inserted into a sharded table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) table: String,
    pub(super) group: usize,
    /// How many columns a row has.
    pub(super) columns: usize,
    /// Which of them are the key's.
    pub(super) key: Vec<usize>,
    /// With RETURNING.
    pub(super) returning: bool,
    /// With ON CONFLICT.
    pub(super) on_conflict: bool,
}

/// What one statement touches.
#[derive(Debug, Default)]
pub(super) struct Extracted {
    pub(super) occurrences: Vec<Occurrence>,
    pub(super) rows: Option<Rows>,
    /// Or such rows made of arrays.
    pub(super) unnested: Option<Unnesting>,
    /// A table that is the same everywhere and that is written.
    pub(super) everywhere_written: Option<String>,
    /// What may leave columns of such tables to their defaults.
    pub(super) written: Vec<Written>,
    /// It has no FROM at all.
    pub(super) has_no_tables: bool,
}

/// Finds them.
pub(super) fn extract(statement: &Statement, schema: &ShardedSchema) -> Result<Extracted, Refusal> {
    let mut walk = Walk {
        schema,
        out: Extracted::default(),
        edges: Vec::new(),
        scopes: Vec::new(),
        outputs: Vec::new(),
        ctes: Vec::new(),
        factors: 0,
        queries: 0,
        depth: 0,
    };
    walk.statement(statement)?;
    let mut count = Count::default();
    let _ = statement.visit(&mut count);
    if (count.factors, count.queries) != (walk.factors, walk.queries) {
        return Err(Refusal::NotUnderstood);
    }
    walk.out.has_no_tables = walk.factors == 0 && walk.out.rows.is_none();
    walk.propagate();
    Ok(walk.out)
}

/// A column of an occurrence's key.
type Place = (usize, usize);

/// One FROM: what its names mean.
#[derive(Default)]
struct Scope {
    /// Every relation, with its name here; sharded ones with their occurrence.
    relations: Vec<(String, Option<usize>)>,
    /// Columns that a FULL JOIN … USING has merged: equal to neither side's.
    merged: Vec<String>,
}

struct Walk<'a> {
    schema: &'a ShardedSchema,
    out: Extracted,
    /// Where the first is bound, so is the second.
    edges: Vec<(Place, Place)>,
    scopes: Vec<Scope>,
    /// What is compared with the columns of a subquery that is still to be walked.
    outputs: Vec<(*const Query, Vec<Option<Place>>)>,
    ctes: Vec<Vec<String>>,
    factors: usize,
    queries: usize,
    depth: usize,
}

/// Deeper than this nothing is looked at.
const DEPTH_MAX: usize = 40;

type Walked = Result<(), Refusal>;

impl Walk<'_> {
    fn statement(&mut self, statement: &Statement) -> Walked {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Refusal::NotUnderstood);
        }
        let walked = match statement {
            Statement::Query(query) => self.query(query),
            Statement::Insert(insert) => self.insert(insert),
            Statement::Update(update) => self.update(update),
            Statement::Delete(delete) => self.delete(delete),
            Statement::Merge { .. } => Err(Refusal::Construct("MERGE")),
            _ => Err(Refusal::NotUnderstood),
        };
        self.depth -= 1;
        walked
    }

    fn query(&mut self, query: &Query) -> Walked {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Refusal::NotUnderstood);
        }
        self.queries += 1;
        let before = self.ctes.len();
        if let Some(with) = &query.with {
            self.ctes.push(Vec::new());
            for cte in &with.cte_tables {
                let name = name_of(&cte.alias.name);
                let own = self.ctes.len() - 1;
                if with.recursive {
                    // Any of them may be named in any other.
                    let names = with.cte_tables.iter().map(|cte| name_of(&cte.alias.name)).collect();
                    if let Some(scope) = self.ctes.get_mut(own) {
                        *scope = names;
                    }
                }
                // It sees nothing of the FROM around it but what a subquery sees.
                self.query(&cte.query)?;
                if let Some(scope) = self.ctes.get_mut(own) {
                    scope.push(name);
                }
            }
        }
        let compared = self.outputs.iter().position(|(subquery, _)| std::ptr::eq(*subquery, query));
        let places = compared.map(|at| self.outputs.swap_remove(at).1).unwrap_or_default();
        match &*query.body {
            SetExpr::Select(select) => self.select(select, &places)?,
            body => self.body(body)?,
        }
        if let Some(order) = &query.order_by {
            self.subqueries(order)?;
        }
        if let Some(limit) = &query.limit_clause {
            self.subqueries(limit)?;
        }
        if let Some(fetch) = &query.fetch {
            self.subqueries(fetch)?;
        }
        self.ctes.truncate(before);
        self.depth -= 1;
        Ok(())
    }

    fn body(&mut self, body: &SetExpr) -> Walked {
        match body {
            SetExpr::Select(select) => self.select(select, &[]),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, right, .. } => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(Refusal::NotUnderstood);
                }
                self.body(left)?;
                self.body(right)?;
                self.depth -= 1;
                Ok(())
            }
            SetExpr::Values(values) => self.subqueries(values),
            SetExpr::Insert(statement) | SetExpr::Update(statement) | SetExpr::Delete(statement) => {
                self.statement(statement)
            }
            SetExpr::Merge(_) => Err(Refusal::Construct("MERGE")),
            SetExpr::Table(_) => Err(Refusal::Construct("TABLE")),
        }
    }

    /// `compared` is what the query around it compares with its columns.
    fn select(&mut self, select: &Select, compared: &[Option<Place>]) -> Walked {
        if select.into.is_some() {
            return Err(Refusal::Construct("SELECT INTO"));
        }
        if select.prewhere.is_some() || !select.lateral_views.is_empty() || !select.connect_by.is_empty() {
            return Err(Refusal::NotUnderstood);
        }
        self.scopes.push(Scope::default());
        for from in &select.from {
            self.tables(from)?;
        }
        if let Some(condition) = &select.selection {
            self.conjuncts(condition);
        }
        // What is left decides no rows of its tables, but may hold queries.
        self.subqueries(&select.projection)?;
        if let Some(distinct) = &select.distinct {
            self.subqueries(distinct)?;
        }
        self.subqueries(&select.selection)?;
        self.subqueries(&select.group_by)?;
        self.subqueries(&select.having)?;
        self.subqueries(&select.named_window)?;
        self.subqueries(&select.sort_by)?;
        self.lead_outwards(&select.projection, compared);
        self.scopes.pop();
        Ok(())
    }

    /// A FROM item with its joins. The occurrences in it come one after another.
    fn tables(&mut self, from: &TableWithJoins) -> Walked {
        let start = self.out.occurrences.len();
        self.factor(&from.relation)?;
        for join in &from.joins {
            let middle = self.out.occurrences.len();
            self.factor(&join.relation)?;
            let end = self.out.occurrences.len();
            let (left, right) = (start..middle, middle..end);
            match &join.join_operator {
                JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::CrossJoin(on) => {
                    self.inner(on)?;
                }
                JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => self.outer(on, left, right)?,
                JoinOperator::Right(on) | JoinOperator::RightOuter(on) => self.outer(on, right, left)?,
                JoinOperator::FullOuter(on) => {
                    if let JoinConstraint::Using(columns) = on
                        && let Some(scope) = self.scopes.last_mut()
                    {
                        scope.merged.extend(columns.iter().filter_map(last_name));
                    }
                    if let JoinConstraint::Natural = on {
                        return Err(Refusal::Construct("NATURAL JOIN"));
                    }
                    self.on_subqueries(on)?;
                }
                _ => return Err(Refusal::NotUnderstood),
            }
        }
        Ok(())
    }

    fn on_subqueries(&mut self, on: &JoinConstraint) -> Walked {
        match on {
            JoinConstraint::On(condition) => self.subqueries(condition),
            _ => Ok(()),
        }
    }

    fn inner(&mut self, on: &JoinConstraint) -> Walked {
        match on {
            JoinConstraint::On(condition) => {
                self.conjuncts(condition);
                self.subqueries(condition)
            }
            JoinConstraint::Using(columns) => {
                for column in columns.iter().filter_map(last_name) {
                    let places = self.places_named(&column);
                    for pair in places.windows(2) {
                        self.edges.push((pair[0], pair[1]));
                        self.edges.push((pair[1], pair[0]));
                    }
                }
                Ok(())
            }
            JoinConstraint::Natural => Err(Refusal::Construct("NATURAL JOIN")),
            JoinConstraint::None => Ok(()),
        }
    }

    /// An outer join that keeps every row of one side.
    fn outer(
        &mut self,
        on: &JoinConstraint,
        kept: std::ops::Range<usize>,
        optional: std::ops::Range<usize>,
    ) -> Walked {
        let mut pairs = Vec::new();
        match on {
            JoinConstraint::On(condition) => {
                let mut conjuncts = Vec::new();
                split(condition, &mut conjuncts);
                for conjunct in conjuncts {
                    if let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = conjunct
                        && let (Some(left), Some(right)) = (self.place(left), self.place(right))
                    {
                        pairs.extend([(left, right), (right, left)]);
                    }
                }
                self.subqueries(condition)?;
            }
            JoinConstraint::Using(columns) => {
                for column in columns.iter().filter_map(last_name) {
                    let places = self.places_named(&column);
                    for left in &places {
                        pairs.extend(places.iter().map(|right| (*left, *right)));
                    }
                }
            }
            JoinConstraint::Natural => return Err(Refusal::Construct("NATURAL JOIN")),
            JoinConstraint::None => {}
        }
        let leads = |(from, to): &(Place, Place)| !optional.contains(&from.0) && optional.contains(&to.0);
        // What is outside of both sides may not lead anywhere here, but what is inside of the kept one may.
        self.edges.extend(pairs.into_iter().filter(|pair| leads(pair) && kept.contains(&pair.0.0)));
        Ok(())
    }

    fn factor(&mut self, factor: &TableFactor) -> Walked {
        self.factors += 1;
        match factor {
            TableFactor::Table { name, alias, args: None, sample, .. } => {
                let renamed = alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
                let occurrence = self.table(name)?;
                if occurrence.is_some() && renamed {
                    return Err(Refusal::Construct("an alias that renames the columns of a sharded table"));
                }
                let label = match alias {
                    Some(alias) => name_of(&alias.name),
                    None => last_name(name).unwrap_or_default(),
                };
                self.relation(label, occurrence);
                self.subqueries(sample)
            }
            TableFactor::Table { args: Some(args), alias, .. } => {
                self.relation_without_key(alias.as_ref().map(|alias| &alias.name));
                self.subqueries(&args.args)
            }
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                // Without LATERAL it does not see its neighbours.
                let neighbours = if *lateral { None } else { self.scopes.pop() };
                self.query(subquery)?;
                self.scopes.extend(neighbours);
                self.relation_without_key(alias.as_ref().map(|alias| &alias.name));
                Ok(())
            }
            TableFactor::Function { args, alias, .. } => {
                self.relation_without_key(alias.as_ref().map(|alias| &alias.name));
                self.subqueries(args)
            }
            TableFactor::TableFunction { expr, alias } => {
                self.relation_without_key(alias.as_ref().map(|alias| &alias.name));
                self.subqueries(expr)
            }
            TableFactor::UNNEST { array_exprs, alias, .. } => {
                self.relation_without_key(alias.as_ref().map(|alias| &alias.name));
                self.subqueries(array_exprs)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => self.tables(table_with_joins),
            _ => Err(Refusal::NotUnderstood),
        }
    }

    fn relation(&mut self, label: String, occurrence: Option<usize>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.relations.push((label, occurrence));
        }
    }

    fn relation_without_key(&mut self, alias: Option<&Ident>) {
        self.relation(alias.map(name_of).unwrap_or_default(), None);
    }

    /// What is declared of a table that is read; sharded ones become occurrences.
    fn table(&mut self, name: &ObjectName) -> Result<Option<usize>, Refusal> {
        let (schema, name) = Self::resolved(name)?;
        if schema.is_none() && self.ctes.iter().flatten().any(|cte| *cte == name) {
            return Ok(None);
        }
        match self.schema.classify(schema.as_deref(), &name) {
            TableClass::Sharded(group, tables) => {
                let key = vec![None; tables.key.len()];
                self.out.occurrences.push(Occurrence { table: name, group, key });
                Ok(Some(self.out.occurrences.len() - 1))
            }
            TableClass::Everywhere | TableClass::Catalog => Ok(None),
            TableClass::Ambiguous => Err(Refusal::Ambiguous(name)),
            TableClass::Undeclared => Err(Refusal::Undeclared(name)),
        }
    }

    fn resolved(name: &ObjectName) -> Result<(Option<String>, String), Refusal> {
        let parts: Option<Vec<String>> = name.0.iter().map(|part| part.as_ident().map(name_of)).collect();
        match parts.as_deref() {
            Some([name]) => Ok((None, name.clone())),
            Some([schema, name]) => Ok((Some(schema.clone()), name.clone())),
            _ => Err(Refusal::NotUnderstood),
        }
    }

    /// Takes from a condition what every row must meet.
    fn conjuncts(&mut self, condition: &Expr) {
        let mut conjuncts = Vec::new();
        split(condition, &mut conjuncts);
        for conjunct in conjuncts {
            self.conjunct(conjunct);
        }
    }

    fn conjunct(&mut self, conjunct: &Expr) {
        match conjunct {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                if let Expr::Tuple(columns) = &**left {
                    self.row(columns, right);
                    return;
                }
                match (self.place(left), self.place(right)) {
                    (Some(a), Some(b)) => self.equal(a, b),
                    (Some(place), None) => self.bind(place, constant(right)),
                    (None, Some(place)) => self.bind(place, constant(left)),
                    (None, None) => {}
                }
            }
            Expr::InList { expr, list, negated: false } => {
                if let Expr::Tuple(columns) = &**expr {
                    let open = list.first().and_then(row_bracket).and_then(|row| row.checked_sub(1));
                    self.bind_row(columns, open, true, |_| true);
                    return;
                }
                if let (Some(place), Some(first)) = (self.place(expr), list.first()) {
                    let origin = match constant(first) {
                        Some(Origin::Constant { token, .. }) => {
                            token.checked_sub(1).map(|open| Origin::List { open, cast: None })
                        }
                        _ => None,
                    };
                    self.bind(place, origin);
                }
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                if let Some(place) = self.place(left) {
                    self.bind(place, array(right));
                }
            }
            Expr::InSubquery { expr, subquery, negated: false } => {
                let columns = match &**expr {
                    Expr::Tuple(columns) => columns.as_slice(),
                    column => std::slice::from_ref(column),
                };
                let places = columns.iter().map(|column| self.place(column));
                let places: Vec<_> = places.map(|p| p.filter(|p| self.is_of_inner_scope(p.0))).collect();
                if places.iter().any(Option::is_some) {
                    self.outputs.push((std::ptr::from_ref(&**subquery), places));
                }
            }
            _ => {}
        }
    }

    /// Two columns that every row has alike.
    fn equal(&mut self, a: Place, b: Place) {
        // Within one FROM both ways; from a query into its subquery only inwards.
        if self.is_of_inner_scope(b.0) {
            self.edges.push((a, b));
        }
        if self.is_of_inner_scope(a.0) {
            self.edges.push((b, a));
        }
    }

    /// `(a, b) = (…)`: column by column, or with values.
    fn row(&mut self, columns: &[Expr], right: &Expr) {
        // Values at the beginning of a row may have become one, but on both sides alike if as many are left.
        let pairs = match right {
            Expr::Tuple(others) if others.len() == columns.len() => others.as_slice(),
            _ => &[],
        };
        let places: Vec<_> = pairs.iter().map(|other| self.place(other)).collect();
        for (column, other) in columns.iter().zip(&places) {
            if let (Some(a), Some(b)) = (self.place(column), *other) {
                self.equal(a, b);
            }
        }
        let is_value = |at: usize| places.get(at).is_none_or(Option::is_none);
        self.bind_row(columns, row_bracket(right), false, is_value);
    }

    /// Binds the columns of a row to what the rows at a bracket have in their places.
    fn bind_row(
        &mut self,
        row: &[Expr],
        open: Option<usize>,
        several: bool,
        is_value: impl Fn(usize) -> bool,
    ) {
        let Some(open) = open else { return };
        for (number, expr) in row.iter().enumerate() {
            if let Some(place) = self.place(expr).filter(|_| is_value(number)) {
                let origin = Origin::Row(Column { open, several, columns: row.len(), number });
                self.bind(place, Some(origin));
            }
        }
    }

    /// What a query around this one compares with its columns: the rows that can be equal have the keys of this
    /// one's.
    fn lead_outwards(&mut self, projection: &[SelectItem], places: &[Option<Place>]) {
        if projection.len() != places.len() {
            return;
        }
        for (item, outer) in projection.iter().zip(places) {
            let inner = match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => self.place(expr),
                // Any number of columns, and those behind it in other places.
                _ => return,
            };
            if let (Some(inner), Some(outer)) = (inner, outer) {
                self.edges.push((inner, *outer));
            }
        }
    }

    fn bind(&mut self, (occurrence, column): Place, origin: Option<Origin>) {
        if !self.is_of_inner_scope(occurrence) {
            // A condition of a subquery on a row of the query around it decides nothing there.
            return;
        }
        let key = self.out.occurrences.get_mut(occurrence).and_then(|o| o.key.get_mut(column));
        if let (Some(slot), Some(origin)) = (key, origin) {
            let better = matches!(
                (&*slot, &origin),
                (Some(Origin::List { .. } | Origin::Array { .. } | Origin::Row(_)), Origin::Constant { .. })
            );
            if slot.is_none() || better {
                *slot = Some(origin);
            }
        }
    }

    fn is_of_inner_scope(&self, occurrence: usize) -> bool {
        self.scopes.last().is_some_and(|scope| scope.relations.iter().any(|(_, o)| *o == Some(occurrence)))
    }

    /// The key column that an expression is, if it is one.
    fn place(&self, expr: &Expr) -> Option<Place> {
        match expr {
            Expr::Nested(inner) => self.place(inner),
            Expr::Identifier(ident) => self.bare(&name_of(ident)),
            Expr::CompoundIdentifier(parts) => {
                let (column, qualifier) = parts.split_last()?;
                let label = name_of(qualifier.last()?);
                let column = name_of(column);
                for scope in self.scopes.iter().rev() {
                    let mut named = scope.relations.iter().filter(|(name, _)| *name == label);
                    if let Some((_, occurrence)) = named.next() {
                        // Two of one name are an error of the client's.
                        let unique = named.next().is_none();
                        return unique.then_some((*occurrence)?).and_then(|o| self.column(o, &column));
                    }
                }
                None
            }
            _ => None,
        }
    }

    fn column(&self, occurrence: usize, name: &str) -> Option<Place> {
        let group = self.out.occurrences.get(occurrence)?.group;
        let key = &self.schema.sharded.get(group)?.key;
        key.iter().position(|column| column.name == name).map(|at| (occurrence, at))
    }

    /// A bare name: PostgreSQL looks in the nearest FROM that has such a column. What columns others than
    /// sharded tables have is not known here, so names are taken for a key only in the innermost FROM.
    fn bare(&self, name: &str) -> Option<Place> {
        let scope = self.scopes.last()?;
        if scope.merged.iter().any(|merged| merged == name) {
            return None;
        }
        match self.places_named(name).as_slice() {
            [only] => Some(*only),
            // Merged by USING: all are equal, or the first is that of the side that is kept.
            [first, ..] if self.edges.iter().any(|(from, _)| from == first) => Some(*first),
            _ => None,
        }
    }

    /// The key columns of this name in the innermost FROM.
    fn places_named(&self, name: &str) -> Vec<Place> {
        let Some(scope) = self.scopes.last() else { return Vec::new() };
        scope.relations.iter().filter_map(|(_, occurrence)| self.column((*occurrence)?, name)).collect()
    }

    /// Binds what is equal to what is bound.
    fn propagate(&mut self) {
        let origin = |out: &Extracted, (occurrence, column): Place| {
            out.occurrences.get(occurrence)?.key.get(column)?.clone()
        };
        loop {
            let mut changed = false;
            for (from, to) in &self.edges {
                if origin(&self.out, *to).is_none()
                    && let Some(found) = origin(&self.out, *from)
                    && let Some(slot) = self.out.occurrences.get_mut(to.0).and_then(|o| o.key.get_mut(to.1))
                {
                    *slot = Some(found);
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Walks the queries inside of something that is no query.
    fn subqueries<T: Visit>(&mut self, node: &T) -> Walked {
        let mut inner = Inner { walk: self, depth: 0, refusal: None };
        let _ = node.visit(&mut inner);
        inner.refusal.map_or(Ok(()), Err)
    }

    fn insert(&mut self, insert: &Insert) -> Walked {
        let TableObject::TableName(name) = &insert.table else { return Err(Refusal::NotUnderstood) };
        let (schema, table) = Self::resolved(name)?;
        if !insert.assignments.is_empty() || insert.partitioned.is_some() {
            return Err(Refusal::NotUnderstood);
        }
        let refuse = |what| Err(Refusal::Insert { table: table.clone(), what });
        if let Some(source) = &insert.source {
            self.query(source)?;
        }
        self.scopes.push(Scope::default());
        self.subqueries(&insert.returning)?;
        if let Some(on) = &insert.on {
            self.subqueries(on)?;
        }
        self.scopes.pop();
        match self.schema.classify(schema.as_deref(), &table) {
            TableClass::Sharded(group, tables) => {
                if self.depth > 1 || self.out.rows.is_some() {
                    return refuse("inside of WITH is not supported");
                }
                let columns: Vec<String> = insert.columns.iter().filter_map(first_name).collect();
                if columns.is_empty() || columns.len() != insert.columns.len() {
                    return refuse("without a list of columns does not say which is the key");
                }
                // Of `a.b` and `a[1]` only a part is given.
                let is_part = |name: &ObjectName| {
                    name.0.len() > 1
                        && first_name(name)
                            .is_some_and(|first| tables.key.iter().any(|column| column.name == first))
                };
                if insert.columns.iter().any(is_part) {
                    return refuse("gives only a part of the key");
                }
                let key: Option<Vec<usize>> = tables
                    .key
                    .iter()
                    .map(|column| columns.iter().position(|name| *name == column.name))
                    .collect();
                let Some(key) = key else { return refuse("does not give the key a value") };
                check_conflict(insert, &table, tables.key.iter().map(|column| column.name.as_str()))?;
                let body = insert.source.as_ref().filter(|source| source.with.is_none()).map(|s| &*s.body);
                match (body, key.as_slice()) {
                    (Some(SetExpr::Values(_)), _) => {
                        let (returning, on_conflict) = (insert.returning.is_some(), insert.on.is_some());
                        let columns = columns.len();
                        self.out.rows = Some(Rows { table, group, columns, key, returning, on_conflict });
                    }
                    (Some(SetExpr::Select(select)), &[column]) => {
                        let Some((arrays, cast)) = unnested(select, columns.len(), column) else {
                            return refuse("without VALUES is not supported");
                        };
                        let (returning, on_conflict) = (insert.returning.is_some(), insert.on.is_some());
                        let (table_name, key) = (table.clone(), vec![column]);
                        let columns = columns.len();
                        let rows = Rows { table: table_name, group, columns, key, returning, on_conflict };
                        self.out.unnested =
                            Some(Unnesting { rows, arrays: arrays.clone(), cast, together: None });
                        let key = vec![Some(Origin::Unnested { arrays, column, cast })];
                        self.out.occurrences.push(Occurrence { table, group, key });
                    }
                    _ => return refuse("without VALUES is not supported"),
                }
            }
            TableClass::Everywhere => {
                self.out.written.push(Written::by_insert(schema, table.clone(), insert));
                self.out.everywhere_written = Some(table);
            }
            TableClass::Catalog => return Err(Refusal::AllShards(format!("a change of \"{table}\""))),
            TableClass::Ambiguous => return Err(Refusal::Ambiguous(table)),
            TableClass::Undeclared => return Err(Refusal::Undeclared(table)),
        }
        Ok(())
    }

    /// The table that is changed: as one that is read, or noted as being everywhere.
    fn changed(&mut self, target: &TableWithJoins) -> Result<Option<(String, usize)>, Refusal> {
        if !target.joins.is_empty() {
            return Err(Refusal::NotUnderstood);
        }
        let TableFactor::Table { name, args: None, .. } = &target.relation else {
            return Err(Refusal::NotUnderstood);
        };
        let before = self.out.occurrences.len();
        // A CTE cannot be changed: of that name it is the table.
        let ctes = std::mem::take(&mut self.ctes);
        let walked = self.factor(&target.relation);
        self.ctes = ctes;
        walked?;
        if let Some(occurrence) = self.out.occurrences.get(before) {
            return Ok(Some((occurrence.table.clone(), occurrence.group)));
        }
        let (schema, table) = Self::resolved(name)?;
        if self.schema.classify(schema.as_deref(), &table) == TableClass::Catalog {
            return Err(Refusal::AllShards(format!("a change of \"{table}\"")));
        }
        self.out.everywhere_written = Some(table);
        Ok(None)
    }

    fn update(&mut self, update: &Update) -> Walked {
        if !update.order_by.is_empty() || update.limit.is_some() {
            return Err(Refusal::NotUnderstood);
        }
        self.scopes.push(Scope::default());
        let changed = self.changed(&update.table)?;
        match &update.from {
            None => {}
            Some(UpdateTableFromKind::AfterSet(from)) => {
                for tables in from {
                    self.tables(tables)?;
                }
            }
            Some(UpdateTableFromKind::BeforeSet(_)) => return Err(Refusal::NotUnderstood),
        }
        if let Some((table, group)) = &changed {
            let schema = self.schema;
            let key = schema.sharded.get(*group).map(|tables| tables.key.as_slice()).unwrap_or_default();
            assigns_key(&update.assignments, table, key.iter().map(|column| column.name.as_str()))?;
        } else if let TableFactor::Table { name, .. } = &update.table.relation {
            let (schema, table) = Self::resolved(name)?;
            self.out.written.push(Written::by_update(schema, table, update));
        }
        self.tail(update.selection.as_ref(), update.returning.as_ref())?;
        self.subqueries(&update.assignments)?;
        self.scopes.pop();
        Ok(())
    }

    fn delete(&mut self, delete: &Delete) -> Walked {
        let FromTable::WithFromKeyword(from) = &delete.from else { return Err(Refusal::NotUnderstood) };
        let ([target], true) = (from.as_slice(), delete.tables.is_empty()) else {
            return Err(Refusal::NotUnderstood);
        };
        if !delete.order_by.is_empty() || delete.limit.is_some() {
            return Err(Refusal::NotUnderstood);
        }
        self.scopes.push(Scope::default());
        self.changed(target)?;
        for tables in delete.using.iter().flatten() {
            self.tables(tables)?;
        }
        self.tail(delete.selection.as_ref(), delete.returning.as_ref())?;
        self.scopes.pop();
        Ok(())
    }

    /// WHERE and RETURNING of UPDATE and DELETE.
    fn tail(&mut self, selection: Option<&Expr>, returning: Option<&Vec<SelectItem>>) -> Walked {
        if let Some(condition) = selection {
            self.conjuncts(condition);
            self.subqueries(condition)?;
        }
        match returning {
            Some(items) => self.subqueries(items),
            None => Ok(()),
        }
    }
}

/// `SELECT * FROM UNNEST(array, …)` and nothing else, as many arrays as columns: their tokens, and the type that
/// the one of this column has.
fn unnested(select: &Select, columns: usize, column: usize) -> Option<(Vec<usize>, Option<KeyType>)> {
    let ([SelectItem::Wildcard(_)], [from]) = (select.projection.as_slice(), select.from.as_slice()) else {
        return None;
    };
    let TableFactor::UNNEST { array_exprs, alias: None, with_offset: false, with_ordinality: false, .. } =
        &from.relation
    else {
        return None;
    };
    let plain = from.joins.is_empty()
        && select.distinct.is_none()
        && select.top.is_none()
        && select.selection.is_none()
        && select.having.is_none()
        && matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    if !plain || array_exprs.len() != columns {
        return None;
    }
    let arrays: Option<Vec<usize>> = array_exprs.iter().map(|array| array_token(array, false)).collect();
    match array(array_exprs.get(column)?)? {
        Origin::Array { cast, .. } | Origin::List { cast, .. } => Some((arrays?, cast)),
        _ => None,
    }
}

/// The literal or parameter that is an array, whatever it is cast to; or the opening bracket of `ARRAY[…]`, whose type is
/// that of its cast, whichever elements it has.
fn array_token(expr: &Expr, is_cast: bool) -> Option<usize> {
    match expr {
        Expr::Nested(inner) => array_token(inner, is_cast),
        // The elements of boxes are separated by something else.
        Expr::Cast { expr: inner, format: None, data_type, .. }
            if !data_type.to_string().to_ascii_lowercase().contains("box") =>
        {
            array_token(inner, true)
        }
        Expr::Array(array) if is_cast => match array.elem.as_slice() {
            [first] => match constant(first)? {
                Origin::Constant { token, negative: false, cast: None } => token.checked_sub(1),
                _ => None,
            },
            _ => None,
        },
        other => match constant(other)? {
            Origin::Constant { token, negative: false, cast: None } => Some(token),
            _ => None,
        },
    }
}

/// The opening bracket of a row whose first value is a constant.
fn row_bracket(row: &Expr) -> Option<usize> {
    let first = match row {
        Expr::Tuple(values) => values.first()?,
        // Of a row of values one is left.
        Expr::Nested(value) => value,
        _ => return None,
    };
    match constant(first)? {
        Origin::Constant { token, .. } => token.checked_sub(1),
        _ => None,
    }
}

/// Refuses an ON CONFLICT that assigns the key.
fn check_conflict<'k>(insert: &Insert, table: &str, key: impl Iterator<Item = &'k str>) -> Walked {
    match &insert.on {
        None => Ok(()),
        Some(OnInsert::OnConflict(on)) => match &on.action {
            OnConflictAction::DoNothing => Ok(()),
            OnConflictAction::DoUpdate(update) => assigns_key(&update.assignments, table, key),
        },
        Some(_) => Err(Refusal::NotUnderstood),
    }
}

/// Refuses assignments to the key.
fn assigns_key<'k>(assignments: &[Assignment], table: &str, key: impl Iterator<Item = &'k str>) -> Walked {
    let mut assigned = Vec::new();
    for assignment in assignments {
        match &assignment.target {
            AssignmentTarget::ColumnName(name) => assigned.extend(first_name(name)),
            AssignmentTarget::Tuple(names) => assigned.extend(names.iter().filter_map(first_name)),
        }
    }
    for column in key {
        if assigned.iter().any(|name| name == column) {
            return Err(Refusal::KeyUpdate { table: table.to_owned(), column: column.to_owned() });
        }
    }
    Ok(())
}

/// The conditions that AND connects.
fn split<'e>(condition: &'e Expr, out: &mut Vec<&'e Expr>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            split(left, out);
            split(right, out);
        }
        Expr::Nested(inner) => split(inner, out),
        other => out.push(other),
    }
}

/// A literal or parameter, perhaps with a sign and casts.
fn constant(expr: &Expr) -> Option<Origin> {
    match expr {
        Expr::Nested(inner) => constant(inner),
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => plain(number.parse().ok()?),
            Value::SingleQuotedString(text) => plain(text.parse().ok()?),
            Value::Placeholder(text) => plain(text.strip_prefix('$')?.parse().ok()?),
            Value::Boolean(value) => Some(Origin::Bool(*value)),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match constant(expr)? {
            Origin::Constant { token, negative: false, cast: None } => {
                Some(Origin::Constant { token, negative: true, cast: None })
            }
            _ => None,
        },
        Expr::Cast { expr, data_type, format: None, .. } => match constant(expr)? {
            Origin::Constant { token, negative, cast: None } => {
                let cast = Some(cast_type(&data_type.to_string())?);
                Some(Origin::Constant { token, negative, cast })
            }
            _ => None,
        },
        Expr::TypedString(typed) => match &typed.value.value {
            Value::SingleQuotedString(text) => {
                let cast = Some(cast_type(&typed.data_type.to_string())?);
                Some(Origin::Constant { token: text.parse().ok()?, negative: false, cast })
            }
            _ => None,
        },
        _ => None,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the value of several arms")]
fn plain(token: usize) -> Option<Origin> {
    Some(Origin::Constant { token, negative: false, cast: None })
}

/// `ARRAY[…]`, `'{…}'`, or a parameter, perhaps cast.
fn array(expr: &Expr) -> Option<Origin> {
    match expr {
        Expr::Nested(inner) => array(inner),
        Expr::Array(array) => match constant(array.elem.first()?)? {
            Origin::Constant { token, .. } => Some(Origin::List { open: token.checked_sub(1)?, cast: None }),
            _ => None,
        },
        Expr::Cast { expr, data_type, format: None, .. } => {
            let name = data_type.to_string();
            let element = Some(cast_type(name.strip_suffix("[]")?)?);
            match array(expr)? {
                Origin::List { open, cast: None } => Some(Origin::List { open, cast: element }),
                Origin::Array { token, cast: None } => Some(Origin::Array { token, cast: element }),
                // Drivers name the type that they have chosen, the application that of the column.
                Origin::Array { token, cast: Some(of) }
                    if Some(of) == element
                        || (of.is_integer() && element.is_some_and(KeyType::is_integer)) =>
                {
                    Some(Origin::Array { token, cast: element })
                }
                _ => None,
            }
        }
        other => match constant(other)? {
            Origin::Constant { token, negative: false, cast: None } => {
                Some(Origin::Array { token, cast: None })
            }
            _ => None,
        },
    }
}

fn name_of(ident: &Ident) -> String {
    cut(&folded(ident)).into()
}

fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(name_of)
}

pub(super) fn first_name(name: &ObjectName) -> Option<String> {
    name.0.first()?.as_ident().map(name_of)
}

/// Hands the outermost queries to the walk.
struct Inner<'w, 's> {
    walk: &'w mut Walk<'s>,
    depth: usize,
    refusal: Option<Refusal>,
}

impl Visitor for Inner<'_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        if self.depth == 1
            && let Err(refusal) = self.walk.query(query)
        {
            self.refusal = Some(refusal);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// Counts what there is.
#[derive(Default)]
struct Count {
    factors: usize,
    queries: usize,
}

impl Visitor for Count {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, _: &TableFactor) -> ControlFlow<()> {
        // The parentheses of a nested join are no table, but the walk counts them, too.
        self.factors += 1;
        ControlFlow::Continue(())
    }
}
