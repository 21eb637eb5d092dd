//! What each column of a file is: by the names of icecore's own form, or by a mapping.

use std::borrow::Cow;

use storage_format::{Channel, ChannelCode, channels};

use super::error::{CsvError, Reason, shown};
use super::mapping::{ColumnRef, Header, LoggerSource, Mapping, TimeColumns};
use super::values::Unit;

/// The use of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Nobody looks at it.
    Nothing,
    /// The time, or its date if the time of day has a column of its own.
    Time,
    /// The time of day.
    Clock,
    Logger,
    Channel(ChannelCode, Unit),
}

/// A file's columns.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// Each with its name for messages.
    pub(super) all: Vec<(Use, String)>,
    /// Rows with fewer cells lack one that is needed.
    pub(super) needed: usize,
}

impl Columns {
    fn new(all: Vec<(Use, String)>) -> Self {
        let needed = all.iter().rposition(|(column, _)| *column != Use::Nothing).map_or(0, |last| last + 1);
        Self { all, needed }
    }
}

/// Counts each delimiter in a line, outside of quotes.
fn delimiters(line: &[u8]) -> [(u8, usize); 3] {
    let mut found = [(b',', 0), (b';', 0), (b'\t', 0)];
    let mut quoted = false;
    for byte in line {
        quoted ^= *byte == b'"';
        if !quoted {
            for (delimiter, count) in &mut found {
                *count += usize::from(byte == delimiter);
            }
        }
    }
    found
}

/// The character that separates the cells of this line. Without a header, where a comma may be that of a number, it has
/// to be the only one that is there.
pub(super) fn detect_delimiter(number: u64, line: &[u8], is_header: bool) -> Result<u8, CsvError> {
    let mut found = delimiters(line);
    found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let [(most, count), (_, next), _] = found;
    if count == 0 {
        return Ok(b',');
    }
    if next == 0 || is_header && next < count {
        return Ok(most);
    }
    let what =
        "its cells could be separated by more than one of comma, semicolon and tab; --delimiter says which it is";
    Err(CsvError::new(number, Reason::Header, what))
}

/// The delimiter that a line such as `sep=;` states.
pub(super) fn sep_line(line: &[u8]) -> Option<u8> {
    let text = line.trim_ascii_start();
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    match text {
        [s, e, p, b'=', delimiter, rest @ ..]
            if [*s, *e, *p].eq_ignore_ascii_case(b"sep") && matches!(rest.trim_ascii(), b"" | b"\"") =>
        {
            Some(*delimiter)
        }
        // A tab at the end may be lost with the blanks.
        _ => None,
    }
}

fn name_of(cell: &[u8]) -> String {
    String::from_utf8_lossy(cell).chars().take(40).collect::<String>().escape_debug().to_string()
}

/// The names of a header, without the nameless columns at its end, which only trailing delimiters make.
fn named<'a, 'b>(names: &'a [Cow<'b, [u8]>]) -> &'a [Cow<'b, [u8]>] {
    let length = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    &names[..length]
}

/// What the header of icecore's own form says. `has_logger`: the logger is known from elsewhere.
pub(super) fn own(line: u64, names: &[Cow<'_, [u8]>], has_logger: bool) -> Result<Columns, CsvError> {
    let names = named(names);
    let mut found = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let here =
            |what| CsvError { column: Some((name_of(name), index + 1)), ..CsvError::new(line, Reason::Header, what) };
        if names.iter().take(index).any(|before| before == name) {
            return Err(here("the column is there twice".to_owned()));
        }
        let column = match name.as_ref() {
            b"time" => Use::Time,
            b"logger" if has_logger => {
                return Err(here("the file says which loggers it is of: leave out --logger".to_owned()));
            }
            b"logger" => Use::Logger,
            name => match std::str::from_utf8(name).ok().and_then(Channel::by_name) {
                Some(channel) => Use::Channel(channel.code, Unit::Own),
                None => return Err(here(unknown(name))),
            },
        };
        found.push((column, name_of(name)));
    }
    for (name, is_there) in [
        ("time", found.iter().any(|(column, _)| *column == Use::Time)),
        ("logger", has_logger || found.iter().any(|(column, _)| *column == Use::Logger)),
        ("<channel>", found.iter().any(|(column, _)| matches!(column, Use::Channel(..)))),
    ] {
        if !is_there {
            let help = if name == "logger" { ", or --logger for a file of one logger" } else { "" };
            let what = format!(
                "the column {name} is missing: expected the header time,logger,<channel>…{help}; {MAPPING_HELP}"
            );
            return Err(CsvError::new(line, Reason::Header, what));
        }
    }
    Ok(Columns::new(found))
}

const MAPPING_HELP: &str = "--mapping reads files of other forms";

/// Why a name is not known.
fn unknown(name: &[u8]) -> String {
    let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
    if matches!(lower.as_str(), "time" | "logger") || Channel::by_name(&lower).is_some() {
        return format!("column names are lower case: {lower}");
    }
    let known: Vec<_> = channels().iter().map(|channel| channel.name).collect();
    format!("{} is no channel; those known are {}; {MAPPING_HELP}", shown(name), known.join(", "))
}

/// What a mapping says of the columns, by the header's names or, without a header, by the first row's cells.
pub(super) fn mapped(line: u64, mapping: &Mapping, cells: &[Cow<'_, [u8]>]) -> Result<Columns, CsvError> {
    let has_header = mapping.header != Header::None;
    let wrong = |what: String| CsvError::new(line, Reason::Header, what);
    let cells = if has_header { named(cells) } else { cells };
    let name =
        |cell: &Cow<'_, [u8]>| if has_header { String::from_utf8_lossy(cell).into_owned() } else { String::new() };
    let names: Vec<String> = cells.iter().map(name).collect();
    let mut all: Vec<_> =
        cells.iter().map(|cell| (Use::Nothing, if has_header { name_of(cell) } else { String::new() })).collect();
    let mut set = |what: &str, column: &ColumnRef, its_use: Use| {
        let mut found = names.iter().enumerate().filter(|(index, name)| column.is(index + 1, name));
        let Some((index, _)) = found.next() else {
            let there = if has_header {
                format!(": there are {}", list(&names))
            } else {
                format!(": there are {}", names.len())
            };
            return Err(wrong(format!("the mapping's {what} is column {column}, which is not there{there}")));
        };
        if let Some((second, _)) = found.next() {
            let what = format!(
                "the mapping's {what} is column {column}, which both column {} and column {} are: give its number",
                index + 1,
                second + 1
            );
            return Err(wrong(what));
        }
        if all[index].0 != Use::Nothing {
            return Err(wrong(format!("the mapping uses column {} twice, for {what} as well", index + 1)));
        }
        all[index].0 = its_use;
        Ok(())
    };
    match &mapping.time {
        TimeColumns::One(column) => set("time.column", column, Use::Time)?,
        TimeColumns::Two { date, clock } => {
            set("time.date", date, Use::Time)?;
            set("time.clock", clock, Use::Clock)?;
        }
    }
    if let Some(LoggerSource::Column { column, .. }) = &mapping.logger {
        set("logger.column", column, Use::Logger)?;
    }
    for channel in &mapping.channels {
        set(&format!("channels.{}", channel.code), &channel.column, Use::Channel(channel.code, channel.unit))?;
    }
    Ok(Columns::new(all))
}

/// Names for a message, not too many.
fn list(names: &[String]) -> String {
    const LISTED: usize = 12;
    let shown: Vec<_> = names.iter().take(LISTED).map(|name| shown(name.as_bytes())).collect();
    let more = if names.len() > LISTED { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
