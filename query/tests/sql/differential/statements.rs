//! Random statements, each in the words of icecore and in those of DuckDB.
//!
//! Numbers are multiples of a sixteenth: so DuckDB can sum them exactly, as integers, and its sums do not depend on the
//! order of rows either.

use kit::SplitMix64;

/// A piece of a statement.
#[derive(Debug, Clone)]
pub(super) struct Sql {
    pub(super) ours: String,
    pub(super) duck: String,
}

/// A statement, and whether the order of its rows counts.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: Sql,
    pub(super) ordered: bool,
}

fn same(text: impl Into<String>) -> Sql {
    let text = text.into();
    Sql { duck: text.clone(), ours: text }
}

fn two(ours: impl Into<String>, duck: impl Into<String>) -> Sql {
    Sql { ours: ours.into(), duck: duck.into() }
}

/// The template with the parts in place of `{}`, from left to right.
fn fill(template: &str, parts: &[&Sql]) -> Sql {
    let one = |of: fn(&Sql) -> &str| {
        let mut text = String::new();
        let mut rest = parts.iter();
        for (index, piece) in template.split("{}").enumerate() {
            if index > 0 {
                text.push_str(of(rest.next().unwrap_or_else(|| panic!("{template}: too few parts"))));
            }
            text.push_str(piece);
        }
        assert!(rest.next().is_none(), "{template}: too many parts");
        text
    };
    Sql { ours: one(|part| &part.ours), duck: one(|part| &part.duck) }
}

/// Zones with midnights that come twice or never, with halves of hours, and plain ones.
pub(super) const ZONES: [&str; 12] = [
    "UTC",
    "Europe/Berlin",
    "Atlantic/Azores",
    "America/Havana",
    "Africa/Cairo",
    "America/Santiago",
    "Asia/Beirut",
    "America/Asuncion",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/New_York",
    "Pacific/Auckland",
];

/// Days, at UTC, around changes of clocks in those zones. See `differential.rs` for the readings.
pub(super) const DAYS: [&str; 8] =
    ["2024-03-10", "2024-03-31", "2024-04-06", "2024-04-26", "2024-09-08", "2024-10-06", "2024-10-27", "2024-11-03"];

const COLUMNS: [&str; 3] = ["temperature", "humidity", "battery"];

/// Draws statements from a seed.
pub(super) struct Statements {
    random: SplitMix64,
    /// The name that columns are qualified with, as `a.`, or nothing.
    table: &'static str,
}

