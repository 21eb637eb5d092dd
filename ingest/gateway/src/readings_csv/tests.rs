//! The CSV reader: what it takes, and that every error names line and column.

use super::*;

type Row = (u64, u64, i64, Vec<(u16, f64)>);

fn read(text: impl AsRef<[u8]>) -> Result<Vec<Row>, CsvError> {
    let mut csv = ReadingsCsv::new(text.as_ref())?;
    let mut rows = Vec::new();
    while let Some(reading) = csv.next_reading()? {
        let samples = reading.samples.iter().map(|(code, value)| (code.get(), *value)).collect();
        rows.push((reading.line, reading.logger.get(), reading.time.get(), samples));
    }
    Ok(rows)
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
        (format!("{head}{good},NaN\n"), 2, Some(3), "not a finite number"),
        (format!("{head}{good},-inf\n"), 2, Some(3), "not a finite number"),
        (format!("{head}{good},1e999\n"), 2, Some(3), "not a finite number"),
        (format!("{head}{good},1,2\n"), 2, None, "4 cells"),
        (format!("{head}{good}\n"), 2, None, "2 cells"),
        (format!("{head}{good},\n"), 2, None, "no channel has a value"),
        (format!("{head}yesterday,00124B0000000001,1\n"), 2, Some(1), "yesterday"),
        (format!("{head}2024-01-01T00:00:00,00124B0000000001,1\n"), 2, Some(1), "zone"),
        (format!("{head}2024-01-01T00:00:00.0001Z,00124B0000000001,1\n"), 2, Some(1), "RFC 3339"),
        (format!("{head}2024-01-01T00:00:00Z,XYZ,1\n"), 2, Some(2), "XYZ"),
        (format!("{head}2024-01-01T00:00:00Z,0000000000000000,1\n"), 2, Some(2), "zero"),
        ("time,logger,colour\n".to_owned(), 1, Some(3), "colour"),
        ("time,logger,temperature,time\n".to_owned(), 1, Some(4), "twice"),
        ("time,temperature\n".to_owned(), 1, None, "logger is missing"),
        ("logger,temperature\n".to_owned(), 1, None, "time is missing"),
        ("time,logger\n".to_owned(), 1, None, "<channel> is missing"),
        ("time;logger;temperature\n".to_owned(), 1, Some(1), "separated by ;, commas are expected"),
        ("time\tlogger\ttemperature\n".to_owned(), 1, Some(1), "separated by tabs, commas are expected"),
        ("time,Logger,temperature\n".to_owned(), 1, Some(2), "column names are lower case: logger"),
        ("time,logger,Temperature\n".to_owned(), 1, Some(3), "column names are lower case: temperature"),
        (String::new(), 1, None, "empty"),
        ("\0\u{1}\u{2}\n".to_owned(), 1, Some(1), "no channel"),
    ] {
        let error = read(&text).expect_err(&text);
        assert_eq!((error.line, error.column.as_ref().map(|(_, number)| *number)), (line, column), "{text:?}: {error}");
        assert!(error.to_string().contains(part), "{text:?}: {error}");
    }
    assert!(read(b"time,logger,temperature\n\xff\xfe,00124B0000000001,1\n").is_err());
}

#[test]
fn nothing_comes_after_an_error() {
    let text =
        "time,logger,temperature\n2024-01-01T00:00:00Z,00124B0000000001,x\n2024-01-01T00:00:00Z,00124B0000000001,1\n";
    let mut csv = ReadingsCsv::new(text.as_bytes()).expect("a header");
    assert!(csv.next_reading().is_err());
    assert_eq!(csv.next_reading(), Ok(None));
}

#[test]
fn an_endless_line_is_not_swallowed() {
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    let error = ReadingsCsv::new(endless).expect_err("no header");
    assert!(error.to_string().contains("longer than"), "{error}");
}
