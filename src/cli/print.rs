//! The only place that prints for a person: answers to standard output, complaints to standard error.

use std::io::Write;

/// An answer, with a line end. A reader that has gone away is nobody's error.
pub(super) fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// A complaint.
pub(super) fn error(text: &str) {
    let _ = writeln!(std::io::stderr(), "pgweir: {}", text.trim_end());
}
