//! From the tree to raw settings: collects what is wrong instead of stopping at the first.
//!
//! [`settings!`] declares a section once; the type, its reader, its list of keys and its JSON
//! schema (descriptions are the doc comments) all come from that declaration.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::errors::{Complaint, Place, Problems, shown};
use super::hints;
use super::node::{Entry, Kind, Node, Value};
use super::units::{parse_duration, parse_size};

/// A type that can be read from a node.
pub(super) trait Read: Sized {
    /// The value, or `None` with at least one problem pushed.
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self>;
}

/// A value and where it came from.
pub(super) struct Located<T> {
    pub value: T,
    pub place: Place,
}

impl<T: Read> Read for Located<T> {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let value = T::read(node, place, problems)?;
        Some(Self { value, place: place.clone() })
    }
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Declares a section of the file: every key is optional, every other key is an error.
macro_rules! settings {
    ($(#[$outer:meta])* struct $name:ident as $title:literal { $($(#[$inner:meta])* $field:ident $(= $key:literal)?: $type:ty,)* }) => {
        $(#[$outer])*
        #[derive(Default, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields, rename = $title)]
        pub(super) struct $name {
            $($(#[$inner])* $(#[schemars(rename = $key)])? pub $field: Option<$crate::config::read::Located<$type>>,)*
        }

        impl $crate::config::read::Read for $name {
            fn read(
                node: &$crate::config::node::Node,
                place: &$crate::config::errors::Place,
                problems: &mut $crate::config::errors::Problems,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$($crate::config::read::key!($field $($key)?)),*];
                let section = $crate::config::read::Section::open(node, place, KEYS, problems)?;
                Some(Self { $($field: section.field($crate::config::read::key!($field $($key)?), problems),)* })
            }
        }
    };
}
pub(super) use settings;

/// A key's name: the field's, unless that would be a word of Rust's.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}
pub(super) use key;

/// A mapping whose keys are known beforehand.
pub(super) struct Section<'a> {
    entries: &'a [Entry],
    place: &'a Place,
}

impl<'a> Section<'a> {
    /// Opens `node` and reports keys that are not in `keys` or come twice.
    pub fn open(node: &'a Node, place: &'a Place, keys: &[&str], problems: &mut Problems) -> Option<Self> {
        let entries = entries(node, place, problems)?;
        for entry in entries {
            if !keys.contains(&entry.key.as_str()) {
                let at = Place { origin: entry.origin.clone(), path: place.path.clone() };
                problems.push(&at, hints::unknown_key(&entry.key, place, keys));
            }
        }
        Some(Self { entries, place })
    }

    pub fn field<T: Read>(&self, key: &str, problems: &mut Problems) -> Option<Located<T>> {
        let entry = self.entries.iter().find(|e| e.key == key)?;
        Located::read(&entry.node, &self.place.child(key, &entry.origin), problems)
    }
}

/// The entries of a mapping; nothing at all is an empty one. Keys that come twice are reported.
fn entries<'a>(node: &'a Node, place: &Place, problems: &mut Problems) -> Option<&'a [Entry]> {
    let entries = match &node.value {
        Value::Map(entries) => entries,
        Value::Null => return Some(&[]),
        _ => {
            problems
                .push(place, Complaint::new(format!("expected a mapping of keys, found {}", node.what())));
            return None;
        }
    };
    for (n, entry) in entries.iter().enumerate() {
        if entries.iter().take(n).any(|e| e.key == entry.key) {
            let complaint = Complaint::new(format!("key {} is given twice", shown(&entry.key)));
            problems.push(&Place { origin: entry.origin.clone(), path: place.path.clone() }, complaint);
        }
    }
    Some(entries)
}

/// A mapping whose keys are names people choose, in the order of the file.
pub(super) struct Named<T>(pub Vec<(String, Place, T)>);

impl<T: Read + Default> Read for Named<T> {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let mut named = Vec::new();
        for entry in entries(node, place, problems)? {
            let place = place.child(&entry.key, &entry.origin);
            if entry.key.is_empty() || entry.key.contains('\0') {
                problems.push(&place, Complaint::new("a name must not be empty or contain a zero byte"));
                continue;
            }
            // What could not be read exists all the same: others may speak of it.
            let value = T::read(&entry.node, &place, problems).unwrap_or_default();
            named.push((entry.key.clone(), place, value));
        }
        Some(Self(named))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "additionalProperties": generator.subschema_for::<T>()})
    }
}

/// One or several: `a`, `[a, b]`; in an environment variable `a,b`.
pub(super) struct Several<T>(pub Vec<Located<T>>);

impl<T: Read> Read for Several<T> {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let nodes = match (&node.value, &node.origin) {
            (Value::List(nodes), _) => nodes.clone(),
            (Value::Null, _) => Vec::new(),
            (Value::Scalar { text, .. }, super::errors::Origin::Variable(_)) => {
                text.split(',').map(|part| Node::text(part.trim(), &node.origin)).collect()
            }
            _ => vec![node.clone()],
        };
        let mut values = Vec::new();
        for node in &nodes {
            let place = Place { origin: node.origin.clone(), path: place.path.clone() };
            values.extend(Located::read(node, &place, problems));
        }
        Some(Self(values))
    }
}

impl<T: JsonSchema> JsonSchema for Several<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Several{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"anyOf": [one, {"type": "array", "items": one}]})
    }
}

/// The text of a scalar as written.
pub(super) fn scalar<'a>(
    node: &'a Node,
    place: &Place,
    wanted: &str,
    problems: &mut Problems,
) -> Option<(&'a str, Kind)> {
    match &node.value {
        Value::Scalar { text, kind } => Some((text, *kind)),
        Value::Null => {
            let complaint = Complaint::new("has no value").hint("remove the key to take its default");
            problems.push(place, complaint);
            None
        }
        _ => {
            problems.push(place, Complaint::new(format!("expected {wanted}, found {}", node.what())));
            None
        }
    }
}

impl Read for String {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let (text, _) = scalar(node, place, "text", problems)?;
        if text.contains('\0') {
            problems.push(place, Complaint::new("must not contain a zero byte"));
            return None;
        }
        Some(text.to_owned())
    }
}

impl Read for u64 {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let (text, _) = scalar(node, place, "a whole number", problems)?;
        let number = text.replace('_', "").parse();
        let wrong = || Complaint::new(format!("expected a whole number, found {}", shown(text)));
        problems.keep(place, number.map_err(|_| wrong()))
    }
}

impl Read for bool {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let (text, _) = scalar(node, place, "true or false", problems)?;
        let wrong = || Complaint::new(format!("expected true or false, found {}", shown(text)));
        problems.keep(place, text.parse().map_err(|_| wrong()))
    }
}

/// A length of time.
#[derive(Clone, Copy)]
pub(super) struct Time(pub Duration);

impl Read for Time {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let (text, _) = scalar(node, place, "a duration like 30s", problems)?;
        problems.keep(place, parse_duration(text)).map(Self)
    }
}

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string", "pattern": "^(0|([0-9]+(d|h|m|min|s|ms|us))+)$"}, {"const": 0}]})
    }
}

/// A number of bytes.
#[derive(Clone, Copy)]
pub(super) struct Bytes(pub u64);

impl Read for Bytes {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let (text, _) = scalar(node, place, "a size like 8MiB", problems)?;
        problems.keep(place, parse_size(text)).map(Self)
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string", "pattern": "^(0|[0-9]+ ?([KMG]iB|[kKMG]B|B))$"}, {"const": 0}]})
    }
}
