//! Reads readings from CSV, a line at a time: icecore's own form, or another one that options and a mapping describe.
//!
//! An empty cell means "not measured". Every error names the line and, where it can, the column and what was wrong. The
//! reader holds one line and some buffers, however long the file or the line is. Unless it is to skip bad rows, it gives
//! nothing more after an error. No cell of a reading can hold a line break, so that lines are found first and cells
//! within them: line numbers are exact. Nothing is guessed that could be meant otherwise: it is refused with a way out.

use std::borrow::Cow;
use std::fmt;
use std::io::BufRead;

use storage_format::{ChannelCode, LoggerId, Millis};

mod cells;
mod columns;
mod error;
mod lines;
mod mapping;
mod options;
mod source;
mod times;
mod values;

use cells::cells;
use columns::{Columns, Use, detect_delimiter, sep_line};
pub use error::{CsvError, Reason};
use lines::Lines;
pub use mapping::Mapping;
use mapping::{Header, LoggerSource};
pub use options::{CsvForm, CsvOptions, FormIds, parse_delimiter, parse_encoding};
use source::Text;
pub use source::check_gzip;
use times::TimeForm;

/// One line, understood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CsvReading<'a> {
    /// The line, from 1.
    pub line: u64,
    /// Logger of the reading.
    pub logger: LoggerId,
    /// When.
    pub time: Millis,
    /// What; never empty.
    pub samples: &'a [(ChannelCode, f64)],
}

/// A CSV file of readings.
pub struct ReadingsCsv<R: BufRead> {
    lines: Lines<R>,
    options: CsvOptions,
    form: TimeForm,
    delimiter: u8,
    columns: Columns,
    /// The first row was read already, to see how many cells it has.
    is_row_read: bool,
    samples: Vec<(ChannelCode, f64)>,
    /// The time of a row whose file has it in two columns.
    date_and_clock: Vec<u8>,
    /// The logger that was read last, and its text.
    last_logger: Option<(Vec<u8>, LoggerId)>,
    rows_without_values: u64,
    failed: bool,
}

impl<R: BufRead> fmt::Debug for ReadingsCsv<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadingsCsv").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// A cell that is needed: its index and its content.
type Found<'a> = Option<(usize, Cow<'a, [u8]>)>;

impl<R: BufRead> ReadingsCsv<R> {
    /// Reads the header of a file of icecore's own form.
    ///
    /// # Errors
    /// As [`ReadingsCsv::with_options`].
    pub fn new(source: R) -> Result<Self, CsvError> {
        Self::with_options(source, &CsvOptions::default())
    }

    /// Reads the header.
    ///
    /// # Errors
    /// When there is none, or it has an unknown, a missing or a repeated column.
    pub fn with_options(source: R, options: &CsvOptions) -> Result<Self, CsvError> {
        let mut options = options.clone();
        let mapping = options.mapping.take();
        let encoding = options.encoding.or(mapping.as_ref().and_then(|mapping| mapping.encoding));
        let text = Text::new(source, encoding).map_err(|what| CsvError::new(1, Reason::Unreadable, what))?;
        let mut csv = Self {
            lines: Lines::new(text),
            options,
            form: TimeForm::default(),
            delimiter: b',',
            columns: Columns::default(),
            is_row_read: false,
            samples: Vec::new(),
            date_and_clock: Vec::new(),
            last_logger: None,
            rows_without_values: 0,
            failed: false,
        };
        match mapping {
            None => csv.read_own_header()?,
            Some(mapping) => csv.read_mapped_header(mapping)?,
        }
        Ok(csv)
    }

    /// Reads the first row, and a `sep=` line before it; gives that line's delimiter.
    fn read_first(&mut self) -> Result<Option<u8>, CsvError> {
        let empty =
            || CsvError::new(1, Reason::Header, "the file is empty: expected the header time,logger,<channel>…");
        if !self.lines.read()? {
            return Err(empty());
        }
        let sep = sep_line(self.lines.line());
        if sep.is_some() && !self.lines.read()? {
            return Err(empty());
        }
        Ok(sep)
    }

    fn set_delimiter(&mut self, stated: Option<u8>, is_header: bool) -> Result<(), CsvError> {
        self.delimiter = match stated {
            Some(delimiter) => delimiter,
            None => detect_delimiter(self.lines.number(), self.lines.line(), is_header)?,
        };
        Ok(())
    }

    fn read_own_header(&mut self) -> Result<(), CsvError> {
        let sep = self.read_first()?;
        self.set_delimiter(self.options.delimiter.or(sep), true)?;
        let names: Vec<_> = cells(self.lines.line(), self.delimiter).collect();
        self.columns = columns::own(self.lines.number(), &names, self.options.logger.is_some())?;
        Ok(())
    }

