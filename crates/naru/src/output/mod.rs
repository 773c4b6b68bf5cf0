//! What the CLI prints: the one writer to stdout, tables, units, and `--format`.

pub mod format;
pub mod progress;
pub mod table;
pub mod units;
mod width;

use std::io::Write as _;

use crate::cli::error::{Failure, Result};

/// Writes to stdout; a reader that went away ends the program quietly.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::from_stdout)
}

/// Writes text and a newline to stdout.
pub fn line(text: &str) -> Result<()> {
    let mut whole = String::with_capacity(text.len() + 1);
    whole.push_str(text);
    whole.push('\n');
    write(whole.as_bytes())
}

/// Writes text and a newline to stderr. Nothing can be done when that fails.
pub fn error_line(text: &str) {
    error_write(format!("{text}\n").as_bytes());
}

/// Writes bytes to stderr.
pub fn error_write(bytes: &[u8]) {
    drop(std::io::stderr().lock().write_all(bytes));
}
