//! Foreign files through a mapping. The examples are those of the page, read from the page itself.

use super::*;

const PAGE: &str = include_str!("../../../../../docs/import-files.md");

/// The fenced blocks of this language, in order.
fn blocks(language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    PAGE.split(&start).skip(1).map(|rest| rest.split("```").next().expect("a part").to_owned()).collect()
}

fn mapping(text: &str) -> Mapping {
    Mapping::parse(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn through(text: &str, options: CsvOptions, bytes: impl AsRef<[u8]>) -> Result<(Vec<Row>, u64), CsvError> {
    read_with(bytes, &CsvOptions { mapping: Some(mapping(text)), ..options })
}

/// What rows are in icecore's own form.
fn own_form(rows: &[Row]) -> String {
    let mut text = String::from("time,logger,temperature,humidity\n");
    for (_, logger, time, samples) in rows {
        let time = Millis::new(*time).expect("a time");
        let logger = LoggerId::new(*logger).expect("an id");
        let value = |wanted: u16| {
            samples.iter().find(|(code, _)| *code == wanted).map_or_else(String::new, |(_, value)| value.to_string())
        };
        text.push_str(&format!("{time},{logger},{},{}\n", value(1), value(2)));
    }
    text
}

#[test]
fn the_examples_of_the_page_are_true() {
    let (files, mappings, results) = (blocks("csv"), blocks("toml"), blocks("readings"));
    assert!(files.len() >= 4, "the page has examples");
    assert_eq!((files.len(), files.len()), (mappings.len(), results.len()), "a file, a mapping and a result each");
    for ((file, mapping), result) in files.iter().zip(&mappings).zip(&results) {
        let logger = (!mapping.contains("[logger]")).then(|| "00124B000A6E0001".parse().expect("an id"));
        let (rows, _) = through(mapping, CsvOptions { logger, ..CsvOptions::default() }, file)
            .unwrap_or_else(|error| panic!("{error}:\n{file}\n{mapping}"));
        assert_eq!(own_form(&rows), *result, "{file}\n{mapping}");
    }
}

#[test]
fn an_export_with_a_title_a_mark_and_event_rows() {
    let file = "\u{feff}\"Plot Title: shed-4\"\r\n\
        \"#\",\"Date Time, GMT+02:00\",\"Temp, °C (LGR S/N: 1, SEN S/N: 1)\",\"RH, % (LGR S/N: 1)\",\"Host Connected\",\"End Of File\"\r\n\
        1,06/28/24 12:00:00 PM,4.506,61.2,,\r\n\
        2,06/28/24 12:15:00 PM,4.611,60.9,,\r\n\
        3,06/28/24 12:21:07 PM,,,Logged,\r\n\
        4,06/28/24 12:21:11 PM,,,,Logged";
    let text = "header = 2\n[time]\ncolumn = \"Date Time*\"\ndate_order = \"mdy\"\nzone = \"+02:00\"\n\
        [channels]\ntemperature = \"Temp, *\"\nhumidity = \"RH, *\"\n";
    let logger = "00124B000A6E0001".parse().ok();
    let (rows, without) = through(text, CsvOptions { logger, ..CsvOptions::default() }, file).expect("good");
    assert_eq!(
        rows,
        [
            (3, 0x0012_4B00_0A6E_0001, 1_719_568_800_000, vec![(1, 4.506), (2, 61.2)]),
            (4, 0x0012_4B00_0A6E_0001, 1_719_569_700_000, vec![(1, 4.611), (2, 60.9)]),
        ]
    );
    assert_eq!(without, 2);
}

#[test]
fn an_export_in_another_encoding_with_short_rows() {
    let file = b"lager-1,Time,Celsius(\xb0C),Humidity(%rh),Dew Point(\xb0C),Serial Number\r\n\
        1,28/06/2024 12:00:00,4.5,61.0,-2.3,010000001\r\n\
        2,28/06/2024 12:05:00,4.5,61.0,-2.3\r\n\
        3,28/06/2024 12:10:00,4.5\r\n";
    let text = "encoding = \"windows-1252\"\n[time]\ncolumn = \"Time\"\ndate_order = \"dmy\"\nzone = \"Europe/London\"\n\
        [logger]\nid = \"00124B000A6E0001\"\n\
        [channels]\ntemperature = \"Celsius(°C)\"\nhumidity = \"Humidity(%rh)\"\n";
    let options = CsvOptions { skip_bad_rows: true, mapping: Some(mapping(text)), ..CsvOptions::default() };
    let mut csv = ReadingsCsv::with_options(&file[..], &options).expect("a header");
    for (line, time) in [(2, 1_719_572_400_000), (3, 1_719_572_700_000)] {
        let reading = csv.next_reading().expect("good").expect("a reading");
        assert_eq!((reading.line, reading.time.get(), reading.samples.len()), (line, time, 2));
    }
    let error = csv.next_reading().expect_err("a value may have been lost");
    assert_eq!((error.line, error.reason), (4, Reason::Cells));
}

#[test]
fn delimiters_within_quotes_separate_nothing() {
    let file = "\"When; local; time\",\"T; °C\"\n28.06.2024 12:00,5\n";
    let text = "[time]\ncolumn = \"When*\"\ndate_order = \"dmy\"\nzone = \"UTC\"\n[channels]\ntemperature = \"T; °C\"\n\
        [logger]\nid = \"00124B000A6E0001\"\n";
    assert_eq!(through(text, CsvOptions::default(), file).expect("good").0.len(), 1);
}

#[test]
fn what_a_mapping_gets_wrong_is_named() {
    let time = "[time]\ncolumn = \"When\"\ndate_order = \"dmy\"\nzone = \"UTC\"\n";
    let text = format!("{time}[channels]\ntemperature = \"T*\"\n");
    let logger = "00124B000A6E0001".parse().ok();
    let options = || CsvOptions { logger, ..CsvOptions::default() };
    for (header, part) in [
        ("When,Temp,Tank\n", "give its number"),
        ("Wann,Temp\n", "there are \"Wann\", \"Temp\""),
        ("When,Humidity\n", "channels.temperature"),
        ("When;Temp,x\n", "--delimiter"),
        ("", "empty"),
    ] {
        let error = through(&text, options(), header).expect_err(header);
        assert!(error.line == 1 && error.what.contains(part), "{header}: {error}");
    }
    let error = through(&text, CsvOptions::default(), "When,T\n").expect_err("no logger");
    assert!(error.what.contains("--logger"), "{error}");
    let own = format!("{text}[logger]\nid = \"00124B000A6E0001\"\n");
    let error = through(&own, options(), "When,T\n").expect_err("two loggers");
    assert!(error.what.contains("leave out --logger"), "{error}");
    let error = through(&format!("header = 3\n{text}"), options(), "When,T\n").expect_err("no such line");
    assert!(error.line == 3 && error.reason == Reason::Header, "{error}");
    let error = through(&text, options(), "When,T\n06/28/2024 12:00,4\n").expect_err("another order");
    assert!(error.line == 2 && error.reason == Reason::Time, "{error}");
}

#[test]
fn loggers_by_name_or_in_a_stated_base() {
    let base =
        "header = \"none\"\ndelimiter = \",\"\n[time]\ncolumn = 1\n[channels]\ntemperature = 3\n[logger]\ncolumn = 2\n";
    let file = "1970-01-01T00:00:01Z,010000001,5\n1970-01-01T00:00:02Z,other,5\n";
    let names = format!("{base}[logger.names]\n\"010000001\" = \"00124B000A6E0001\"\n");
    let error = through(&names, CsvOptions::default(), file).expect_err("a name that is not there");
    assert!(error.line == 2 && error.what.contains("logger.names"), "{error}");
    let one = file.lines().next().expect("a line");
    assert_eq!(through(&names, CsvOptions::default(), one).expect("good").0[0].1, 0x0012_4B00_0A6E_0001);
    let error = through(base, CsvOptions::default(), one).expect_err("a decimal number");
    assert!(error.reason == Reason::Logger, "{error}");
    let decimal = format!("{base}ids = \"decimal\"\n");
    assert_eq!(through(&decimal, CsvOptions::default(), one).expect("good").0[0].1, 10_000_001);
}

#[test]
fn rows_begin_where_the_mapping_says() {
    let text = "header = 1\nfirst_row = 4\n[time]\ncolumn = \"t\"\n[channels]\ntemperature = \"T\"\n";
    let file = "t,T\nunits,°C\n----,----\n1970-01-01T00:00:01Z,5\n";
    let logger = "00124B000A6E0001".parse().ok();
    let options = CsvOptions { logger, ..CsvOptions::default() };
    let (rows, _) = through(text, options.clone(), file).expect("good");
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [4]);
    assert_eq!(through(text, options, "t,T\nunits,°C\n").expect("no rows").0, []);
}

proptest! {
    #[test]
    fn no_mapping_and_no_row_make_it_panic(text in any::<String>(), row in "[0-9/:. ,;APM-]{0,40}") {
        let _ = Mapping::parse(&text);
        let logger = "00124B000A6E0001".parse().ok();
        for form in ["date_order = \"dmy\"", "date_order = \"mdy\"", "date_order = \"ymd\"", "format = \"%d/%m/%y %I:%M %p\""] {
            let text = format!("header = \"none\"\ndelimiter = \";\"\n[time]\ncolumn = 1\n{form}\nzone = \"Europe/Berlin\"\n[channels]\ntemperature = 2\n");
            let options = CsvOptions { logger, truncate_times: true, ..CsvOptions::default() };
            let _ = through(&text, options, format!("{row};1\n{text}"));
        }
    }
}