    fn read_mapped_header(&mut self, mapping: Mapping) -> Result<(), CsvError> {
        let no_line = |number: u64| {
            CsvError::new(
                number,
                Reason::Header,
                "the mapping expects the header here, but the line is blank or missing",
            )
        };
        let sep = self.read_first()?;
        if let Header::Line(wanted) = mapping.header {
            while self.lines.number() < wanted {
                if !self.lines.read()? {
                    return Err(no_line(wanted));
                }
            }
            if self.lines.number() != wanted {
                return Err(no_line(wanted));
            }
        }
        let has_header = mapping.header != Header::None;
        let mut is_at_end = false;
        if !has_header {
            is_at_end = !self.skip_to(mapping.first_row)?;
        }
        let number = self.lines.number();
        self.set_delimiter(self.options.delimiter.or(mapping.delimiter).or(sep), has_header)?;
        if !is_at_end {
            let cells: Vec<_> = cells(self.lines.line(), self.delimiter).collect();
            self.columns = columns::mapped(number, &mapping, &cells)?;
            self.is_row_read = !has_header;
        }
        if has_header && mapping.first_row.is_some() && self.lines.read()? {
            self.is_row_read = self.skip_to(mapping.first_row)?;
        }
        self.merge(mapping)
    }

    /// Reads on until a line of at least this number; `false` at the end of the file.
    fn skip_to(&mut self, first_row: Option<u64>) -> Result<bool, CsvError> {
        while first_row.is_some_and(|first| self.lines.number() < first) {
            if !self.lines.read()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes over from a mapping what options do not state.
    fn merge(&mut self, mapping: Mapping) -> Result<(), CsvError> {
        let options = &mut self.options;
        options.decimal_comma |= mapping.decimal_comma;
        options.truncate_times |= mapping.truncate_times;
        options.missing.extend(mapping.missing.iter().cloned());
        if let Some(LoggerSource::Column { base: Some(base), .. }) = &mapping.logger
            && options.logger_ids == storage_format::IdBase::Unstated
        {
            options.logger_ids = *base;
        }
        let number = self.lines.number();
        match (&mapping.logger, options.logger) {
            (Some(LoggerSource::Constant(id)), None) => options.logger = Some(*id),
            (Some(_), Some(_)) => {
                let what = "the mapping says which loggers the file is of: leave out --logger";
                return Err(CsvError::new(number, Reason::Header, what));
            }
            (None, None) => {
                let what =
                    "nothing says which logger the file is of: the mapping needs [logger], or the command --logger";
                return Err(CsvError::new(number, Reason::Header, what));
            }
            _ => {}
        }
        self.form = mapping.form.clone();
        self.options.mapping = Some(mapping);
        Ok(())
    }

    /// The channels of the file's columns, in ascending order.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelCode> {
        let used = self.columns.all.iter().filter_map(|(column, _)| match column {
            Use::Channel(code, _) => Some(*code),
            _ => None,
        });
        let mut channels: Vec<_> = used.collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }

    /// Bytes of the file read so far, for a progress bar.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.lines.bytes_read()
    }

    /// Rows passed over so far because none of their channels has a value.
    #[must_use]
    pub fn rows_without_values(&self) -> u64 {
        self.rows_without_values
    }

    /// The row that was read last, as it stands in the file.
    #[must_use]
    pub fn row_text(&self) -> String {
        String::from_utf8_lossy(self.lines.line()).into_owned()
    }

