//! What can be wrong with a file of readings, and where.

use std::fmt;

/// The kind of a mistake, by which rows that are left out are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The file cannot be read, or is no CSV.
    Unreadable,
    /// The header, or what a mapping says of the columns.
    Header,
    /// The row has too few or too many cells.
    Cells,
    /// The time is not understood.
    Time,
    /// The time is finer than a millisecond.
    TooFine,
    /// Clocks showed the time twice, or never.
    Ambiguous,
    /// The logger's id is not understood.
    Logger,
    /// A value is no number.
    Value,
    /// The server does not accept the time.
    OutOfRange,
}

impl Reason {
    /// A few words for a summary.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Header => "header",
            Self::Cells => "wrong number of cells",
            Self::Time => "not a time",
            Self::TooFine => "finer than a millisecond",
            Self::Ambiguous => "time that clocks showed twice or never",
            Self::Logger => "not a logger's id",
            Self::Value => "not a number",
            Self::OutOfRange => "time that the server does not accept",
        }
    }
}

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvError {
    /// The line, from 1.
    pub line: u64,
    /// The column's name and its number, from 1.
    pub column: Option<(String, usize)>,
    /// Its kind.
    pub reason: Reason,
    /// What is wrong.
    pub what: String,
}

impl CsvError {
    pub(super) fn new(line: u64, reason: Reason, what: impl Into<String>) -> Self {
        Self { line, column: None, reason, what: what.into() }
    }

    /// Returns whether only this row is wrong, so that the rows after it can be read.
    #[must_use]
    pub const fn is_of_row(&self) -> bool {
        !matches!(self.reason, Reason::Unreadable | Reason::Header)
    }
}

impl fmt::Display for CsvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some((name, number)) = &self.column {
            write!(f, ", column {number}")?;
            if !name.is_empty() {
                write!(f, " ({name})")?;
            }
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for CsvError {}

/// A cell as a message shows it.
pub(super) fn shown(cell: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(cell).chars().take(40).collect();
    if text.len() < cell.len() { format!("{text:?}…") } else { format!("{text:?}") }
}
