//! What the columns of a foreign file are, as a TOML file states it. `docs/import-files.md` is its page.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use encoding_rs::Encoding;
use serde::Deserialize;
use storage_format::{Channel, ChannelCode, IdBase, LoggerId, channels};

use super::options::{parse_delimiter, parse_encoding};
use super::times::{DateOrder, Repeated, Shape, TimeForm, names_zone, parse_zone};
use super::values::{Unit, parse_unit};

/// A column by its number from 1, or by its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a column's name, or its number from 1")]
pub(super) enum ColumnRef {
    Number(usize),
    Name(String),
}

impl ColumnRef {
    /// Returns whether a column of this number and name is meant. A name that ends with `*` stands for all that begin so.
    pub(super) fn is(&self, number: usize, name: &str) -> bool {
        match self {
            Self::Number(wanted) => *wanted == number,
            Self::Name(wanted) => match wanted.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == wanted,
            },
        }
    }
}

impl fmt::Display for ColumnRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// Where the names of the columns stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// In the first row.
    First,
    /// In this line.
    Line(u64),
    /// Nowhere.
    None,
}

/// Where a time stands.
#[derive(Debug, Clone)]
pub(super) enum TimeColumns {
    One(ColumnRef),
    Two { date: ColumnRef, clock: ColumnRef },
}

/// Source of the logger's id.
#[derive(Debug, Clone)]
pub(super) enum LoggerSource {
    /// One logger for all rows.
    Constant(LoggerId),
    /// What a column has: an id, or a name that stands for one.
    Column { column: ColumnRef, base: Option<IdBase>, names: HashMap<String, LoggerId> },
}

/// A column of values.
#[derive(Debug, Clone)]
pub(super) struct ChannelColumn {
    pub(super) code: ChannelCode,
    pub(super) column: ColumnRef,
    pub(super) unit: Unit,
}

