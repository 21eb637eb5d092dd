//! The server under load: a separate process of this program, measured only through `/proc` and `/metrics`.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::usage::Process;
use control::data_dir::DataDir;
use problem::{Context, Problem, Result};

/// Time limit of the server's start.
const START_MAX: Duration = Duration::from_secs(60);
/// Interval of the checks whether a starting server is ready.
const READY_INTERVAL: Duration = Duration::from_millis(20);
/// Number of log lines in the error when the server has ended.
const TAIL_LINES: usize = 20;
/// Time limit of a response to `/readyz` and `/metrics`, which should be fast even under load.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of a run, unless the environment has them: the count of all readings at the end takes long.
const SETTINGS: [(&str, &str); 4] = [
    ("ICECORE_LOG__FILTER", "warn"),
    ("ICECORE_QUERY__TIME_MAX", "10m"),
    ("ICECORE_QUERY__MEMORY_MAX", "16 GiB"),
    ("ICECORE_HTTP__REQUEST_TIME_MAX", "10m"),
];

/// A server process, killed when this is dropped.
#[derive(Debug)]
pub(super) struct BenchServer {
    child: Child,
    log: PathBuf,
    ingest: SocketAddr,
    http: SocketAddr,
    client: reqwest::Client,
}

impl Drop for BenchServer {
    fn drop(&mut self) {
        // Its data is not needed any more, so it need not end cleanly.
        let _already_ended = self.child.kill();
        let _already_ended = self.child.wait();
    }
}

/// Returns a UDP and a TCP address whose ports are free now.
fn addresses() -> Result<(SocketAddr, SocketAddr)> {
    let what = || "cannot find free ports".to_owned();
    let udp = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).context(what)?;
    let tcp = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).context(what)?;
    Ok((udp, tcp))
}

impl BenchServer {
    /// Starts this program as a server on this data directory, with the environment of this process, and waits until
    /// it is ready. Its log goes to a file in `dir`.
    ///
    /// # Errors
    /// When the server does not start.
    pub(super) async fn start(data: &DataDir, dir: &Path, connections: usize) -> Result<Self> {
        let (ingest, http) = addresses()?;
        let program = std::env::current_exe().context(|| "cannot find this program".to_owned())?;
        let log = dir.join("serve.log");
        let file = File::create(&log).context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--ingest-addr", &ingest.to_string(), "--http-addr", &http.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        let mut settings: Vec<(&str, String)> = SETTINGS.iter().map(|(name, value)| (*name, (*value).into())).collect();
        // With room for gateways that reconnect before their old connection is removed.
        settings.push(("ICECORE_INGEST__CONNECTIONS_MAX", (2 * connections).max(10_000).to_string()));
        for (name, value) in settings {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        let child = command.spawn().context(|| "cannot start the server".to_owned())?;
        let client = reqwest::Client::builder().no_proxy().timeout(RESPONSE_TIMEOUT);
        let client = client.retry(client::repeat_when_closed()).build();
        let client = client.context(|| "cannot create an HTTP client".to_owned())?;
        let mut this = Self { child, log, ingest, http, client };
        this.wait_until_ready().await?;
        Ok(this)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while self.get("readyz").await.is_err() {
            self.check_alive()?;
            if started.elapsed() > START_MAX {
                return Err(self.with_tail(Problem::new("the server does not become ready")));
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<String> {
        let what = || "the server does not respond".to_owned();
        let response = self.client.get(format!("{}/{path}", self.url())).send().await.context(what)?;
        response.error_for_status().context(what)?.text().await.context(what)
    }

    /// Checks that the server is still running.
    ///
    /// # Errors
    /// When it has ended, with the end of its log.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context(|| "cannot check the server process".to_owned())? {
            None => Ok(()),
            Some(status) => Err(self.with_tail(Problem::new(format!("the server has ended: {status}")))),
        }
    }

    /// Adds the end of the server's log to a problem.
    fn with_tail(&self, problem: Problem) -> Problem {
        let tail = self.tail();
        if tail.is_empty() { problem.detail("its log is empty") } else { problem.detail(tail) }
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Returns the number of lines in its log, which has warnings and errors only.
    #[must_use]
    pub(super) fn warnings(&self) -> usize {
        std::fs::read_to_string(&self.log).map_or(0, |log| log.lines().count())
    }

    /// Returns the address for gateways.
    #[must_use]
    pub(super) fn ingest(&self) -> SocketAddr {
        self.ingest
    }

    /// Returns the URL for queries.
    #[must_use]
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Returns the process.
    #[must_use]
    pub(super) fn process(&self) -> Process {
        Process::Other(self.child.id())
    }

    /// Returns the values of all metrics.
    ///
    /// # Errors
    /// When the server does not respond.
    pub(super) async fn metrics(&self) -> Result<MetricValues> {
        self.get("metrics").await.map(|page| MetricValues::parse(&page))
    }
}

/// Values of metrics by name, summed over all labels, without the buckets of histograms.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MetricValues(BTreeMap<String, f64>);

impl MetricValues {
    fn parse(page: &str) -> Self {
        let mut all = BTreeMap::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let name = name.split_once('{').map_or(name, |(name, _)| name);
            if !name.ends_with("_bucket") {
                *all.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
        Self(all)
    }

    /// Returns the increase of counters since an earlier page, and the present values of gauges.
    #[must_use]
    pub(super) fn since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let is_counter = |name: &str| ["_total", "_count", "_sum"].iter().any(|end| name.ends_with(end));
        let before = |name: &str| if is_counter(name) { earlier.0.get(name).copied().unwrap_or(0.0) } else { 0.0 };
        self.0.iter().map(|(name, value)| (name.clone(), value - before(name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_summed_over_labels() {
        let page = "# HELP a_total x\n# TYPE a_total counter\na_total{why=\"x y\"} 3\na_total{why=\"z\"} 4\nb 2.5\n\n\
                    c_seconds_bucket{le=\"1\"} 9\nc_seconds_sum 1.5\nc_seconds_count 9\n";
        let later = MetricValues::parse(page);
        let since = later.since(&MetricValues::parse("a_total{why=\"z\"} 1\nb 1\nc_seconds_count 4\n"));
        let expected = [("a_total", 6.0), ("b", 2.5), ("c_seconds_count", 5.0), ("c_seconds_sum", 1.5)];
        assert_eq!(since, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
