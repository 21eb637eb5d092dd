//! The data directory: where things are in it, how it is made, and the lock that a server holds on it.
//!
//! Crash consistency: `init` writes the configuration last; a directory without it is none, and is never served from.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage_format::Millis;

use crate::Control;
use crate::database::Schema;
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::pki::Authority;
use crate::{master_key, private_file};

/// How often, and how far apart, a command tries to get the lock under which tables are brought up to date.
const SCHEMA_LOCK_TRIES: u32 = 10;
const SCHEMA_LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A data directory's paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The data directory at this path; nothing is checked.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn subject(&self) -> Subject {
        Subject::DataDir(self.0.clone())
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The control database.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.0.join("control.db")
    }

    /// Where master key, internal CA and server certificate are.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// The root of the object store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Where the WAL files are.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.0.join("wal")
    }

    /// Socket by which commands reach the server that runs here.
    #[must_use]
    pub fn local_socket(&self) -> PathBuf {
        self.0.join("local.sock")
    }

    /// Where objects are written before they get their names.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.0.join("tmp").join("store")
    }

    /// Where queries put what does not fit into memory.
    #[must_use]
    pub fn spill(&self) -> PathBuf {
        self.0.join("tmp").join("query")
    }

    /// Makes the spill directory, empty: a server that was killed leaves rows there that are not encrypted. Only for who
    /// holds the lock: another server's queries would lose their rows.
    ///
    /// # Errors
    /// When it cannot be made or emptied.
    pub fn clear_spill(&self) -> Result<()> {
        let spill = self.spill();
        private_file::create_dir(&spill)?;
        let what = || format!("cannot empty the spill directory {}", spill.display());
        for entry in std::fs::read_dir(&spill).context(what)? {
            let entry = entry.context(what)?;
            // The type of the entry itself: a link is removed, never followed.
            let removed = match entry.file_type().context(what)?.is_dir() {
                true => std::fs::remove_dir_all(entry.path()),
                false => std::fs::remove_file(entry.path()),
            };
            removed.context(what)?;
        }
        Ok(())
    }

    /// Removes the temporary files that a crash left in `keys/`. Only for the holder of the lock: a server replaces its
    /// certificate there while it runs.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn clear_keys(&self) -> Result<()> {
        private_file::remove_temporary(&self.keys())
    }

    /// Makes a data directory: keys, internal CA, control database, and this configuration as `config.toml`.
    ///
    /// # Errors
    /// When the directory has something in it, or cannot be written.
    pub async fn init(&self, config: &str, now: Millis) -> Result<()> {
        let place = self.0.display();
        if self.config().exists() {
            let message = format!("{place} is a data directory already; nothing was changed");
            return Err(Error::new(ErrorKind::Taken, self.subject(), message));
        }
        if self.0.exists() {
            let mut entries = std::fs::read_dir(&self.0).context(|| format!("cannot read {place}"))?;
            if let Some(entry) = entries.next() {
                let name = entry.context(|| format!("cannot read {place}"))?.file_name();
                let message = format!("{place} is not empty; nothing was changed");
                return Err(Error::new(ErrorKind::Invalid, self.subject(), message)
                    .with_detail(format!("it holds {}, for example", name.to_string_lossy())));
            }
        }
        private_file::create_dir(&self.0)?;
        for dir in [self.keys(), self.store(), self.wal(), self.0.join("tmp"), self.staging()] {
            private_file::create_dir(&dir)?;
        }
        let key = master_key::create_master_key(&self.keys())?;
        Authority::create(&self.keys(), now)?;
        let control = Control::create(&self.control()).await?;
        master_key::record_check(&control, &key).await?;
        control.close().await;
        private_file::create(&self.config(), config)
    }

    /// Checks that `init` has made this directory.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn check(&self) -> Result<()> {
        let place = self.0.display();
        let error = |kind, message| Err(Error::new(kind, self.subject(), message));
        if !self.0.is_dir() {
            return error(ErrorKind::NotFound, format!("there is no data directory {place}"));
        }
        if !self.control().exists() {
            return error(ErrorKind::NotFound, format!("{place} is not a data directory of icecore"));
        }
        if !self.config().exists() {
            return error(ErrorKind::Corrupt, format!("{place} has no config.toml: its initialisation did not finish"));
        }
        Ok(())
    }

    /// Opens the control database for a command, beside a server or without one. Tables of an older version are brought
    /// up to date only if no server runs here: it would not know the new ones.
    ///
    /// # Errors
    /// When this is no data directory, its database does not open, or a server of an older version has it.
    pub async fn open_control(&self) -> Result<Control> {
        self.open_control_as(&Schema::current()).await
    }

    async fn open_control_as(&self, schema: &Schema) -> Result<Control> {
        self.check()?;
        Control::open(&self.control(), schema, async || self.lock_for_schema().await.map(Some)).await
    }

    /// Opens the control database for the server that holds the directory, and brings its tables up to date.
    ///
    /// # Errors
    /// When this is no data directory, or its database does not open.
    pub async fn open_control_locked(&self, _lock: &DirLock) -> Result<Control> {
        self.check()?;
        // The lock is held by the caller, for as long as the server lives.
        Control::open(&self.control(), &Schema::current(), async || Ok(None)).await
    }

    /// The lock for as long as tables are brought up to date. Another command may have it for the same reason.
    async fn lock_for_schema(&self) -> Result<DirLock> {
        for _ in 0..SCHEMA_LOCK_TRIES {
            match self.lock() {
                Err(error) if error.kind() == ErrorKind::Taken => tokio::time::sleep(SCHEMA_LOCK_PAUSE).await,
                locked_or_failed => return locked_or_failed,
            }
        }
        let message = format!("a server of an older version of icecore is running on {}", self.0.display());
        Err(Error::new(ErrorKind::Taken, Subject::Schema, message)
            .with_detail("the tables of its control database are not changed under it"))
    }

    /// Takes the directory for one server; released when dropped, or when the process ends in whatever way.
    ///
    /// # Errors
    /// When another server has it.
    pub fn lock(&self) -> Result<DirLock> {
        let path = self.0.join("serve.lock");
        let what = || format!("cannot lock {}", path.display());
        // Not truncated before it is locked: it names the process that holds it.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).context(what)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).unwrap_or_default();
                let message = format!("another server or command is running on {}", self.0.display());
                return Err(Error::new(ErrorKind::Taken, Subject::Lock(self.0.clone()), message)
                    .with_detail(format!("its process is {}", holder.trim())));
            }
            Err(TryLockError::Error(error)) => return Err(error).context(what),
        }
        // For people only; the lock is the kernel's.
        let written = file.set_len(0).and_then(|()| writeln!(&file, "{}", std::process::id()));
        written.context(|| format!("cannot write {}", path.display()))?;
        Ok(DirLock { _lock: file })
    }
}

