//! Random questions over random readings, answered from rollups and from rows: the answers must be the same.
//!
//! The readings have what the choice of what to read depends on: several segments, values that are filled in later, late
//! readings in the write buffers, gaps, months' ends, clocks that change, channels without values, negative zeros. The
//! questions are those that rollups can answer, and some that they cannot.
//!
//! `ROLLUP_QUESTIONS=5000` asks more, `ROLLUP_SEED` others; a failure names the seed that asks it again.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{FieldRef, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use engine::CompactScope;
use kit::{Reading, SplitMix64};
use query::Session;
use storage_format::Millis;

use crate::cases::with_rollups;
use crate::support::{House, answer, ask, climate, code, logger, org, reading, time};

const WORLDS: u64 = 6;
const QUESTIONS: u64 = 12;
const SEED: u64 = 20_261_127;

/// Difference that sums and averages may have, as a part of the sum of the absolute values.
const TOLERANCE: f64 = 1e-12;

/// What the absolute values of a group add up to, about.
const SUM_OF_PARTS: f64 = 1e3;

/// What names of columns begin with whose values may have the difference. All others are the same bit by bit.
const ROUNDED: &str = "rounded";

const HOUR: i64 = 3_600_000;

/// Days around which the readings are: the end of a month and of a year, clocks that change in Berlin, Adelaide (by half
/// hours from UTC) and St John's (where they did at one minute past midnight).
const AROUND: [&str; 6] = [
    "2023-12-31T12:00:00Z",
    "2024-01-31T22:00:00Z",
    "2024-03-30T18:00:00Z",
    "2024-04-06T10:00:00Z",
    "2006-04-01T20:00:00Z",
    "2024-10-26T20:00:00Z",
];

const ZONES: [&str; 6] =
    ["Europe/Berlin", "Australia/Adelaide", "Asia/Kathmandu", "America/St_Johns", "America/Sao_Paulo", "+02:00"];

fn drawn_readings(random: &mut SplitMix64) -> Vec<Reading> {
    let start = time(random.pick(&AROUND)).get() + i64::try_from(random.below(40)).expect("few") * HOUR;
    let step = random.pick(&[300_000, 900_000, 1_800_000, 7_000_000]);
    // Values whose sums are beyond all doubles.
    let huge = if random.chance(200) { 20 } else { 0 };
    let mut readings = Vec::new();
    for id in 1..=4 {
        if random.chance(300) {
            continue;
        }
        let mut at = start + i64::try_from(random.below(3_600_000)).expect("few") * i64::from(random.chance(300));
        for _ in 0..1 + random.below(220) {
            at += step;
            // A gap of a day, an hour, or one reading.
            if random.chance(15) {
                at += random.pick(&[26 * HOUR, HOUR, step]);
            }
            let quarters = f64::from(u32::try_from(random.below(400)).expect("few")) / 4.0 - 50.0;
            let humidity = if random.chance(50) { -0.0 } else { quarters };
            let temperature = 1.0 + f64::from(u32::try_from(random.below(4_000)).expect("few")) / 100.0;
            let temperature = if random.chance(huge) { 1.7e308 } else { temperature };
            let mut samples = climate(temperature, humidity);
            if random.chance(200) {
                samples.remove(usize::try_from(random.below(2)).expect("few"));
            }
            if id == 2 && random.chance(500) {
                samples = vec![(code("battery"), 3.5)];
            }
            readings.push(reading(id, Millis::new(at).expect("in range"), samples));
        }
    }
    readings
}

/// Readings sent before with other channels, other values, or beside them.
fn late(random: &mut SplitMix64, sent: &[Reading]) -> Vec<Reading> {
    let mut late: Vec<Reading> = Vec::new();
    for known in sent {
        if !random.chance(30) {
            continue;
        }
        let moved = known.time.get() + random.pick(&[0, 0, 61_000, -61_000, 25 * HOUR]);
        let samples = match random.below(3) {
            0 => vec![(code("battery"), 3.25)],
            1 => climate(99.5, -99.25),
            _ => vec![(code("humidity"), 77.5)],
        };
        let again = Reading { logger: known.logger, time: Millis::new(moved).expect("in range"), samples };
        if late.iter().all(|other| (other.logger, other.time) != (again.logger, again.time)) {
            late.push(again);
        }
    }
    late
}

