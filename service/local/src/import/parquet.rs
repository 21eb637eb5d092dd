//! Parquet into frames: the columns of `readings`, in any order, a batch of rows at a time.
//!
//! Nothing is guessed: a column of another type is refused with what is expected, and a cast there is one line of SQL.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _};
use arrow::datatypes::{
    DataType, Field, Float64Type, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, UInt64Type,
};
use gateway::readings_csv::{CsvOptions, Reason};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use problem::{Context as _, Problem};
use storage_format::{Channel, ChannelCode, LoggerId, Millis, channels};

use super::source::{Input, Sink, Stop, mistake};

/// Rows that are decoded at a time: some hundred KiB for each column.
const BATCH_ROWS: usize = 16_384;

/// Bytes of the columns that are read, decoded, for each row of a row group at most, beside [`GROUP_BYTES_FREE`].
const ROW_BYTES_MAX: u64 = 1_024;
/// Bytes that a row group may have however few rows it has.
const GROUP_BYTES_FREE: u64 = 16 * 1024 * 1024;

/// Columns of an export of ours that say where a reading came from: those of an import are its own.
const PASSED_OVER: [&str; 2] = ["gateway", "received"];

const HELP: &str = "Expected: logger UBIGINT, or text of 16 hex digits; time TIMESTAMP with time zone, in milliseconds or \
                    microseconds; channels DOUBLE";

/// Places of the columns in a batch.
struct Columns {
    time: usize,
    /// None when all rows are of one logger.
    logger: Option<usize>,
    /// By ascending code.
    channels: Vec<(ChannelCode, usize)>,
    /// Columns of the file that are read.
    read: Vec<usize>,
}

fn is_text(of: &DataType) -> bool {
    match of {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// Finds the columns, or says what is wrong with them.
fn columns(fields: &[impl AsRef<Field>], has_logger: bool) -> Result<Columns, String> {
    let (mut time, mut logger, mut found, mut read) = (None, None, Vec::new(), Vec::new());
    for (index, field) in fields.iter().enumerate() {
        let field = field.as_ref();
        let (name, of) = (field.name().as_str(), field.data_type());
        let wrong = |expected: &str| Err(format!("the column {name} is of the type {of}: expected {expected}"));
        let at = read.len();
        match name {
            "time" => match of {
                DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, Some(_)) => {
                    if time.replace(at).is_some() {
                        return Err("the column time is there twice".to_owned());
                    }
                }
                DataType::Timestamp(_, None) => {
                    return wrong(
                        "one with a time zone (TIMESTAMPTZ, or isAdjustedToUTC), since nothing says which zone this is in",
                    );
                }
                _ => return wrong("TIMESTAMP with a time zone, in milliseconds or microseconds"),
            },
            "logger" if has_logger => return Err("the file says which loggers it is of: leave out --logger".to_owned()),
            "logger" if *of == DataType::UInt64 || is_text(of) => {
                if logger.replace(at).is_some() {
                    return Err("the column logger is there twice".to_owned());
                }
            }
            "logger" => return wrong("UINT64 (UBIGINT), or text of 16 hex digits"),
            name if PASSED_OVER.contains(&name) => continue,
            name => {
                let Some(channel) = Channel::by_name(name) else {
                    let known: Vec<_> = channels().iter().map(|channel| channel.name).collect();
                    return Err(format!("{name:?} is no channel; those known are {}", known.join(", ")));
                };
                if *of != DataType::Float64 {
                    return wrong("DOUBLE");
                }
                if found.iter().any(|(code, _)| *code == channel.code) {
                    return Err(format!("the column {name} is there twice"));
                }
                found.push((channel.code, at));
            }
        }
        read.push(index);
    }
    let time = time.ok_or("the column time is missing")?;
    if logger.is_none() && !has_logger {
        return Err("the column logger is missing; --logger says which one a file of one logger is of".to_owned());
    }
    if found.is_empty() {
        return Err("it has no column of a channel".to_owned());
    }
    found.sort_unstable();
    Ok(Columns { time, logger, channels: found, read })
}

/// The loggers of a batch, a number for each row; 0, which no logger has, where there is none.
enum Loggers {
    Constant(LoggerId),
    Numbers(ArrayRef),
    Texts(ArrayRef),
}

/// The last text of a logger's id and what it means: rows of one logger mostly follow each other.
#[derive(Default)]
struct LastLogger(String, Option<LoggerId>);

impl Loggers {
    fn at(&self, row: usize, options: &CsvOptions, last: &mut LastLogger) -> Result<LoggerId, String> {
        match self {
            Self::Constant(logger) => Ok(*logger),
            Self::Numbers(numbers) => {
                if numbers.is_null(row) {
                    return Err("it has no logger".to_owned());
                }
                LoggerId::new(numbers.as_primitive::<UInt64Type>().value(row)).map_err(|error| error.to_string())
            }
            Self::Texts(texts) => {
                if texts.is_null(row) {
                    return Err("it has no logger".to_owned());
                }
                let text = texts.as_string_view().value(row);
                if let (true, Some(logger)) = (last.0 == text, last.1) {
                    return Ok(logger);
                }
                let logger = LoggerId::parse_as(text, options.logger_ids).map_err(|error| error.to_string())?;
                last.0.clear();
                last.0.push_str(text);
                last.1 = Some(logger);
                Ok(logger)
            }
        }
    }
}

/// The times of a batch in milliseconds.
struct Times<'a> {
    values: &'a [i64],
    nulls: Option<&'a arrow::buffer::NullBuffer>,
    per_ms: i64,
}

