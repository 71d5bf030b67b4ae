//! Which columns of a table that is everywhere a statement leaves to their DEFAULT.
//!
//! What a default is, the server knows; which columns get theirs is in the text. The plan, which holds for all texts of a
//! fingerprint, knows the tables and their columns; but in lists of values DEFAULT counts as one of them, so where
//! that word stands is read from each text. In doubt a column is named: who asks the server then asks for more.

use sqlparser::ast::{
    Assignment, AssignmentTarget, Expr, Insert, ObjectName, OnConflictAction, OnInsert, SetExpr, TableFactor,
    Update,
};

use super::constant::{NoValue, Source};
use super::extract::first_name;

/// A table that is written, with columns that are left to their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its schema, if it is named.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// The columns.
    pub columns: Defaults,
    /// The new rows come in an order that the statement gives.
    pub ordered: bool,
}

/// The columns of a table that get their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// All but those with these names.
    AllBut(Vec<String>),
    /// All but the first so many, and besides some of these, counted from 0.
    Behind(usize, Vec<usize>),
    /// Those with these names.
    These(Vec<String>),
}

/// A table that a statement writes, as far as the plan knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    schema: Option<String>,
    table: String,
    /// Of the rows that it inserts.
    inserted: Option<Inserted>,
    /// Columns that UPDATE, or ON CONFLICT DO UPDATE, may set to their defaults.
    assigned: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inserted {
    /// The list of columns, if there is one.
    columns: Option<Vec<String>>,
    rows: Rows,
    ordered: bool,
}

/// Where its rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// DEFAULT VALUES.
    None,
    Values,
    Query,
}

impl Written {
    pub(super) fn by_insert(schema: Option<String>, table: String, insert: &Insert) -> Self {
        let columns: Option<Vec<String>> = insert.columns.iter().map(whole_name).collect();
        let columns = match columns {
            Some(columns) if columns.is_empty() => None,
            // Of `a[1]` the rest is NULL, and no default.
            None => Some(insert.columns.iter().filter_map(first_name).collect()),
            some => some,
        };
        let (mut rows, mut ordered) = (Rows::Query, true);
        match insert.source.as_ref().map(|source| &*source.body) {
            None => rows = Rows::None,
            Some(SetExpr::Values(_)) => rows = Rows::Values,
            Some(SetExpr::Select(select)) => {
                let mut factors = select.from.iter().flat_map(|from| {
                    std::iter::once(&from.relation).chain(from.joins.iter().map(|j| &j.relation))
                });
                ordered = factors.all(gives_order);
            }
            Some(_) => ordered = false,
        }
        let assigned = match &insert.on {
            Some(OnInsert::OnConflict(on)) => match &on.action {
                OnConflictAction::DoUpdate(update) => update.assignments.iter().flat_map(assigned).collect(),
                OnConflictAction::DoNothing => Vec::new(),
            },
            _ => Vec::new(),
        };
        Self { schema, table, inserted: Some(Inserted { columns, rows, ordered }), assigned }
    }

    pub(super) fn by_update(schema: Option<String>, table: String, update: &Update) -> Self {
        let assigned = update.assignments.iter().flat_map(assigned).collect();
        Self { schema, table, inserted: None, assigned }
    }

    /// What a text leaves to defaults; `values` is the token VALUES of its INSERT.
    pub(super) fn fills(&self, source: Source<'_>, values: Option<usize>) -> Vec<Fill> {
        let says_default = source.says("default");
        let mut fills = Vec::new();
        let mut add = |columns, ordered| {
            fills.push(Fill { schema: self.schema.clone(), table: self.table.clone(), columns, ordered });
        };
        if let Some(inserted) = &self.inserted {
            let columns = inserted.filled(source, values, says_default);
            add(columns, inserted.ordered);
        }
        if says_default && !self.assigned.is_empty() {
            add(Defaults::These(self.assigned.clone()), true);
        }
        fills
    }

    pub(super) fn weight(&self) -> usize {
        let listed =
            self.inserted.as_ref().and_then(|inserted| inserted.columns.as_ref()).map_or(0, Vec::len);
        size_of::<Self>() + (listed + self.assigned.len() + 2) * 40
    }
}

impl Inserted {
    fn filled(&self, source: Source<'_>, values: Option<usize>, says_default: bool) -> Defaults {
        let all = Defaults::AllBut(Vec::new());
        let width = match (self.rows, &self.columns) {
            (Rows::Values | Rows::Query, Some(columns)) => columns.len(),
            (Rows::Values, None) => match values.and_then(|values| source.width(values)) {
                Some(width) => width,
                None => return all,
            },
            (Rows::None, _) | (Rows::Query, None) => return all,
        };
        let said = if says_default && self.rows == Rows::Values {
            match values.and_then(|values| said(source, values, width)) {
                Some(said) => said,
                None => return all,
            }
        } else {
            Vec::new()
        };
        let Some(columns) = &self.columns else { return Defaults::Behind(width, said) };
        let given = columns.iter().enumerate().filter(|(at, _)| !said.contains(at));
        Defaults::AllBut(given.map(|(_, name)| name.clone()).collect())
    }
}

/// The places of DEFAULT in the rows of VALUES.
fn said(source: Source<'_>, values: usize, width: usize) -> Option<Vec<usize>> {
    let mut said = Vec::new();
    let read = source.each_row(values, width, |row| {
        for (at, cell) in row.cells().iter().enumerate() {
            if let [word] = cell.as_slice()
                && row.written(word, word).eq_ignore_ascii_case(b"default")
                && !said.contains(&at)
            {
                said.push(at);
            }
        }
        Ok::<(), NoValue>(())
    });
    read.ok().map(|_| said)
}

/// Whether the rows of it come in the same order everywhere.
fn gives_order(factor: &TableFactor) -> bool {
    matches!(
        factor,
        TableFactor::UNNEST { .. } | TableFactor::Function { .. } | TableFactor::Table { args: Some(_), .. }
    )
}

fn whole_name(name: &ObjectName) -> Option<String> {
    if name.0.len() == 1 { first_name(name) } else { None }
}

/// What an assignment may set to its default.
fn assigned(assignment: &Assignment) -> Vec<String> {
    let is_default = |value: &Expr| match value {
        Expr::Identifier(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default"),
        _ => false,
    };
    match &assignment.target {
        AssignmentTarget::ColumnName(name) => {
            first_name(name).filter(|_| is_default(&assignment.value)).into_iter().collect()
        }
        // The values are a list, where it may stand for any.
        AssignmentTarget::Tuple(names) => names.iter().filter_map(first_name).collect(),
    }
}