async fn world(random: &mut SplitMix64) -> House {
    let house = House::open(&[org(1)]).await;
    let mut sent: Vec<Reading> = Vec::new();
    for _ in 0..2 + random.below(6) {
        let mut readings =
            if sent.is_empty() || random.chance(700) { drawn_readings(random) } else { late(random, &sent) };
        readings.sort_by_key(|reading| (reading.logger, reading.time));
        if !readings.is_empty() {
            house.send(org(1), 1, "2024-12-01T00:00:00Z", &readings).await;
            sent.extend(readings);
        }
        if random.chance(700) {
            house.flush(org(1)).await;
            if random.chance(700) {
                house.engine.compact(CompactScope::Org(org(1)), &|_| ()).await.expect("merges");
            }
        }
    }
    house
}

fn bucket(random: &mut SplitMix64) -> String {
    let unit = random.pick(&["hour", "day", "day", "week", "month", "quarter", "year", "minute"]);
    match random.below(8) {
        0..=2 => format!("date_trunc('{unit}', time)"),
        3..=5 => format!("date_trunc('{unit}', time AT TIME ZONE '{}')", random.pick(&ZONES)),
        6 => {
            let interval = random.pick(&["1 hour", "1 day", "6 hours", "7 days", "90 minutes", "1 month", "3 hours"]);
            match random.below(3) {
                0 => format!("date_bin(INTERVAL '{interval}', time, TIMESTAMP '2024-01-01T05:30:00Z')"),
                _ => format!("date_bin(INTERVAL '{interval}', time)"),
            }
        }
        _ => format!("date_part('month', date_trunc('day', time AT TIME ZONE '{}'))", random.pick(&ZONES)),
    }
}

fn aggregate(random: &mut SplitMix64) -> String {
    let channel = random.pick(&["temperature", "humidity", "battery", "co2"]);
    match random.below(15) {
        0 | 1 => "count(*)".to_owned(),
        2 => format!("count({channel})"),
        3 => format!("min({channel})"),
        4 => format!("max({channel})"),
        5 | 6 => format!("sum({channel})"),
        7 | 8 => format!("avg({channel})"),
        9 => format!("max({channel}) - min({channel})"),
        10 => format!("count({channel}) FILTER (WHERE logger >= eui64('00124B0000000002'))"),
        11 => format!("avg({channel}) FILTER (WHERE time < '{}')", instant(random)),
        12 => random.pick(&["min(time)", "max(time)", "max(logger)", "count(time)"]).to_owned(),
        13 => format!("sum({channel}) FILTER (WHERE {channel} > 20)"),
        _ => format!("count(DISTINCT {channel})"),
    }
}

fn end(random: &mut SplitMix64) -> String {
    let channel = random.pick(&["temperature", "humidity", "battery", "co2"]);
    let (function, order) = (random.pick(&["first_value", "last_value"]), random.pick(&["", " DESC"]));
    let nulls = random.pick(&["", "", " IGNORE NULLS"]);
    format!("{function}({channel} ORDER BY time{order}){nulls}")
}

fn instant(random: &mut SplitMix64) -> Millis {
    let moved = i64::try_from(random.below(200)).expect("few") * HOUR;
    let odd = random.pick(&[0, 0, 1, 1_800_000, 1_234_567]);
    Millis::new(time(random.pick(&AROUND)).get() - 48 * HOUR + moved + odd).expect("in range")
}

fn filters(random: &mut SplitMix64) -> String {
    let mut filters = Vec::new();
    if random.chance(500) {
        let (one, other) = (instant(random), instant(random));
        let (from, to) = (one.min(other), one.max(other));
        filters.push(match random.below(8) {
            0 => format!("time >= '{from}'"),
            1 => format!("time BETWEEN '{from}' AND '{to}'"),
            2 => format!("time > '{from}' AND time <= '{to}'"),
            3 => format!("(time < '{from}' OR time >= '{to}')"),
            4 => format!("(time < '{from}' OR logger = {})", logger(1).get()),
            5 => format!("time{} IN ('{from}', '{to}')", random.pick(&["", " NOT"])),
            _ => format!("time >= '{from}' AND time < '{to}'"),
        });
    }
    if random.chance(50) {
        filters.push(
            "date_trunc('day', time AT TIME ZONE 'Europe/Berlin') <> TIMESTAMP '2024-01-31T23:00:00Z'".to_owned(),
        );
    }
    if random.chance(300) {
        filters.push(match random.below(4) {
            0 => format!("logger = {}", logger(2).get()),
            1 => format!("logger IN ({}, {})", logger(1).get(), logger(4).get()),
            2 => format!("logger <> {}", logger(3).get()),
            _ => format!("logger % 2 = {}", random.below(2)),
        });
    }
    if random.chance(30) {
        filters.push("humidity > 0".to_owned());
    }
    if filters.is_empty() { String::new() } else { format!(" WHERE {}", filters.join(" AND ")) }
}

