//! The object store that the configuration names: opened, bound to the data directory, waited for, counted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control::data_dir::DataDir;
use engine::{
    BindingError, CachedStore, Clock, CountedStore, Engine, EngineConfig, EngineError, EngineErrorKind, EngineParts,
    LocalDurable, Random, RealFiles, RemoteSettings, RequestKind, StoreRequests, SystemRandom, bind, check_address,
    check_unbound, open_remote,
};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use problem::{Context, Problem, Result, chain};
use tokio::runtime::Handle;

use crate::config::StoreConfig;

/// Pauses while a remote store cannot be reached at a start: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Interval at which the log says that the store is waited for.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

const REQUESTS: &str = "icecore_store_requests_total";
const SENT: &str = "icecore_store_sent_bytes_total";
const RECEIVED: &str = "icecore_store_received_bytes_total";
const CACHE_HITS: &str = "icecore_store_cache_hits_total";
const CACHE_MISSES: &str = "icecore_store_cache_misses_total";
const CACHE_HIT_BYTES: &str = "icecore_store_cache_hit_bytes_total";
const CACHE_MISSED_BYTES: &str = "icecore_store_cache_missed_bytes_total";
const CACHE_EVICTED: &str = "icecore_store_cache_evicted_total";
const CACHE_FAILURES: &str = "icecore_store_cache_failures_total";
const CACHE_BYTES: &str = "icecore_store_cache_bytes";

/// What is done when a remote store cannot be reached at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// A server waits: it is there for years, and whoever starts it may have gone.
    Wait,
    /// A command says so and ends: somebody looks at it.
    Fail,
}

/// An open store.
#[derive(Debug, Clone)]
pub struct OpenStore {
    /// What the engine writes to and reads from.
    pub store: Arc<dyn ObjectStore>,
    requests: Arc<StoreRequests>,
    cache: Option<CachedStore>,
    url: Option<String>,
}

/// Opens the store for the process that holds the data directory's lock. A remote one is not asked for anything yet.
///
/// # Errors
/// When the directory belongs to another store, or the settings do not hold.
pub fn open(data: &DataDir, config: &StoreConfig, clock: &Arc<dyn Clock>) -> Result<OpenStore> {
    let requests = Arc::new(StoreRequests::default());
    match config {
        StoreConfig::Local => {
            check_unbound(&RealFiles, data.path()).map_err(|error| binding_problem(&error, data.path()))?;
            let local = LocalDurable::open(data.store(), data.staging())
                .context(|| format!("cannot open the object store {}", data.store().display()))?;
            let store = Arc::new(CountedStore::new(Arc::new(local), Arc::clone(&requests)));
            Ok(OpenStore { store, requests, cache: None, url: None })
        }
        StoreConfig::Remote { settings, cache_bytes_max } => {
            let url = settings.url.to_string();
            check_address(&RealFiles, data.path(), &url).map_err(|error| binding_problem(&error, data.path()))?;
            no_local_objects(data, &url)?;
            let store = remote(settings, &requests, clock)?;
            if *cache_bytes_max == 0 {
                return Ok(OpenStore { store, requests, cache: None, url: Some(url) });
            }
            let dir = data.path().join("cache");
            let cache = CachedStore::open(store, &url, Arc::new(RealFiles), dir.clone(), *cache_bytes_max)
                .context(|| format!("cannot open the cache {}", dir.display()))?;
            Ok(OpenStore { store: Arc::new(cache.clone()), requests, cache: Some(cache), url: Some(url) })
        }
    }
}

