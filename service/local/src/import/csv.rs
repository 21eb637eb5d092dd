//! CSV into frames: the reader is the one of `gateway send`, with all that it takes.

use std::fs::File;
use std::io::{BufReader, Read as _};

use gateway::readings_csv::{CsvOptions, ReadingsCsv, Reason, check_gzip};
use problem::Context;

use super::source::{Input, Sink, Stop, mistake, unreadable};

/// Reads ahead of the parser.
const BUFFER_BYTES: usize = 256 << 10;

fn open(input: &Input) -> problem::Result<BufReader<File>> {
    let file = File::open(&input.path).context(|| format!("cannot read {}", input.name()))?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, file))
}

/// Reads one file to its end, or to its first mistake.
pub(super) fn read(input: &Input, options: &CsvOptions, sink: &mut Sink) -> Result<(), Stop> {
    let name = input.name();
    check_gzip(open(input)?).context(|| format!("{name} is damaged")).map_err(|problem| {
        problem.help("nothing of this file is stored: unpack it with gzip to see what is left of it, or get it again")
    })?;
    let wrong = |error: gateway::readings_csv::CsvError| {
        let help = if error.is_of_row() {
            "Correct the line and import again: what is there already is kept once. Or import again with --skip-bad-rows \
             FILE, which writes such rows to FILE and stores the rest"
        } else if error.reason == Reason::Header {
            "Correct the header, or say by --mapping what the columns are, and import again"
        } else {
            let help = "Import again once the file can be read: what is there already is kept once";
            return unreadable(&name, error, help);
        };
        mistake(&name, error, help)
    };
    let mut csv = ReadingsCsv::with_options(open(input)?, options).map_err(wrong)?;
    let channels = csv.channels();
    let mut values = vec![f64::NAN; channels.len()];
    sink.begin(channels.clone());
    let ended = loop {
        let position = csv.bytes_read();
        match csv.next_reading() {
            Ok(None) => break Ok(()),
            Ok(Some(reading)) => {
                let (line, time) = (reading.line, reading.time);
                if let Some(why) = sink.accepted.refusal(time) {
                    let row = csv.row_text();
                    sink.leave_out(&name, line, Reason::OutOfRange, &format!("line {line}: {why}"), &row)?;
                    continue;
                }
                values.fill(f64::NAN);
                for (code, value) in reading.samples {
                    if let Ok(at) = channels.binary_search(code) {
                        values[at] = *value;
                    }
                }
                sink.push(reading.logger, time.get(), &values, position)?;
            }
            Err(error) if options.skip_bad_rows && error.is_of_row() => {
                let row = csv.row_text();
                sink.leave_out(&name, error.line, error.reason, &error.to_string(), &row)?;
            }
            Err(error) => break Err(wrong(error)),
        }
    };
    sink.counts.rows_without_values += csv.rows_without_values();
    sink.end(ended, csv.bytes_read(), input.bytes)
}

/// The first bytes of a Parquet file.
const PARQUET_MARK: &[u8] = b"PAR1";

/// Returns whether a file is Parquet, by its name or its first bytes.
pub(super) fn is_parquet(path: &std::path::Path, file: &File) -> bool {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        return true;
    }
    let mut first = [0; PARQUET_MARK.len()];
    let mut file = file;
    file.read_exact(&mut first).is_ok() && first == PARQUET_MARK
}

#[cfg(test)]
mod tests {
    use gateway::left_out::LeftOut;
    use storage_format::{Millis, SpoolId};
    use tokio::sync::mpsc;

    use super::super::source::Accepted;
    use super::*;

    #[test]
    fn rows_before_an_unreadable_place_wait_for_a_command_that_reads_on() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let header = "time,logger,temperature\n2024-01-01T00:00:00Z,00124B0000000001,4\n";
        for (rest, frames) in [("", 1), ("warm\n", 1), (&"x".repeat(1 << 20), 0)] {
            let path = dir.path().join("a.csv");
            std::fs::write(&path, format!("{header}{rest}")).expect("written");
            let (sender, mut packed) = mpsc::channel(4);
            let accepted = Accepted { min: Millis::MIN, max: Millis::MAX };
            let mut sink = Sink::new(sender, SpoolId::new(1).expect("not zero"), accepted, LeftOut::default());
            let ended = read(&Input { path, bytes: 0, is_parquet: false }, &CsvOptions::default(), &mut sink);
            assert_eq!(ended.is_ok(), rest.is_empty());
            drop(sink);
            assert_eq!(std::iter::from_fn(|| packed.try_recv().ok()).count(), frames, "{ended:?}");
        }
    }
}
