//! What is wrong with a configuration: where, what, and what to do about it.
//!
//! All problems are collected before anything is reported, so that one run shows them all. No
//! line of the file is quoted: it could hold a password.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file as a whole, or no place at all.
    Whole,
    /// A place in the file; both count from 1.
    File {
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
    /// An argument on the command line.
    Argument(String),
}

/// A setting's origin and its key path (`databases.shop.pool.size`).
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub origin: Origin,
    pub path: String,
}

impl Place {
    /// The whole configuration.
    pub fn root() -> Self {
        Self { origin: Origin::Whole, path: String::new() }
    }

    /// The place of `key` below this one.
    pub fn child(&self, key: &str, origin: &Origin) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { origin: origin.clone(), path }
    }

    /// The last name of the path: the section a key stands in.
    pub fn section(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }
}

/// A message and perhaps a hint, before it is known where they belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub message: String,
    pub hint: Option<String>,
}

impl Complaint {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub origin: Origin,
    /// The key path; empty when it is not about one key.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Everything that is wrong, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: Option<PathBuf>,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// The problems, never none.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// One problem with the file as a whole.
    pub(super) fn one(file: Option<&Path>, complaint: Complaint) -> Self {
        let mut problems = Problems::default();
        problems.push(&Place::root(), complaint);
        problems.into_errors(file)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_deref().map_or_else(|| "configuration".into(), Path::to_string_lossy);
        for (n, error) in self.errors.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            match &error.origin {
                Origin::Whole => write!(f, "{file}: error: ")?,
                Origin::File { line, column } => write!(f, "{file}:{line}:{column}: error: ")?,
                Origin::Variable(name) | Origin::Argument(name) => write!(f, "{name}: error: ")?,
            }
            if !error.path.is_empty() {
                write!(f, "{}: ", error.path)?;
            }
            f.write_str(&error.message)?;
            if let Some(hint) = &error.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects problems while the configuration is read.
#[derive(Default)]
pub(super) struct Problems(Vec<ConfigError>);

impl Problems {
    pub fn push(&mut self, place: &Place, complaint: Complaint) {
        let Complaint { message, hint } = complaint;
        let error = ConfigError { origin: place.origin.clone(), path: place.path.clone(), message, hint };
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    /// Takes the value, or remembers why there is none.
    pub fn keep<T>(&mut self, place: &Place, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.push(place, complaint)).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something at or below `path` is wrong already. What is missing there may be missing
    /// only because of that, and saying so would be noise.
    pub fn concern(&self, path: &str) -> bool {
        self.0
            .iter()
            .any(|e| e.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    /// All problems: those of the file in its order, then variables and arguments.
    pub fn into_errors(self, file: Option<&Path>) -> ConfigErrors {
        let mut errors = self.0;
        errors.sort_by(|a, b| order(&a.origin, &b.origin));
        ConfigErrors { file: file.map(Path::to_path_buf), errors }
    }
}

fn order(a: &Origin, b: &Origin) -> Ordering {
    fn rank(origin: &Origin) -> (u8, usize, usize, &str) {
        match origin {
            Origin::File { line, column } => (0, *line, *column, ""),
            Origin::Whole => (1, 0, 0, ""),
            Origin::Variable(name) => (2, 0, 0, name),
            Origin::Argument(name) => (3, 0, 0, name),
        }
    }
    rank(a).cmp(&rank(b))
}

/// A value as it may appear in a message: short, and never something that looks like a URL, which
/// could hold a password.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.contains("://") || text.contains('@') {
        return "this value".to_owned();
    }
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("{:?}", format!("{head}…"))
}
