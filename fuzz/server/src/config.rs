//! Configuration: any text gives settings or an error that names the source; one setting with any value is accepted, or
//! rejected with an error that names the setting.

use std::path::Path;
use std::sync::LazyLock;

use icecore::config::{Config, DEFAULT_TOML, Overrides, parse};

/// File name for error messages; no such file is read.
const FILE: &str = "icecore-fuzz.toml";

/// Parses a complete file; or `=`, a setting's name, `=`, and its value.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Some((key, value)) = text.strip_prefix('=').and_then(|text| text.split_once('=')) {
        return setting(key, value);
    }
    match read(text) {
        Ok(config) => {
            check(&config);
            true
        }
        Err(problem) => {
            assert!(!problem.trim().is_empty());
            let names_source = problem.contains(FILE) || problem.contains("ICECORE_");
            assert!(names_source, "{problem}");
            false
        }
    }
}

fn read(text: &str) -> Result<Config, String> {
    parse(text, Path::new(FILE), &Overrides::default()).map_err(|problem| problem.to_string())
}

/// Sections and names of all settings of the default file.
static SETTINGS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let mut section = String::new();
    let mut settings = Vec::new();
    for line in DEFAULT_TOML.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            settings.push((section.clone(), key.to_owned()));
        }
    }
    assert!(settings.len() > 40, "only {} settings found in the default file", settings.len());
    settings
});

fn setting(name: &str, value: &str) -> bool {
    // An unknown name selects some setting, so that a fuzzer that mutates names covers all of them.
    let some = name.bytes().map(usize::from).sum::<usize>() % SETTINGS.len();
    let named = SETTINGS.iter().find(|(_, key)| key == name);
    let (section, key) = named.unwrap_or(&SETTINGS[some]);
    // Control characters are removed, because a second line could contain other settings.
    let value: String = value.chars().filter(|c| !c.is_control()).collect();
    match read(&format!("[{section}]\n{key} = {value}\n")) {
        Ok(config) => {
            check(&config);
            true
        }
        Err(problem) => {
            assert!(problem.contains(key.as_str()), "{section}.{key} = {value}: {problem}");
            false
        }
    }
}

/// Checks the properties that the rest of the program relies on.
fn check(config: &Config) {
    let limits = &config.ingest.limits;
    assert_eq!(limits.check(), Ok(()));
    assert!(limits.frame_bytes_max as usize <= storage_format::limits::FRAME_BYTES_MAX);
    assert!(!config.ingest.server_names.is_empty());
    let http = &config.http;
    let query = &config.query;
    assert!(query.queries_per_org_max < query.queries_max, "one organisation cannot have all turns");
    assert!(query.requests_per_org_max < query.requests_max, "one organisation cannot have all requests");
    assert!(
        [query.queries_per_org_max, query.requests_per_org_max, http.connections_max].iter().all(|&limit| limit > 0)
    );
    assert!(query.threads > 0 && query.memory_bytes_max > 0);
    config.engine(Path::new("data")).check().expect("a valid engine configuration");
}
