//! Files as programs write them: encodings, delimiters, decimal commas, ends of lines, gzip.

use super::*;

fn utf16(text: &str, big: bool) -> Vec<u8> {
    text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
}

const PLAIN: &str =
    "time,logger,temperature\n1970-01-01T00:00:01Z,00124B000A6E0001,5.25\n1970-01-01T00:00:02Z,00124B000A6E0001,6\n";

fn plain() -> Vec<Row> {
    vec![(2, 0x0012_4B00_0A6E_0001, 1_000, vec![(1, 5.25)]), (3, 0x0012_4B00_0A6E_0001, 2_000, vec![(1, 6.0)])]
}

#[test]
fn encodings() {
    for mark in ["", "\u{feff}"] {
        let text = format!("{mark}{PLAIN}");
        for bytes in [text.clone().into_bytes(), utf16(&text, false), utf16(&text, true)] {
            assert_eq!(read(&bytes), Ok(plain()), "{:?}", &bytes[..4]);
            assert_eq!(read(gzip(&bytes)), Ok(plain()), "gzip {:?}", &bytes[..4]);
        }
    }
    // Several members, as `cat` makes them.
    let (start, end) = PLAIN.as_bytes().split_at(40);
    assert_eq!(read([gzip(start), gzip(end)].concat()), Ok(plain()));
    // A name that is no UTF-8, in an encoding that is stated.
    let encoding = parse_encoding("windows-1252").ok();
    let options = CsvOptions { encoding, ..CsvOptions::default() };
    let error = read_with(b"time,logger,temp\xe9rature\n", &options).expect_err("no channel");
    assert!(error.what.contains("température"), "{error}");
}

#[test]
fn a_damaged_gzip_file_says_so_where_it_ends() {
    let text = format!("{PLAIN}{}", "1970-01-01T00:00:03Z,00124B000A6E0001,7\n".repeat(10_000));
    let mut bytes = gzip(text.as_bytes());
    bytes.truncate(bytes.len() / 2);
    let error = read(&bytes).expect_err("cut");
    assert!(error.reason == Reason::Unreadable && error.line > 2, "{error}");
}

#[test]
fn a_changed_digit_in_a_gzip_file_is_found_before_it_is_read() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(PLAIN.as_bytes()).expect("memory takes everything");
    let good = encoder.finish().expect("memory takes everything");
    assert!(check_gzip(&good[..]).is_ok() && check_gzip(PLAIN.as_bytes()).is_ok());
    let mut bad = good.clone();
    let at = bad.windows(4).position(|bytes| bytes == b"5.25").expect("it is not compressed");
    bad[at] = b'7';
    assert!(check_gzip(&bad[..]).is_err());
    assert!(check_gzip(&good[..good.len() - 1]).is_err());
}

#[test]
fn ends_of_lines() {
    for end in ["\n", "\r\n", "\r"] {
        assert_eq!(read(PLAIN.replace('\n', end)), Ok(plain()), "{end:?}");
        let blank = PLAIN.replacen('\n', "\n\n", 1).replace('\n', end);
        let lines: Vec<_> = read(blank).expect("good").iter().map(|row| row.0).collect();
        assert_eq!(lines, [3, 4], "a blank line counts, {end:?}");
    }
}