    /// The next reading; `None` at the end of the file and after an error that ends the reading.
    ///
    /// # Errors
    /// When the line is not a reading.
    pub fn next_reading(&mut self) -> Result<Option<CsvReading<'_>>, CsvError> {
        if self.failed {
            return Ok(None);
        }
        match self.read() {
            Ok(Some((line, logger, time))) => Ok(Some(CsvReading { line, logger, time, samples: &self.samples })),
            Ok(None) => {
                self.failed = true;
                Ok(None)
            }
            Err(error) => {
                self.failed = !(self.options.skip_bad_rows && error.is_of_row());
                Err(error)
            }
        }
    }

    fn read(&mut self) -> Result<Option<(u64, LoggerId, Millis)>, CsvError> {
        while std::mem::take(&mut self.is_row_read) || self.lines.read()? {
            if let Some(reading) = self.read_row()? {
                return Ok(Some(reading));
            }
        }
        Ok(None)
    }

    /// The reading of the row that was read last; `None` when it has no values.
    fn read_row(&mut self) -> Result<Option<(u64, LoggerId, Millis)>, CsvError> {
        let Self { lines, options, columns, samples, date_and_clock, last_logger, .. } = self;
        let line = lines.number();
        let wrong = |index: usize, reason, what| CsvError {
            column: columns.all.get(index).map(|(_, name)| (name.clone(), index + 1)),
            ..CsvError::new(line, reason, what)
        };
        samples.clear();
        let (mut time, mut clock, mut logger): (Found<'_>, Found<'_>, Found<'_>) = (None, None, None);
        let (mut count, mut is_blank, mut is_open, mut has_extra, mut bad) = (0, true, false, false, None);
        for (index, cell) in cells(lines.line(), self.delimiter).enumerate() {
            count += 1;
            is_blank &= cell.is_empty();
            is_open |= cell.starts_with(b"\"");
            match columns.all.get(index).map(|(column, _)| column) {
                None => has_extra |= !cell.is_empty(),
                Some(Use::Nothing) => {}
                Some(Use::Time) => time = Some((index, cell)),
                Some(Use::Clock) => clock = Some((index, cell)),
                Some(Use::Logger) => logger = Some((index, cell)),
                Some(Use::Channel(..)) if cell.is_empty() => {}
                Some(Use::Channel(..)) if options.missing.iter().any(|mark| mark.as_bytes() == cell.as_ref()) => {}
                Some(Use::Channel(code, unit)) => match values::value(&cell, options.decimal_comma, *unit) {
                    Ok(value) => samples.push((*code, value)),
                    Err(what) => bad = bad.or(Some((index, what))),
                },
            }
        }
        if is_blank {
            return Ok(None);
        }
        if has_extra || count < columns.needed {
            let open = if is_open { "; a quote is not closed in this line" } else { "" };
            let what = format!("{count} cells, but the header has {} columns{open}", columns.all.len());
            return Err(CsvError::new(line, Reason::Cells, what));
        }
        if let Some((index, what)) = bad {
            return Err(wrong(index, Reason::Value, what));
        }
        if samples.is_empty() {
            self.rows_without_values += 1;
            return Ok(None);
        }
        // The columns are there, and no row is shorter.
        let (index, date) = time.unwrap_or_default();
        let time = match clock {
            None => read_time(&self.form, &date, options.truncate_times),
            Some((_, clock)) => {
                date_and_clock.clear();
                date_and_clock.extend_from_slice(&date);
                date_and_clock.push(b' ');
                date_and_clock.extend_from_slice(&clock);
                read_time(&self.form, date_and_clock, options.truncate_times)
            }
        };
        let time = time.map_err(|(reason, what)| wrong(index, reason, what))?;
        let logger = match (options.logger, logger) {
            (Some(logger), _) => logger,
            (None, logger) => {
                let (index, cell) = logger.unwrap_or_default();
                match last_logger {
                    Some((text, logger)) if **text == *cell => *logger,
                    _ => {
                        let read = read_logger(&cell, options).map_err(|what| wrong(index, Reason::Logger, what))?;
                        let (mut text, _) = last_logger.take().unwrap_or((Vec::new(), read));
                        text.clear();
                        text.extend_from_slice(&cell);
                        last_logger.insert((text, read)).1
                    }
                }
            }
        };
        Ok(Some((line, logger, time)))
    }
}

/// A cell's text.
fn text(cell: &[u8]) -> Result<&str, String> {
    let what = || format!("{} is not UTF-8; --encoding names the encoding of the file", error::shown(cell));
    std::str::from_utf8(cell).map_err(|_| what())
}

fn read_time(form: &TimeForm, cell: &[u8], truncate: bool) -> Result<Millis, times::Wrong> {
    form.read(text(cell).map_err(|what| (Reason::Time, what))?, truncate)
}

fn read_logger(cell: &[u8], options: &CsvOptions) -> Result<LoggerId, String> {
    let text = text(cell)?;
    let source = options.mapping.as_ref().and_then(|mapping| mapping.logger.as_ref());
    if let Some(LoggerSource::Column { names, .. }) = source
        && !names.is_empty()
    {
        let what = || format!("{} does not stand in the mapping's logger.names", error::shown(cell));
        return names.get(text).copied().ok_or_else(what);
    }
    LoggerId::parse_as(text, options.logger_ids).map_err(|error| match error {
        storage_format::IdError::Ambiguous { .. } => {
            format!("{error}; --logger-ids hex or --logger-ids decimal says it for the whole file")
        }
        storage_format::IdError::Decimal { .. } => {
            format!("{error}; --logger-ids decimal says that all ids of the file are such numbers")
        }
        _ => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
