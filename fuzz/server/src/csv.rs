//! CSV of readings: the result does not depend on how the file is read, and accepted readings survive a round trip.
//! Foreign forms, through options and mappings, are read as well: they end, and give nothing but readings.

use std::fmt::Write as _;
use std::io::{BufReader, Read};

use gateway::readings_csv::{CsvError, CsvOptions, Mapping, ReadingsCsv, check_gzip};
use storage_format::{Channel, ChannelCode, LoggerId, Millis};

/// Reading from the file: its line, then its key and values.
type Row = (u64, LoggerId, Millis, Vec<(ChannelCode, f64)>);

/// Parses a file of readings.
pub fn csv(data: &[u8]) -> bool {
    let (rows, error, bytes) = read(data);
    assert!(bytes <= data.len() as u64);
    // In every encoding that is read a line's end takes such a byte. What gzip unpacks has any number of lines.
    let ends = data.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
    let lines = if data.starts_with(b"\x1f\x8b") { u64::MAX } else { ends + 1 };
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "line numbers ascend");
    for (line, _, _, samples) in &rows {
        assert!((2..=lines).contains(line), "line {line} of {lines}");
        assert!(!samples.is_empty() && samples.iter().all(|(_, value)| value.is_finite()));
        assert!(samples.iter().all(|(code, _)| code.channel().is_some()));
    }
    if let Some(error) = &error {
        assert!((1..=lines).contains(&error.line), "an error in line {} of {lines}", error.line);
        assert!(!error.what.is_empty());
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("line {}", error.line)));
        assert!(shown.len() < 2_000 && !shown.contains(['\r', '\0', '\u{1b}']), "not safe for a terminal: {shown:?}");
        assert!(error.column.as_ref().is_none_or(|(_, number)| *number > 0));
    }
    // Read in small pieces, as from a slow disk or a pipe.
    let slow = read(BufReader::with_capacity(3, Slow { data }));
    // Of a damaged gzip file, how much comes before the damage is noticed is a matter of its pieces.
    let is_damaged = check_gzip(data).is_err();
    assert!(is_damaged || (&slow.0, &slow.1) == (&rows, &error), "{slow:?}\n{rows:?} {error:?}");
    if !rows.is_empty() {
        let again = read(written(&rows).as_bytes());
        assert_eq!(again.1, None, "accepted readings survive a round trip");
        let content = |rows: &[Row]| rows.iter().map(|row| (row.1, row.2, bits(row))).collect::<Vec<_>>();
        assert_eq!(content(&again.0), content(&rows));
    }
    foreign(data);
    error.is_none()
}

/// Reads with options that take as much as possible, and through a mapping without a header.
fn foreign(data: &[u8]) {
    let lenient = CsvOptions {
        decimal_comma: true,
        missing: vec!["---".to_owned()],
        truncate_times: true,
        skip_bad_rows: true,
        ..CsvOptions::default()
    };
    let mapping = "header = \"none\"\ndelimiter = \";\"\n[time]\ncolumn = 2\ndate_order = \"dmy\"\nzone = \"Europe/Berlin\"\n\
                   [logger]\nid = \"00124B0000000001\"\n[channels]\ntemperature = { column = 3, unit = \"F\" }\n";
    let mapping = Mapping::parse(mapping).expect("a mapping");
    for options in [lenient.clone(), CsvOptions { mapping: Some(mapping), ..lenient }] {
        let Ok(mut csv) = ReadingsCsv::with_options(data, &options) else { continue };
        let mut last = 0;
        loop {
            let line = match csv.next_reading() {
                Ok(None) => break,
                Ok(Some(row)) => {
                    assert!(!row.samples.is_empty() && row.samples.iter().all(|(_, value)| value.is_finite()));
                    row.line
                }
                Err(error) => {
                    let shown = error.to_string();
                    assert!(shown.len() < 2_000 && !shown.contains(['\r', '\0', '\u{1b}']), "{shown:?}");
                    error.line
                }
            };
            assert!(line > last, "lines are counted upwards");
            last = line;
        }
        assert_eq!(csv.next_reading(), Ok(None), "nothing comes after the end");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Mapping::parse(text);
    }
}

/// Returns the samples as bits, by ascending channel.
fn bits(row: &Row) -> Vec<(ChannelCode, u64)> {
    let mut samples: Vec<_> = row.3.iter().map(|(code, value)| (*code, value.to_bits())).collect();
    samples.sort_unstable();
    samples
}

fn read(source: impl std::io::BufRead) -> (Vec<Row>, Option<CsvError>, u64) {
    let mut rows = Vec::new();
    let mut csv = match ReadingsCsv::new(source) {
        Ok(csv) => csv,
        Err(error) => return (rows, Some(error), 0),
    };
    let error = loop {
        match csv.next_reading() {
            Ok(Some(row)) => rows.push((row.line, row.logger, row.time, row.samples.to_vec())),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert_eq!(csv.next_reading(), Ok(None), "nothing comes after the end");
    (rows, error, csv.bytes_read())
}

fn written(rows: &[Row]) -> String {
    let all = storage_format::channels();
    let mut text = String::from("time,logger");
    for Channel { name, .. } in all {
        text.push(',');
        text.push_str(name);
    }
    for (_, logger, time, samples) in rows {
        let _ = write!(text, "\n{time},{logger}");
        for channel in all {
            let _ = match samples.iter().find(|(code, _)| *code == channel.code) {
                Some((_, value)) => write!(text, ",{value:?}"),
                None => write!(text, ","),
            };
        }
    }
    text
}

/// Reader that returns at most two bytes at a time.
struct Slow<'a> {
    data: &'a [u8],
}

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let (now, later) = self.data.split_at(self.data.len().min(out.len()).min(2));
        out[..now.len()].copy_from_slice(now);
        self.data = later;
        Ok(now.len())
    }
}