impl<'a> Times<'a> {
    fn new(array: &'a ArrayRef) -> Self {
        let nulls = array.nulls();
        match array.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self { values: array.as_primitive::<TimestampMicrosecondType>().values(), nulls, per_ms: 1_000 }
            }
            _ => Self { values: array.as_primitive::<TimestampMillisecondType>().values(), nulls, per_ms: 1 },
        }
    }

    fn at(&self, row: usize, truncate: bool) -> Result<Millis, String> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return Err("it has no time".to_owned());
        }
        let value = self.values[row];
        if self.per_ms > 1 && value % self.per_ms != 0 && !truncate {
            return Err("its time is finer than a millisecond; --truncate-times cuts such times".to_owned());
        }
        Millis::new(value.div_euclid(self.per_ms)).map_err(|error| error.to_string())
    }
}

/// The schema with views instead of other texts: rows of one text share its bytes, where a long one would be copied for
/// each of them.
fn texts_as_views(schema: &Schema) -> Arc<Schema> {
    let fields = schema.fields().iter().map(|field| match is_text(field.data_type()) {
        true => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        false => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Refuses row groups whose pages are decoded into more than such columns can have.
fn check_sizes(found: &ArrowReaderMetadata, read: &[usize]) -> Result<(), String> {
    for (number, group) in found.metadata().row_groups().iter().enumerate() {
        let sizes = read.iter().filter_map(|&column| Some(group.columns().get(column)?.uncompressed_size()));
        let bytes = sizes.filter_map(|size| u64::try_from(size).ok()).fold(0, u64::saturating_add);
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        let most = rows.saturating_mul(ROW_BYTES_MAX).saturating_add(GROUP_BYTES_FREE);
        if bytes > most {
            return Err(format!(
                "row group {number} has {bytes} bytes for {rows} rows, which are at most {most} of such columns"
            ));
        }
    }
    Ok(())
}

/// Reads one file to its end, or to its first mistake.
pub(super) fn read(input: &Input, options: &CsvOptions, sink: &mut Sink) -> Result<(), Stop> {
    let name = input.name();
    let wrong = |what: String| mistake(&name, what, HELP);
    let damaged = |error: &dyn std::error::Error| {
        Stop::Failure(Problem::new(format!("{name} cannot be read as Parquet")).detail(problem::chain(error)).help(
            "perhaps a part of what stands before that place is stored. If the file is encrypted, decrypt it first; \
             otherwise get it again",
        ))
    };
    let file = File::open(&input.path).context(|| format!("cannot read {name}"))?;
    let found = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| damaged(&error))?;
    let columns = columns(found.schema().fields(), options.logger.is_some()).map_err(&wrong)?;
    check_sizes(&found, &columns.read).map_err(&wrong)?;
    let rows = u64::try_from(found.metadata().file_metadata().num_rows()).unwrap_or(0);
    let as_views = ArrowReaderOptions::new().with_schema(texts_as_views(found.schema()));
    let found = ArrowReaderMetadata::try_new(Arc::clone(found.metadata()), as_views);
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, found.map_err(|error| damaged(&error))?);
    // In the order of the file, whatever the order of the indices.
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns.read.iter().copied());
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|error| damaged(&error))?;
    sink.begin(columns.channels.iter().map(|(code, _)| *code).collect());
    let mut batches = Batches { name: &name, options, columns: &columns, row: 0, last: LastLogger::default() };
    // Rows take about as many bytes each.
    let position = |row: u64| row.saturating_mul(input.bytes.checked_div(rows).unwrap_or(0)).min(input.bytes);
    let mut ended = Ok(());
    for batch in reader {
        ended = match batch {
            Ok(batch) => batches.take(&batch, position(batches.row), sink, &wrong),
            Err(error) => Err(damaged(&error)),
        };
        if ended.is_err() {
            break;
        }
    }
    sink.end(ended, position(batches.row), input.bytes)
}

