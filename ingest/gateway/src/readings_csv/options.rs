//! Options for reading a file: what the caller states, beside or instead of a mapping.

use encoding_rs::Encoding;
use problem::{Problem, Result};
use serde::{Deserialize, Serialize};
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

/// The base of loggers' ids, as it goes to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormIds {
    /// 16 hex digits.
    Hex,
    /// A decimal number.
    Decimal,
}

/// Options as texts and numbers, to be handed to another process or kept: [`CsvOptions`] before anything is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvForm {
    /// The character between cells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<u8>,
    /// The name of the encoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Values have a decimal comma.
    #[serde(default)]
    pub decimal_comma: bool,
    /// Cells that mean "not measured".
    #[serde(default)]
    pub missing: Vec<String>,
    /// Times finer than a millisecond are cut to it.
    #[serde(default)]
    pub truncate_times: bool,
    /// The logger of all rows, as people write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger: Option<String>,
    /// The base of the loggers' ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger_ids: Option<FormIds>,
    /// A row with a mistake does not end the reading.
    #[serde(default)]
    pub skip_bad_rows: bool,
    /// The name of the mapping's file, and its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<(String, String)>,
}

/// The way out for an id that is refused.
const LOGGER_HELP: &str = "a logger is written as 16 hex digits, also as 00-12-4B-00-00-00-00-01 or with 0x before them; \
                           --logger-ids hex or --logger-ids decimal says what digits alone mean";

impl CsvForm {
    /// Looks everything up.
    ///
    /// # Errors
    /// When the encoding, the logger or the mapping is none.
    pub fn options(&self) -> Result<CsvOptions> {
        let base = match self.logger_ids {
            None => IdBase::Unstated,
            Some(FormIds::Hex) => IdBase::Hex,
            Some(FormIds::Decimal) => IdBase::Decimal,
        };
        let logger = self.logger.as_deref().map(|text| LoggerId::parse_as(text, base)).transpose();
        let logger =
            logger.map_err(|error| Problem::new("--logger names no logger").detail(error).help(LOGGER_HELP))?;
        let encoding = self.encoding.as_deref().map(parse_encoding).transpose();
        let mapping = self.mapping.as_ref().map(|(name, text)| {
            Mapping::parse(text).map_err(|error| {
                Problem::new(format!("the mapping {name} has a mistake"))
                    .detail(error.trim_end())
                    .help("docs/import-files.md has its keys and examples")
            })
        });
        Ok(CsvOptions {
            delimiter: self.delimiter,
            encoding: encoding.map_err(|error| Problem::new("the encoding is none").detail(error))?,
            decimal_comma: self.decimal_comma,
            missing: self.missing.clone(),
            truncate_times: self.truncate_times,
            logger,
            logger_ids: base,
            skip_bad_rows: self.skip_bad_rows,
            mapping: mapping.transpose()?,
        })
    }
}

/// The delimiter of this text: a character, or `tab`.
///
/// # Errors
/// When it cannot separate cells.
pub fn parse_delimiter(text: &str) -> std::result::Result<u8, String> {
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
pub fn parse_encoding(text: &str) -> std::result::Result<&'static Encoding, String> {
    let what =
        || format!("{text:?} is no encoding: expected a name such as utf-8, utf-16le, windows-1252 or shift_jis");
    Encoding::for_label_no_replacement(text.as_bytes()).ok_or_else(what)
}
