//! Random statements over random readings, answered by icecore and by DuckDB: the answers must be the same.
//!
//! The readings have what real ones have: values that are missing, channels that came later, repeated readings with other
//! values, negative zeros, marks of broken sensors, clocks that change. DuckDB gets what the model of first-wins says.
//! Half of the statements are asked while some readings are in write buffers, the other half once all are merged into
//! segments with rollups.
//!
//! `DIFFERENTIAL_STATEMENTS=20000` asks more, `DIFFERENTIAL_SEED` others; a failure names the seed that asks it again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use engine::CompactScope;
use kit::{Reading, SplitMix64};
use query::Session;
use storage_format::Millis;

use crate::model::Model;
use crate::support::{House, ask, code, org, reading, time};

mod statements;

use statements::{DAYS, Statement, Statements, id};

const STATEMENTS: u64 = 1_500;

const SEED: u64 = 20_260_101;

/// How far floats may differ: DuckDB divides and converts once more.
const TOLERANCE: f64 = 1e-11;

/// A value of an answer.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Integer(i128),
    Float(f64),
    Text(String),
}

impl Value {
    fn near(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a == b || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()),
            // Functions of the two may differ in type where the value is whole.
            (Self::Float(float), Self::Integer(integer)) | (Self::Integer(integer), Self::Float(float)) => {
                float.to_string() == integer.to_string()
            }
            _ => self == other,
        }
    }

    /// For sorting: floats so coarse that near ones are nearly always the same.
    fn rank(&self) -> String {
        match self {
            Self::Null => "~".to_owned(),
            Self::Integer(integer) => format!("{:+.6e}", integer_as_float(*integer)),
            Self::Float(float) => format!("{:+.6e}", float + 0.0),
            Self::Text(text) => text.clone(),
        }
    }
}

fn integer_as_float(integer: i128) -> f64 {
    integer as f64
}

type Rows = Vec<Vec<Value>>;

/// DuckDB in a process of its own.
struct Duck {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Duck {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sql/differential/duck.py");
        let mut process = Command::new(kit::python())
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let to = process.stdin.take().expect("piped");
        let from = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, to, from }
    }

    fn load(&mut self, columns: &[&str], rows: &[String]) {
        let text = format!("load\t{}\n{}\n\n", columns.join(" "), rows.join("\n"));
        self.to.write_all(text.as_bytes()).expect("DuckDB runs");
    }

    fn ask(&mut self, statement: &str) -> Result<Rows, String> {
        self.to.write_all(format!("ask\t{statement}\n").as_bytes()).expect("DuckDB runs");
        self.to.flush().expect("DuckDB runs");
        let mut rows = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).expect("DuckDB runs") > 0, "DuckDB ended");
            let line = line.trim_end_matches('\n');
            if let Some(error) = line.strip_prefix('!') {
                return Err(error.to_owned());
            }
            if line.is_empty() {
                return Ok(rows);
            }
            rows.push(line.split('\t').map(duck_value).collect());
        }
    }
}

impl Drop for Duck {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn duck_value(cell: &str) -> Value {
    let (kind, text) = cell.split_at(1);
    match kind {
        "n" => Value::Null,
        "b" | "i" => Value::Integer(text.parse().expect("an integer")),
        "f" => Value::Float(text.parse().expect("a float")),
        _ => Value::Text(text.to_owned()),
    }
}

fn our_rows(batches: &[RecordBatch]) -> Rows {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|column| our_value(column.as_ref(), row)).collect());
        }
    }
    rows
}

fn our_value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Float64 => {
            let float = column.as_primitive::<Float64Type>().value(row);
            // There is none within SQL.
            let negative_zero = float == 0.0 && float.is_sign_negative();
            if negative_zero { Value::Text("-0.0".to_owned()) } else { Value::Float(float) }
        }
        DataType::Int64 => Value::Integer(column.as_primitive::<Int64Type>().value(row).into()),
        DataType::Int32 => Value::Integer(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::UInt64 => Value::Integer(column.as_primitive::<UInt64Type>().value(row).into()),
        DataType::Boolean => Value::Integer(i128::from(column.as_boolean().value(row))),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Value::Integer(column.as_primitive::<TimestampMillisecondType>().value(row).into())
        }
        _ => {
            let shown = ArrayFormatter::try_new(column, &FormatOptions::default()).expect("can be shown");
            Value::Text(shown.value(row).to_string())
        }
    }
}

fn near(one: &[Value], other: &[Value]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.near(other))
}

/// Why two answers are not the same.
fn difference(ordered: bool, mut ours: Rows, mut duck: Rows) -> Option<String> {
    if ours.len() != duck.len() {
        return Some(format!("{} rows here, {} there", ours.len(), duck.len()));
    }
    if !ordered {
        let rank = |row: &Vec<Value>| row.iter().map(Value::rank).collect::<Vec<_>>();
        ours.sort_by_cached_key(rank);
        duck.sort_by_cached_key(rank);
    }
    if ours.iter().zip(&duck).all(|(one, other)| near(one, other)) {
        return None;
    }
    if !ordered {
        // Values at the edge of a rank can sort otherwise.
        ours.retain(|one| match duck.iter().position(|other| near(one, other)) {
            Some(at) => {
                duck.swap_remove(at);
                false
            }
            None => true,
        });
        if ours.is_empty() {
            return None;
        }
    }
    let unlike = ours.iter().zip(&duck).find(|(one, other)| !near(one, other));
    Some(format!("for example here and there: {unlike:?}"))
}

