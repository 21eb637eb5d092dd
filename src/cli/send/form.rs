//! The options that say how files are read.

use std::path::PathBuf;

use clap::Args;
use encoding_rs::Encoding;
use gateway::readings_csv::{CsvForm, FormIds, parse_delimiter, parse_encoding};
use problem::{Context, Result};
use storage_format::channels;

use crate::cli::logger_ids::LoggerIds;

/// How files are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "How files are read")]
pub(in crate::cli) struct FormArgs {
    /// What the columns of a foreign file are, such as a logger's export: docs/import-files.md
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// The character between cells, or tab [default: comma, semicolon or tab, as the header has it]
    #[arg(long, value_name = "CHAR", value_parser = parse_delimiter)]
    delimiter: Option<u8>,
    /// The encoding, such as windows-1252 [default: UTF-8, or UTF-16 where the file is]
    #[arg(long, value_name = "NAME", value_parser = parse_encoding)]
    encoding: Option<&'static Encoding>,
    /// Values have a decimal comma
    #[arg(long)]
    decimal_comma: bool,
    /// A cell that means "not measured", beside empty ones; can be given several times
    #[arg(long, value_name = "MARK", allow_hyphen_values = true)]
    missing: Vec<String>,
    /// Cut times that are finer than a millisecond [default: such a row is a mistake]
    #[arg(long)]
    truncate_times: bool,
    /// The logger of all rows, for files without such a column
    #[arg(long, value_name = "EUI64")]
    logger: Option<String>,
    /// What ids mean that have decimal digits only [default: such a row is a mistake]
    #[arg(long, value_enum, value_name = "BASE")]
    logger_ids: Option<LoggerIds>,
}

impl FormArgs {
    /// Reads the mapping's file, and puts all options together.
    pub(in crate::cli) fn form(&self, skip_bad_rows: bool) -> Result<CsvForm> {
        let mapping = self.mapping.as_ref().map(|path| {
            let text =
                std::fs::read_to_string(path).context(|| format!("cannot read the mapping {}", path.display()))?;
            Ok((path.display().to_string(), text))
        });
        Ok(CsvForm {
            delimiter: self.delimiter,
            encoding: self.encoding.map(|encoding| encoding.name().to_owned()),
            decimal_comma: self.decimal_comma,
            missing: self.missing.clone(),
            truncate_times: self.truncate_times,
            logger: self.logger.clone(),
            logger_ids: self.logger_ids.map(|base| match base {
                LoggerIds::Hex => FormIds::Hex,
                LoggerIds::Decimal => FormIds::Decimal,
            }),
            skip_bad_rows,
            mapping: mapping.transpose()?,
        })
    }
}

/// What `--help` says of files, with the channels of the registry.
pub(in crate::cli) fn help() -> String {
    let channels: Vec<_> = channels().iter().map(|channel| channel.name).collect();
    format!(
        "A file is CSV, perhaps compressed by gzip, with a header that names the columns, in lower case and in any order:\n  \
         time    RFC 3339 with a zone, such as 2024-05-01T12:00:00Z or 2024-05-01T14:00:00+02:00\n  \
         logger  its EUI-64, 16 hex digits, also as 00-12-4B-00-00-00-00-01 or after 0x\n\
         and one or more channels: {}.\n\
         An empty cell means \"not measured\". Rows without any value are counted and passed over.\n\
         A file of another form is read with a mapping, a TOML file such as:\n\n  \
         header = 2                          # the line of the columns' names\n  \
         [time]\n  \
         column = \"Date Time\"                # or its number, from 1\n  \
         date_order = \"dmy\"                  # or mdy, ymd; or format = \"%d %b %Y %H:%M\"\n  \
         zone = \"Europe/Lisbon\"              # or an offset such as \"+01:00\"\n  \
         [logger]\n  \
         id = \"00124B000A6E0001\"             # or column = \"Serial\"\n  \
         [channels]\n  \
         temperature = {{ column = 3, unit = \"°F\" }}\n  \
         humidity = \"RH, *\"                  # the column whose name begins so\n\n\
         --preview shows what would be sent and what would be left out.\n\n\
         Acknowledged means on stable storage. A value that came second, for a logger, time and channel that have \
         another one already, is acknowledged too, and listed by `icecore conflicts`.",
        channels.join(", ")
    )
}
