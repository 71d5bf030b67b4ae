//! The shards of a database: an entry for each, and where statements have their keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use crate::config::Sharding;
use crate::shard::{ShardNumber, ShardedSchema, WrongColumn};
use crate::sql::{
    ByParameters, Destination, Fingerprint, Hint, KeyPlan, LexOptions, Parameters, Refusal, Statement,
    explicit_shard, key_plan,
};

use super::topology::DatabaseEntry;

/// Bytes that plans take, at most and near enough.
const PLANS_BYTES_MAX: usize = 8 << 20;
/// What an entry takes besides its plan.
const ENTRY_BYTES: usize = size_of::<(Fingerprint, Weighed<KeyPlan>)>() + 2 * size_of::<usize>();

/// A sharded database. Each shard has nodes, roles, horizons and a catalog of its own.
#[derive(Debug)]
pub struct ShardSet {
    entries: Vec<Arc<DatabaseEntry>>,
    sharding: Arc<Sharding>,
    plans: Arc<KeyPlans<KeyPlan>>,
    /// By exact text.
    by_parameters: Arc<KeyPlans<Option<ByParameters>>>,
    refusals: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    wrong: Arc<WrongColumns>,
}

/// Columns of keys that are not what is declared, by shard. Statements that need them are refused: by their plans, so
/// that looking for them costs the others nothing.
#[derive(Debug, Default)]
struct WrongColumns {
    by_shard: Mutex<BTreeMap<ShardNumber, Vec<WrongColumn>>>,
    all: ArcSwap<Vec<WrongColumn>>,
}

impl ShardSet {
    /// Of these shards. What `before` knew of statements is kept while the tables are declared alike.
    pub(super) fn new(
        entries: Vec<Arc<DatabaseEntry>>,
        sharding: Arc<Sharding>,
        before: Option<&Self>,
    ) -> Self {
        let same = before.filter(|before| before.sharding.schema == sharding.schema);
        let plans = same.map_or_else(Arc::default, |before| Arc::clone(&before.plans));
        let by_parameters = same.map_or_else(Arc::default, |before| Arc::clone(&before.by_parameters));
        let refusals = before.map_or_else(Arc::default, |before| Arc::clone(&before.refusals));
        let wrong = same.map_or_else(Arc::default, |before| Arc::clone(&before.wrong));
        Self { entries, sharding, plans, by_parameters, refusals, wrong }
    }

    /// A shard was asked for the columns of its keys; these are not as declared. Those of them that are news.
    pub fn found_wrong(&self, shard: ShardNumber, wrong: Vec<WrongColumn>) -> Vec<WrongColumn> {
        let mut by_shard = self.wrong.by_shard.lock();
        let before = by_shard.insert(shard, wrong.clone()).unwrap_or_default();
        let mut all: Vec<_> = by_shard.values().flatten().cloned().collect();
        all.sort();
        all.dedup();
        if all != **self.wrong.all.load() {
            self.wrong.all.store(Arc::new(all));
            // What was planned before knows nothing of it.
            self.plans.clear();
            self.by_parameters.clear();
        }
        wrong.into_iter().filter(|one| !before.contains(one)).collect()
    }

    /// Columns that are not as declared, by shard.
    pub fn wrong_columns(&self) -> BTreeMap<ShardNumber, Vec<WrongColumn>> {
        self.wrong.by_shard.lock().clone()
    }

    /// The first of a table's, or of any.
    pub fn wrong_column(&self, table: Option<&str>) -> Option<WrongColumn> {
        let all = self.wrong.all.load();
        all.iter().find(|wrong| table.is_none_or(|table| wrong.table == table)).cloned()
    }

    /// The shard that a comment or setting asks for.
    ///
    /// # Errors
    /// There is none, or it cannot be told.
    pub fn explicit_shard(&self, hint: &Hint) -> Result<Option<ShardNumber>, Refusal> {
        if hint.key.is_some()
            && hint.shard.is_none()
            && let Some(wrong) = self.wrong_column(None)
        {
            return Err(Refusal::WrongColumn(Box::new(wrong)));
        }
        explicit_shard(hint, self.count(), self.schema())
    }

    /// The shards, in order.
    pub fn entries(&self) -> &[Arc<DatabaseEntry>] {
        &self.entries
    }

    /// One of them.
    pub fn entry(&self, number: ShardNumber) -> Option<&Arc<DatabaseEntry>> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    /// Counts a statement that was refused.
    pub fn count_refusal(&self, refusal: &Refusal) {
        *self.refusals.lock().entry(refusal.label()).or_default() += 1;
    }

