//! From settings to a store: which kind, where in it, how it is reached, and with what patience.
//!
//! Secrets are never part of the settings: they come from the environment, from the machine's own identity, or from a
//! file that is named. So settings, addresses and errors of this file can be shown and logged.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3CopyIfNotExists};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::Handle;

use super::credentials::CredentialsFile;
use super::http::CountingConnector;
use super::remote::{PartsTo, Patience, RemoteStore};
use super::requests::StoreRequests;
use crate::{Clock, Random};

/// Provider of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// S3, or a store that speaks as it does.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Provider {
    const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// Place of the objects in a remote store: `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// Provider of the store.
    pub provider: Provider,
    /// The bucket; Azure says container.
    pub bucket: String,
    /// What all names begin with; may be empty.
    pub prefix: Path,
}

/// A text that is no address of a store. It is not repeated: people put passwords and signatures into addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// Another scheme, or none.
    #[error("it does not begin with s3://, gs:// or az://")]
    Scheme,
    /// No bucket, or one with signs that no provider allows.
    #[error("what follows the scheme is not a bucket: 3 to 63 lower-case letters, digits, dots and hyphens")]
    Bucket,
    /// A prefix that would not be the same text in the store.
    #[error(
        "what follows the bucket is not a prefix: letters, digits, '-', '_' and '.', in parts between single slashes"
    )]
    Prefix,
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let split = [Provider::S3, Provider::Gcs, Provider::Azure].into_iter().find_map(|provider| {
            let rest = text.strip_prefix(provider.scheme())?.strip_prefix("://")?;
            Some((provider, rest))
        });
        let (provider, rest) = split.ok_or(StoreUrlError::Scheme)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(fits) {
            return Err(StoreUrlError::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let part_fits = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        if !prefix.is_empty() && (prefix.len() > 500 || !prefix.split('/').all(part_fits)) {
            return Err(StoreUrlError::Prefix);
        }
        Ok(Self { provider, bucket: bucket.to_owned(), prefix: Path::from(prefix) })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.provider.scheme(), self.bucket)?;
        if self.prefix.as_ref().is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// Settings by which a remote store is reached.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Where.
    pub url: StoreUrl,
    /// Another place than the provider's own: `https://host:port`.
    pub endpoint: Option<String>,
    /// S3's region; the environment's, or us-east-1, if none is said.
    pub region: Option<String>,
    /// Azure's storage account; the environment's if none is said.
    pub account: Option<String>,
    /// S3: the bucket stands in the path, not in the host's name.
    pub path_style: bool,
    /// HTTP without TLS is allowed.
    pub allow_http: bool,
    /// File that secrets are read from, instead of the environment and the machine's identity.
    pub credentials_file: Option<PathBuf>,
    /// Certificates (PEM) that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Time of one request; large objects get a second for each MiB besides.
    pub request_time_max: Duration,
    /// Time to reach the store.
    pub connect_time_max: Duration,
    /// Tries of one request after the first.
    pub retries_max: usize,
    /// Time after which a request is not tried again.
    pub retry_time_max: Duration,
}

/// A store that cannot be made of its settings.
#[derive(Debug, thiserror::Error)]
pub enum StoreSetupError {
    /// A file that is named cannot be used.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client does not accept the settings.
    #[error("the settings of {url} do not hold: {source}")]
    Settings {
        /// Where.
        url: String,
        /// Why not.
        source: object_store::Error,
    },
}

/// The first pause before a request is tried again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Opens a remote store; nothing is asked of it yet. Its requests are made on `runtime`.
///
/// # Errors
/// [`StoreSetupError`].
pub fn open_remote(
    settings: &RemoteSettings,
    requests: &Arc<StoreRequests>,
    runtime: &Handle,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Result<Arc<dyn ObjectStore>, StoreSetupError> {
    let patience = RetryConfig {
        backoff: BackoffConfig { init_backoff: PAUSES.0, max_backoff: PAUSES.1, base: 2.0 },
        max_retries: settings.retries_max,
        retry_timeout: settings.retry_time_max,
    };
    let once = RetryConfig { max_retries: 0, ..patience.clone() };
    let connector = |create_only| CountingConnector {
        requests: Arc::clone(requests),
        request_time_max: settings.request_time_max,
        runtime: runtime.clone(),
        create_only,
    };
    let prefixed = |store: Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
        if settings.url.prefix.as_ref().is_empty() {
            store
        } else {
            Arc::new(PrefixStore::new(store, settings.url.prefix.clone()))
        }
    };
    let reads = prefixed(client(settings, patience.clone(), connector(false))?);
    let writes = prefixed(client(settings, once, connector(false))?);
    let parts = match settings.url.provider {
        Provider::S3 => {
            let store: Arc<dyn MultipartStore> = Arc::new(s3(settings, patience, connector(true))?);
            Some(PartsTo { store, prefix: settings.url.prefix.clone() })
        }
        // These take an object of any size that there is in one request.
        Provider::Gcs | Provider::Azure => None,
    };
    let patience = Patience {
        retries_max: settings.retries_max,
        time_max: settings.retry_time_max,
        pause_min: PAUSES.0,
        pause_max: PAUSES.1,
        clock: Arc::clone(clock),
        random: Arc::clone(random),
    };
    let gives_ends = settings.url.provider != Provider::Azure;
    Ok(Arc::new(RemoteStore::new(settings.url.to_string(), (reads, writes, parts), gives_ends, patience)))
}

