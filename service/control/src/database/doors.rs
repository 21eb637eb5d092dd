//! The doors of the control database: one to read through, one to change things through, and one to watch for changes.
//!
//! Invariant: no table but `meta` is changed without a row in `audit`, in the same transaction. The connections are
//! private to this file; what reads gets connections on which SQLite refuses to write, and the only way to write is
//! [`Act::change`], which takes the statement and its entry together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, SqliteConnection, SqlitePool, Transaction};
use storage_format::{Millis, OrgId};
use tokio::sync::watch;

use super::{cannot_read, cannot_write, failed};
use crate::Caller;
use crate::error::Result;

/// How long a statement waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections one process reads through at most; look-ups are short.
const READERS_MAX: u32 = 4;

/// A statement with its arguments.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// The open database.
#[derive(Debug, Clone)]
pub(super) struct Doors {
    readers: SqlitePool,
    /// One connection: SQLite has one writer at a time.
    writer: SqlitePool,
    changed: Arc<watch::Sender<()>>,
}

impl Doors {
    /// Opens the database at this path, and makes it if `create` says so.
    pub(super) async fn open(path: &Path, create: bool) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool =
            |connections_max| SqlitePoolOptions::new().max_connections(connections_max).acquire_timeout(BUSY_TIMEOUT);
        let writer = pool(1).before_acquire(|connection, _| {
            // The last act may have left the connection as it reads.
            Box::pin(async move { sqlx::query("PRAGMA query_only = OFF").execute(connection).await.map(|_| true) })
        });
        let writer = writer.connect_with(options.clone()).await;
        let writer = writer.map_err(|error| failed(cannot_open(path), &error))?;
        // Opened when they are needed, after the tables were brought up to date.
        let readers = pool(READERS_MAX).connect_lazy_with(options.pragma("query_only", "ON"));
        Ok(Self { readers, writer, changed: Arc::new(watch::Sender::new(())) })
    }

    /// The connections to read through.
    pub(super) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// The connection to bring the tables up to date through.
    pub(super) fn schema(&self) -> &SqlitePool {
        &self.writer
    }

    /// A connection of its own to read through, for who looks whether something has changed: SQLite numbers changes per
    /// connection.
    pub(super) async fn watch(&self) -> Result<SqliteConnection> {
        self.readers.connect_options().connect().await.map_err(cannot_read)
    }

    /// Becomes changed with every act of this process.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Writes a value that belongs to the data directory as a whole. The one change that is not in the audit log.
    pub(super) async fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        let done = sqlx::query("INSERT INTO meta (key, value) VALUES (?, ?)").bind(key).bind(value);
        done.execute(&self.writer).await.map_err(cannot_write)?;
        Ok(())
    }

    /// Begins an act. It takes the write lock at once, so that what it reads first still holds when it writes.
    pub(super) async fn act<'c>(&self, caller: &'c Caller, now: Millis) -> Result<Act<'c>> {
        let transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(cannot_write)?;
        Ok(Act { transaction, reads_only: false, caller, now, changed: Arc::clone(&self.changed) })
    }

    /// Closes the database; what was committed is in its main file afterwards.
    pub(super) async fn close(self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open the control database {}", path.display())
}

/// What the audit log keeps of a change, beside who made it and when.
pub(super) struct Entry {
    /// What was done, as `noun.verb`.
    pub(super) action: &'static str,
    /// What it was done to: each thing's id by its kind. Never a secret.
    pub(super) target: Value,
    /// Whose that is.
    pub(super) org: Option<OrgId>,
    /// What it was before; `None` for what did not exist.
    pub(super) before: Option<Value>,
    /// What it is now.
    pub(super) after: Option<Value>,
}

/// An act: changes and their entries in one transaction. Dropped before it is committed, nothing has happened.
pub(super) struct Act<'c> {
    transaction: Transaction<'static, Sqlite>,
    /// Whether SQLite refuses to write on the connection at the moment.
    reads_only: bool,
    caller: &'c Caller,
    now: Millis,
    changed: Arc<watch::Sender<()>>,
}

impl Act<'_> {
    /// Reads what the act depends on. SQLite refuses a statement that writes.
    pub(super) async fn look_up(&mut self, statement: Statement) -> Result<Option<SqliteRow>> {
        self.read_only(true).await.map_err(cannot_read)?;
        statement.fetch_optional(&mut *self.transaction).await.map_err(cannot_read)
    }

    /// Makes a change and its entry. The error is SQLite's own, so that a caller can tell a name that is taken; the act
    /// must not be committed then.
    pub(super) async fn change(&mut self, statement: Statement, entry: Entry) -> Result<(), sqlx::Error> {
        self.read_only(false).await?;
        statement.execute(&mut *self.transaction).await?;
        let Caller { actor, via, from, request_id } = self.caller;
        let insert =
            "INSERT INTO audit (at_ms, actor_kind, actor_id, actor_name, action, target, org, \"from\", via_kind,
            via_id, result, before, after, request_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'ok', ?, ?, ?)";
        sqlx::query(insert)
            .bind(self.now.get())
            .bind(actor.kind.as_str())
            .bind(&actor.id)
            .bind(&actor.name)
            .bind(entry.action)
            .bind(entry.target.to_string())
            .bind(entry.org.map(|org| org.to_string()))
            .bind(from)
            .bind(via.kind.as_str())
            .bind(&via.id)
            .bind(entry.before.map(|value| value.to_string()))
            .bind(entry.after.map(|value| value.to_string()))
            .bind(request_id)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    /// Makes the act durable and visible.
    pub(super) async fn commit(self) -> Result<()> {
        self.transaction.commit().await.map_err(cannot_write)?;
        self.changed.send_replace(());
        Ok(())
    }

    async fn read_only(&mut self, reads_only: bool) -> Result<(), sqlx::Error> {
        if self.reads_only != reads_only {
            let pragma = if reads_only { "PRAGMA query_only = ON" } else { "PRAGMA query_only = OFF" };
            sqlx::query(pragma).execute(&mut *self.transaction).await?;
            self.reads_only = reads_only;
        }
        Ok(())
    }
}