#[test]
fn delimiters_of_the_header_or_stated() {
    for delimiter in [";", "\t"] {
        assert_eq!(read(PLAIN.replace(',', delimiter)), Ok(plain()), "{delimiter:?}");
    }
    let bar = CsvOptions { delimiter: parse_delimiter("|").ok(), ..CsvOptions::default() };
    assert_eq!(read_with(PLAIN.replace(',', "|"), &bar), Ok((plain(), 0)));
    for sep in ["sep=|", "SEP=|", "\"sep=|\""] {
        let rows = read(format!("{sep}\r\n{}", PLAIN.replace(',', "|"))).expect("good");
        assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [3, 4], "the line counts: {sep}");
    }
    assert_eq!(parse_delimiter("tab"), Ok(b'\t'));
    for bad in ["", "ab", "a", "\"", ".", "-", "\n", "é"] {
        assert!(parse_delimiter(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn decimal_commas() {
    let text = "time;logger;temperature\r\n2024-06-02T00:00:00Z;00124B00000A0001;4,5\r\n";
    let error = read(text).expect_err("a comma");
    assert!(error.line == 2 && error.what.contains("--decimal-comma"), "{error}");
    let options = CsvOptions { decimal_comma: true, ..CsvOptions::default() };
    let (rows, _) = read_with(text, &options).expect("good");
    assert_eq!(rows[0].3, [(1, 4.5)]);
    let quoted = "time,logger,temperature\n2024-06-02T00:00:00Z,00124B00000A0001,\"4,5\"\n";
    assert_eq!(read_with(quoted, &options).expect("good").0[0].3, [(1, 4.5)]);
    let unquoted = "time,logger,temperature\n2024-06-02T00:00:00Z,00124B00000A0001,4,5\n";
    assert_eq!(read_with(unquoted, &options).expect_err("a cell more").reason, Reason::Cells);
}

#[test]
fn trailing_delimiters() {
    let text = PLAIN.replace('\n', ",,\n") + ",,,,\n,,,,\n";
    assert_eq!(read(text), Ok(plain()));
    // Only the rows have them.
    assert_eq!(read(PLAIN.replace("5.25", "5.25,,").replace(",6", ",6,")), Ok(plain()));
    assert!(read("time,,logger,temperature\n").is_err(), "a column without a name in the midst");
}

#[test]
fn times_finer_than_a_millisecond_are_cut_on_request() {
    let text = "time,logger,temperature\n2024-06-07T12:00:09.123456+00:00,00124B00000A0001,4.5\n";
    let error = read(text).expect_err("too fine");
    assert!(error.reason == Reason::TooFine && error.what.contains("--truncate-times"), "{error}");
    let options = CsvOptions { truncate_times: true, ..CsvOptions::default() };
    assert_eq!(read_with(text, &options).expect("good").0[0].2, 1_717_761_609_123);
}

/// Dialect in which a test writes a file.
#[derive(Debug, Clone)]
struct Dialect {
    delimiter: char,
    end: &'static str,
    decimal_comma: bool,
    quoted: bool,
    mark: bool,
    encoding: u8,
    gzip: bool,
    sep: bool,
    extra: usize,
    missing: &'static str,
}

fn dialect() -> impl Strategy<Value = Dialect> {
    let text = (
        prop::sample::select(vec![',', ';', '\t', '|']),
        prop::sample::select(vec!["\n", "\r\n", "\r"]),
        prop::sample::select(vec!["", "---", "N/A"]),
    );
    (text, any::<[bool; 5]>(), 0_u8..3, 0_usize..3).prop_map(
        |((delimiter, end, missing), [decimal_comma, quoted, mark, gzip, sep], encoding, extra)| {
            let quoted = quoted || (decimal_comma && delimiter == ',');
            Dialect { delimiter, end, decimal_comma, quoted, mark, encoding, gzip, sep, extra, missing }
        },
    )
}

impl Dialect {
    fn options(&self) -> CsvOptions {
        CsvOptions {
            delimiter: (self.delimiter == '|').then_some(b'|'),
            decimal_comma: self.decimal_comma,
            missing: vec![self.missing.to_owned()],
            ..CsvOptions::default()
        }
    }

    fn write(&self, rows: &[(u64, i64, Option<f64>, Option<f64>)]) -> Vec<u8> {
        let mut text = String::new();
        if self.mark {
            text.push('\u{feff}');
        }
        if self.sep {
            text.push_str(&format!("sep={}{}", self.delimiter, self.end));
        }
        let value = |value: &Option<f64>| match value {
            None => self.missing.to_owned(),
            Some(value) if self.decimal_comma => format!("{value:?}").replace('.', ","),
            Some(value) => format!("{value:?}"),
        };
        let header = ["time", "logger", "temperature", "humidity"].map(str::to_owned);
        let lines = rows.iter().map(|(logger, time, temperature, humidity)| {
            let time = Millis::new(*time).expect("a time").to_string();
            let logger = LoggerId::new(*logger).expect("an id").to_string();
            [time, logger, value(temperature), value(humidity)]
        });
        for cells in std::iter::once(header).chain(lines) {
            let cells = cells.map(|cell| if self.quoted { format!("\"{cell}\"") } else { cell });
            text.push_str(&cells.join(&self.delimiter.to_string()));
            text.extend(std::iter::repeat_n(self.delimiter, self.extra));
            text.push_str(self.end);
        }
        let bytes = match self.encoding {
            0 => text.into_bytes(),
            1 => utf16(&text, false),
            _ => utf16(&text, true),
        };
        if self.gzip { gzip(&bytes) } else { bytes }
    }
}

fn values() -> impl Strategy<Value = Option<f64>> {
    prop::option::of(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO)
}

proptest! {
    #[test]
    fn what_is_written_in_any_dialect_is_read(
        dialect in dialect(),
        rows in prop::collection::vec((1_u64.., -1_000_000_000_000_i64..4_000_000_000_000, values(), values()), 0..12),
    ) {
        let bytes = dialect.write(&rows);
        let (found, without) = read_with(&bytes, &dialect.options()).map_err(|error| {
            TestCaseError::fail(format!("{error}: {}", String::from_utf8_lossy(&bytes)))
        })?;
        let mut expected = Vec::new();
        for (line, (logger, time, temperature, humidity)) in (2 + u64::from(dialect.sep)..).zip(&rows) {
            let samples: Vec<_> = [(1, temperature), (2, humidity)]
                .into_iter()
                .filter_map(|(code, value)| value.map(|value| (code, value.to_bits())))
                .collect();
            if !samples.is_empty() {
                expected.push((line, *logger, *time, samples));
            }
        }
        let bits = |row: &Row| (row.0, row.1, row.2, row.3.iter().map(|(code, value)| (*code, value.to_bits())).collect::<Vec<_>>());
        prop_assert_eq!(found.iter().map(bits).collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(without, (rows.len() - expected.len()) as u64);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        text in any::<String>(),
        dialect in dialect(),
        header in any::<bool>(),
    ) {
        let start = if header { PLAIN } else { "" };
        for bytes in [bytes.clone(), text.into_bytes(), gzip(&bytes), [start.as_bytes(), &bytes].concat()] {
            let options = CsvOptions { skip_bad_rows: true, truncate_times: true, ..dialect.options() };
            let Ok(mut csv) = ReadingsCsv::with_options(&bytes[..], &options) else { continue };
            while !matches!(csv.next_reading(), Ok(None)) {}
            prop_assert_eq!(csv.next_reading(), Ok(None));
            prop_assert!(csv.bytes_read() <= bytes.len() as u64);
        }
    }
}
