//! `icecore query`: ask a question in SQL.

use std::io::{self, BufReader};

use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::{Args, ValueEnum};
use storage_format::channels;
use storage_format::segment::CONFLICT_COLUMNS;

use super::api::{self, Api, ServerArgs};
use super::{output, table};
use problem::{Problem, Result};

/// Ask a question in SQL.
///
/// Only queries run: SELECT, WITH, UNION, EXPLAIN. --help lists the tables, their columns and an example.
#[derive(Debug, Args)]
#[command(after_long_help = tables())]
pub(super) struct QueryArgs {
    /// The query
    sql: String,
    #[command(flatten)]
    server: ServerArgs,
    /// How to print the result; json is one array of rows
    #[arg(long, value_enum, default_value_t = QueryFormat::Table)]
    format: QueryFormat,
}

/// What can be asked for, with the columns as they are.
fn tables() -> String {
    let channels: Vec<_> = channels().iter().map(|channel| channel.name).collect();
    format!(
        "Tables:\n  \
         readings       logger, time, a column per channel, gateway, received\n  \
         last_readings  the same columns: the newest reading of each logger\n  \
         conflicts      {}\n  \
         totals         readings, duplicates, conflicts, unflushed: one row of counts\n\n\
         Channels: {}.\n\n\
         Loggers and gateways are numbers. eui64('00124B000A6E0001') makes a logger's number of its EUI-64, \
         eui64_text(logger) the other way round. An EUI-64 without a letter is written with 0x, because it could be a \
         decimal number: eui64('0x5149012952875009').\n\n\
         Example:\n  \
         icecore query \"SELECT time, temperature FROM readings WHERE logger = eui64('00124B000A6E0001') \
         AND time >= '2024-05-01T00:00:00Z' ORDER BY time LIMIT 10\"",
        CONFLICT_COLUMNS.join(", "),
        channels.join(", ")
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum QueryFormat {
    /// For people
    Table,
    /// For spreadsheets
    Csv,
    /// For programs
    Json,
}

/// A table longer than this is for nobody to read; the rest is counted.
const TABLE_ROWS_MAX: usize = 10_000;

pub(super) fn run(args: &QueryArgs) -> Result<()> {
    print(&args.server.api()?, &args.sql, args.format)
}

pub(super) fn print(api: &Api, sql: &str, format: QueryFormat) -> Result<()> {
    match format {
        QueryFormat::Csv => api::print(api.sql(sql, "text/csv")?),
        QueryFormat::Json => {
            api::print(api.sql(sql, "application/json")?)?;
            output::write(b"\n").map(drop)
        }
        QueryFormat::Table => output::line(table_text(api, sql)?),
    }
}

/// The result as a table for people.
pub(super) fn table_text(api: &Api, sql: &str) -> Result<String> {
    let response = api.sql(sql, "application/vnd.apache.arrow.stream")?;
    let broken = |error: ArrowError| match error {
        ArrowError::IoError(_, error) => api::cut_off(&error),
        error => Problem::new("the answer cannot be read").detail(error),
    };
    let mut reader = StreamReader::try_new(BufReader::new(response), None).map_err(broken)?;
    let schema = reader.schema();
    let header: Vec<_> =
        schema.fields().iter().map(|field| (field.name().clone(), is_number(field.data_type()))).collect();
    let options = FormatOptions::default().with_display_error(true);
    let (mut rows, mut total) = (Vec::new(), 0_usize);
    for batch in reader.by_ref() {
        let batch = batch.map_err(broken)?;
        total += batch.num_rows();
        let columns: std::result::Result<Vec<_>, _> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
        let columns = columns.map_err(broken)?;
        for row in 0..batch.num_rows().min(TABLE_ROWS_MAX - rows.len()) {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    // The end of the stream is not yet that of the body, which says whether the response is whole.
    io::copy(reader.get_mut(), &mut io::sink()).map_err(|error| api::cut_off(&error))?;
    let shown = rows.len();
    let table = table::table(&header, rows).to_string();
    if total > shown {
        let (shown, total) = (output::grouped(shown as u64), output::grouped(total as u64));
        output::note(format_args!("{shown} of {total} rows are shown; --format csv prints all of them"));
    }
    Ok(table)
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use arrow::ipc::writer::StreamWriter;

    use super::*;

    /// What becomes of a response with these bytes after its only chunk, which is a whole Arrow stream.
    fn table_of(end: &'static [u8]) -> Result<String> {
        let column: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![42]));
        let batch = RecordBatch::try_from_iter([("answer", column)]).expect("a batch");
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a stream");
        writer.write(&batch).expect("written");
        let stream = writer.into_inner().expect("finished");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("accepted");
            let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"SELECT 42") {
                let read = peer.read(&mut buffer).expect("readable");
                request.extend_from_slice(&buffer[..read]);
            }
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", stream.len());
            peer.write_all(&[head.as_bytes(), &stream, b"\r\n", end].concat()).expect("written");
        });
        let table = table_text(&Api::new(&format!("http://{addr}"), "abc").expect("a client"), "SELECT 42");
        server.join().expect("no panic");
        table
    }

    #[test]
    fn a_response_is_read_to_its_end() {
        let whole = table_of(b"0\r\n\r\n").expect("whole");
        assert!(whole.contains("answer") && whole.contains("42"), "{whole}");
        let cut = table_of(b"").expect_err("it has no end").to_string();
        assert!(cut.contains("cut off"), "{cut}");
    }
}
