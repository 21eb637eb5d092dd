//! `--preview`: what would be sent, and what would be left out. It needs no server.

use gateway::left_out::LeftOut;
use gateway::readings_csv::{CsvError, CsvOptions, ReadingsCsv, Reason};
use gateway::sender::counted;
use ingest::TimePolicy;
use problem::{Problem, Result};

use super::files::Files;
use crate::cli::table::text_table;
use crate::cli::{now, output};

/// Readings that are shown of each file.
const SHOWN: usize = 10;

/// Shows the first readings of each file, counts all, and fails if any row would be left out.
pub(in crate::cli) fn run(files: &Files, options: &CsvOptions) -> Result<()> {
    // Every mistake is listed, also where sending would stop at the first.
    let stops_at_mistakes = !options.skip_bad_rows;
    let options = CsvOptions { skip_bad_rows: true, ..options.clone() };
    let policy = TimePolicy::default();
    let (time_min, time_max) = (policy.time_min, policy.time_max(now()));
    let mut left_out = LeftOut::new(None)?;
    for index in 0..files.len() {
        let name = files.name(index);
        let wrong = |error: &CsvError| Problem::new(format!("{name} has a mistake")).detail(format!("{name}: {error}"));
        let mut csv = ReadingsCsv::with_options(files.open(index)?, &options).map_err(|error| wrong(&error))?;
        let (mut shown, mut readings, mut first_mistake) = (Vec::new(), 0_u64, None);
        loop {
            let late = match csv.next_reading() {
                Ok(None) => break,
                Ok(Some(reading)) if !(time_min..=time_max).contains(&reading.time) => {
                    let what = format!(
                        "line {}: {} is not between {time_min} and {time_max}, the times that servers accept unless \
                         ingest.time_min or ingest.future_max says otherwise",
                        reading.line, reading.time
                    );
                    (reading.line, Reason::OutOfRange, what)
                }
                Ok(Some(reading)) => {
                    readings += 1;
                    if shown.len() < SHOWN {
                        let values = reading.samples.iter().map(|(channel, value)| format!("{channel} {value}"));
                        shown.push(vec![
                            reading.line.to_string(),
                            reading.time.to_string(),
                            reading.logger.to_string(),
                            values.collect::<Vec<_>>().join(", "),
                        ]);
                    }
                    continue;
                }
                Err(error) if error.is_of_row() => {
                    first_mistake.get_or_insert(error.line);
                    (error.line, error.reason, error.to_string())
                }
                Err(error) => return Err(wrong(&error)),
            };
            let (line, reason, what) = late;
            left_out.add(&name, line, reason, &what, "")?;
        }
        output::line(text_table(&["line", "time (UTC)", "logger", "values"], shown))?;
        output::line(format_args!(
            "{name}: {} would be sent, {} without values",
            counted(readings, "reading"),
            counted(csv.rows_without_values(), "row")
        ))?;
        if let Some(line) = first_mistake.filter(|_| stops_at_mistakes) {
            output::note(format_args!(
                "{name}: sending stops before line {line}, the first mistake; --skip-bad-rows FILE continues after it"
            ));
        }
    }
    left_out.check("would not be sent")
}