    /// How many were, by reason.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().clone()
    }

    /// How many there are.
    pub fn count(&self) -> ShardNumber {
        ShardNumber::try_from(self.entries.len()).unwrap_or(ShardNumber::MAX)
    }

    /// The declared tables.
    pub fn schema(&self) -> &ShardedSchema {
        &self.sharding.schema
    }

    /// Whether statements belong where they do on another set.
    pub fn places_alike(&self, other: &Self) -> bool {
        self.count() == other.count() && self.sharding.schema == other.sharding.schema
    }

    /// Grows with each change of the catalog of any shard: a client's statements may run on all of them.
    pub fn catalog_epoch(&self) -> u64 {
        self.entries.iter().map(|entry| entry.catalog_epoch.load(Ordering::Acquire)).sum()
    }

    /// Where a statement must run: by what a comment says, or by its key.
    ///
    /// # Errors
    /// Why it cannot be answered.
    pub fn destination(
        &self,
        statement: &Statement,
        sql: &[u8],
        lex: LexOptions,
        parameters: &dyn Parameters,
    ) -> Result<Destination, Refusal> {
        if let Some(shard) = self.explicit_shard(&statement.hint)? {
            return Ok(Destination::Shard(shard));
        }
        self.plan(statement, sql, lex).destination(sql, lex, self.schema(), parameters)
    }

    /// Where `sql` has its key: looked up by what it is, so that a repeated statement is not parsed again.
    pub fn plan(&self, statement: &Statement, sql: &[u8], lex: LexOptions) -> Arc<KeyPlan> {
        let key = statement.fingerprint;
        self.plans.find(key).unwrap_or_else(|| {
            let wrong = self.wrong.all.load();
            let plan = Arc::new(key_plan(sql, lex, self.schema()).without(&wrong));
            self.plans.insert(key, &plan, plan.weight());
            self.forget_if_changed(&wrong);
            plan
        })
    }

    /// What is to be read of a Bind of `sql`, if that is all; `exact` is the text's own fingerprint.
    pub fn by_parameters(
        &self,
        exact: Fingerprint,
        statement: &Statement,
        sql: &[u8],
        lex: LexOptions,
    ) -> Arc<Option<ByParameters>> {
        self.by_parameters.find(exact).unwrap_or_else(|| {
            let wrong = self.wrong.all.load();
            let found = Arc::new(self.plan(statement, sql, lex).by_parameters(sql, lex));
            let weight = found.as_ref().as_ref().map_or(0, ByParameters::weight);
            self.by_parameters.insert(exact, &found, weight);
            self.forget_if_changed(&wrong);
            found
        })
    }

    /// Something was planned with the knowledge of before.
    fn forget_if_changed(&self, wrong: &Arc<Vec<WrongColumn>>) {
        if !Arc::ptr_eq(wrong, &self.wrong.all.load()) {
            self.plans.clear();
            self.by_parameters.clear();
        }
    }
}

/// Plans by fingerprint, in two generations: what was not asked for while the younger one filled up is forgotten.
#[derive(Debug)]
struct KeyPlans<P>(RwLock<Generations<P>>);

#[derive(Debug)]
struct Generations<P> {
    young: HashMap<Fingerprint, Weighed<P>>,
    old: HashMap<Fingerprint, Weighed<P>>,
    young_bytes: usize,
}

/// A plan, and the bytes that it takes.
type Weighed<P> = (Arc<P>, usize);

impl<P> Default for KeyPlans<P> {
    fn default() -> Self {
        Self(RwLock::new(Generations { young: HashMap::new(), old: HashMap::new(), young_bytes: 0 }))
    }
}

impl<P> KeyPlans<P> {
    fn find(&self, key: Fingerprint) -> Option<Arc<P>> {
        let generations = self.0.read();
        if let Some((plan, _)) = generations.young.get(&key) {
            return Some(Arc::clone(plan));
        }
        let (plan, weight) = generations.old.get(&key).cloned()?;
        drop(generations);
        self.insert(key, &plan, weight);
        Some(plan)
    }

    fn clear(&self) {
        let mut generations = self.0.write();
        generations.young.clear();
        generations.old.clear();
        generations.young_bytes = 0;
    }

    fn insert(&self, key: Fingerprint, plan: &Arc<P>, weight: usize) {
        let whole = weight + ENTRY_BYTES;
        let mut generations = self.0.write();
        if generations.young_bytes + whole > PLANS_BYTES_MAX / 2 {
            generations.old = std::mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
        if generations.young.insert(key, (Arc::clone(plan), weight)).is_none() {
            generations.young_bytes += whole;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::StatementCache;

    #[test]
    fn plans_that_are_used_stay_and_all_take_bounded_room() {
        let plans = KeyPlans::default();
        let cache = StatementCache::new(1 << 20);
        let of = |sql: &str| {
            let fingerprint = cache.fingerprint(sql.as_bytes(), LexOptions::default());
            let plan = key_plan(sql.as_bytes(), LexOptions::default(), &ShardedSchema::default());
            (fingerprint, Arc::new(plan))
        };
        let (used, plan) = of("SELECT 1");
        plans.insert(used, &plan, plan.weight());
        for n in 0..100_000 {
            let (other, plan) = of(&format!("SELECT 1 AS c{n}"));
            plans.insert(other, &plan, plan.weight());
            if n % 100 == 0 {
                assert!(plans.find(used).is_some(), "{n}");
            }
        }
        let generations = plans.0.read();
        assert!(generations.young_bytes <= PLANS_BYTES_MAX / 2);
        assert!(generations.young.len() + generations.old.len() < 80_000, "{}", generations.old.len());
    }
}