fn question(random: &mut SplitMix64) -> String {
    let by_logger = random.chance(500);
    let mut groups: Vec<String> = if by_logger { vec!["logger".to_owned()] } else { Vec::new() };
    for _ in 0..random.pick(&[0, 1, 1, 1, 1, 2]) {
        groups.push(bucket(random));
    }
    let mut columns: Vec<String> = groups.clone();
    for _ in 0..1 + random.below(5) {
        columns.push(if by_logger && random.chance(300) { end(random) } else { aggregate(random) });
    }
    let is_rounded = |column: &String| column.contains("sum(") || column.contains("avg(");
    let name = |column| if is_rounded(column) { ROUNDED } else { "c" };
    let columns = columns.iter().enumerate().map(|(i, column)| format!("{column} AS {}{i}", name(column)));
    let columns: Vec<String> = columns.collect();
    let mut by = if groups.is_empty() { String::new() } else { format!(" GROUP BY {}", groups.join(", ")) };
    if random.chance(150) {
        by += " HAVING ";
        by += random.pick(&["count(*) > 3", "max(temperature) > 20", "min(time) < '2024-03-01' OR count(battery) = 0"]);
    }
    match random.below(12) {
        0 => format!(
            "SELECT DISTINCT ON (logger) logger AS l, time AS t, temperature AS c, humidity AS h FROM readings{} ORDER BY logger, time{}",
            filters(random),
            random.pick(&["", " DESC"])
        ),
        1 => format!(
            "SELECT count(*) AS n, sum(n) AS c FROM (SELECT {}{by}) AS q",
            columns.join(", ") + ", count(*) AS n FROM readings" + &filters(random)
        ),
        2 => {
            let bucket = bucket(random);
            format!(
                "SELECT d AS d, avg(t) AS {ROUNDED}, count(*) AS n FROM (SELECT {bucket} AS d, temperature AS t, logger AS l FROM readings{}) AS q GROUP BY d",
                filters(random)
            )
        }
        _ => format!("SELECT {} FROM readings{}{by}", columns.join(", "), filters(random)),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Rounded(f64),
    Other(String),
}

impl Value {
    fn near(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rounded(one), Self::Rounded(other)) => {
                let greatest = one.abs().max(other.abs()).max(SUM_OF_PARTS);
                one.to_bits() == other.to_bits() || (one - other).abs() <= TOLERANCE * greatest
            }
            _ => self == other,
        }
    }
}

fn rows(batches: &[RecordBatch]) -> Vec<Vec<Value>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            let value = |(column, field): (&ArrayRef, &FieldRef)| {
                if field.name().starts_with(ROUNDED)
                    && let Some(floats) = column.as_primitive_opt::<Float64Type>()
                    && floats.is_valid(row)
                {
                    return Value::Rounded(floats.value(row));
                }
                // Floats are shown with as many digits as tell them apart, zeros with their sign.
                let text = ArrayFormatter::try_new(column.as_ref(), &options).expect("can be shown");
                Value::Other(text.value(row).to_string())
            };
            rows.push(batch.columns().iter().zip(schema.fields()).map(value).collect());
        }
    }
    // In an order that does not depend on the last digits.
    let rank = |row: &Vec<Value>| -> Vec<String> {
        let text = |value: &Value| match value {
            Value::Rounded(float) => format!("{:+.6e}", float + 0.0),
            Value::Other(text) => text.clone(),
        };
        row.iter().map(text).collect()
    };
    rows.sort_by_key(rank);
    rows
}

