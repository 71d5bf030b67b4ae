//! A text whose key comes by parameters alone: what is to be read of each Bind, without looking at the text again.

use crate::shard::{KeyType, KeyValue, ShardNumber, ShardedSchema};

use super::super::normalize::{Collected, normalize};
use super::super::scan::LexOptions;
use super::constant::Source;
use super::extract::Origin;
use super::{Destination, KeyPlan, NoParameters, Parameters, Plan, Refusal, no_value};

/// Where the key of one text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByParameters {
    occurrences: Vec<Bound>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    group: usize,
    /// For each column of the key.
    key: Vec<Parameter>,
}

/// A parameter that a column is equal to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parameter {
    number: u32,
    /// How often the text uses it.
    uses: usize,
    cast: Option<KeyType>,
}

impl KeyPlan {
    /// What is to be read of a Bind of this very text; `None` where the text must be looked at each time.
    pub fn by_parameters(&self, sql: &[u8], lex: LexOptions) -> Option<ByParameters> {
        let mut collected = Collected::default();
        normalize(sql, lex, &mut collected, &mut ());
        let source = Source { text: sql, tokens: &collected.tokens, lex, parameters: &NoParameters };
        let mut occurrences = Vec::new();
        for plan in &self.statements {
            match plan {
                Plan::Anywhere => {}
                Plan::Keyed { occurrences: found, rows: None } => {
                    for occurrence in found {
                        let parameter = |origin: &Option<Origin>| match origin {
                            Some(Origin::Constant { token, negative: false, cast }) => {
                                let number = source.parameter_number(*token)?;
                                Some(Parameter { number, uses: source.uses(number), cast: *cast })
                            }
                            _ => None,
                        };
                        let key = occurrence.key.iter().map(parameter).collect::<Option<_>>()?;
                        occurrences.push(Bound { group: occurrence.group, key });
                    }
                }
                Plan::Keyed { .. } | Plan::All(_) | Plan::Refused(_) => return None,
            }
        }
        (!occurrences.is_empty()).then_some(ByParameters { occurrences })
    }
}

impl ByParameters {
    /// What it takes in memory, near enough.
    pub fn weight(&self) -> usize {
        let of = |bound: &Bound| size_of::<Bound>() + bound.key.len() * size_of::<Parameter>();
        self.occurrences.iter().map(of).sum()
    }

    /// Where the text must run with these parameters.
    ///
    /// # Errors
    /// Why it cannot be answered.
    pub fn destination(
        &self,
        schema: &ShardedSchema,
        parameters: &dyn Parameters,
    ) -> Result<Destination, Refusal> {
        let source = Source { text: b"", tokens: &[], lex: LexOptions::default(), parameters };
        let mut found: Option<ShardNumber> = None;
        for occurrence in &self.occurrences {
            let tables = schema.sharded.get(occurrence.group).ok_or(Refusal::NotUnderstood)?;
            let mut values: smallvec::SmallVec<[Option<KeyValue>; 2]> = smallvec::SmallVec::new();
            for (parameter, column) in occurrence.key.iter().zip(&tables.key) {
                let Parameter { number, uses, cast } = *parameter;
                let value = source.parameter_used(number, uses, cast, column.key_type);
                values.push(value.map_err(|none| no_value(none, &column.name, column.key_type))?);
            }
            // Nothing equals NULL.
            if values.iter().any(Option::is_none) {
                continue;
            }
            let key: smallvec::SmallVec<[Option<&KeyValue>; 2]> = values.iter().map(Option::as_ref).collect();
            let name = || tables.key.first().map(|column| column.name.clone()).unwrap_or_default();
            let shard = tables.function.shard(&key).ok_or_else(|| Refusal::NoShard(name()))?;
            match found {
                Some(other) if other != shard => return Err(Refusal::SeveralShards),
                _ => found = Some(shard),
            }
        }
        Ok(found.map_or(Destination::Any, Destination::Shard))
    }
}
