//! What can go wrong, worded for the person at the terminal.

use std::io;
use std::path::Path;

/// Why a local cloud could not be started, deployed to, asked or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("{what}")]
    Io {
        /// What was attempted, with the path.
        what: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// Something the machine must have is missing. The text states how to get it.
    #[error("{0}")]
    Missing(String),
    /// The arguments contradict each other or what is running.
    #[error("{0}")]
    Usage(String),
    /// A program that was run failed.
    #[error("{what} failed: {why}")]
    Command {
        /// What was run.
        what: String,
        /// Its last output, and where all of it is.
        why: String,
    },
    /// The engine did not start, or does not answer.
    #[error("{0}")]
    Engine(String),
    /// The template, or a file that it names, cannot be used.
    #[error("{0}")]
    Template(String),
    /// The stack could not be deployed.
    #[error("{0}")]
    Deploy(String),
    /// A file of this stack's directory is damaged. The text names it.
    #[error("{0}")]
    Damaged(String),
}

impl Error {
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("{doing} {}", path.display()), source }
    }

    /// The whole chain, outermost first, and what helps where that is known.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        if let Self::Io { source, .. } = self {
            text.push_str(remedy(source.kind()));
        }
        text
    }
}

/// What helps where the operating system refuses a path.
const fn remedy(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match kind {
        StorageFull | QuotaExceeded => "; make room there, or choose another directory (--target-dir)",
        PermissionDenied | ReadOnlyFilesystem | NotADirectory => {
            "; choose a directory that you may write to (--target-dir; for what is built, CARGO_TARGET_DIR)"
        }
        _ => "",
    }
}

/// Adds the path to an I/O error.
pub(crate) trait AtPath<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T, Error>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::io(doing, path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn what_the_system_refuses_is_one_line_with_what_to_do() {
        let refused = |kind: ErrorKind| Error::io("writing", Path::new("/a/b"), kind.into()).chain();
        for (kind, remedy) in [
            (ErrorKind::StorageFull, "make room there"),
            (ErrorKind::PermissionDenied, "may write to"),
            (ErrorKind::ReadOnlyFilesystem, "may write to"),
        ] {
            let line = refused(kind);
            assert!(line.starts_with("writing /a/b: ") && line.contains(remedy) && !line.contains('\n'), "{line}");
        }
        assert!(!refused(ErrorKind::InvalidData).contains(';'));
    }
}
