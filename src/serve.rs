//! The server, put together: engine, query, wire and HTTP over one data directory.
//!
//! Order of a start: lock, control database, removal of what a crash left, keys and certificate, standings, the socket of
//! local commands (which wait), HTTP (which reports "not ready"), recovery, readiness, wire. Order of a stop: local
//! commands, wire (submitted frames are acknowledged), HTTP (responses in progress come to an end), engine. A fatal error of the engine ends the server with that error; what was
//! acknowledged is in the WAL.

use std::net::SocketAddr;
use std::sync::Arc;

use engine::{Clock, Engine, SystemClock};
use ingest::{Server, ServerConfig, ServerError, TimePolicy};
use local::{Door, Resources, Serving};
use query::{QueryEngine, Turns};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::advice::Advise as _;
use crate::certificate::{Certificates, Current};
use crate::config::Config;
use crate::health;
use crate::open_files;
use crate::opened::{accepted_times, open_engine};
use crate::ports::{Directory, Now, Sink};
use crate::store::{self, Away};
use crate::telemetry::Metrics;
use control::data_dir::{DataDir, DirLock};
use control::master_key;
use control::{Control, Standings};
use problem::{Context, Problem, Result, chain};
use server::{Backend, HttpState};

/// A server at work.
#[derive(Debug)]
pub struct Running {
    engine: Arc<Engine>,
    ingest: Server,
    http: HttpServer,
    /// None when the socket of local commands could not be made.
    door: Option<Door>,
    standings: Standings,
    control: Control,
    config: Config,
    upkeep: JoinHandle<()>,
    renewal: JoinHandle<()>,
    retention: JoinHandle<()>,
    // Last: released after everything else has ended.
    _lock: DirLock,
}

#[derive(Debug)]
struct HttpServer {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl HttpServer {
    async fn start(config: &Config, state: HttpState) -> Result<Self> {
        let what = || format!("cannot listen for HTTP on {}", config.http.addr);
        let listener = TcpListener::bind(config.http.addr)
            .await
            .context(what)
            .map_err(|problem| problem.help("`--http-addr`, or http.addr in the configuration, chooses another"))?;
        let addr = listener.local_addr().context(what)?;
        let (stop, stopped) = watch::channel(false);
        let mut http = config.http.clone();
        let open_files = open_files::limit();
        http.connections_max = open_files::http_connections(http.connections_max, open_files);
        if http.connections_max < config.http.connections_max {
            tracing::warn!(
                connections_max = http.connections_max,
                configured = config.http.connections_max,
                open_files,
                "this process may open few files, so HTTP gets fewer connections than configured; raise the limit of \
                 open files (ulimit -n, LimitNOFILE)"
            );
        }
        let task = tokio::spawn(server::serve(listener, server::router(state), http, stopped));
        tracing::info!(%addr, "http listens");
        Ok(Self { addr, stop, task })
    }

    async fn stop(self, grace: std::time::Duration) {
        self.stop.send_replace(true);
        let mut task = self.task;
        if task.is_finished() {
            return;
        }
        if tokio::time::timeout(grace, &mut task).await.is_err() {
            tracing::warn!("answers under way were cut off");
            task.abort();
        }
    }
}

impl Running {
    /// Starts a server on a data directory that `init` has made; returns when it is ready.
    ///
    /// # Errors
    /// When the directory is none or taken, a key does not fit, an address is taken, or recovery finds damage.
    pub async fn start(data: &DataDir, config: Config) -> Result<Self> {
        let metrics = Metrics::install()?;
        data.check().advise()?;
        // Before the control database is opened, let alone changed: another server may have it.
        let lock = data.lock().advise()?;
        let control = data.open_control_locked(&lock).await.advise()?;
        data.clear_spill().advise()?;
        data.clear_keys().advise()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let now: Now = {
            let clock = Arc::clone(&clock);
            Arc::new(move || clock.now())
        };
        let master_key = master_key::load_master_key(&data.keys()).advise()?;
        master_key::verify_check(&control, &master_key).await.advise()?;
        let certificates = Certificates::new(data.keys(), config.ingest.server_names.clone(), Arc::clone(&now))?;
        let certificate = certificates.current()?;

        let standings = Standings::start(&control).await.advise()?;
        let (backend, ready) = watch::channel(None);
        let store = store::open(data, &config.store, &clock)?;
        store::describe();
        let render = {
            let (metrics, store) = (metrics.clone(), store.clone());
            Arc::new(move || {
                store.publish();
                metrics.render()
            })
        };
        let turns = Turns::new(&config.query);
        let state = HttpState::new(config.http.clone(), turns.clone(), standings.clone(), render, ready);
        let http = HttpServer::start(&config, state).await?;
        let (commands, serving) = watch::channel(None);
        let door = open_door(data, &lock, serving);

        let engine = open_engine(data, &config, master_key, Arc::clone(&clock), &store, Away::Wait).await?;
        let query = QueryEngine::with_spill_dir(
            Arc::clone(&engine),
            config.query.clone(),
            config.metadata_cache_bytes_max,
            data.spill(),
        )
        .with_turns(turns);
        let ingest = Self::start_ingest(&certificate, &config, standings.clone(), &engine, now)?;
        let renewal = {
            let (interval, shown) = (config.ingest.certificate_check_interval, ingest.certificate().clone());
            tokio::spawn(certificates.keep_renewed(certificate, interval, move |tls| shown.replace(tls)))
        };
        backend.send_replace(Some(Backend {
            health: health::check(Arc::clone(&engine)),
            engine: Arc::clone(&engine),
            query,
        }));
        let times = accepted_times(&config);
        let resources = Resources { engine: Arc::clone(&engine), control: control.clone(), clock, times };
        let retention = tokio::spawn(local::retention::every_day(resources.clone()));
        commands.send_replace(Some(resources));
        let upkeep = tokio::spawn(upkeep(metrics, backend));
        tracing::info!(http = %http.addr, ingest = %ingest.local_addr(), "ready");
        Ok(Self { engine, ingest, http, door, standings, control, config, upkeep, renewal, retention, _lock: lock })
    }

