//! The CSV reader: what it takes, and that every error names line, column, the true reason and a way out.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;

mod dialects;
mod mappings;

type Row = (u64, u64, i64, Vec<(u16, f64)>);

fn read(text: impl AsRef<[u8]>) -> Result<Vec<Row>, CsvError> {
    read_with(text, &CsvOptions::default()).map(|(rows, _)| rows)
}

/// The rows, and how many rows were without values.
fn read_with(text: impl AsRef<[u8]>, options: &CsvOptions) -> Result<(Vec<Row>, u64), CsvError> {
    let mut csv = ReadingsCsv::with_options(text.as_ref(), options)?;
    let mut rows = Vec::new();
    while let Some(reading) = csv.next_reading()? {
        let samples = reading.samples.iter().map(|(code, value)| (code.get(), *value)).collect();
        rows.push((reading.line, reading.logger.get(), reading.time.get(), samples));
    }
    Ok((rows, csv.rows_without_values()))
}

#[test]
fn columns_in_any_order_and_cells_left_empty() {
    let text = "humidity,time,temperature,logger\n\
                39.9,1970-01-01T00:00:01Z,21.79,00124B000A6E0001\n\
                ,1970-01-01T01:00:00+01:00,-1e1, 00124b000a6e0002 \n";
    assert_eq!(
        read(text),
        Ok(vec![
            (2, 0x0012_4B00_0A6E_0001, 1_000, vec![(2, 39.9), (1, 21.79)]),
            (3, 0x0012_4B00_0A6E_0002, 0, vec![(1, -10.0)]),
        ])
    );
    assert_eq!(read("time,logger,temperature\n"), Ok(Vec::new()), "a header alone is a file without readings");
}

#[test]
fn what_spreadsheets_write_is_understood() {
    let text = "\u{feff}\"time\",\"logger\",\"temperature\"\r\n\"1970-01-01T00:00:01Z\",\"00124B000A6E0001\",\"5\"\r\n\r\n\
                \"1970-01-01T00:00:02Z\",\"00124B000A6E0001\",\"6\"";
    assert_eq!(
        read(text),
        Ok(vec![(2, 0x0012_4B00_0A6E_0001, 1_000, vec![(1, 5.0)]), (4, 0x0012_4B00_0A6E_0001, 2_000, vec![(1, 6.0)]),])
    );
}

#[test]
fn errors_say_where_and_what() {
    let good = "2024-01-01T00:00:00Z,00124B0000000001";
    let head = "time,logger,temperature\n";
    for (text, line, column, part) in [
        (format!("{head}{good},1\n{good},warm\n"), 3, Some(3), "\"warm\" is not a number"),
        (format!("{head}{good},warm\n"), 2, Some(3), "--missing 'warm'"),
        (format!("{head}{good},NaN\n"), 2, Some(3), "not a finite number"),
        (format!("{head}{good},-inf\n"), 2, Some(3), "not a finite number"),
        (format!("{head}{good},1e999\n"), 2, Some(3), "not a finite number"),
        (format!("{head}{good},1,2\n"), 2, None, "4 cells"),
        (format!("{head}{good}\n"), 2, None, "2 cells"),
        (format!("{head}yesterday,00124B0000000001,1\n"), 2, Some(1), "yesterday"),
        (format!("{head}2024-01-01T00:00:00,00124B0000000001,1\n"), 2, Some(1), "--mapping"),
        (format!("{head}2024-01-01T00:00:00.0001Z,00124B0000000001,1\n"), 2, Some(1), "finer than a millisecond"),
        (format!("{head}2024-01-01T00:00:00Z,XYZ,1\n"), 2, Some(2), "XYZ"),
        (format!("{head}2024-01-01T00:00:00Z,0000000000000000,1\n"), 2, Some(2), "zero"),
        (format!("{head}2024-01-01T00:00:00Z,5149012952875009,1\n"), 2, Some(2), "two meanings"),
        (format!("{head}2024-01-01T00:00:00Z,8110000000000000001,1\n"), 2, Some(2), "--logger-ids decimal"),
        ("time,logger,colour\n".to_owned(), 1, Some(3), "colour"),
        ("time,logger,temperature,time\n".to_owned(), 1, Some(4), "twice"),
        ("time,temperature\n".to_owned(), 1, None, "logger is missing"),
        ("logger,temperature\n".to_owned(), 1, None, "time is missing"),
        ("time,logger\n".to_owned(), 1, None, "<channel> is missing"),
        ("time,logger;temperature\n".to_owned(), 1, None, "--delimiter"),
        ("time|logger|temperature\n".to_owned(), 1, Some(1), "no channel"),
        ("time,Logger,temperature\n".to_owned(), 1, Some(2), "column names are lower case: logger"),
        ("time,logger,Temperature\n".to_owned(), 1, Some(3), "column names are lower case: temperature"),
        (String::new(), 1, None, "empty"),
        ("sep=;\n".to_owned(), 1, None, "empty"),
        ("\0\u{1}\u{2}\n".to_owned(), 1, Some(1), "no channel"),
        ("PK\u{3}\u{4}".to_owned(), 1, None, "workbook"),
    ] {
        let error = read(&text).expect_err(&text);
        assert_eq!((error.line, error.column.as_ref().map(|(_, number)| *number)), (line, column), "{text:?}: {error}");
        assert!(error.to_string().contains(part), "{text:?}: {error}");
    }
    let error = read(b"time,logger,temperature\n\xff\xfe,00124B0000000001,1\n").expect_err("not UTF-8");
    assert!(error.what.contains("--encoding"), "{error}");
}

