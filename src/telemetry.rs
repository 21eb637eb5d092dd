//! Structured logs and metrics. Neither carries personal data, secrets, readings or organisations' names.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{LogConfig, LogFormat};
use problem::{Context, Result};

/// Starts logging to stderr. A second call in the same process changes nothing.
///
/// # Errors
/// When the filter is not one.
pub fn start_logging(config: &LogConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.filter).context(|| format!("log.filter {:?} is wrong", config.filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Only the first subscriber of a process counts; tests and the demo start several servers.
    let _already_there = match config.format {
        LogFormat::Text => builder.try_init().is_err(),
        LogFormat::Json => builder.json().flatten_event(true).try_init().is_err(),
    };
    Ok(())
}

/// Upper bounds of the buckets of every histogram of seconds: from a fast sync to a slow query.
const SECONDS_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// The process's metrics, in the form that Prometheus reads.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The process's metrics; the first call makes them.
    ///
    /// # Errors
    /// When another recorder is installed.
    pub fn install() -> Result<Self> {
        static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
        if let Some(handle) = HANDLE.get() {
            return Ok(Self(handle.clone()));
        }
        let what = || "cannot start the metrics".to_owned();
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .context(what)?
            .install_recorder()
            .context(what)?;
        Ok(Self(HANDLE.get_or_init(|| handle).clone()))
    }

    /// All metrics as text.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// How often [`Self::upkeep`] should run.
    pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

    /// Folds what histograms have collected; without it they grow until somebody asks for them.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}
