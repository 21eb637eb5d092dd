//! `[store]`: where segments, manifests and organisations' keys are kept.

use std::path::PathBuf;

use engine::{RemoteSettings, StoreUrl};
use serde::Deserialize;

use super::unit::{ByteSize, Span};

/// The section as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    url: String,
    endpoint: String,
    region: String,
    account: String,
    path_style: bool,
    allow_http: bool,
    credentials_file: String,
    ca_file: String,
    request_time_max: Span,
    connect_time_max: Span,
    retries_max: usize,
    retry_time_max: Span,
    cache_bytes_max: ByteSize,
}

/// Store of the objects.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In the data directory.
    Local,
    /// In a bucket.
    Remote {
        /// Which, and how it is reached. No secrets are among these settings.
        settings: Box<RemoteSettings>,
        /// Size of the cache in the data directory; 0: none.
        cache_bytes_max: u64,
    },
}

/// The smallest cache that is worth its files.
const CACHE_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// More tries than any outage is worth: what fails then is tried again later as a whole.
const RETRIES_MOST: usize = 20;

pub(super) fn resolve(raw: RawStore) -> Result<StoreConfig, String> {
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    let url = said(raw.url);
    let only_remote = [
        ("endpoint", &raw.endpoint),
        ("region", &raw.region),
        ("account", &raw.account),
        ("credentials_file", &raw.credentials_file),
        ("ca_file", &raw.ca_file),
    ];
    let Some(url) = url else {
        if let Some((key, _)) = only_remote.iter().find(|(_, value)| !value.is_empty()) {
            return Err(format!("store.{key} is set, but store.url is not: objects would stay in the data directory"));
        }
        return Ok(StoreConfig::Local);
    };
    let url: StoreUrl = url.parse().map_err(|error| format!("store.url: {error}"))?;
    let endpoint = said(raw.endpoint);
    if let Some(endpoint) = &endpoint {
        let plain = endpoint.strip_prefix("http://");
        let host = plain.or_else(|| endpoint.strip_prefix("https://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(['@', '?', '#'])) {
            return Err(
                "store.endpoint must be http://HOST:PORT or https://HOST:PORT, without user, password or query: \
                        credentials come from the environment or from store.credentials_file"
                    .to_owned(),
            );
        }
        if plain.is_some() && !raw.allow_http {
            return Err("store.endpoint begins with http://: names of objects would cross the network in clear text, \
                        and whoever is on it could answer. Use https://, or set store.allow_http = true"
                .to_owned());
        }
    }
    if raw.retries_max > RETRIES_MOST {
        return Err(format!("store.retries_max must not be more than {RETRIES_MOST}"));
    }
    let cache_bytes_max = raw.cache_bytes_max.0;
    if (1..CACHE_BYTES_MIN).contains(&cache_bytes_max) {
        return Err("store.cache_bytes_max must be at least 16 MiB, or 0 for no cache".to_owned());
    }
    let settings = RemoteSettings {
        url,
        endpoint,
        region: said(raw.region),
        account: said(raw.account),
        path_style: raw.path_style,
        allow_http: raw.allow_http,
        credentials_file: said(raw.credentials_file).map(PathBuf::from),
        ca_file: said(raw.ca_file).map(PathBuf::from),
        request_time_max: super::resolved::not_zero("store.request_time_max", raw.request_time_max.0)?,
        connect_time_max: super::resolved::not_zero("store.connect_time_max", raw.connect_time_max.0)?,
        retries_max: raw.retries_max,
        retry_time_max: raw.retry_time_max.0,
    };
    Ok(StoreConfig::Remote { settings: Box::new(settings), cache_bytes_max })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Overrides, parse};

    fn store(text: &str) -> Result<StoreConfig, String> {
        let config = parse(&format!("[store]\n{text}"), Path::new("config.toml"), &Overrides::default());
        config.map(|config| config.store).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn without_a_url_objects_stay_in_the_data_directory() {
        assert!(matches!(store(""), Ok(StoreConfig::Local)));
        let error = store("region = \"eu-central-1\"").expect_err("half of it");
        assert!(error.contains("store.region") && error.contains("store.url"), "{error}");
    }

    #[test]
    fn a_url_and_its_settings_are_taken() {
        let text = "url = \"s3://readings/icecore/a\"\nendpoint = \"http://127.0.0.1:7070\"\nallow_http = true\n\
                    credentials_file = \"/run/s3\"\nretries_max = 2\ncache_bytes_max = \"1 GiB\"";
        let Ok(StoreConfig::Remote { settings, cache_bytes_max }) = store(text) else { panic!("it holds") };
        assert_eq!(settings.url.to_string(), "s3://readings/icecore/a");
        assert_eq!(settings.credentials_file.as_deref(), Some(Path::new("/run/s3")));
        assert_eq!((settings.retries_max, settings.region, cache_bytes_max), (2, None, 1 << 30));
    }

    #[test]
    fn what_cannot_hold_is_named_and_secrets_are_not_repeated() {
        for (text, expected) in [
            ("url = \"ftp://x/y\"", "store.url"),
            ("url = \"s3://AB/y\"", "is not a bucket"),
            ("url = \"s3://bucket/a//b\"", "is not a prefix"),
            ("url = \"s3://bucket\"\nendpoint = \"http://host\"", "store.allow_http"),
            ("url = \"s3://bucket\"\nendpoint = \"https://user:secret@host\"", "store.endpoint"),
            ("url = \"secret@host\"", "store.url"),
            ("url = \"s3://bucket\"\nretries_max = 1000", "store.retries_max"),
            ("url = \"s3://bucket\"\ncache_bytes_max = \"1 MiB\"", "store.cache_bytes_max"),
            ("url = \"s3://bucket\"\nrequest_time_max = \"0s\"", "store.request_time_max"),
        ] {
            let error = store(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("user:secret"), "{error}");
        }
    }
}
