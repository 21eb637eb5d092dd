//! One icecore under test: its data directory, its server process, and the commands that a user would type.

#![allow(clippy::print_stderr, reason = "a failing test shows the server's log")]

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::disk::SmallDisk;

/// Long enough for a debug build on a busy machine; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory with everything that belongs to one server; the directory goes when it is dropped.
pub(crate) struct Icecore {
    /// Before the directory that it is mounted in: fields go in this order.
    disk: Option<SmallDisk>,
    work: tempfile::TempDir,
    ingest_port: u16,
    http_port: u16,
    process: Option<Child>,
    environment: Vec<(String, String)>,
    limit: Option<String>,
}

/// What an organisation has for its gateways and programs.
pub(crate) struct Org {
    pub(crate) name: String,
    pub(crate) identity: PathBuf,
    pub(crate) token: String,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Printed {
    /// The command must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "the command failed: {self:#?}");
        self
    }

    /// The command must have failed with an error (not a panic) that holds all of these texts.
    #[track_caller]
    pub(crate) fn refused(self, texts: &[&str]) -> Self {
        assert!(!matches!(self.code, Some(0 | 101) | None), "expected a clean error: {self:#?}");
        for text in texts {
            assert!(self.stderr.contains(text), "the error does not say {text:?}: {self:#?}");
        }
        self
    }
}

impl From<Output> for Printed {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A data directory with other settings.
pub(crate) struct Again<'a> {
    of: &'a Icecore,
    more: Vec<(String, String)>,
}

impl Again<'_> {
    /// A server start that must end by itself, with what it printed.
    pub(crate) fn start_refused(&self) -> Printed {
        self.of.start_refused_with(&self.more)
    }
}

/// The program under test; `ICECORE` names another build of it.
fn program() -> std::ffi::OsString {
    std::env::var_os("ICECORE").unwrap_or_else(|| env!("CARGO_BIN_EXE_icecore").into())
}

/// The program under test, ready for arguments.
pub(crate) fn icecore() -> Command {
    without_settings(Command::new(program()))
}

/// A port below those that the system gives to clients: while a killed server is down, each client that tries again
/// gets a port, and one of them would sooner or later get the server's.
fn free_port(is_free: impl Fn(u16) -> bool) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut candidates = (0..PORTS).map(|_| {
        let next = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        PORT_MIN + u16::try_from(next % u32::from(PORTS)).expect("below PORTS")
    });
    candidates.find(|port| is_free(*port)).expect("a free port")
}

const PORT_MIN: u16 = 12_000;
const PORTS: u16 = 20_000;

/// Settings of whoever runs the tests are not those of the server under test.
fn without_settings(mut command: Command) -> Command {
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ICECORE_")) {
        command.env_remove(name);
    }
    command
}

impl Icecore {
    /// A fresh data directory, initialised; no server yet.
    pub(crate) fn new() -> Self {
        Self::with_environment(&[])
    }

    /// The same with settings for the server, as environment variables.
    pub(crate) fn with_environment(environment: &[(&str, &str)]) -> Self {
        let this = Self::uninitialised(environment);
        this.run(&["init", "--data-dir", &this.data_dir()]).ok();
        this
    }

    /// The same on a file system of its own, of so many MiB. Only for who [may mount](crate::disk::may_mount).
    pub(crate) fn on_small_disk(environment: &[(&str, &str)], mib: u32) -> Self {
        let mut this = Self::uninitialised(environment);
        this.disk = Some(SmallDisk::mount(Path::new(&this.data_dir()), mib));
        this.run(&["init", "--data-dir", &this.data_dir()]).ok();
        this
    }

