//! The control database: organisations, gateways, tokens, and the append-only audit log. SQLite.
//!
//! Several processes use it at once (the server reads while commands write), hence WAL journal and busy timeout. Every
//! change goes through `doors.rs`, which writes its audit row in the same transaction. Secrets are never in the database:
//! tokens are kept as SHA-256, certificates as fingerprints, the master key as a check value.

use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use sqlx::{Row, SqliteConnection};
use storage_format::Millis;
use tokio::sync::watch;

use crate::data_dir::DirLock;
use crate::error::{Context, Error, ErrorKind, Result, Subject, chain};
use crate::private_file;

mod audit;
mod doors;
mod gateways;
mod imports;
mod orgs;
mod retention;
mod schema;
mod tokens;

pub use audit::AuditEntry;
use doors::Doors;
pub use gateways::Gateway;
pub use imports::{Import, NewImport};
pub use orgs::Org;
pub use retention::{DropId, DropOutcome, OpenDrop};
pub(crate) use schema::Schema;
pub(crate) use tokens::PREFIX as TOKEN_PREFIX;
pub use tokens::{Token, TokenSecret};

/// The open control database.
#[derive(Debug, Clone)]
pub struct Control {
    doors: Doors,
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
        let doors = Doors::open(path, true).await?;
        Schema::current().apply(doors.schema()).await?;
        Ok(Self { doors })
    }

    /// Opens the database. If its tables are behind those of this program, `lock` is asked for the data directory's lock,
    /// under which they are brought up to date; without the lock nothing is changed.
    ///
    /// # Errors
    /// When it is missing, not a database, written by a newer program, not readable, or locked by another server while
    /// its tables are behind.
    pub(crate) async fn open(
        path: &Path,
        schema: &Schema,
        lock: impl AsyncFnOnce() -> Result<Option<DirLock>>,
    ) -> Result<Self> {
        if !path.exists() {
            let message = format!("there is no control database {}", path.display());
            return Err(Error::new(ErrorKind::NotFound, Subject::Database, message));
        }
        let doors = Doors::open(path, false).await?;
        let prepare = async {
            if schema.is_behind(doors.schema()).await? {
                // Held until the tables are up to date. Another command may have been first, which `apply` sees.
                let _lock = lock().await?;
                schema.apply(doors.schema()).await?;
            }
            Ok(())
        };
        match prepare.await {
            Ok(()) => Ok(Self { doors }),
            Err(error) => {
                doors.close().await;
                Err(error)
            }
        }
    }

    /// A value that belongs to the data directory as a whole.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn meta(&self, key: &str) -> Result<Option<String>> {
        let row = sqlx::query("SELECT value FROM meta WHERE key = ?").bind(key).fetch_optional(self.doors.readers());
        Ok(row.await.map_err(cannot_read)?.map(|row| row.get(0)))
    }

    /// Writes such a value; it must not be there yet.
    ///
    /// # Errors
    /// When it is there, or the database cannot be written.
    pub async fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        self.doors.set_meta(key, value).await
    }

    /// A connection of its own to read through, for who looks whether something has changed.
    pub(crate) async fn watch(&self) -> Result<SqliteConnection> {
        self.doors.watch().await
    }

    /// Becomes changed with every act of this process.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.doors.changed()
    }

    /// Closes the database; what was committed is in its main file afterwards.
    pub async fn close(self) {
        self.doors.close().await;
    }
}

/// What SQLite says of a file that is damaged, and of one that never was a database.
const CORRUPT_CODES: [i32; 2] = [11, 26];

pub(crate) fn cannot_read(error: sqlx::Error) -> Error {
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

/// An error of a write: a name that is taken, or anything else.
fn taken_or(error: sqlx::Error, taken: impl FnOnce() -> Error) -> Error {
    match error.as_database_error().is_some_and(|error| error.is_unique_violation()) {
        true => taken(),
        false => cannot_write(error),
    }
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
pub(crate) fn parse_column<T: std::str::FromStr<Err: std::error::Error>>(text: &str) -> Result<T> {
    let message = || format!("the control database holds an id that is none: {text:?}");
    text.parse().context_as(ErrorKind::Corrupt, Subject::Database, message)
}

pub(crate) fn parse_time(ms: i64) -> Result<Millis> {
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

#[cfg(test)]
mod tests;