/// Readings of five loggers around changes of clocks, in frames of which some are flushed.
async fn readings(random: &mut SplitMix64) -> (House, Model) {
    let (house, mut model) = (House::open(&[org(1)]).await, Model::default());
    let mut keys = Vec::new();
    for day in DAYS {
        let start = time(&format!("{day}T00:00:00Z")).get() - 43_200_000;
        for _ in 0..150 {
            let at = start + i64::try_from(random.below(48 * 6)).expect("small") * 600_000;
            keys.push((random.below(5) + 1, Millis::new(at).expect("in range")));
        }
    }
    for frame in 0..12_u32 {
        // A frame has a reading once.
        let mut in_frame = BTreeSet::new();
        let mut batch: Vec<Reading> = Vec::new();
        for _ in 0..150 {
            let (logger, at) = random.pick(&keys);
            let samples = samples(random, frame);
            if !samples.is_empty() && in_frame.insert((logger, at)) {
                batch.push(reading(logger, at, samples));
            }
        }
        let received = format!("2024-12-{:02}T00:00:00Z", frame + 1);
        house.send_both(&mut model, org(1), u64::from(frame % 3) + 1, &received, &batch).await;
        if frame % 4 == 2 {
            house.flush(org(1)).await;
        }
    }
    (house, model)
}

/// Humidity and battery come in later frames, so that they fill readings that are there.
fn samples(random: &mut SplitMix64, frame: u32) -> Vec<(storage_format::ChannelCode, f64)> {
    let sixteenths = |number: u64, offset: i32| f64::from(i32::try_from(number).expect("small") - offset) / 16.0;
    let mut samples = Vec::new();
    if random.chance(700) {
        let value = match random.below(40) {
            0..=2 => -0.0,
            3 => 0.0,
            4 => -999.0,
            // The mark of a broken sensor of some make; a power of two, so that sums of it are exact.
            5 => 2.0_f64.powi(110),
            _ => sixteenths(random.below(80), 40),
        };
        samples.push((code("temperature"), value));
    }
    if frame > 2 && random.chance(600) {
        samples.push((code("humidity"), sixteenths(random.below(64), 0) * 4.0));
    }
    if frame > 6 && random.chance(300) {
        samples.push((code("battery"), random.pick(&[3.0, 3.25, 3.5, -0.0, 0.0])));
    }
    samples
}

/// The rows of the model for DuckDB: NULL as nothing.
fn rows_of(model: &Model, columns: &[&str]) -> Vec<String> {
    let row = |((logger, time), row): (&kit::Key, &kit::Row)| {
        let mut line = format!("{}\t{}", logger.get(), time.get());
        for column in &columns[2..] {
            let value = row.values.get(&code(column)).map_or(String::new(), |value| format!("{value:?}"));
            write!(line, "\t{value}").expect("a text");
        }
        line
    };
    model.rows().map(row).collect()
}

async fn compare(session: &Session, duck: &mut Duck, statement: &Statement) -> Option<String> {
    let theirs = match duck.ask(&statement.sql.duck) {
        Ok(rows) => rows,
        Err(error) => return Some(format!("DuckDB: {error}")),
    };
    match ask(session, &statement.sql.ours).await {
        Ok(batches) => difference(statement.ordered, our_rows(&batches), theirs),
        Err(error) => Some(format!("icecore: {error}")),
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_duckdb() {
    let seed = from_environment("DIFFERENTIAL_SEED", SEED);
    let count = from_environment("DIFFERENTIAL_STATEMENTS", STATEMENTS);
    let (house, model) = readings(&mut SplitMix64::new(seed)).await;
    let columns = ["logger", "time", "temperature", "humidity", "battery"];
    let mut duck = Duck::start();
    duck.load(&columns, &rows_of(&model, &columns));
    let session = house.session(org(1));
    assert!(model.rows().count() > 500 && id(1) > 0);

    let mut differences = Vec::new();
    for number in 0..count {
        if number == count / 2 {
            house.flush(org(1)).await;
            house.engine.compact(CompactScope::Org(org(1)), &|_| ()).await.expect("merges");
            let manifest = house.engine.snapshot(org(1)).await.expect("a snapshot").manifest;
            assert_eq!(manifest.rollups().len(), 2 * manifest.segments().len());
        }
        // Each with a seed of its own, so that one can be asked alone.
        let statement_seed = seed.wrapping_add(number);
        let statement = Statements::new(statement_seed).next();
        if let Some(difference) = compare(&session, &mut duck, &statement).await {
            let (ours, theirs) = (&statement.sql.ours, &statement.sql.duck);
            differences.push(format!("{statement_seed}: {difference}\n  {ours}\n  {theirs}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {count} statements differ (DIFFERENTIAL_SEED={seed}):\n{}",
        differences.len(),
        differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    );
}
