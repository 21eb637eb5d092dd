//! The configuration: defaults in step with the commented file, layers in their order, nonsense refused with its place.

use std::path::PathBuf;

use super::*;

fn read(text: &str) -> std::result::Result<Config, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, text).expect("written");
    load(&file, &Overrides::default()).map_err(|problem| problem.to_string())
}

/// What is written down is what holds, in the crates that use it as well.
#[test]
fn the_written_defaults_are_the_defaults() {
    let config = read("").expect("the defaults hold");
    let written = read(DEFAULT_TOML).expect("the written defaults hold");
    assert_eq!(format!("{config:?}"), format!("{written:?}"));
    let dir = PathBuf::from("data");
    assert_eq!(format!("{:?}", config.engine(&dir)), format!("{:?}", engine::EngineConfig::new(&dir)));
    assert_eq!(config.ingest.limits, ingest::IngestLimits::default());
    assert_eq!(config.query, query::QueryLimits::default());
}

#[test]
fn every_setting_has_its_comment() {
    let mut commented = false;
    let mut bare = Vec::new();
    for line in DEFAULT_TOML.lines() {
        match line {
            "" => commented = false,
            line if line.starts_with('#') => commented = true,
            line if line.starts_with('[') => commented = false,
            line if !commented => bare.push(line),
            _ => {}
        }
    }
    assert!(bare.is_empty(), "{bare:?}");
}

#[test]
fn a_file_changes_what_it_names() {
    let config = read("[engine]\nflush_age = \"90s\"\nflush_bytes = 65536\n[log]\nformat = \"json\"").expect("fine");
    let engine = config.engine(Path::new("x"));
    assert_eq!((engine.flush_age.as_secs(), engine.flush_bytes), (90, 65_536));
    assert_eq!(engine.wal_file_bytes, 64 << 20, "the rest stays");
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, expected) in [
        ("[htp]\naddr = \"x\"", &["htp", "config.toml"][..]),
        ("[http]\nadr = \"x\"", &["http.adr", "config.toml", "known here: addr"]),
        ("[engine]\nflush_age = 5", &["engine.flush_age", "a duration with a unit"]),
        ("[engine]\nflush_bytes = -5", &["engine.flush_bytes", "config.toml"]),
        ("[engine]\nwal_bytes_max = 1", &["wal_bytes_max"]),
        ("[engine]\nflush_concurrency = 0", &["flush_concurrency"]),
        ("[http]\naddr = \"0.0.0.0:80\"", &["http.addr", "allow_plain_on_network"]),
        ("[http]\naddr = \"localhost\"", &["http.addr"]),
        ("[http]\nrequests_max = 0", &["http.requests_max"]),
        ("[query]\nqueries_per_org_max = 8", &["query.queries_per_org_max is 8", "query.queries_max, which is 8"]),
        ("[query]\nqueries_max = 4", &["query.queries_per_org_max is 4", "query.queries_max, which is 4"]),
        ("[query]\nqueries_per_org_max = 0", &["query.queries_per_org_max"]),
        ("[http]\nrequests_max = 16", &["http.requests_per_org_max is 16", "http.requests_max, which is 16"]),
        ("[query]\nqueries_max = 1", &["query.queries_max is 1", "at least 2"]),
        ("[http]\nconnections_max = 0", &["http.connections_max"]),
        ("[http]\nheader_timeout = \"0s\"", &["http.header_timeout"]),
        ("[http]\nstall_timeout = \"0s\"", &["http.stall_timeout"]),
        ("[ingest]\nserver_names = []", &["ingest.server_names"]),
        ("[ingest]\nserver_names = [\"a b\"]", &["ingest.server_names"]),
        ("[ingest]\ncertificate_check_interval = \"0s\"", &["ingest.certificate_check_interval"]),
        ("[ingest]\ncertificate_check_interval = \"31d\"", &["ingest.certificate_check_interval", "30d"]),
        ("[ingest]\ntime_min = \"yesterday\"", &["ingest.time_min"]),
        ("[ingest]\nframe_bytes_max = \"2 MiB\"", &["ingest.frame_bytes_max"]),
        ("[ingest]\nframe_bytes_max = 1", &["ingest.frame_bytes_max: must be at least"]),
        ("[engine]\nwal_file_bytes = \"16777215 TiB\"", &["engine.wal_file_bytes"]),
        ("[ingest]\nstreams_max = 0", &["streams_max"]),
        ("[log]\nformat = \"xml\"", &["log.format"]),
        ("this is no TOML", &["config"]),
    ] {
        let error = read(text).err().unwrap_or_else(|| panic!("{text:?} was accepted"));
        for part in expected {
            assert!(error.contains(part), "{text:?} should tell {part:?}: {error}");
        }
    }
    assert!(read("[query]\nqueries_per_org_max = 8\nqueries_max = 9").is_ok());
    assert!(read("[http]\naddr = \"0.0.0.0:80\"\nallow_plain_on_network = true").is_ok());
    assert!(load(Path::new("/nowhere/config.toml"), &Overrides::default()).is_err());
}

/// Whatever is wrong with a value, the setting's name is in the text.
#[test]
fn every_refusal_names_its_setting() {
    let mut section = "";
    let mut refused = 0;
    for line in DEFAULT_TOML.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else { continue };
        let values = ["0", "1", "-1", "9223372036854775807", "\"0s\"", "\"36600d\"", "\"1048576 TiB\"", "\"x\"", "[]"];
        for value in values {
            if let Err(error) = read(&format!("[{section}]\n{key} = {value}")) {
                refused += 1;
                assert!(error.contains(key), "{section}.{key} = {value}: {error}");
            }
        }
    }
    assert!(refused > 100, "only {refused} values were refused");
}

#[test]
fn an_old_name_is_refused_with_the_new_one() {
    for (before, now) in RENAMED {
        let (section, key) = before.split_once('.').expect("section and key");
        let error = read(&format!("[{section}]\n{key} = 1")).expect_err("refused");
        assert!(error.contains(&format!("write {now}")), "{error}");
        let (_, key) = now.split_once('.').expect("section and key");
        assert!(DEFAULT_TOML.contains(&format!("\n{key} = ")), "{now} is no setting");
    }
}

/// A size's key says that it is one, and no other key does.
#[test]
fn sizes_have_their_unit_in_their_names() {
    let mut sizes = 0;
    for line in DEFAULT_TOML.lines().filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let is_size = ["KiB\"", "MiB\"", "GiB\""].iter().any(|unit| value.ends_with(unit));
        let says_so =
            key.ends_with("_bytes") || key.ends_with("_bytes_max") || matches!(key, "memory_max" | "body_max");
        assert_eq!(is_size, says_so, "{line}");
        sizes += u32::from(is_size);
    }
    assert!(sizes > 12, "only {sizes} sizes were found");
}

#[test]
fn flags_go_last() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "[http]\naddr = \"127.0.0.1:1\"").expect("written");
    let overrides = Overrides { http_addr: Some("127.0.0.1:2".to_owned()), ..Overrides::default() };
    assert_eq!(load(&file, &overrides).expect("fine").http.addr.port(), 2);
}