fn file_error(path: &std::path::Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreSetupError {
    StoreSetupError::File { path: path.display().to_string(), source: source.into() }
}

fn options(settings: &RemoteSettings) -> Result<ClientOptions, StoreSetupError> {
    // The time of a request and of its response depends on their sizes, which the client does not know: `http.rs`.
    let mut options = ClientOptions::new()
        .with_allow_http(settings.allow_http)
        .with_connect_timeout(settings.connect_time_max)
        .with_timeout_disabled();
    if let Some(file) = &settings.ca_file {
        let pem = std::fs::read(file).map_err(|error| file_error(file, error))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| file_error(file, error))? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn client(
    settings: &RemoteSettings,
    retry: RetryConfig,
    connector: CountingConnector,
) -> Result<Arc<dyn ObjectStore>, StoreSetupError> {
    Ok(match settings.url.provider {
        Provider::S3 => Arc::new(s3(settings, retry, connector)?),
        Provider::Gcs => Arc::new(gcs(settings, retry, connector)?),
        Provider::Azure => Arc::new(azure(settings, retry, connector)?),
    })
}

fn wrong(settings: &RemoteSettings) -> impl FnOnce(object_store::Error) -> StoreSetupError {
    let url = settings.url.to_string();
    move |source| StoreSetupError::Settings { url, source }
}

fn s3(
    settings: &RemoteSettings,
    retry: RetryConfig,
    connector: CountingConnector,
) -> Result<object_store::aws::AmazonS3, StoreSetupError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_client_options(options(settings)?)
        .with_retry(retry)
        .with_http_connector(connector)
        .with_allow_http(settings.allow_http)
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .with_bucket_name(&settings.url.bucket);
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(bucket_endpoint(endpoint, &settings.url.bucket, settings.path_style));
    }
    if let Some(file) = &settings.credentials_file {
        // Read once now, so that a wrong name is an error at once.
        let credentials = CredentialsFile::open(file).map_err(|error| file_error(file, error))?;
        builder = builder.with_credentials(Arc::new(credentials));
    }
    builder.build().map_err(wrong(settings))
}

/// Address that requests for a bucket go to: the client puts the bucket into the path by itself, but not into the host.
fn bucket_endpoint(endpoint: &str, bucket: &str, path_style: bool) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !path_style => format!("{scheme}://{bucket}.{host}"),
        _ => endpoint.to_owned(),
    }
}

fn gcs(
    settings: &RemoteSettings,
    retry: RetryConfig,
    connector: CountingConnector,
) -> Result<object_store::gcp::GoogleCloudStorage, StoreSetupError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_client_options(options(settings)?)
        .with_retry(retry)
        .with_http_connector(connector)
        .with_bucket_name(&settings.url.bucket);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(file) = &settings.credentials_file {
        std::fs::metadata(file).map_err(|error| file_error(file, error))?;
        builder = builder.with_application_credentials(file.display().to_string());
    }
    builder.build().map_err(wrong(settings))
}

fn azure(
    settings: &RemoteSettings,
    retry: RetryConfig,
    connector: CountingConnector,
) -> Result<object_store::azure::MicrosoftAzure, StoreSetupError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_client_options(options(settings)?)
        .with_retry(retry)
        .with_http_connector(connector)
        .with_allow_http(settings.allow_http)
        .with_container_name(&settings.url.bucket);
    if let Some(account) = &settings.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(file) = &settings.credentials_file {
        let key = std::fs::read_to_string(file).map_err(|error| file_error(file, error))?;
        builder = builder.with_access_key(key.trim());
    }
    builder.build().map_err(wrong(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_refused_is_not_repeated() {
        for (text, error) in [
            ("user:hunter2", StoreUrlError::Scheme),
            ("hunter2://bucket", StoreUrlError::Scheme),
            ("s3://user:hunter2@host/a", StoreUrlError::Bucket),
            ("az://bucket/a?sig=hunter2", StoreUrlError::Prefix),
        ] {
            let found = text.parse::<StoreUrl>().expect_err("refused");
            assert_eq!(found, error, "{text}");
            assert!(!format!("{found} {found:?}").contains("hunter2"), "{found}");
        }
    }
}
