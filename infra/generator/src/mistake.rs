//! What is wrong with a source: where, and what to do.

use std::fmt;

/// A mistake, in one line: file, line, key, what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file, from the root.
    pub file: String,
    /// The line, from 1; 0 when it is the whole file.
    pub line: usize,
    /// The key that is wrong.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, what } = self;
        match line {
            0 => write!(f, "{file}: {key}: {what}"),
            _ => write!(f, "{file}:{line}: {key}: {what}"),
        }
    }
}
