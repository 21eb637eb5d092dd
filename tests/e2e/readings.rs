//! Readings that a test knows by heart: made from a few numbers, written as a gateway's CSV, compared with an export.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// (logger, milliseconds) to (temperature, humidity) in hundredths.
pub(crate) type Readings = BTreeMap<(u64, i64), (i64, i64)>;

/// 2024-01-30T00:00:00Z: so that a few days cross a month's end, and thereby a window's.
pub(crate) const START_MS: i64 = 1_706_572_800_000;
const FIRST_LOGGER: u64 = 0x0012_4B00_0A6E_0001;
const MINUTE_MS: i64 = 60_000;

/// So many readings of so many loggers, every five minutes, with values that no two loggers share.
pub(crate) fn fleet(loggers: u64, per_logger: i64) -> Readings {
    let mut readings = Readings::new();
    for logger in 0..loggers {
        for n in 0..per_logger {
            let wave = (n * 37 + i64::try_from(logger).expect("small") * 101) % 600;
            readings.insert((FIRST_LOGGER + logger, START_MS + n * 5 * MINUTE_MS), (200 + wave, 4_000 - wave));
        }
    }
    readings
}

fn hundredths(value: i64) -> String {
    format!("{}{}.{:02}", if value < 0 { "-" } else { "" }, value.abs() / 100, value.abs() % 100)
}

/// RFC 3339 of a time in whole minutes of the year 2024.
fn rfc3339(ms: i64) -> String {
    const DAYS: [i64; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    const YEAR_2024_MS: i64 = 1_704_067_200_000;
    let minutes = (ms - YEAR_2024_MS) / MINUTE_MS;
    let (mut day, mut month) = (minutes / 1440, 0);
    while day >= DAYS[month] {
        day -= DAYS[month];
        month += 1;
    }
    format!("2024-{:02}-{:02}T{:02}:{:02}:00Z", month + 1, day + 1, minutes % 1440 / 60, minutes % 60)
}

/// As a gateway's file, ordered by time as a gateway would have them.
pub(crate) fn csv(readings: &Readings) -> String {
    let mut by_time: Vec<_> = readings.iter().collect();
    by_time.sort_by_key(|((logger, time), _)| (*time, *logger));
    let mut text = String::from("time,logger,temperature,humidity\n");
    for ((logger, time), (temperature, humidity)) in by_time {
        writeln!(text, "{},{logger:016X},{},{}", rfc3339(*time), hundredths(*temperature), hundredths(*humidity))
            .expect("a string takes everything");
    }
    text
}

/// The file of these readings in this directory.
pub(crate) fn file(dir: &Path, name: &str, readings: &Readings) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, csv(readings)).expect("the file can be written");
    path
}

/// Reads an export back, and fails if a reading stands there twice or out of order.
#[track_caller]
pub(crate) fn parse_export(text: &str) -> Readings {
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().expect("a header").split(',').collect();
    let at = |name: &str| header.iter().position(|column| *column == name).unwrap_or_else(|| panic!("no {name}"));
    let (time, logger, temperature, humidity) = (at("time"), at("logger"), at("temperature"), at("humidity"));
    let mut readings = Readings::new();
    let mut last = None;
    for line in lines {
        let cells: Vec<_> = line.split(',').collect();
        let key = (u64::from_str_radix(cells[logger], 16).expect("a logger"), parse_rfc3339(cells[time]));
        assert!(last < Some(key), "out of order or twice: {line}");
        last = Some(key);
        readings.insert(key, (parse_hundredths(cells[temperature]), parse_hundredths(cells[humidity])));
    }
    readings
}

fn parse_hundredths(text: &str) -> i64 {
    let value: f64 = text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    let hundredths = (value * 100.0).round();
    assert!((hundredths / 100.0 - value).abs() < f64::EPSILON * 100.0, "{text} was not sent so");
    format!("{hundredths:.0}").parse().expect("a whole number")
}

fn parse_rfc3339(text: &str) -> i64 {
    let known = |a: usize, b: usize| -> i64 { text[a..b].parse().expect("digits") };
    assert!(text.starts_with("2024-") && text.ends_with('Z'), "{text} was not sent");
    let mut days = known(8, 10) - 1;
    for length in
        [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30].iter().take(usize::try_from(known(5, 7) - 1).expect("small"))
    {
        days += length;
    }
    1_704_067_200_000 + ((days * 24 + known(11, 13)) * 60 + known(14, 16)) * MINUTE_MS
}

#[test]
fn the_test_readings_survive_their_own_text() {
    let readings = fleet(3, 2_000);
    let text = csv(&readings);
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[1..].sort_by_key(|line| {
        let cells: Vec<_> = line.split(',').collect();
        (cells[1].to_owned(), cells[0].to_owned())
    });
    assert_eq!(parse_export(&lines.join("\n")), readings);
}
