//! A configuration as a tree in which every node knows where it came from.
//!
//! Not `serde_yaml::Value`: that forgets positions and refuses duplicate keys at the first one.
//! There is no `Debug`: leaves can be passwords.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::errors::Origin;

/// One value and its origin.
#[derive(Clone)]
pub(super) struct Node {
    pub value: Value,
    pub origin: Origin,
}

/// What a node holds.
#[derive(Clone)]
pub(super) enum Value {
    Null,
    /// A boolean, number or text.
    Scalar {
        /// As written where the source is known: `0123` stays `0123`.
        text: String,
        kind: Kind,
    },
    List(Vec<Node>),
    /// In the order of the file, duplicates included.
    Map(Vec<Entry>),
}

/// What YAML takes a scalar for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
}

/// One key of a mapping.
#[derive(Clone)]
pub(super) struct Entry {
    pub key: String,
    pub origin: Origin,
    pub node: Node,
}

impl Node {
    pub fn text(text: impl Into<String>, origin: &Origin) -> Self {
        Self { value: Value::Scalar { text: text.into(), kind: Kind::Text }, origin: origin.clone() }
    }

    pub fn list(nodes: Vec<Node>, origin: &Origin) -> Self {
        Self { value: Value::List(nodes), origin: origin.clone() }
    }

    /// A mapping of `entries`, all from one place.
    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Node)>, origin: &Origin) -> Self {
        let entries = entries
            .into_iter()
            .map(|(key, node)| Entry { key: key.to_owned(), origin: origin.clone(), node })
            .collect();
        Self { value: Value::Map(entries), origin: origin.clone() }
    }

    /// What this is, for messages.
    pub fn what(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { kind: Kind::Bool, .. } => "true or false",
            Value::Scalar { kind: Kind::Number, .. } => "a number",
            Value::Scalar { kind: Kind::Text, .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Replaces merge keys (`<<: *defaults`) by what they stand for; a key written out wins.
    pub fn merge(&mut self) {
        match &mut self.value {
            Value::Null | Value::Scalar { .. } => {}
            Value::List(nodes) => nodes.iter_mut().for_each(Node::merge),
            Value::Map(entries) => {
                for entry in entries.iter_mut() {
                    entry.node.merge();
                }
                let Some(at) = entries.iter().position(|e| e.key == "<<" && e.node.is_mergeable()) else {
                    return;
                };
                let merged = entries.remove(at);
                let sources = match merged.node.value {
                    Value::List(nodes) => nodes,
                    _ => vec![merged.node],
                };
                for source in sources {
                    let Value::Map(more) = source.value else { continue };
                    for entry in more {
                        if !entries.iter().any(|e| e.key == entry.key) {
                            entries.push(entry);
                        }
                    }
                }
            }
        }
    }

    fn is_mergeable(&self) -> bool {
        match &self.value {
            Value::Map(_) => true,
            Value::List(nodes) => nodes.iter().all(|n| matches!(n.value, Value::Map(_))),
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(NodeVisitor)?;
        Ok(Self { value, origin: Origin::Whole })
    }
}

struct NodeVisitor;

fn scalar(text: String, kind: Kind) -> Value {
    Value::Scalar { text, kind }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(scalar(value.to_string(), Kind::Bool))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(scalar(value.to_string(), Kind::Number))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(scalar(value.to_string(), Kind::Number))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(scalar(value.to_string(), Kind::Number))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(scalar(value.to_string(), Kind::Number))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(scalar(value.to_string(), Kind::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(scalar(value.to_owned(), Kind::Text))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(scalar(value, Kind::Text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element::<Node>()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Node, Node>()? {
            let key = match key.value {
                Value::Scalar { text, .. } => text,
                Value::Null => "null".to_owned(),
                // Nobody's key; it will be reported as unknown.
                Value::List(_) => "[…]".to_owned(),
                Value::Map(_) => "{…}".to_owned(),
            };
            entries.push(Entry { key, origin: Origin::Whole, node });
        }
        Ok(Value::Map(entries))
    }
}