    /// The file system of its own.
    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("made with one")
    }

    /// Not even initialised.
    pub(crate) fn uninitialised(environment: &[(&str, &str)]) -> Self {
        let work = tempfile::Builder::new().prefix("icecore-e2e-").tempdir().expect("a temporary directory");
        Self {
            disk: None,
            work,
            ingest_port: free_port(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok()),
            http_port: free_port(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()),
            process: None,
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            limit: None,
        }
    }

    /// The same data directory with other settings; no server is started by it unless told to.
    pub(crate) fn again_with(&self, more: &[(&str, &str)]) -> Again<'_> {
        Again { of: self, more: more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect() }
    }

    /// From the next start on the server has this limit, in words of the shell's `ulimit`; commands have none.
    pub(crate) fn limit(&mut self, ulimit: Option<&str>) {
        self.limit = ulimit.map(str::to_owned);
    }

    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    pub(crate) fn data_dir(&self) -> String {
        self.work.path().join("data").to_string_lossy().into_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    pub(crate) fn ingest(&self) -> String {
        format!("127.0.0.1:{}", self.ingest_port)
    }

    /// A command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Printed {
        icecore().args(args).envs(self.environment.iter().cloned()).output().expect("the program starts").into()
    }

    /// A command in the background, silent.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        icecore().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    fn serve(&self) -> Command {
        let mut command = match &self.limit {
            None => icecore(),
            Some(ulimit) => {
                // The shell becomes the server, so its process id is the server's.
                let mut shell = without_settings(Command::new("sh"));
                shell.args(["-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\"")]).arg(program());
                shell
            }
        };
        command
            .args(["serve", "--data-dir", &self.data_dir(), "--ingest-addr", &self.ingest()])
            .args(["--http-addr", &format!("127.0.0.1:{}", self.http_port)])
            .envs(self.environment.iter().cloned());
        command
    }

    /// Starts the server and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.launch();
        self.wait_until_ready();
    }

    /// Starts the server and does not wait for anything.
    #[track_caller]
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "already running");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = self.serve();
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.process = Some(command.spawn().expect("the server starts"));
    }

    #[track_caller]
    pub(crate) fn wait_until_ready(&mut self) {
        if let Err(code) = self.ready_or_ended() {
            panic!("the server ended with {code:?}:\n{}", self.log());
        }
    }

    /// Waits until a server that was launched is ready; if it ends before, its exit code is the error.
    #[track_caller]
    pub(crate) fn ready_or_ended(&mut self) -> Result<(), Option<i32>> {
        let begun = Instant::now();
        while !self.has_recovered() {
            if let Some(code) = self.ended() {
                return Err(code);
            }
            assert!(begun.elapsed() < PATIENCE, "the server is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The exit code, if the server has ended by itself; the code is none when a signal ended it.
    pub(crate) fn ended(&mut self) -> Option<Option<i32>> {
        let process = self.process.as_mut().expect("started");
        let status = process.try_wait().expect("the process can be asked")?;
        self.process = None;
        Some(status.code())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// Sends the server a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill is there").success(), "the process can be signalled");
    }

    /// A server start that must end by itself, with what it printed.
    pub(crate) fn start_refused(&self) -> Printed {
        self.again_with(&[]).start_refused()
    }

    fn start_refused_with(&self, more: &[(String, String)]) -> Printed {
        let mut process = self
            .serve()
            .envs(more.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let begun = Instant::now();
        while process.try_wait().expect("the process can be asked").is_none() {
            if begun.elapsed() > PATIENCE {
                process.kill().expect("the process can be killed");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        process.wait_with_output().expect("the output can be read").into()
    }

    /// Recovery is over. Whether frames are taken is another matter: a disk may still be full.
    fn has_recovered(&self) -> bool {
        let has_reasons = || self.unready_because("");
        TcpStream::connect(("127.0.0.1", self.http_port)).is_ok() && (self.is_ready() || has_reasons())
    }

    /// `/readyz` answers 200.
    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").starts_with("HTTP/1.1 200")
    }

    /// `/readyz` answers 503, with reasons whose text contains this.
    pub(crate) fn unready_because(&self, text: &str) -> bool {
        let response = self.get("/readyz");
        let reasons = response.split_once("\"reasons\":").map(|(_, reasons)| reasons.contains(text));
        response.starts_with("HTTP/1.1 503") && reasons == Some(true)
    }

    /// A plain HTTP GET, status line, headers and body as they come.
    pub(crate) fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// A request as it goes over the wire, and the whole answer.
    pub(crate) fn http(&self, request: &str) -> String {
        use std::io::{Read, Write};
        let mut answer = Vec::new();
        let exchange = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.http_port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        exchange().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.work.path().join("serve.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// SIGKILL: no goodbye, nothing is written any more.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("running");
        process.kill().expect("the process can be killed");
        process.wait().expect("the process ends");
    }

    /// SIGTERM, and the exit code of a clean end.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        let mut process = self.process.take().expect("running");
        let begun = Instant::now();
        loop {
            if let Some(status) = process.try_wait().expect("the process can be asked") {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "no end after SIGTERM:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A new organisation with one gateway and one token.
    pub(crate) fn org(&self, name: &str) -> Org {
        self.run(&["org", "create", name, "--data-dir", &self.data_dir()]).ok();
        let identity = self.enroll(name, "first");
        let printed = self.run(&["token", "create", "--org", name, "--data-dir", &self.data_dir()]).ok();
        let token = printed.stdout.split_whitespace().last().expect("the token comes last").to_owned();
        Org { name: name.to_owned(), identity, token }
    }

    /// One more gateway of an organisation.
    pub(crate) fn enroll(&self, org: &str, gateway: &str) -> PathBuf {
        let out = self.work().join(format!("identity-{org}-{gateway}"));
        let out_text = out.to_string_lossy();
        self.run(&["gateway", "enroll", gateway, "--org", org, "--data-dir", &self.data_dir(), "--out", &out_text])
            .ok();
        out
    }

    /// `gateway send` to its end.
    pub(crate) fn send(&self, identity: &Path, file: &Path) -> Printed {
        let (identity, file) = (identity.to_string_lossy(), file.to_string_lossy());
        self.run(&["gateway", "send", "--identity", &identity, "--server", &self.ingest(), &file])
    }

    /// `gateway send` in the background.
    pub(crate) fn send_in_background(&self, identity: &Path, file: &Path) -> Child {
        let (identity, file) = (identity.to_string_lossy(), file.to_string_lossy());
        self.spawn(&["gateway", "send", "--identity", &identity, "--server", &self.ingest(), &file])
    }

    /// `query`, as CSV.
    pub(crate) fn query(&self, org: &Org, sql: &str) -> Printed {
        self.run(&["query", sql, "--server", &self.url(), "--token", &org.token, "--format", "csv"])
    }

    /// A query's answer as CSV, asked by this process itself: cheaper than a command's start.
    pub(crate) fn sql(&self, org: &Org, sql: &str) -> Result<String, String> {
        match self.sql_as(org, "text/csv", sql) {
            Ok((200, text)) => Ok(text),
            Ok((status, text)) => Err(format!("{sql}: {status}: {text}")),
            Err(error) => Err(format!("{sql}: {error}")),
        }
    }

    /// Status and body of a query's answer in this media type.
    pub(crate) fn sql_as(&self, org: &Org, media_type: &str, sql: &str) -> reqwest::Result<(u16, String)> {
        let client = reqwest::blocking::Client::builder().timeout(PATIENCE).build()?;
        let request = client.post(format!("{}/api/v1/sql", self.url())).bearer_auth(&org.token);
        let request = request.header("Content-Type", "text/plain").header("Accept", media_type);
        let answer = request.body(sql.to_owned()).send()?;
        let status = answer.status().as_u16();
        Ok((status, String::from_utf8_lossy(&answer.bytes()?).into_owned()))
    }

    /// The one number that a query answers with.
    #[track_caller]
    pub(crate) fn number(&self, org: &Org, sql: &str) -> u64 {
        let printed = self.query(org, sql).ok();
        let last = printed.stdout.lines().last().unwrap_or_default();
        last.parse().unwrap_or_else(|_| panic!("{sql} answers no number: {printed:#?}"))
    }

    /// Everything that an organisation has, by `export`.
    #[track_caller]
    pub(crate) fn export(&self, org: &Org) -> String {
        let out = self.work().join(format!("export-{}.csv", org.name));
        let out_text = out.to_string_lossy();
        let args = ["export", "--server", &self.url(), "--token", &org.token, "--format", "csv", "--output", &out_text];
        self.run(&args).ok();
        fs::read_to_string(out).expect("the export is there")
    }

    /// The files below the data directory whose path contains this text, sorted.
    pub(crate) fn files(&self, containing: &str) -> Vec<PathBuf> {
        fn walk(dir: &Path, containing: &str, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, containing, found);
                } else if path.to_string_lossy().contains(containing) {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(Path::new(&self.data_dir()), containing, &mut found);
        found.sort();
        found
    }
}

impl Drop for Icecore {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
            if std::env::var_os("E2E_KEEP").is_some() {
                self.work.disable_cleanup(true);
                eprintln!("--- its directory is kept: {}", self.work.path().display());
            }
        }
    }
}
