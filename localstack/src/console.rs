//! What is printed for people.

use crate::Result;
use crate::error::Error;
use std::io::Write as _;
use std::path::Path;

/// Prints to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::io("writing to", Path::new("standard output"), e))
}