/// Opens the store for a command that only reads, beside a server or without one.
///
/// # Errors
/// As [`open`].
pub fn open_read_only(data: &DataDir, config: &StoreConfig, clock: &Arc<dyn Clock>) -> Result<Arc<dyn ObjectStore>> {
    match config {
        StoreConfig::Local => {
            check_unbound(&RealFiles, data.path()).map_err(|error| binding_problem(&error, data.path()))?;
            let store = LocalFileSystem::new_with_prefix(data.store())
                .context(|| format!("cannot open the object store {}", data.store().display()))?;
            Ok(Arc::new(store))
        }
        StoreConfig::Remote { settings, .. } => {
            let url = settings.url.to_string();
            check_address(&RealFiles, data.path(), &url).map_err(|error| binding_problem(&error, data.path()))?;
            remote(settings, &Arc::default(), clock)
        }
    }
}

fn remote(
    settings: &RemoteSettings,
    requests: &Arc<StoreRequests>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn ObjectStore>> {
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    open_remote(settings, requests, &Handle::current(), clock, &random).map_err(|error| {
        Problem::new(format!("cannot use the object store {}", settings.url)).detail(chain(&error)).help(
            "[store] in the configuration says where it is and how it is reached; docs/object-stores.md tells more",
        )
    })
}

/// A directory that has objects of its own and a remote store is one that moves: somebody must copy them first.
fn no_local_objects(data: &DataDir, url: &str) -> Result<()> {
    let orgs = data.store().join("orgs");
    let found = match std::fs::read_dir(&orgs) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).context(|| format!("cannot read {}", orgs.display())),
    };
    if !found {
        return Ok(());
    }
    Err(Problem::new(format!("store.url is {url}, but {} holds objects", orgs.display())).help(
        "copy all of it to that place under the same names, move the directory away, and start again; \
         docs/object-stores.md tells how",
    ))
}

fn binding_problem(error: &BindingError, data_dir: &Path) -> Problem {
    let file = data_dir.join("store.bound");
    let problem = Problem::new("the data directory and the object store do not go together").detail(chain(error));
    match error {
        BindingError::Elsewhere { bound, .. } => problem.help(format!(
            "set store.url = \"{bound}\" again. If all objects but the one named data-directory were copied to the new \
             place, remove {}: both are written anew",
            file.display()
        )),
        BindingError::Strange { url, found } => problem.help(format!(
            "use another bucket or prefix. If the other directory is gone for good and this one is its copy, write \
             \"{found} {url} bound\" into {}",
            file.display()
        )),
        BindingError::Lost { url } => problem.help(format!(
            "look whether {url} is the right place, and restore its objects. If nothing was ever stored in it, remove {}",
            file.display()
        )),
        BindingError::Unavailable { .. } => problem.help(
            "see that the bucket is there and the store is up, and look at [store] in the configuration, the credentials \
             and their rights; docs/object-stores.md tells more",
        ),
        BindingError::File { .. } => problem.help(
            "the file holds the id of the directory and the address of its store: see that this user can read and write \
             it, and restore it from a copy of the directory if it is damaged",
        ),
    }
}

