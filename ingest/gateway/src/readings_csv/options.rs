//! Options for reading a file: what the caller states, beside or instead of a mapping.

use encoding_rs::Encoding;
use storage_format::{IdBase, LoggerId};

use super::mapping::Mapping;

/// Options for reading a file. The default is icecore's own form: what `export` writes.
#[derive(Debug, Clone, Default)]
pub struct CsvOptions {
    /// The character between cells; otherwise that of a `sep=` line, or the one that the header has.
    pub delimiter: Option<u8>,
    /// The encoding; otherwise UTF-8, or what the file's first bytes say.
    pub encoding: Option<&'static Encoding>,
    /// Values have a decimal comma.
    pub decimal_comma: bool,
    /// Cells that mean "not measured", beside empty ones.
    pub missing: Vec<String>,
    /// Times finer than a millisecond are cut to it; otherwise they are refused.
    pub truncate_times: bool,
    /// The logger of all rows, for files without such a column.
    pub logger: Option<LoggerId>,
    /// The base of the loggers' ids.
    pub logger_ids: IdBase,
    /// A row with a mistake does not end the reading: the rows after it are read.
    pub skip_bad_rows: bool,
    /// What the columns of a foreign file are.
    pub mapping: Option<Mapping>,
}

/// The delimiter of this text: a character, or `tab`.
///
/// # Errors
/// When it cannot separate cells.
pub fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        _ if matches!(text, "tab" | "\\t") => Ok(b'\t'),
        [byte @ (b'\t' | b' '..=b'~')] if !byte.is_ascii_alphanumeric() && !b"\"'.-+".contains(byte) => Ok(*byte),
        _ => {
            Err(format!("{text:?} cannot separate cells: expected one character such as , or ; or |, or the word tab"))
        }
    }
}

/// The encoding of this name, as the Encoding Standard has it.
///
/// # Errors
/// When there is none.
pub fn parse_encoding(text: &str) -> Result<&'static Encoding, String> {
    let what =
        || format!("{text:?} is no encoding: expected a name such as utf-8, utf-16le, windows-1252 or shift_jis");
    Encoding::for_label_no_replacement(text.as_bytes()).ok_or_else(what)
}