#[test]
fn nothing_comes_after_an_error_unless_bad_rows_are_skipped() {
    let good = "2024-01-01T00:00:00Z,00124B0000000001";
    let text = format!("time,logger,temperature\n{good},x\n{good},1\nnever,00124B0000000001,1\n{good},2\n");
    let mut csv = ReadingsCsv::new(text.as_bytes()).expect("a header");
    assert!(csv.next_reading().is_err());
    assert_eq!(csv.next_reading(), Ok(None));

    let options = CsvOptions { skip_bad_rows: true, ..CsvOptions::default() };
    let mut csv = ReadingsCsv::with_options(text.as_bytes(), &options).expect("a header");
    let mut found = Vec::new();
    loop {
        match csv.next_reading() {
            Ok(Some(reading)) => found.push((reading.line, None)),
            Ok(None) => break,
            Err(error) => {
                let row = csv.row_text();
                found.push((error.line, Some((error.reason, row))));
            }
        }
    }
    let bad = |reason, row: &str| Some((reason, row.to_owned()));
    assert_eq!(
        found,
        [
            (2, bad(Reason::Value, "2024-01-01T00:00:00Z,00124B0000000001,x")),
            (3, None),
            (4, bad(Reason::Time, "never,00124B0000000001,1")),
            (5, None)
        ]
    );
}

#[test]
fn rows_without_values_are_counted_and_passed_over() {
    let text = "time,logger,temperature,humidity\n\
                2024-06-16T00:00:00Z,00124B00000A0001,4.0,40.0\n\
                2024-06-16T00:01:30Z,00124B00000A0001,,\n\
                ,,,\n\
                2024-06-16T00:02:00Z,00124B00000A0001,4.2,\n\
                ,,,\r\n\r\n";
    let (rows, without) = read_with(text, &CsvOptions::default()).expect("good");
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [2, 5]);
    assert_eq!(without, 1, "a row with nothing at all is blank");
}

#[test]
fn marks_of_what_was_not_measured() {
    let text = "time,logger,temperature,humidity\n\
                2024-06-06T00:00:00Z,00124B00000A0001,---,41.0\n\
                2024-06-06T00:01:00Z,00124B00000A0001,4.3,N/A\n\
                2024-06-06T00:02:00Z,00124B00000A0001,---,N/A\n";
    let error = read(text).expect_err("marks");
    assert_eq!((error.line, error.reason), (2, Reason::Value));
    let options = CsvOptions { missing: vec!["---".into(), "N/A".into()], ..CsvOptions::default() };
    let (rows, without) = read_with(text, &options).expect("good");
    let samples: Vec<_> = rows.into_iter().map(|row| row.3).collect();
    assert_eq!(samples, [vec![(2, 41.0)], vec![(1, 4.3)]]);
    assert_eq!(without, 1);
}

#[test]
fn an_endless_line_is_not_swallowed() {
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    let error = ReadingsCsv::new(endless).expect_err("no header");
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[test]
fn the_base_of_ids_can_be_stated() {
    let text = "time,logger,temperature\n1970-01-01T00:00:01Z,5149012952875009,1\n";
    let with = |logger_ids| read_with(text, &CsvOptions { logger_ids, ..CsvOptions::default() });
    let (rows, _) = with(storage_format::IdBase::Decimal).expect("decimal");
    assert_eq!(rows[0].1, 0x0012_4B00_0000_0001);
    let (rows, _) = with(storage_format::IdBase::Hex).expect("hex");
    assert_eq!(rows[0].1, 0x5149_0129_5287_5009);
    assert!(with(storage_format::IdBase::Unstated).is_err());
    // What is printed for such a logger is read without an option.
    assert_eq!(read(text.replace("5149012952875009", "0x5149012952875009")).expect("0x")[0].1, 0x5149_0129_5287_5009);
}

#[test]
fn one_logger_for_the_whole_file() {
    let options = CsvOptions { logger: "00-12-4B-00-00-00-00-01".parse().ok(), ..CsvOptions::default() };
    let (rows, _) = read_with("time,temperature\n1970-01-01T00:00:01Z,5\n", &options).expect("good");
    assert_eq!(rows, [(2, 0x0012_4B00_0000_0001, 1_000, vec![(1, 5.0)])]);
    let error = read_with("time,logger,temperature\n", &options).expect_err("two loggers");
    assert!(error.what.contains("--logger"), "{error}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}
