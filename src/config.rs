//! Configuration: a file, then the environment, then flags; read raw, resolved once into checked values.
//!
//! The commented file that `init` writes (`config/default.toml`) is itself the lowest layer, so that a default cannot
//! be written down in one way and hold in another.

use std::path::Path;

use figment::Figment;
use figment::error::{Error, Kind};
use figment::providers::{Env, Format, Serialized, Toml};

use problem::{Context, Problem, Result};

mod raw;
mod resolved;
mod store;
mod unit;

pub use resolved::{Config, IngestConfig, LogConfig, LogFormat};
pub use store::StoreConfig;
pub(crate) use unit::duration as parse_duration;

/// The default configuration with comments: what `init` writes.
pub const DEFAULT_TOML: &str = include_str!("config/default.toml");

/// What flags of `serve` set.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--ingest-addr`.
    pub ingest_addr: Option<String>,
    /// `--http-addr`.
    pub http_addr: Option<String>,
}

/// Reads the configuration: this file, the environment, these flags.
///
/// # Errors
/// When the file cannot be read, a key is unknown, or a value breaks a rule; the text names where it stands.
pub fn load(file: &Path, overrides: &Overrides) -> Result<Config> {
    let text = std::fs::read_to_string(file).context(|| format!("cannot read the configuration {}", file.display()))?;
    parse(&text, file, overrides)
}

/// The same, of a file's text that was read already.
///
/// # Errors
/// As [`load()`].
pub fn parse(text: &str, file: &Path, overrides: &Overrides) -> Result<Config> {
    let environment = Env::prefixed("ICECORE_").filter(|key| key.as_str().contains("__")).split("__").lowercase(true);
    let mut figment = Figment::from(Toml::string(DEFAULT_TOML)).merge(Toml::string(text)).merge(environment);
    if let Some(addr) = &overrides.ingest_addr {
        figment = figment.merge(Serialized::default("ingest.addr", addr));
    }
    if let Some(addr) = &overrides.http_addr {
        figment = figment.merge(Serialized::default("http.addr", addr));
    }
    let raw: raw::RawConfig = figment.extract().map_err(|error| explain(&error, file))?;
    resolved::resolve(raw).map_err(|rule| {
        let help = format!("correct it in {}, in the environment (ICECORE_…) or in the flags", file.display());
        Problem::new("the configuration does not hold").detail(rule).help(help)
    })
}

/// Settings that had other names before, with their present ones.
const RENAMED: [(&str, &str); 9] = [
    ("engine.collect_delay", "engine.garbage_delay"),
    ("ingest.stream_window", "ingest.stream_window_bytes"),
    ("ingest.connection_window", "ingest.connection_window_bytes"),
    ("ingest.send_window", "ingest.send_window_bytes"),
    ("ingest.frame_memory_max", "ingest.frame_memory_bytes"),
    ("ingest.frame_max", "ingest.frame_bytes_max"),
    ("ingest.socket_buffer", "ingest.socket_buffer_bytes"),
    ("query.spill_max", "query.spill_bytes_max"),
    ("query.metadata_cache", "query.metadata_cache_bytes_max"),
];

/// Tells where a value that does not fit stands.
fn explain(error: &Error, file: &Path) -> Problem {
    let mut path: Vec<&str> = error.path.iter().map(String::as_str).collect();
    let unknown = match &error.kind {
        Kind::UnknownField(name, _) => Some(name.as_str()),
        _ => None,
    };
    // For an unknown key the path is that of its section, or its own: both forms occur.
    if let Some(name) = unknown
        && path.last() != Some(&name)
    {
        path.push(name);
    }
    let key = path.join(".");
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains("environment"));
    let variable = format!("ICECORE_{}", path.join("__").to_uppercase());
    // An unknown key carries no origin: the environment is asked.
    let place = if from_environment || std::env::var_os(&variable).is_some() {
        format!("in the environment variable {variable}")
    } else {
        format!("in {}", file.display())
    };
    if let (Some(_), Some((_, now))) = (unknown, RENAMED.iter().find(|(before, _)| *before == key)) {
        return Problem::new(format!("the setting {key} {place} has another name now")).help(format!("write {now}"));
    }
    match &error.kind {
        Kind::UnknownField(_, []) => Problem::new(format!("unknown setting {key} {place}")),
        Kind::UnknownField(_, known) => {
            Problem::new(format!("unknown setting {key} {place}")).help(format!("known here: {}", known.join(", ")))
        }
        kind => Problem::new(format!("the setting {key} {place} is wrong")).detail(kind),
    }
}

#[cfg(test)]
mod tests;
