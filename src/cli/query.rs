//! `icecore query`: ask a question in SQL.

use std::io::BufReader;

use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::{Args, ValueEnum};

use super::api::{self, Api, ServerArgs};
use super::{output, table};
use crate::error::{Problem, Result};

/// Ask a question in SQL.
///
/// Tables: readings (logger, time, a column per channel, gateway, received), conflicts, totals. Functions:
/// eui64('00124B000A6E0001') and eui64_text(logger). Only queries run: SELECT, WITH, UNION, EXPLAIN.
#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    /// The query
    sql: String,
    #[command(flatten)]
    server: ServerArgs,
    /// How to print the answer; json is one array of rows
    #[arg(long, value_enum, default_value_t = QueryFormat::Table)]
    format: QueryFormat,
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
    print(&Api::new(&args.server)?, &args.sql, args.format)
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

/// The answer as a table for people.
pub(super) fn table_text(api: &Api, sql: &str) -> Result<String> {
    let response = api.sql(sql, "application/vnd.apache.arrow.stream")?;
    let broken = |error: ArrowError| match error {
        ArrowError::IoError(_, error) => api::cut_off(&error),
        error => Problem::new("the answer cannot be read").detail(error),
    };
    let reader = StreamReader::try_new(BufReader::new(response), None).map_err(broken)?;
    let schema = reader.schema();
    let header: Vec<_> =
        schema.fields().iter().map(|field| (field.name().clone(), is_number(field.data_type()))).collect();
    let options = FormatOptions::default().with_display_error(true);
    let (mut rows, mut total) = (Vec::new(), 0_usize);
    for batch in reader {
        let batch = batch.map_err(broken)?;
        total += batch.num_rows();
        let columns: std::result::Result<Vec<_>, _> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
        let columns = columns.map_err(broken)?;
        for row in 0..batch.num_rows().min(TABLE_ROWS_MAX - rows.len()) {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
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