/// A server's hold on a data directory.
#[derive(Debug)]
pub struct DirLock {
    _lock: File,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Millis {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    #[tokio::test]
    async fn made_once_and_only_where_nothing_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path().join("deep/data"));
        assert!(data.check().is_err());
        data.init("# settings\n", now()).await.expect("made");
        data.check().expect("a data directory");
        data.open_control().await.expect("opened");
        let key = std::fs::read(data.keys().join("master.key")).expect("read");
        let again = data.init("# settings\n", now()).await.expect_err("refused");
        assert!(again.message().contains("already"), "{again}");
        assert_eq!(std::fs::read(data.keys().join("master.key")).expect("read"), key);

        let foreign = DataDir::new(dir.path().join("foreign"));
        std::fs::create_dir(foreign.path()).expect("made");
        std::fs::write(foreign.path().join("holiday.jpg"), "x").expect("written");
        assert!(foreign.init("", now()).await.expect_err("refused").message().contains("not empty"));
        assert!(foreign.check().is_err());
        assert_eq!(std::fs::read_dir(foreign.path()).expect("listed").count(), 1, "nothing was added");
    }

    #[test]
    fn what_a_crash_left_spilled_is_deleted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path().join("data"));
        data.clear_spill().expect("made");
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("kept"), "x").expect("written");
        std::fs::create_dir(data.spill().join("datafusion-x")).expect("made");
        std::fs::write(data.spill().join("datafusion-x").join("rows"), "x").expect("written");
        std::fs::write(data.spill().join("rows"), "x").expect("written");
        std::os::unix::fs::symlink(&outside, data.spill().join("link")).expect("linked");
        data.clear_spill().expect("emptied");
        assert_eq!(std::fs::read_dir(data.spill()).expect("still there").count(), 0);
        assert!(outside.join("kept").exists(), "nothing outside is touched");
    }

    #[tokio::test]
    async fn tables_are_not_changed_under_a_running_server() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path().join("data"));
        data.init("# settings\n", now()).await.expect("made");
        let newer = Schema::with_next("CREATE TABLE next (id INTEGER PRIMARY KEY) STRICT");
        let lock = data.lock().expect("free");
        let bytes = || std::fs::read(data.control()).expect("read");
        let before = bytes();
        let refused = data.open_control_as(&newer).await.expect_err("a server runs");
        assert_eq!((refused.kind(), refused.subject()), (ErrorKind::Taken, &Subject::Schema));
        assert!(bytes() == before, "nothing was changed");
        data.open_control().await.expect("a command of the server's version").close().await;
        drop(lock);
        data.open_control_as(&newer).await.expect("no server runs").close().await;
        assert!(bytes() != before, "now it was");
        let lock = data.lock().expect("the command has given the lock back");
        // Now this program is the older one, as a server and as a command.
        for refused in [data.open_control_locked(&lock).await, data.open_control().await] {
            let refused = refused.expect_err("unknown tables");
            assert_eq!((refused.kind(), refused.subject()), (ErrorKind::Unavailable, &Subject::Schema));
        }
    }

    #[tokio::test]
    async fn one_server_at_a_time() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path().join("data"));
        data.init("# settings\n", now()).await.expect("made");
        let lock = data.lock().expect("free");
        let second = data.lock().expect_err("taken");
        assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
        drop(lock);
        data.lock().expect("free again");
    }
}