impl OpenStore {
    /// Opens the engine on this store. While a remote store cannot be reached it is waited for: readings cannot be taken
    /// before it is known which of them it has.
    ///
    /// # Errors
    /// Whatever another try would not mend.
    pub async fn open_engine(
        &self,
        data: &DataDir,
        config: &EngineConfig,
        parts: impl Fn() -> EngineParts,
        clock: &dyn Clock,
        away: Away,
    ) -> Result<Arc<Engine>> {
        let mut pause = PAUSES.0;
        let mut told: Option<Duration> = None;
        loop {
            let error = match self.try_open(data, config, &parts).await {
                Ok(engine) => {
                    if told.is_some() {
                        tracing::info!("the object store is there");
                    }
                    return Ok(engine);
                }
                Err(Failed::ForGood(problem)) => return Err(problem),
                Err(Failed::ForNow(error)) if away == Away::Fail => {
                    return Err(Problem::new("the object store cannot be reached").detail(error).help(
                        "see that it is up, and look at [store] in the configuration, the credentials and their rights",
                    ));
                }
                Err(Failed::ForNow(error)) => error,
            };
            let now = clock.monotonic();
            if told.is_none_or(|told| now.saturating_sub(told) >= REMIND_INTERVAL) {
                tracing::warn!(
                    %error,
                    "the object store cannot be reached: the server waits for it, and takes no readings until then; \
                     see that it is up, and look at [store] in the configuration, the credentials and their rights"
                );
                told = Some(now);
            }
            clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn try_open(
        &self,
        data: &DataDir,
        config: &EngineConfig,
        parts: &impl Fn() -> EngineParts,
    ) -> std::result::Result<Arc<Engine>, Failed> {
        if let Some(url) = &self.url {
            match bind(self.store.as_ref(), url, &RealFiles, data.path(), &SystemRandom).await {
                Ok(()) => {}
                Err(BindingError::Unavailable { source, .. }) if may_pass(&source) => {
                    return Err(Failed::ForNow(chain(&source)));
                }
                Err(error) => return Err(Failed::ForGood(binding_problem(&error, data.path()))),
            }
        }
        Engine::open(config.clone(), parts()).await.map_err(|error| {
            if self.url.is_some() && error.kind() == EngineErrorKind::Retry && is_of_the_store(&error) {
                Failed::ForNow(error.to_string())
            } else {
                Failed::ForGood(Problem::new("the engine does not start").detail(error))
            }
        })
    }

    /// Puts what the store has counted among the metrics.
    pub fn publish(&self) {
        for kind in RequestKind::ALL {
            let counts = self.requests.get(kind);
            counter!(REQUESTS, "kind" => kind.as_str(), "outcome" => "ok").absolute(counts.ok);
            counter!(REQUESTS, "kind" => kind.as_str(), "outcome" => "error").absolute(counts.failed);
        }
        counter!(SENT).absolute(self.requests.get(RequestKind::Put).bytes_sent);
        counter!(RECEIVED).absolute(self.requests.get(RequestKind::Get).bytes_received);
        if let Some(cache) = &self.cache {
            let counts = cache.counts();
            counter!(CACHE_HITS).absolute(counts.hits);
            counter!(CACHE_MISSES).absolute(counts.misses);
            counter!(CACHE_HIT_BYTES).absolute(counts.hit_bytes);
            counter!(CACHE_MISSED_BYTES).absolute(counts.missed_bytes);
            counter!(CACHE_EVICTED).absolute(counts.evicted);
            counter!(CACHE_FAILURES).absolute(counts.failures);
            gauge!(CACHE_BYTES).set(counts.bytes as f64);
        }
    }
}

/// What the metrics of stores are.
pub fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Requests to the object store by kind and outcome: what it is paid by");
    describe_counter!(SENT, Unit::Bytes, "Bytes of objects sent to the object store");
    describe_counter!(RECEIVED, Unit::Bytes, "Bytes of objects received from the object store");
    describe_counter!(CACHE_HITS, Unit::Count, "Blocks of objects that were in the cache");
    describe_counter!(CACHE_MISSES, Unit::Count, "Blocks of objects that were read from the store");
    describe_counter!(CACHE_HIT_BYTES, Unit::Bytes, "Bytes of objects that were in the cache");
    describe_counter!(CACHE_MISSED_BYTES, Unit::Bytes, "Bytes of objects that were read from the store");
    describe_counter!(CACHE_EVICTED, Unit::Count, "Blocks that left the cache for others");
    describe_counter!(
        CACHE_FAILURES,
        Unit::Count,
        "Files of the cache that were damaged or could not be written or read"
    );
    describe_gauge!(CACHE_BYTES, Unit::Bytes, "Bytes of the cache on the disk");
}

enum Failed {
    ForNow(String),
    ForGood(Problem),
}

/// Returns whether the store's error may go away by itself. "No such bucket" does not, because the address is wrong.
fn may_pass(error: &object_store::Error) -> bool {
    !matches!(error, object_store::Error::NotFound { .. } | object_store::Error::NotImplemented { .. })
}

fn is_of_the_store(error: &EngineError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<object_store::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}
