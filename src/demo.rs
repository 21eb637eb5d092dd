//! The whole path in one process: a server, three organisations with simulated fleets over real QUIC, and every
//! promise shown once. What it prints is what a user would see by the same commands.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage_format::{ChannelCode, LoggerId, Millis};

use crate::advice::Advise as _;
use crate::cli::demo_tools::{self, Question};
use crate::config::{self, Config, Overrides};
use crate::serve::Running;
use control::data_dir::DataDir;
use gateway::sender::{FRAME_READINGS, Origin, Sender};
use gateway::simulator::{Fleet, FleetConfig, SimulatedReading};
use problem::{Context, Problem, Result};

/// How the demo goes.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// Where; a temporary directory if `None`.
    pub dir: Option<PathBuf>,
    /// Keep everything, and the server running.
    pub keep: bool,
    /// Days of readings.
    pub days: u32,
}

/// Organisations with their fleets: name, loggers.
const FLEETS: [(&str, u32); 3] = [("clinic", 40), ("cold-chain", 120), ("museum", 20)];
const PATIENCE: Duration = Duration::from_secs(30);
const START: &str = "2025-01-01T00:00:00Z";

/// What a fleet's owner has.
struct Owner {
    name: &'static str,
    identity: PathBuf,
    token: String,
    fleet: FleetConfig,
}

/// A demo whose server is still running.
#[derive(Debug)]
pub struct Demo {
    running: Running,
}

/// Prints a line.
type Print<'a> = &'a dyn Fn(&str) -> Result<()>;

impl Demo {
    /// Shows everything; the demo itself if its server is to go on.
    ///
    /// # Errors
    /// When anything does not go as it should.
    pub async fn run(config: DemoConfig, print: impl Fn(&str) -> Result<()>) -> Result<Option<Self>> {
        let print: Print<'_> = &print;
        let (dir, temporary) = match &config.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let dir = tempfile::Builder::new().prefix("icecore-demo-").tempdir();
                let dir = dir.context(|| "cannot make a temporary directory".to_owned())?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        let started = Instant::now();
        let data = DataDir::new(dir.join("data"));
        print("== A data directory: keys, internal CA, control database, configuration")?;
        data.init(config::DEFAULT_TOML, demo_tools::now()).await.advise()?;
        print(&format!("   {}", data.path().display()))?;
        let running = start(&data).await?;
        print(&format!(
            "   serving: gateways at {} (QUIC), programs at {} (HTTP)",
            running.ingest_addr(),
            url(&running)
        ))?;

        let owners = owners(&data, &dir, config.days).await?;
        send_fleets(&running, &owners, print).await?;
        ask(&running, &owners[0], print).await?;
        resend_and_contradict(&running, &owners[0], print).await?;
        let running = restart(running, &data, &owners, print).await?;
        export(&running, &owners[2], &dir, print).await?;
        print(&format!("\n== Done in {:.1} s", started.elapsed().as_secs_f64()))?;
        what_next(&running, &data, &owners[0], &config, temporary.is_some(), print)?;
        if config.keep {
            if let Some(temporary) = temporary {
                // Kept on purpose.
                let _path = temporary.keep();
            }
            return Ok(Some(Self { running }));
        }
        running.stop().await?;
        Ok(None)
    }

    /// Stops the server.
    ///
    /// # Errors
    /// When it does not close cleanly.
    pub async fn stop(self) -> Result<()> {
        self.running.stop().await
    }
}

async fn start(data: &DataDir) -> Result<Running> {
    let local = || Some("127.0.0.1:0".to_owned());
    let config: Config = config::load(&data.config(), &Overrides { ingest_addr: local(), http_addr: local() })?;
    Running::start(data, config).await
}

fn url(running: &Running) -> String {
    format!("http://{}", running.http_addr())
}

async fn owners(data: &DataDir, dir: &Path, days: u32) -> Result<Vec<Owner>> {
    let start: Millis = START.parse().context(|| "the demo's start is no time".to_owned())?;
    let control = data.open_control().await.advise()?;
    let mut owners = Vec::new();
    for (seed, (name, loggers)) in (1..).zip(FLEETS) {
        let org = control.create_org(&demo_tools::caller(), name, demo_tools::now()).await.advise()?;
        let identity = dir.join(format!("gateway-{name}"));
        demo_tools::enroll(&control, data, name, &identity).await?;
        let (_, token) =
            control.create_token(&demo_tools::caller(), org.id, "demo", demo_tools::now()).await.advise()?;
        let fleet = FleetConfig { seed, loggers, interval: Duration::from_secs(300), start, days };
        owners.push(Owner { name, identity, token: token.expose().to_owned(), fleet });
    }
    control.close().await;
    Ok(owners)
}

async fn send(running: &Running, owner: &Owner, readings: impl Iterator<Item = SimulatedReading>) -> Result<String> {
    let server = running.ingest_addr().to_string();
    let mut sender = Sender::new(&owner.identity, &server, PATIENCE, FRAME_READINGS)?;
    for (number, reading) in (1..).zip(readings) {
        let origin = Origin { file: 0, line: number, time: reading.time };
        if sender.push(origin, reading.logger, &reading.samples).await.is_err() {
            break;
        }
    }
    let outcome = sender.finish().await;
    outcome.check()?;
    Ok(outcome.summary())
}