impl Statements {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: SplitMix64::new(seed), table: "" }
    }

    pub(super) fn next(&mut self) -> Statement {
        self.table = "";
        match self.random.below(11) {
            0..=2 => self.grouped(),
            3 => self.whole(),
            4..=5 => self.windows(),
            6 => self.ordered(),
            7 => self.joined(),
            8 => self.sets(),
            9 => self.by_periods(),
            _ => self.subqueries(),
        }
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.random.below(of) == 0
    }

    fn column(&mut self) -> Sql {
        let column = self.random.pick(&COLUMNS);
        same(format!("{}{column}", self.table))
    }

    fn literal(&mut self) -> Sql {
        let text = self.random.pick(&["0.0", "-0.0", "0.25", "1.0", "-1.0", "2.0", "0.5", "-999.0", "40.0", "3.0"]);
        two(text, format!("'{text}'::DOUBLE"))
    }

    /// A number: a multiple of a sixteenth, or NULL.
    fn number(&mut self, depth: u32) -> Sql {
        if depth == 0 {
            return if self.one_in(6) { self.literal() } else { self.column() };
        }
        let one = self.number(depth - 1);
        match self.random.below(16) {
            0..=3 => fill("round({})", &[&one]),
            4 => fill("floor({})", &[&one]),
            5 => fill("ceil({})", &[&one]),
            6 => fill("abs({})", &[&one]),
            7 => fill("(- {})", &[&one]),
            8 => fill("({} * {})", &[&one, &two("0.0", "0.0::DOUBLE")]),
            9 => fill("({} * {})", &[&one, &two("-2.0", "(-2.0)::DOUBLE")]),
            10 => fill("({} + {})", &[&one, &self.number(0)]),
            11 => fill("({} - {})", &[&one, &self.number(0)]),
            12 => fill("nullif({}, {})", &[&one, &self.literal()]),
            13 => fill("coalesce({}, {})", &[&one, &self.number(0)]),
            14 => fill("CASE WHEN {} THEN {} ELSE {} END", &[&self.condition(0), &one, &self.number(0)]),
            _ => {
                let (first, second) = (self.literal(), self.literal());
                let results = [self.literal(), self.literal(), self.literal()];
                fill(
                    "CASE {} WHEN {} THEN {} WHEN {} THEN {} ELSE {} END",
                    &[&one, &first, &results[0], &second, &results[1], &results[2]],
                )
            }
        }
    }

    fn any_number(&mut self) -> Sql {
        let depth = u32::try_from(self.random.below(3)).expect("small");
        self.number(depth)
    }

    fn literals(&mut self) -> Sql {
        let mut list = self.literal();
        for _ in 0..self.random.below(4) {
            list = fill("{}, {}", &[&list, &self.literal()]);
        }
        list
    }

    fn condition(&mut self, depth: u32) -> Sql {
        if depth > 0 && self.one_in(2) {
            let (one, other) = (self.condition(depth - 1), self.condition(depth - 1));
            return match self.random.below(5) {
                0..=1 => fill("({} AND {})", &[&one, &other]),
                2..=3 => fill("({} OR {})", &[&one, &other]),
                _ => fill("(NOT {})", &[&one]),
            };
        }
        let depth = depth.min(1);
        match self.random.below(12) {
            0..=2 => {
                let comparison = self.random.pick(&["=", "<>", "<", "<=", ">", ">="]);
                fill(&format!("({{}} {comparison} {{}})"), &[&self.number(depth), &self.number(0)])
            }
            3 => fill("({} IN ({}))", &[&self.number(depth), &self.literals()]),
            4 => fill("({} NOT IN ({}))", &[&self.number(depth), &self.literals()]),
            5 => fill("({} BETWEEN {} AND {})", &[&self.number(depth), &self.literal(), &self.literal()]),
            6 => {
                let not = self.random.pick(&["", "NOT "]);
                fill(&format!("({{}} IS {not}DISTINCT FROM {{}})"), &[&self.number(depth), &self.number(0)])
            }
            7 => fill(self.random.pick(&["({} IS NULL)", "({} IS NOT NULL)"]), &[&self.number(depth)]),
            8 => self.of_loggers(),
            9 => self.between_times(),
            _ => self.local_bound(),
        }
    }

    fn of_loggers(&mut self) -> Sql {
        let (table, not) = (self.table, self.random.pick(&["", "NOT "]));
        let (first, second) = (self.random.below(5) + 1, self.random.below(5) + 1);
        same(format!("({table}logger {not}IN ({}, {}))", id(first), id(second)))
    }

    fn between_times(&mut self) -> Sql {
        let table = self.table;
        let bound = |random: &mut SplitMix64| match random.below(8) {
            0 => "0001-01-01".to_owned(),
            1 => "9999-12-31".to_owned(),
            2 => format!("{} {:02}:{}0:00", random.pick(&DAYS), random.below(24), random.below(6)),
            3 => format!("{} 00:00:00", random.pick(&DAYS)),
            _ => random.pick(&DAYS).to_owned(),
        };
        let (first, second) = (bound(&mut self.random), bound(&mut self.random));
        let comparison = self.random.pick(&["<", "<=", ">", ">="]);
        match self.random.below(3) {
            0 => same(format!("({table}time BETWEEN '{first}' AND '{second}')")),
            1 => same(format!("({table}time {comparison} '{first}')")),
            _ => two(
                format!("({table}time {comparison} TIMESTAMP '{first}')"),
                format!("({table}time {comparison} '{first}'::TIMESTAMPTZ)"),
            ),
        }
    }

    /// Local midnights only: of other times that come twice, DuckDB's comparison of local times means another instant.
    fn local_bound(&mut self) -> Sql {
        let (table, zone, day) = (self.table, self.random.pick(&ZONES), self.random.pick(&DAYS));
        let comparison = self.random.pick(&["<", ">="]);
        two(
            format!("({table}time AT TIME ZONE '{zone}' {comparison} '{day}')"),
            format!("(timezone('{zone}', {table}time) {comparison} TIMESTAMP '{day}')"),
        )
    }

    /// What rows are grouped or partitioned by. A zoned hour or day is no column of the answer: DuckDB has no value that
    /// would be the same.
    fn key(&mut self) -> Sql {
        self.key_of_kind(9)
    }

    /// A key of the first kinds: below 6, loggers and periods.
    fn key_of_kind(&mut self, below: u64) -> Sql {
        let (table, zone) = (self.table, self.random.pick(&ZONES));
        match self.random.below(below) {
            0..=1 => same(format!("{table}logger")),
            2..=3 => {
                let unit = self.random.pick(&["day", "day", "week", "month", "quarter", "year"]);
                two(
                    format!("date_trunc('{unit}', {table}time AT TIME ZONE '{zone}')"),
                    format!("date_trunc('{unit}', timezone('{zone}', {table}time))"),
                )
            }
            4 => two(
                format!("date_trunc('hour', {table}time AT TIME ZONE '{zone}')"),
                format!(
                    "(date_trunc('hour', timezone('{zone}', {table}time)), timezone('{zone}', {table}time) - \
                     timezone('UTC', {table}time))"
                ),
            ),
            5 => {
                let minutes = self.random.pick(&["15", "60", "90", "1440"]);
                two(
                    format!("date_bin(interval '{minutes} minutes', {table}time)"),
                    format!("(epoch_ms({table}time) // ({minutes} * 60000))"),
                )
            }
            6 => {
                let part = self.random.pick(&["hour", "minute", "dow", "doy", "month", "day"]);
                two(
                    format!("extract({part} FROM {table}time AT TIME ZONE '{zone}')"),
                    format!("extract({part} FROM timezone('{zone}', {table}time))"),
                )
            }
            7 => two(
                format!("CAST({table}time AT TIME ZONE '{zone}' AS DATE)"),
                format!("CAST(timezone('{zone}', {table}time) AS DATE)"),
            ),
            _ => self.number(1),
        }
    }

    /// A sum, exact in DuckDB, too.
    fn sum(&mut self, of: &Sql, distinct: &str, over: &str) -> Sql {
        let duck = format!("CAST(sum({distinct}CAST({} * 16 AS HUGEINT)){over} AS DOUBLE) / 16", of.duck);
        two(format!("sum({distinct}{}){over}", of.ours), duck)
    }

    fn average(&mut self, of: &Sql, over: &str) -> Sql {
        let sum = self.sum(of, "", over);
        two(format!("avg({}){over}", of.ours), format!("{} / count({}){over}", sum.duck, of.duck))
    }

    fn aggregate(&mut self) -> Sql {
        let of = self.any_number();
        let filter = if self.one_in(5) { Some(self.condition(0)) } else { None };
        if let Some(filter) = filter {
            return match self.random.below(3) {
                0 => fill("count(*) FILTER (WHERE {})", &[&filter]),
                1 => fill("max({}) FILTER (WHERE {})", &[&of, &filter]),
                _ => fill("count(DISTINCT {}) FILTER (WHERE {})", &[&of, &filter]),
            };
        }
        match self.random.below(13) {
            0 => same("count(*)"),
            1 => fill("count({})", &[&of]),
            2..=3 => fill("count(DISTINCT {})", &[&of]),
            4..=5 => self.sum(&of, "", ""),
            6 => self.sum(&of, "DISTINCT ", ""),
            7..=8 => self.average(&of, ""),
            9 => fill("min({})", &[&of]),
            10 => fill("max({})", &[&of]),
            11 => {
                let table = self.table;
                let which = self.random.pick(&["min", "max"]);
                two(format!("{which}({table}time)"), format!("epoch_ms({which}({table}time))"))
            }
            _ => fill(self.random.pick(&["bool_or({})", "bool_and({})"]), &[&self.condition(0)]),
        }
    }

    fn aggregates(&mut self) -> Sql {
        let mut list = fill("{} AS a0", &[&self.aggregate()]);
        for number in 0..self.random.below(4) {
            list = fill(&format!("{{}}, {{}} AS a{}", number + 1), &[&list, &self.aggregate()]);
        }
        list
    }

    /// `WHERE …`, or nothing.
    fn filter(&mut self) -> Sql {
        if self.one_in(3) { same("") } else { fill(" WHERE {}", &[&self.condition(2)]) }
    }

    fn grouped(&mut self) -> Statement {
        let mut keys = self.key();
        if self.one_in(2) {
            keys = fill("{}, {}", &[&keys, &self.key()]);
        }
        let (list, filter) = (self.aggregates(), self.filter());
        let having = if self.one_in(4) { same(" HAVING count(*) > 2") } else { same("") };
        let sql = fill("SELECT {} FROM readings{} GROUP BY {}{}", &[&list, &filter, &keys, &having]);
        Statement { sql, ordered: false }
    }

    /// Aggregates of columns, of whole periods and loggers: rollups know them.
    fn by_periods(&mut self) -> Statement {
        let mut list = same("count(*) AS a0");
        for number in 1..=1 + self.random.below(3) {
            let of = self.column();
            let aggregate = match self.random.below(6) {
                0 => fill("count({})", &[&of]),
                1 => fill("min({})", &[&of]),
                2 => fill("max({})", &[&of]),
                3 => self.sum(&of, "", ""),
                4 => self.average(&of, ""),
                _ => two("max(time)", "epoch_ms(max(time))"),
            };
            // Of others, DuckDB's is no call of an aggregate.
            let is_call = ["count", "min", "max"].iter().any(|name| aggregate.duck.starts_with(name));
            let aggregate = if is_call && self.one_in(4) {
                fill("{} FILTER (WHERE {})", &[&aggregate, &self.of_keys()])
            } else {
                aggregate
            };
            list = fill(&format!("{{}}, {{}} AS a{number}"), &[&list, &aggregate]);
        }
        let filter = if self.one_in(2) { same("") } else { fill(" WHERE {}", &[&self.of_keys()]) };
        let keys = match self.random.below(4) {
            0 => same(""),
            1 => fill(" GROUP BY {}, {}", &[&self.key_of_kind(6), &self.key_of_kind(6)]),
            _ => fill(" GROUP BY {}", &[&self.key_of_kind(6)]),
        };
        Statement { sql: fill("SELECT {} FROM readings{}{}", &[&list, &filter, &keys]), ordered: false }
    }

    /// A condition of loggers and times.
    fn of_keys(&mut self) -> Sql {
        let [first, second] = [(); 2].map(|()| match self.random.below(4) {
            0 => self.of_loggers(),
            1 => self.local_bound(),
            _ => self.between_times(),
        });
        fill(self.random.pick(&["{} AND {}", "({} OR {})", "(NOT {}) AND {}"]), &[&first, &second])
    }

    fn whole(&mut self) -> Statement {
        if self.one_in(3) {
            let (one, other) = (self.any_number(), self.any_number());
            let sql = fill("SELECT DISTINCT {} AS x, {} AS y FROM readings{}", &[&one, &other, &self.filter()]);
            return Statement { sql, ordered: false };
        }
        let sql = fill("SELECT {} FROM readings{}", &[&self.aggregates(), &self.filter()]);
        Statement { sql, ordered: false }
    }

    fn frame(&mut self) -> String {
        let (before, after) = (self.random.below(4), self.random.below(3));
        match self.random.below(5) {
            0 => format!("ROWS BETWEEN {before} PRECEDING AND CURRENT ROW"),
            1 => format!("ROWS BETWEEN {before} PRECEDING AND {after} FOLLOWING"),
            2 => format!("ROWS BETWEEN CURRENT ROW AND {after} FOLLOWING"),
            3 => "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW".to_owned(),
            _ => format!("ROWS BETWEEN {before} PRECEDING AND UNBOUNDED FOLLOWING"),
        }
    }

    fn window(&mut self) -> Sql {
        let (of, partition) = (self.any_number(), if self.one_in(2) { same("logger") } else { self.key() });
        let over = |order: &Sql, frame: &str, partition: &Sql| {
            fill(&format!("OVER (PARTITION BY {{}} ORDER BY {{}} {frame})"), &[partition, order])
        };
        let (by_time, frame) = (same("time, logger"), self.frame());
        let sliding = over(&by_time, &frame, &partition);
        match self.random.below(12) {
            0..=1 => {
                let sum = |over: &str, of: &str| format!("sum({of}) {over}");
                let exact =
                    |over: &str, of: &str| format!("CAST(sum(CAST({of} * 16 AS HUGEINT)) {over} AS DOUBLE) / 16");
                two(sum(&sliding.ours, &of.ours), exact(&sliding.duck, &of.duck))
            }
            2..=3 => two(
                format!("avg({}) {}", of.ours, sliding.ours),
                format!(
                    "(CAST(sum(CAST({0} * 16 AS HUGEINT)) {1} AS DOUBLE) / 16) / count({0}) {1}",
                    of.duck, sliding.duck
                ),
            ),
            4 => fill(self.random.pick(&["min({}) {}", "max({}) {}", "count({}) {}"]), &[&of, &sliding]),
            5 => {
                let order = fill("{} NULLS LAST", &[&of]);
                let function = self.random.pick(&["rank()", "dense_rank()"]);
                fill(&format!("{function} {{}}"), &[&over(&order, "", &partition)])
            }
            6 => fill("row_number() {}", &[&over(&by_time, "", &partition)]),
            7 => {
                let function = self.random.pick(&["lag({}, 1) {}", "lead({}, 2) {}"]);
                fill(function, &[&of, &over(&by_time, "", &partition)])
            }
            8 => fill(self.random.pick(&["first_value({}) {}", "last_value({}) {}"]), &[&of, &sliding]),
            9 => {
                // Peers: rows that are equal in the order.
                let order = fill("{} NULLS LAST", &[&self.number(1)]);
                fill("count(*) {}", &[&over(&order, "", &partition)])
            }
            _ => fill("count(*) OVER (PARTITION BY {})", &[&partition]),
        }
    }

    fn windows(&mut self) -> Statement {
        let windows = fill("{} AS x, {} AS y", &[&self.window(), &self.window()]);
        let filter = self.filter();
        let time = two("time", "epoch_ms(time)");
        let sql = fill("SELECT logger, {}, {} FROM readings{}", &[&time, &windows, &filter]);
        Statement { sql, ordered: false }
    }

    fn ordered(&mut self) -> Statement {
        // A number by itself would be the place of a column.
        let order = if self.one_in(2) { self.column() } else { self.number(1) };
        let (one, filter) = (self.any_number(), self.filter());
        let direction = self.random.pick(&["ASC NULLS LAST", "DESC NULLS LAST", "ASC NULLS FIRST", "DESC NULLS FIRST"]);
        let limit = if self.one_in(3) {
            String::new()
        } else {
            format!(" LIMIT {} OFFSET {}", self.random.below(40), self.random.below(10))
        };
        let time = two("time", "epoch_ms(time)");
        let template = format!(
            "SELECT {{}} AS x, {{}} AS at, logger FROM readings{{}} ORDER BY {{}} {direction}, time, logger{limit}"
        );
        let sql = fill(&template, &[&one, &time, &filter, &order]);
        Statement { sql, ordered: true }
    }

    fn joined(&mut self) -> Statement {
        self.table = "a.";
        let (one, filter) = (self.number(1), self.filter());
        self.table = "b.";
        let other = self.number(1);
        let join = self.random.pick(&["JOIN", "LEFT JOIN", "FULL JOIN"]);
        self.table = "b.";
        let second = self.aggregate();
        self.table = "a.";
        let first = self.aggregates();
        self.table = "";
        let on = self.random.pick(&[
            "a.time = b.time",
            "a.time = b.time AND a.logger < b.logger",
            "a.logger = b.logger AND a.time = b.time",
        ]);
        let template = format!("SELECT {{}}, {{}} AS b FROM readings a {join} readings b ON {on} AND {{}} = {{}}{{}}");
        let sql = fill(&template, &[&first, &second, &one, &other, &filter]);
        Statement { sql, ordered: false }
    }

    fn sets(&mut self) -> Statement {
        let operation = self.random.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
        let (one, other) = (self.any_number(), self.any_number());
        let (first, second) = (self.filter(), self.filter());
        let template = format!("SELECT {{}} AS x FROM readings{{}} {operation} SELECT {{}} FROM readings{{}}");
        Statement { sql: fill(&template, &[&one, &first, &other, &second]), ordered: false }
    }

    fn subqueries(&mut self) -> Statement {
        let (list, filter) = (self.aggregates(), self.filter());
        let (one, other) = (self.any_number(), self.any_number());
        let template = match self.random.below(4) {
            0 => "SELECT {} FROM readings WHERE {} IN (SELECT {} FROM readings{})",
            1 => "SELECT {} FROM readings WHERE {} > (SELECT avg(x) FROM (SELECT min({}) AS x FROM readings{}))",
            2 => "SELECT {} FROM (SELECT *, {} AS x, {} AS y FROM readings{}) WHERE x = y",
            _ => "WITH w AS (SELECT *, {} AS x FROM readings) SELECT {} FROM w WHERE x = {}",
        };
        let sql = if template.starts_with("WITH") {
            fill(template, &[&one, &list, &other])
        } else {
            fill(template, &[&list, &one, &other, &filter])
        };
        Statement { sql, ordered: false }
    }
}

/// A logger's id.
pub(super) fn id(number: u64) -> u64 {
    crate::support::logger(number).get()
}
