//! Reads readings from CSV, a line at a time: columns `time`, `logger` and channels, in any order.
//!
//! An empty cell means "not measured". Every error names the line and, where it can, the column and what was wrong. The
//! reader holds one line, however long the file or the line is; after an error it gives nothing more. No cell of a
//! reading can hold a line break, so that lines are found first and cells within them: line numbers are exact.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, Read};

use storage_format::{Channel, ChannelCode, LoggerId, Millis, channels};

mod cells;

use cells::cells;

/// A longer line is no reading: a few channels take some hundred bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What is wrong with a CSV file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvError {
    /// The line, from 1.
    pub line: u64,
    /// The column's name and its number, from 1.
    pub column: Option<(String, usize)>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for CsvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some((name, number)) = &self.column {
            write!(f, ", column {number} ({name})")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for CsvError {}

/// One line, understood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CsvReading<'a> {
    /// The line, from 1.
    pub line: u64,
    /// Who measured.
    pub logger: LoggerId,
    /// When.
    pub time: Millis,
    /// What; never empty.
    pub samples: &'a [(ChannelCode, f64)],
}

#[derive(Debug, Clone, Copy)]
enum Column {
    Time,
    Logger,
    Channel(ChannelCode),
}

/// A CSV file of readings.
pub struct ReadingsCsv<R> {
    lines: Lines<R>,
    columns: Vec<(Column, String)>,
    samples: Vec<(ChannelCode, f64)>,
    failed: bool,
}

impl<R> fmt::Debug for ReadingsCsv<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadingsCsv").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// Lines with their numbers, of a bounded length.
struct Lines<R> {
    source: R,
    line: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line that is not blank, without its end; `None` at the end of the file.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>, CsvError> {
        loop {
            self.line.clear();
            self.number += 1;
            let read = self.source.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.line);
            let read = read.map_err(|error: io::Error| self.error(format!("cannot be read: {error}")))?;
            let read = u64::try_from(read).unwrap_or(u64::MAX);
            self.bytes += read;
            if read == 0 {
                return Ok(None);
            }
            if read > LINE_BYTES_MAX {
                return Err(self.error(format!("longer than {LINE_BYTES_MAX} bytes: this is no CSV of readings")));
            }
            // Spreadsheets put a mark at the start and a carriage return at every line's end.
            if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            while self.line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                self.line.pop();
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((self.number, &self.line)));
            }
        }
    }

    fn error(&self, what: String) -> CsvError {
        CsvError { line: self.number, column: None, what }
    }
}

/// A cell as an error shows it.
fn shown(cell: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(cell).chars().take(40).collect();
    if text.len() < cell.len() { format!("{text:?}…") } else { format!("{text:?}") }
}

/// The usual reasons why a name is not known.
fn misread(name: &[u8]) -> Option<String> {
    if name.contains(&b';') {
        return Some("the columns are separated by ;, commas are expected".to_owned());
    }
    if name.contains(&b'\t') {
        return Some("the columns are separated by tabs, commas are expected".to_owned());
    }
    let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
    let is_known = matches!(lower.as_str(), "time" | "logger") || Channel::by_name(&lower).is_some();
    is_known.then(|| format!("column names are lower case: {lower}"))
}

/// What the header says each column is.
fn columns(line: u64, names: &[Cow<'_, [u8]>]) -> Result<Vec<(Column, String)>, CsvError> {
    let mut found = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let text: String = String::from_utf8_lossy(name).chars().take(40).collect();
        let here = |what| CsvError { line, column: Some((text.escape_debug().to_string(), index + 1)), what };
        if names.iter().take(index).any(|before| before == name) {
            return Err(here("the column is there twice".to_owned()));
        }
        let column = match name.as_ref() {
            b"time" => Column::Time,
            b"logger" => Column::Logger,
            name => match std::str::from_utf8(name).ok().and_then(Channel::by_name) {
                Some(channel) => Column::Channel(channel.code),
                None => {
                    if let Some(what) = misread(name) {
                        return Err(here(what));
                    }
                    let known: Vec<_> = channels().iter().map(|channel| channel.name).collect();
                    return Err(here(format!("{} is no channel; those known are {}", shown(name), known.join(", "))));
                }
            },
        };
        found.push((column, text));
    }
    for (name, is_there) in [
        ("time", found.iter().any(|(column, _)| matches!(column, Column::Time))),
        ("logger", found.iter().any(|(column, _)| matches!(column, Column::Logger))),
        ("<channel>", found.iter().any(|(column, _)| matches!(column, Column::Channel(_)))),
    ] {
        if !is_there {
            let what = format!("the column {name} is missing: expected the header time,logger,<channel>…");
            return Err(CsvError { line, column: None, what });
        }
    }
    Ok(found)
}

fn value(cell: &[u8]) -> Result<f64, String> {
    let wrong = || format!("{} is not a number", shown(cell));
    let value: f64 = std::str::from_utf8(cell).map_err(|_| wrong())?.parse().map_err(|_| wrong())?;
    if value.is_finite() { Ok(value) } else { Err(format!("{} is not a finite number", shown(cell))) }
}

fn text<T: std::str::FromStr<Err: fmt::Display>>(cell: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(cell).map_err(|_| format!("{} is not UTF-8", shown(cell)))?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

impl<R: BufRead> ReadingsCsv<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When there is none, or it has an unknown, a missing or a repeated column.
    pub fn new(source: R) -> Result<Self, CsvError> {
        let mut lines = Lines { source, line: Vec::new(), number: 0, bytes: 0 };
        let Some((number, header)) = lines.next()? else {
            let what = "the file is empty: expected the header time,logger,<channel>…".to_owned();
            return Err(CsvError { line: 1, column: None, what });
        };
        let names: Vec<_> = cells(header).collect();
        let columns = columns(number, &names)?;
        Ok(Self { lines, columns, samples: Vec::new(), failed: false })
    }

    /// Bytes read so far, for a progress bar.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.lines.bytes
    }

    /// The next reading; `None` at the end of the file and after an error.
    ///
    /// # Errors
    /// When the line is not a reading.
    pub fn next_reading(&mut self) -> Result<Option<CsvReading<'_>>, CsvError> {
        if self.failed {
            return Ok(None);
        }
        match self.read() {
            Ok(Some((line, logger, time))) => Ok(Some(CsvReading { line, logger, time, samples: &self.samples })),
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    fn read(&mut self) -> Result<Option<(u64, LoggerId, Millis)>, CsvError> {
        let Some((line, bytes)) = self.lines.next()? else { return Ok(None) };
        self.samples.clear();
        let (mut logger, mut time, mut count) = (None, None, 0);
        for (index, cell) in cells(bytes).enumerate() {
            count += 1;
            let Some((column, name)) = self.columns.get(index) else { continue };
            let cell = cell.as_ref();
            let done = match column {
                Column::Time => text(cell).map(|value| time = Some(value)),
                Column::Logger => text(cell).map(|value| logger = Some(value)),
                Column::Channel(_) if cell.is_empty() => Ok(()),
                Column::Channel(code) => value(cell).map(|value| self.samples.push((*code, value))),
            };
            done.map_err(|what| CsvError { line, column: Some((name.clone(), index + 1)), what })?;
        }
        if count != self.columns.len() {
            let what = format!("{count} cells, but the header has {} columns", self.columns.len());
            return Err(CsvError { line, column: None, what });
        }
        match (logger, time) {
            (Some(logger), Some(time)) if !self.samples.is_empty() => Ok(Some((line, logger, time))),
            _ => Err(CsvError { line, column: None, what: "no channel has a value".to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests;