    fn start_ingest(
        certificate: &Current,
        config: &Config,
        standings: Standings,
        engine: &Arc<Engine>,
        now: Now,
    ) -> Result<Server> {
        let ingest_config = ServerConfig {
            addr: config.ingest.addr,
            tls: certificate.tls()?,
            limits: config.ingest.limits.clone(),
            times: TimePolicy { time_min: config.ingest.time_min, ahead_max: config.ingest.future_max },
            now: Arc::clone(&now),
        };
        let directory = Arc::new(Directory::new(standings, Arc::clone(engine), now));
        Server::bind(ingest_config, Arc::new(Sink::new(Arc::clone(engine))), directory).map_err(|error| {
            let problem = Problem::new("cannot listen for gateways").detail(chain(&error));
            match error {
                ServerError::Bind { .. } => {
                    problem.help("`--ingest-addr`, or ingest.addr in the configuration, chooses another")
                }
                _ => problem,
            }
        })
    }

    /// Where programs ask.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http.addr
    }

    /// Where gateways connect.
    #[must_use]
    pub fn ingest_addr(&self) -> SocketAddr {
        self.ingest.local_addr()
    }

    /// The engine, for whoever is in the same process.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Waits until the engine or HTTP stop by themselves, which they do only in error.
    pub async fn failed(&mut self) -> Problem {
        let mut failed = self.engine.failed();
        tokio::select! {
            fatal = failed.wait_for(Option::is_some) => {
                let text = fatal.ok().and_then(|error| error.as_ref().map(ToString::to_string)).unwrap_or_default();
                Problem::new("the engine has stopped; what was acknowledged is on the disk").detail(text)
            }
            ended = &mut self.http.task => {
                let text = match ended {
                    Ok(()) => "it ended".to_owned(),
                    Err(error) => error.to_string(),
                };
                Problem::new("the HTTP server has stopped").detail(text)
            }
        }
    }

    /// Stops in order.
    ///
    /// # Errors
    /// When the engine had stopped in error before, or does while closing.
    pub async fn stop(self) -> Result<()> {
        tracing::info!("stopping");
        self.renewal.abort();
        // As a crash would end it: what it has begun, the next pass settles.
        self.retention.abort();
        if let Some(door) = self.door {
            door.close().await;
        }
        self.ingest.shutdown(self.config.ingest.shutdown_grace).await;
        self.http.stop(self.config.http.shutdown_grace).await;
        self.upkeep.abort();
        let closed = self.engine.close().await;
        self.standings.stop().await;
        self.control.close().await;
        closed.map_err(|error| Problem::new("the engine did not close cleanly").detail(error))?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Opens the socket of local commands. A server without it serves everybody else.
fn open_door(data: &DataDir, lock: &DirLock, serving: Serving) -> Option<Door> {
    match Door::open(data, lock, serving) {
        Ok(door) => Some(door),
        Err(error) => {
            let socket = data.local_socket();
            tracing::error!(
                socket = %socket.display(), %error,
                "commands such as `icecore compact` and `icecore import` cannot reach this server"
            );
            None
        }
    }
}

/// Keeps the metrics small. Holds the backend's sender, without which waiting requests would be told to go.
async fn upkeep(metrics: Metrics, backend: watch::Sender<Option<Backend>>) {
    let mut interval = tokio::time::interval(Metrics::UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.upkeep();
        if backend.is_closed() {
            return;
        }
    }
}
