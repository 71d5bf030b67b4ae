//! ParameterStatus: settings a server reports, and the set of them a client has been told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reader::{Malformed, Reader};

/// Reads the body of a ParameterStatus: name and value.
///
/// # Errors
/// When the body is not two strings.
pub fn parse(body: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut reader = Reader::new(body);
    Ok((reader.str()?, reader.str()?))
}

/// Settings as reported, by name. Clones share them until one changes: thousands of clients are told the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(Arc<BTreeMap<String, String>>);

impl Parameters {
    /// Remembers a report; true when it changed something.
    pub fn insert(&mut self, name: &str, value: &str) -> bool {
        if self.0.get(name).is_some_and(|old| old == value) {
            return false;
        }
        Arc::make_mut(&mut self.0).insert(name.to_owned(), value.to_owned());
        true
    }

    /// The reported value. Names are matched as PostgreSQL writes them.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