/// What the columns of a file are.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub(super) delimiter: Option<u8>,
    pub(super) encoding: Option<&'static Encoding>,
    pub(super) decimal_comma: bool,
    pub(super) missing: Vec<String>,
    pub(super) truncate_times: bool,
    pub(super) header: Header,
    pub(super) first_row: Option<u64>,
    pub(super) time: TimeColumns,
    pub(super) form: TimeForm,
    pub(super) logger: Option<LoggerSource>,
    pub(super) channels: Vec<ChannelColumn>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMapping {
    delimiter: Option<String>,
    encoding: Option<String>,
    #[serde(default)]
    decimal_comma: bool,
    #[serde(default)]
    missing: Vec<String>,
    #[serde(default)]
    truncate_times: bool,
    header: Option<RawHeader>,
    first_row: Option<u64>,
    time: RawTime,
    logger: Option<RawLogger>,
    channels: BTreeMap<String, RawChannel>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected the number of the line with the columns' names, or \"none\"")]
enum RawHeader {
    Line(u64),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTime {
    column: Option<ColumnRef>,
    date: Option<ColumnRef>,
    clock: Option<ColumnRef>,
    format: Option<String>,
    date_order: Option<DateOrder>,
    zone: Option<String>,
    #[serde(default)]
    repeated: Repeated,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLogger {
    id: Option<String>,
    column: Option<ColumnRef>,
    ids: Option<RawBase>,
    #[serde(default)]
    names: HashMap<String, String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawBase {
    Hex,
    Decimal,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a column's name or number, or { column = …, unit = … }")]
enum RawChannel {
    Column(ColumnRef),
    Table(RawChannelTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChannelTable {
    column: ColumnRef,
    unit: Option<String>,
}

impl Mapping {
    /// Reads a mapping.
    ///
    /// # Errors
    /// When the text is not TOML, has a key that is not known, or contradicts itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: RawMapping = toml::from_str(text).map_err(|error| error.to_string())?;
        let header = match raw.header {
            None => Header::First,
            Some(RawHeader::Word(word)) if word == "none" => Header::None,
            Some(RawHeader::Line(line @ 1..)) => Header::Line(line),
            Some(_) => return Err("header is the number of a line from 1, or \"none\"".to_owned()),
        };
        if let (Header::Line(line), Some(first)) = (header, raw.first_row)
            && first <= line
        {
            return Err(format!("first_row is {first}, but the header stands in line {line}"));
        }
        let (time, form) = time(raw.time)?;
        let mapping = Self {
            delimiter: raw.delimiter.as_deref().map(parse_delimiter).transpose()?,
            encoding: raw.encoding.as_deref().map(parse_encoding).transpose()?,
            decimal_comma: raw.decimal_comma,
            missing: raw.missing,
            truncate_times: raw.truncate_times,
            header,
            first_row: raw.first_row,
            time,
            form,
            logger: raw.logger.map(logger).transpose()?,
            channels: raw.channels.into_iter().map(|(name, raw)| channel(&name, raw)).collect::<Result<_, _>>()?,
        };
        mapping.check()?;
        Ok(mapping)
    }

    /// All columns that it uses, with what for.
    pub(super) fn columns(&self) -> Vec<(String, &ColumnRef)> {
        let mut columns = match &self.time {
            TimeColumns::One(column) => vec![("time.column".to_owned(), column)],
            TimeColumns::Two { date, clock } => vec![("time.date".to_owned(), date), ("time.clock".to_owned(), clock)],
        };
        if let Some(LoggerSource::Column { column, .. }) = &self.logger {
            columns.push(("logger.column".to_owned(), column));
        }
        columns.extend(self.channels.iter().map(|channel| (format!("channels.{}", channel.code), &channel.column)));
        columns
    }

    fn check(&self) -> Result<(), String> {
        if self.channels.is_empty() {
            return Err("[channels] has no column: name one for each channel".to_owned());
        }
        let columns = self.columns();
        for (index, (what, column)) in columns.iter().enumerate() {
            match column {
                ColumnRef::Number(0) => return Err(format!("{what} is 0, but columns are numbered from 1")),
                ColumnRef::Name(name) if self.header == Header::None => {
                    return Err(format!("{what} is {name:?}, but there is no header: give the column's number"));
                }
                _ => {}
            }
            if let Some((before, _)) = columns[..index].iter().find(|(_, before)| before == column) {
                return Err(format!("{before} and {what} are the same column, {column}"));
            }
        }
        Ok(())
    }
}

fn time(raw: RawTime) -> Result<(TimeColumns, TimeForm), String> {
    let columns = match (raw.column, raw.date, raw.clock) {
        (Some(column), None, None) => TimeColumns::One(column),
        (None, Some(date), Some(clock)) => TimeColumns::Two { date, clock },
        _ => return Err("[time] has either column, or date and clock".to_owned()),
    };
    let shape = match (raw.format, raw.date_order) {
        (Some(_), Some(_)) => return Err("[time] has either format or date_order, not both".to_owned()),
        (Some(format), None) => Shape::Format(format),
        (None, Some(order)) => Shape::Order(order),
        (None, None) => Shape::Rfc3339,
    };
    let has_own_zone = match &shape {
        Shape::Rfc3339 => true,
        Shape::Format(format) => names_zone(format),
        Shape::Order(_) => false,
    };
    match (has_own_zone, &raw.zone) {
        (true, Some(_)) => {
            return Err(
                "time.zone is given, but the times name their own zone: without format and date_order they are \
                        RFC 3339"
                    .to_owned(),
            );
        }
        (false, None) => {
            return Err(
                "time.zone is missing: these times name none. It is a name such as Europe/Lisbon, or an offset \
                        such as +02:00"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let zone_name = raw.zone.unwrap_or_else(|| "UTC".to_owned());
    let zone = parse_zone(&zone_name).map_err(|error| format!("time.zone: {error}"))?;
    Ok((columns, TimeForm { shape, zone, zone_name, repeated: raw.repeated }))
}

fn logger(raw: RawLogger) -> Result<LoggerSource, String> {
    let base = raw.ids.map(|base| match base {
        RawBase::Hex => IdBase::Hex,
        RawBase::Decimal => IdBase::Decimal,
    });
    match (raw.id, raw.column) {
        (Some(id), None) if raw.names.is_empty() => {
            let id = LoggerId::parse_as(&id, base.unwrap_or_default());
            id.map(LoggerSource::Constant)
                .map_err(|error| format!("logger.id: {error}; logger.ids = \"hex\" or \"decimal\" states the base"))
        }
        (None, Some(column)) => {
            let named = |(name, id): (String, String)| match id.parse() {
                Ok(id) => Ok((name, id)),
                Err(error) => Err(format!("logger.names.{name:?}: {error}")),
            };
            Ok(LoggerSource::Column {
                column,
                base,
                names: raw.names.into_iter().map(named).collect::<Result<_, _>>()?,
            })
        }
        _ => Err("[logger] has either id, or column and perhaps names".to_owned()),
    }
}

fn channel(name: &str, raw: RawChannel) -> Result<ChannelColumn, String> {
    let known = || channels().iter().map(|channel| channel.name).collect::<Vec<_>>().join(", ");
    let channel =
        Channel::by_name(name).ok_or_else(|| format!("channels.{name} is no channel; those known are {}", known()))?;
    let (column, unit) = match raw {
        RawChannel::Column(column) => (column, None),
        RawChannel::Table(table) => (table.column, table.unit),
    };
    let unit = unit.map(|unit| parse_unit(channel, &unit)).transpose();
    let unit = unit.map_err(|error| format!("channels.{name}: {error}"))?.unwrap_or_default();
    Ok(ChannelColumn { code: channel.code, column, unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused_with_their_reason() {
        let time = "[time]\ncolumn = 1\n";
        let rest = "[channels]\ntemperature = 2\n";
        for (text, part) in [
            (format!("colour = 1\n{time}{rest}"), "colour"),
            (format!("{time}date_order = \"dmy\"\n{rest}"), "time.zone is missing"),
            (format!("{time}format = \"%d.%m.%Y\"\ndate_order = \"dmy\"\n{rest}"), "not both"),
            (format!("{time}zone = \"UTC\"\n{rest}"), "name their own zone"),
            (format!("{time}date_order = \"dmy\"\nzone = \"Europe/Berln\"\n{rest}"), "Europe/Berln"),
            (format!("{time}date_order = \"xyz\"\nzone = \"UTC\"\n{rest}"), "xyz"),
            (format!("[time]\ndate = 1\n{rest}"), "date and clock"),
            (format!("{time}[channels]\n"), "no column"),
            (format!("{time}[channels]\ntemperature = 1\n"), "same column"),
            (format!("{time}[channels]\ntemperature = 0\n"), "from 1"),
            (format!("{time}[channels]\ncolour = 2\n"), "colour"),
            (format!("{time}[channels]\npressure = {{ column = 2, unit = \"psi\" }}\n"), "psi"),
            (format!("header = \"none\"\n{time}[channels]\ntemperature = \"T\"\n"), "no header"),
            (format!("header = 2\nfirst_row = 2\n{time}{rest}"), "first_row"),
            (format!("header = 0\n{time}{rest}"), "header"),
            (format!("{time}{rest}[logger]\nid = \"5149012952875009\"\n"), "two meanings"),
            (format!("{time}{rest}[logger]\ncolumn = 3\nnames = {{ a = \"b\" }}\n"), "logger.names"),
            (format!("{time}{rest}[logger]\n"), "either id"),
            (format!("delimiter = \"::\"\n{time}{rest}"), "separate"),
            (format!("encoding = \"ebcdic\"\n{time}{rest}"), "ebcdic"),
            ("[time".to_owned(), "TOML"),
        ] {
            let error = Mapping::parse(&text).expect_err(&text);
            assert!(error.contains(part), "{text}\n{error}");
        }
        assert!(Mapping::parse(&format!("{time}{rest}")).is_ok());
    }
}
