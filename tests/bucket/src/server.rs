//! Servers of other makes, which `tests/setup.sh` has put into the user's cache: started on loopback, ended when dropped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time that a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("icecore")
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

fn start(mut command: Command, addr: SocketAddr, name: &str) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("{name}: {error}; `bash tests/setup.sh` installs it"));
    let begun = Instant::now();
    while TcpStream::connect(addr).is_err() {
        assert!(begun.elapsed() < PATIENCE, "{name} does not listen");
        assert!(child.try_wait().expect("a state").is_none(), "{name} ended at once");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn end(child: &mut Child) {
    let _ended = child.kill();
    let _reaped = child.wait();
}

/// VersityGW over a directory of its own: an S3 server that refuses conditional writes as Amazon's does.
#[derive(Debug)]
pub struct S3Server {
    dir: tempfile::TempDir,
    addr: SocketAddr,
    child: Child,
}

impl S3Server {
    /// The one bucket.
    pub const BUCKET: &'static str = "icecore-test";
    /// Whoever has this key ...
    pub const KEY_ID: &'static str = "testkey";
    /// ... and this secret may do everything.
    pub const SECRET: &'static str = "testsecret";

    /// Starts a server with an empty bucket.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("icecore-s3-").tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(Self::BUCKET)).expect("a bucket");
        let addr = free_addr();
        let child = Self::launch(dir.path(), addr);
        Self { dir, addr, child }
    }

    fn launch(dir: &Path, addr: SocketAddr) -> Child {
        let mut command = Command::new(cache().join("bin").join("versitygw"));
        command.env("ROOT_ACCESS_KEY", Self::KEY_ID).env("ROOT_SECRET_KEY", Self::SECRET);
        command.arg("--quiet").arg("--port").arg(addr.to_string()).arg("posix").arg(dir);
        start(command, addr, "versitygw")
    }

    /// Address at which it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The directory that is the bucket: its files are the objects.
    #[must_use]
    pub fn bucket_dir(&self) -> PathBuf {
        self.dir.path().join(Self::BUCKET)
    }

    /// Ends the server as a power cut of its machine would, and starts it again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        end(&mut self.child);
        self.child = Self::launch(self.dir.path(), self.addr);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