async fn send_fleets(running: &Running, owners: &[Owner], print: Print<'_>) -> Result<()> {
    print("\n== Three organisations send at once; what is acknowledged is on the disk")?;
    let sends = owners.iter().map(|owner| async move {
        let fleet = Fleet::new(&owner.fleet)?;
        Ok::<_, Problem>((owner, send(running, owner, fleet).await?))
    });
    for (owner, summary) in futures::future::try_join_all(sends).await? {
        print(&format!(
            "   {:<11} {:>3} loggers, {} days: {summary}",
            owner.name, owner.fleet.loggers, owner.fleet.days
        ))?;
    }
    Ok(())
}

async fn question(running: &Running, owner: &Owner, sql: &str, print: Print<'_>) -> Result<()> {
    print(&format!("   {sql}"))?;
    let question = Question { url: url(running), token: owner.token.clone(), sql: sql.to_owned() };
    for line in demo_tools::ask(question).await?.lines() {
        print(&format!("   {line}"))?;
    }
    Ok(())
}

async fn ask(running: &Running, owner: &Owner, print: Print<'_>) -> Result<()> {
    print(&format!("\n== Questions of {}, in SQL", owner.name))?;
    let warmest = "SELECT eui64_text(logger) AS logger, count(*) AS readings, round(avg(temperature), 2) AS mean, \
                   min(temperature) AS lowest, max(temperature) AS highest FROM readings GROUP BY logger \
                   ORDER BY highest DESC LIMIT 5";
    question(running, owner, warmest, print).await?;
    let daily = "SELECT date_trunc('day', time) AS day, round(avg(humidity), 1) AS humidity, \
                 count(*) FILTER (WHERE temperature > 8) AS over_8 FROM readings GROUP BY day ORDER BY day LIMIT 4";
    question(running, owner, daily, print).await
}

async fn resend_and_contradict(running: &Running, owner: &Owner, print: Print<'_>) -> Result<()> {
    print(
        "\n== The same readings again, as after a lost acknowledgement: kept once, counted as duplicates (value by value)",
    )?;
    send(running, owner, Fleet::new(&owner.fleet)?).await?;
    question(running, owner, "SELECT readings, duplicates, conflicts FROM totals", print).await?;

    print("\n== Another value for a reading that is there: the first one stays, the other is kept beside it")?;
    let Some(mut forged) = Fleet::new(&owner.fleet)?.next() else {
        return Err(Problem::new("the demo's fleet has no readings"));
    };
    let samples: &mut [(ChannelCode, f64); 2] = &mut forged.samples;
    samples[0].1 = 99.5;
    let logger: LoggerId = forged.logger;
    send(running, owner, std::iter::once(forged)).await?;
    question(running, owner, "SELECT channel, kept, refused, received FROM conflicts", print).await?;
    let sql = format!("SELECT temperature FROM readings WHERE logger = eui64('{logger}') ORDER BY time LIMIT 1");
    question(running, owner, &sql, print).await
}

async fn restart(running: Running, data: &DataDir, owners: &[Owner], print: Print<'_>) -> Result<Running> {
    print("\n== Flushed to encrypted Parquet, stopped, started again: everything is there")?;
    running.engine().flush(None).await.map_err(|error| Problem::new("the flush failed").detail(error))?;
    let bytes = demo_tools::bytes_below(&data.store())?;
    let readings: u64 = owners.iter().map(|owner| Fleet::new(&owner.fleet).map_or(0, |fleet| fleet.len())).sum();
    let each = bytes as f64 / readings as f64;
    print(&format!("   {readings} readings take {bytes} bytes in {}, {each:.2} each", data.store().display()))?;
    running.stop().await?;
    let running = start(data).await?;
    for owner in owners {
        print(&format!("   {}:", owner.name))?;
        question(&running, owner, "SELECT count(*) AS readings FROM readings", print).await?;
    }
    Ok(running)
}

async fn export(running: &Running, owner: &Owner, dir: &Path, print: Print<'_>) -> Result<()> {
    print(&format!("\n== An export of {}: CSV, sorted, without limits", owner.name))?;
    let path = dir.join("export.csv");
    demo_tools::export(url(running), owner.token.clone(), path.clone()).await?;
    let text = std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
    for line in text.lines().take(4) {
        print(&format!("   {line}"))?;
    }
    print(&format!("   … {} lines in {}", text.lines().count(), path.display()))
}

fn what_next(
    running: &Running,
    data: &DataDir,
    owner: &Owner,
    config: &DemoConfig,
    temporary: bool,
    print: Print<'_>,
) -> Result<()> {
    if config.keep {
        print("   The server goes on until Ctrl-C. Beside it, try:")?;
        let (url, token) = (url(running), &owner.token);
        print(&format!("   icecore query 'SELECT * FROM readings LIMIT 5' --server {url} --token {token}"))?;
        print(&format!("   icecore conflicts --server {url} --token {token}"))?;
        print(&format!("   icecore manifest show --org {} --data-dir {}", owner.name, data.path().display()))?;
    } else {
        if temporary {
            print("   Everything was in a temporary directory and is removed now. To keep it and ask for yourself:")?;
            print("   icecore demo --keep")?;
        }
        print(
            "   With readings of your own: icecore init, serve, org create, gateway enroll, gateway send (see --help)",
        )?;
    }
    Ok(())
}