/// Returns whether rollups were used.
async fn compare(rollups: &Session, readings: &Session, sql: &str, seed: u64) -> bool {
    let (one, other) = (ask(rollups, sql).await, ask(readings, sql).await);
    let explained = answer(rollups, &format!("EXPLAIN {sql}")).await.join("\n");
    match (one, other) {
        (Ok(one), Ok(other)) => {
            if let (Some(one), Some(other)) = (one.first(), other.first()) {
                assert_eq!(one.schema(), other.schema(), "seed {seed}: {sql}\n{explained}");
            }
            let (one, other) = (rows(&one), rows(&other));
            let same = one.len() == other.len()
                && one.iter().zip(&other).all(|(a, b)| a.iter().zip(b).all(|(a, b)| a.near(b)));
            if !same {
                let pairs = one.iter().zip(&other).filter(|(a, b)| !a.iter().zip(b.iter()).all(|(a, b)| a.near(b)));
                let differing: Vec<_> = pairs.take(5).collect();
                panic!("seed {seed}: {sql}\n{} and {} rows\n{differing:#?}\n{explained}", one.len(), other.len());
            }
        }
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string(), "seed {seed}: {sql}"),
        (one, other) => panic!("seed {seed}: {sql}\n{:?}\n{:?}\n{explained}", one.err(), other.err()),
    }
    explained.contains("RollupExec")
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollups_answer_as_rows_do() {
    let (questions, first) = (setting("ROLLUP_QUESTIONS", QUESTIONS), setting("ROLLUP_SEED", SEED));
    let (mut asked, mut from_rollups) = (0, 0);
    for number in 0..WORLDS {
        let seed = first + number;
        let mut random = SplitMix64::new(seed);
        let house = world(&mut random).await;
        let rollups = house.session(org(1));
        let readings = rollups.clone().without_rollups();
        for _ in 0..questions {
            let sql = question(&mut random);
            asked += 1;
            from_rollups += u64::from(compare(&rollups, &readings, &sql, seed).await);
        }
        house.engine.close().await.expect("closes");
    }
    assert!(from_rollups * 5 > asked, "{from_rollups} of {asked} were answered from rollups");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_show_what_is_read() {
    let session = with_rollups().await.session(org(1));
    let whole_days = "RollupExec: daily=1, hourly=0";
    for (sql, sign, other) in [
        ("SELECT count(*), max(time) FROM readings", "PlaceholderRowExec", "RollupExec"),
        (
            "SELECT count(*) FILTER (WHERE logger = eui64('00124B0000000002')) FROM readings",
            whole_days,
            "DataSourceExec",
        ),
        (
            "SELECT logger, date_trunc('day', time) AS day, avg(temperature) FROM readings GROUP BY logger, day \
             HAVING avg(temperature) > 3",
            whole_days,
            "DataSourceExec",
        ),
        (
            "SELECT date_trunc('day', time AT TIME ZONE 'Europe/Berlin') AS day, max(humidity) FROM readings GROUP BY day",
            "RollupExec: daily=0, hourly=1",
            "KeysExec",
        ),
        (
            "SELECT count(*) FROM readings WHERE time < '2024-01-01T06:00:00Z' OR time >= '2024-01-02T00:00:00Z'",
            "RollupExec: daily=1, hourly=1",
            "KeysExec",
        ),
        (
            "SELECT count(*) FROM readings WHERE time NOT IN ('2024-01-01T06:00:00Z', '2024-01-01T07:00:00Z')",
            "KeysExec: segments=1",
            "FirstWinsMergeExec",
        ),
        ("SELECT date_trunc('minute', time) AS m, count(*) FROM readings GROUP BY m", "DataSourceExec", "RollupExec"),
        ("SELECT avg(humidity) FROM readings WHERE temperature > 3", "DataSourceExec", "RollupExec"),
        ("SELECT count(DISTINCT temperature) FROM readings", "DataSourceExec", "RollupExec"),
        ("SELECT stddev(temperature) FROM readings", "DataSourceExec", "RollupExec"),
    ] {
        let plan = answer(&session, &format!("EXPLAIN {sql}")).await.join("\n");
        assert!(plan.contains(sign) && !plan.contains(other), "{sql}: {sign}, without {other}: {plan}");
    }
}
