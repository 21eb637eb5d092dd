//! The control database: organisations, gateways, tokens, and the append-only record of administrative acts. SQLite.
//!
//! Several processes use it at once (the server reads while commands write), hence WAL journal and busy timeout. Every
//! administrative act and its audit row are one transaction. Secrets are never in it: tokens are kept as SHA-256,
//! certificates as fingerprints, the master key as a check value.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqlSafeStr, SqliteConnection, SqlitePool};
use storage_format::{Millis, OrgId};
use tokio::sync::Mutex;

use crate::error::{Context, Error, ErrorKind, Result, Subject, chain};
use crate::private_file;

mod audit;
mod gateways;
mod orgs;
mod tokens;

pub use audit::AuditEntry;
pub use gateways::{Gateway, NewGateway};
pub use orgs::Org;
pub use tokens::{Token, TokenSecret};

/// How long a statement waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections to the database one process holds at most; administrative acts are rare, look-ups short.
const CONNECTIONS_MAX: u32 = 4;

/// The open control database.
#[derive(Debug, Clone)]
pub struct Control {
    pool: SqlitePool,
    actor: String,
    /// How often a connection for `version` was opened, and the one that is open.
    watch: Arc<Mutex<(u32, Option<SqliteConnection>)>>,
}

impl Control {
    /// Makes the database; it must not exist yet.
    ///
    /// # Errors
    /// When it exists already, or cannot be written.
    pub async fn create(path: &Path) -> Result<Self> {
        if path.exists() {
            let message = format!("the control database {} exists already", path.display());
            return Err(Error::new(ErrorKind::Taken, Subject::Database, message));
        }
        // SQLite gives its journal the rights that the database has.
        private_file::create(path, "")?;
        Self::connect(path, true).await
    }

    /// Opens the database and brings its tables up to this program's version.
    ///
    /// # Errors
    /// When it is missing, not a database, written by a newer program, or not readable.
    pub async fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            let message = format!("there is no control database {}", path.display());
            return Err(Error::new(ErrorKind::NotFound, Subject::Database, message));
        }
        Self::connect(path, false).await
    }

    async fn connect(path: &Path, create: bool) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let what = || format!("cannot open the control database {}", path.display());
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|error| failed(what(), &error))?;
        migrator().run(&pool).await.map_err(|error| {
            let subject = match error {
                MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => Subject::Schema,
                _ => Subject::Database,
            };
            Error::new(ErrorKind::Unavailable, subject, what()).with_detail(chain(&error))
        })?;
        // Who acts: the operating system's user, as far as the environment tells.
        let actor = std::env::var("USER").unwrap_or_else(|_| "operator".to_owned());
        Ok(Self { pool, actor, watch: Arc::default() })
    }

    /// A value that belongs to the data directory as a whole.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn meta(&self, key: &str) -> Result<Option<String>> {
        let row = sqlx::query("SELECT value FROM meta WHERE key = ?").bind(key).fetch_optional(&self.pool).await;
        Ok(row.map_err(cannot_read)?.map(|row| row.get(0)))
    }

    /// Writes such a value; it must not be there yet.
    ///
    /// # Errors
    /// When it is there, or the database cannot be written.
    pub async fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        let done = sqlx::query("INSERT INTO meta (key, value) VALUES (?, ?)").bind(key).bind(value);
        done.execute(&self.pool).await.map_err(cannot_write)?;
        Ok(())
    }

    /// A number that is another one after every change, whichever process made it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn version(&self) -> Result<u64> {
        let mut watch = self.watch.lock().await;
        let (opened, connection) = &mut *watch;
        // Always the same one: SQLite tells each connection numbers of its own.
        let mut asked = match connection.take() {
            Some(open) => open,
            None => {
                *opened = opened.wrapping_add(1);
                self.pool.connect_options().connect().await.map_err(cannot_read)?
            }
        };
        let version: i64 = sqlx::query("PRAGMA data_version").fetch_one(&mut asked).await.map_err(cannot_read)?.get(0);
        *connection = Some(asked);
        Ok(u64::from(*opened) << 32 | version.cast_unsigned() & u64::from(u32::MAX))
    }

    /// Closes the database; what was committed is in its main file afterwards.
    pub async fn close(self) {
        if let Some(connection) = self.watch.lock().await.1.take() {
            // Nothing was written with it.
            let _ = connection.close().await;
        }
        self.pool.close().await;
    }
}

fn migrator() -> Migrator {
    let sql = include_str!("../migrations/0001_control.sql").into_sql_str();
    Migrator::with_migrations(vec![Migration::new(1, "control".into(), MigrationType::Simple, sql, false)])
}

/// What SQLite says of a file that is damaged, and of one that never was a database.
const CORRUPT_CODES: [i32; 2] = [11, 26];

fn cannot_read(error: sqlx::Error) -> Error {
    failed("cannot read the control database".to_owned(), &error)
}

fn cannot_write(error: sqlx::Error) -> Error {
    failed("cannot write to the control database".to_owned(), &error)
}

fn failed(message: String, error: &sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    // The lowest byte is the code, the others say more about it.
    let corrupt = code.is_some_and(|code| CORRUPT_CODES.contains(&(code & 0xff)));
    let kind = if corrupt { ErrorKind::Corrupt } else { ErrorKind::Unavailable };
    Error::new(kind, Subject::Database, message).with_detail(chain(error))
}

fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// A random number that is not zero: ids are not guessable and tell nothing about how many there are.
fn random_id() -> Result<u64> {
    let random = SystemRandom::new();
    loop {
        let mut bytes = [0; 8];
        random.fill(&mut bytes).map_err(|_| Error::no_random())?;
        let id = u64::from_le_bytes(bytes);
        if id != 0 {
            return Ok(id);
        }
    }
}

/// Reads a column that this program wrote itself.
fn parse_column<T: std::str::FromStr<Err: std::error::Error>>(text: &str) -> Result<T> {
    let message = || format!("the control database holds an id that is none: {text:?}");
    text.parse().context_as(ErrorKind::Corrupt, Subject::Database, message)
}

fn parse_time(ms: i64) -> Result<Millis> {
    let message = || format!("the control database holds a time that is none: {ms}");
    Millis::new(ms).context_as(ErrorKind::Corrupt, Subject::Database, message)
}

/// Checks that this text can be a name of this subject: an organisation, a gateway or a token.
///
/// # Errors
/// When it has no, too many or other characters than names may have.
pub fn check_name(subject: Subject, name: &str) -> Result<()> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-');
    let trimmed = name.trim() == name && !name.starts_with('-');
    if name.is_empty() || name.chars().count() > 64 || !name.chars().all(fine) || !trimmed {
        let noun = match subject {
            Subject::Org => "an organisation",
            Subject::Gateway => "a gateway",
            _ => "a token",
        };
        let message = format!("{:?} is not a name for {noun}", name.chars().take(80).collect::<String>());
        return Err(Error::new(ErrorKind::Invalid, subject, message).with_detail(
            "a name has 1 to 64 letters, digits, spaces, dots, underscores or hyphens, no space at its ends",
        ));
    }
    Ok(())
}

/// What a gateway's identity or a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In good standing, for this organisation.
    Good(OrgId),
    /// Taken back by an operator.
    Revoked,
    /// Its organisation is suspended.
    Suspended,
}

#[cfg(test)]
mod tests;