struct Batches<'a> {
    name: &'a str,
    options: &'a CsvOptions,
    columns: &'a Columns,
    /// Rows of the file before the batch.
    row: u64,
    last: LastLogger,
}

impl Batches<'_> {
    fn take(
        &mut self,
        batch: &arrow::array::RecordBatch,
        position: u64,
        sink: &mut Sink,
        wrong: &dyn Fn(String) -> Stop,
    ) -> Result<(), Stop> {
        let here = self.row;
        self.row += batch.num_rows() as u64;
        let loggers = match (self.columns.logger, self.options.logger) {
            (Some(at), _) if *batch.column(at).data_type() == DataType::UInt64 => {
                Loggers::Numbers(batch.column(at).clone())
            }
            (Some(at), _) => Loggers::Texts(batch.column(at).clone()),
            (None, Some(logger)) => Loggers::Constant(logger),
            (None, None) => return Err(wrong("the column logger is missing".to_owned())),
        };
        let times = Times::new(batch.column(self.columns.time));
        let columns: Vec<_> =
            self.columns.channels.iter().map(|(_, at)| batch.column(*at).as_primitive::<Float64Type>()).collect();
        let mut values = vec![f64::NAN; columns.len()];
        for row in 0..batch.num_rows() {
            let number = here + row as u64 + 1;
            let mut any = false;
            for (value, column) in values.iter_mut().zip(&columns) {
                let is_there = column.is_valid(row);
                any |= is_there;
                *value = if is_there { column.value(row) } else { f64::NAN };
                if is_there && !value.is_finite() {
                    return Err(wrong(format!("row {number}: {value} is not a number")));
                }
            }
            if !any {
                sink.counts.rows_without_values += 1;
                continue;
            }
            let at_row = |what: String| wrong(format!("row {number}: {what}"));
            let time = times.at(row, self.options.truncate_times).map_err(at_row)?;
            let logger = loggers.at(row, self.options, &mut self.last).map_err(at_row)?;
            if let Some(why) = sink.accepted.refusal(time) {
                sink.leave_out(self.name, number, Reason::OutOfRange, &format!("row {number}: {why}"), "")?;
                continue;
            }
            sink.push(logger, time.get(), &values, position)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, RecordBatch, TimestampMillisecondArray, UInt64Array};
    use gateway::left_out::LeftOut;
    use parquet::arrow::ArrowWriter;
    use storage_format::SpoolId;
    use tokio::sync::mpsc;

    use super::super::source::Accepted;
    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        let all = || 0..rows;
        let columns: [(&str, ArrayRef); 3] = [
            ("logger", Arc::new(UInt64Array::from_iter_values(all().map(|_| 7)))),
            ("time", Arc::new(TimestampMillisecondArray::from_iter_values(all()).with_timezone("UTC"))),
            ("temperature", Arc::new(Float64Array::from_iter_values(all().map(|_| 4.5)))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    #[test]
    fn rows_before_a_damaged_page_wait_for_a_command_that_reads_on() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.parquet");
        let whole = {
            // The second group is not in the first batch of rows.
            let batch = batch(20_000);
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
            for _ in 0..2 {
                writer.write(&batch).expect("written");
                writer.flush().expect("a row group");
            }
            writer.into_inner().expect("a file")
        };
        std::fs::write(&path, &whole).expect("written");
        let file = File::open(&path).expect("opened");
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        let (second, length) = builder.metadata().row_group(1).column(0).byte_range();
        let mut damaged = whole.clone();
        let second = usize::try_from(second).expect("small");
        damaged[second..second + usize::try_from(length).expect("small")].fill(0xff);
        for (bytes, frames) in [(whole, 4), (damaged, 0)] {
            std::fs::write(&path, &bytes).expect("written");
            let (sender, mut packed) = mpsc::channel(4);
            let accepted = Accepted { min: Millis::MIN, max: Millis::MAX };
            let mut sink = Sink::new(sender, SpoolId::new(1).expect("not zero"), accepted, LeftOut::default());
            let input = Input { path: path.clone(), bytes: bytes.len() as u64, is_parquet: true };
            let ended = read(&input, &CsvOptions::default(), &mut sink);
            assert_eq!(ended.is_ok(), frames > 0);
            drop(sink);
            assert_eq!(std::iter::from_fn(|| packed.try_recv().ok()).count(), frames, "{ended:?}");
        }
    }

    /// Writes these columns, and imports them; the frames that came of it.
    fn imported(columns: Vec<(&str, ArrayRef)>) -> Result<usize, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.parquet");
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let properties = parquet::file::properties::WriterProperties::builder();
        let properties = properties.set_dictionary_enabled(false).build();
        let file = File::create(&path).expect("made");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        let (sender, mut packed) = mpsc::channel(4);
        let accepted = Accepted { min: Millis::MIN, max: Millis::MAX };
        let mut sink = Sink::new(sender, SpoolId::new(1).expect("not zero"), accepted, LeftOut::default());
        let bytes = path.metadata().expect("there").len();
        let ended = read(&Input { path, bytes, is_parquet: true }, &CsvOptions::default(), &mut sink);
        drop(sink);
        ended.map_err(|stop| format!("{stop:?}"))?;
        Ok(std::iter::from_fn(|| packed.try_recv().ok()).count())
    }

    fn with_loggers(loggers: ArrayRef) -> Vec<(&'static str, ArrayRef)> {
        let mut columns: Vec<_> = vec![("logger", loggers)];
        let others = batch(i64::try_from(columns[0].1.len()).expect("few"));
        columns.extend([("time", others.column(1).clone()), ("temperature", others.column(2).clone())]);
        columns
    }

    #[test]
    fn loggers_are_texts_of_every_type() {
        let id = "00124B000A6E0101";
        let texts: [ArrayRef; 4] = [
            Arc::new(arrow::array::StringArray::from(vec![id; 3])),
            Arc::new(arrow::array::LargeStringArray::from(vec![id; 3])),
            Arc::new(arrow::array::StringViewArray::from(vec![id; 3])),
            Arc::new(vec![id; 3].into_iter().collect::<arrow::array::DictionaryArray<arrow::datatypes::Int32Type>>()),
        ];
        for loggers in texts {
            let of = loggers.data_type().clone();
            assert_eq!(imported(with_loggers(loggers)), Ok(1), "{of}");
        }
    }

    #[test]
    fn columns_of_more_bytes_than_they_can_have_are_refused() {
        let long = "0".repeat(3 * 1024 * 1024);
        let error = imported(with_loggers(Arc::new(arrow::array::StringArray::from(vec![long.as_str(); 8]))));
        assert!(error.as_ref().is_err_and(|error| error.contains("row group 0 has")), "{error:?}");
    }
}
