//! The server under load: a process of its own, started from this program, asked through `/proc` and `/metrics` only.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::usage::Process;
use control::data_dir::DataDir;
use problem::{Context, Problem, Result};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(60);
/// How often a starting server is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// What is shown of the log of a server that died.
const TAIL_LINES: usize = 20;
/// A question about how it goes should be answered soon, even under load.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Settings that a run needs, for whoever has not set them: counting everything at the end takes its time.
const SETTINGS: [(&str, &str); 4] = [
    ("ICECORE_LOG__FILTER", "warn"),
    ("ICECORE_QUERY__TIME_MAX", "10m"),
    ("ICECORE_QUERY__MEMORY_MAX", "16 GiB"),
    ("ICECORE_HTTP__REQUEST_TIME_MAX", "10m"),
];

/// A server process. It ends when this is dropped.
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
        // Whatever it has is of no use to anybody: no clean end.
        let _gone_already = self.child.kill();
        let _gone_already = self.child.wait();
    }
}

/// Ports that are free now.
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
    /// When it does not come up.
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
        // With room for those that come back before their old connection is gone.
        settings.push(("ICECORE_INGEST__CONNECTIONS_MAX", (2 * connections).max(10_000).to_string()));
        for (name, value) in settings {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        let child = command.spawn().context(|| "cannot start the server".to_owned())?;
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build();
        let client = client.context(|| "cannot make an HTTP client".to_owned())?;
        let mut this = Self { child, log, ingest, http, client };
        this.ready().await?;
        Ok(this)
    }

    async fn ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        while self.get("readyz").await.is_err() {
            self.alive()?;
            if begun.elapsed() > START_MAX {
                return Err(self.with_tail(Problem::new("the server does not get ready")));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<String> {
        let what = || "the server does not answer".to_owned();
        let response = self.client.get(format!("{}/{path}", self.url())).send().await.context(what)?;
        response.error_for_status().context(what)?.text().await.context(what)
    }

    /// Is it still there?
    ///
    /// # Errors
    /// When it has ended, with the end of its log.
    pub(super) fn alive(&mut self) -> Result<()> {
        match self.child.try_wait().context(|| "cannot look after the server".to_owned())? {
            None => Ok(()),
            Some(status) => Err(self.with_tail(Problem::new(format!("the server has ended: {status}")))),
        }
    }

    /// A problem with the end of the server's log, where it has one.
    fn with_tail(&self, problem: Problem) -> Problem {
        let tail = self.tail();
        if tail.is_empty() { problem.detail("its log says nothing") } else { problem.detail(tail) }
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// What it wrote to its log: warnings and errors.
    #[must_use]
    pub(super) fn warnings(&self) -> usize {
        std::fs::read_to_string(&self.log).map_or(0, |log| log.lines().count())
    }

    /// Where gateways connect.
    #[must_use]
    pub(super) fn ingest(&self) -> SocketAddr {
        self.ingest
    }

    /// Where programs ask.
    #[must_use]
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The process.
    #[must_use]
    pub(super) fn process(&self) -> Process {
        Process::Other(self.child.id())
    }

    /// Everything that it counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) async fn counted(&self) -> Result<Counted> {
        self.get("metrics").await.map(|page| Counted::parse(&page))
    }
}

/// A page of metrics: names with their values, summed over all labels, without the buckets of histograms.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counted(BTreeMap<String, f64>);

impl Counted {
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

    /// What was counted since an earlier page; gauges as they are now.
    #[must_use]
    pub(super) fn since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let counts = |name: &str| ["_total", "_count", "_sum"].iter().any(|end| name.ends_with(end));
        let before = |name: &str| if counts(name) { earlier.0.get(name).copied().unwrap_or(0.0) } else { 0.0 };
        self.0.iter().map(|(name, value)| (name.clone(), value - before(name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_summed_over_labels() {
        let page = "# HELP a_total x\n# TYPE a_total counter\na_total{why=\"x y\"} 3\na_total{why=\"z\"} 4\nb 2.5\n\n\
                    c_seconds_bucket{le=\"1\"} 9\nc_seconds_sum 1.5\nc_seconds_count 9\n";
        let later = Counted::parse(page);
        let since = later.since(&Counted::parse("a_total{why=\"z\"} 1\nb 1\nc_seconds_count 4\n"));
        let wanted = [("a_total", 6.0), ("b", 2.5), ("c_seconds_count", 5.0), ("c_seconds_sum", 1.5)];
        assert_eq!(since, wanted.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
