//! From the database to a snapshot: all of it at first, and later only what the audit log says has changed.
//!
//! No table changes without an entry in the audit log, so the entries since the last look name all that must be read
//! again. A database that has changed without a new entry, by somebody's own hand or in `meta`, is read as a whole.

use futures::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row, SqliteConnection};
use tokio::sync::watch;

use super::snapshot::{GatewayRow, Snapshot, TokenRow};
use crate::Control;
use crate::database::{cannot_read, parse_column, parse_time};
use crate::error::{Context, Error, ErrorKind, Result, Subject};

/// With more entries than this since the last look, everything is read: that is one statement for each table.
const ENTRIES_MAX: usize = 1_000;

const GATEWAYS: &str = "SELECT id, org, fingerprint, expires_ms, revoked_ms FROM gateways";
const GATEWAY: &str = "SELECT id, org, fingerprint, expires_ms, revoked_ms FROM gateways WHERE id = ?";
const TOKENS: &str = "SELECT org, sha256, revoked_ms FROM tokens";
const TOKEN: &str = "SELECT org, sha256, revoked_ms FROM tokens WHERE id = ?";
const ORGS: &str = "SELECT id, suspended_ms FROM orgs";
const ORG: &str = "SELECT id, suspended_ms FROM orgs WHERE id = ?";

/// Reads the database through a connection of its own.
#[derive(Debug)]
pub(super) struct Loader {
    control: Control,
    /// The connection, and the number that SQLite gave the database on it at the last look.
    open: Option<(SqliteConnection, i64)>,
}

impl Loader {
    pub(super) fn new(control: Control) -> Self {
        Self { control, open: None }
    }

    /// Becomes changed with every act of this process.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.control.changed()
    }

    /// The snapshot after this one; `None` when nothing has changed.
    ///
    /// # Errors
    /// When the database cannot be read. The next look begins with a new connection then.
    pub(super) async fn look(&mut self, current: &Snapshot) -> Result<Option<Snapshot>> {
        // Taken out, so that an error closes it.
        let (mut connection, known) = match self.open.take() {
            Some((connection, number)) => (connection, Some(number)),
            None => (self.control.watch().await?, None),
        };
        // Before anything else is read: what changes meanwhile is found by the next look.
        let row = sqlx::query("PRAGMA data_version").fetch_one(&mut connection).await.map_err(cannot_read)?;
        let number: i64 = row.get(0);
        let next = if known == Some(number) {
            None
        } else {
            let mut transaction = connection.begin().await.map_err(cannot_read)?;
            let next = match known {
                Some(_) => read_changes(&mut transaction, current).await?,
                // The numbers of another connection say nothing about this one.
                None => read_all(&mut transaction, current).await?,
            };
            transaction.rollback().await.map_err(cannot_read)?;
            Some(next)
        };
        self.open = Some((connection, number));
        Ok(next)
    }
}

async fn read_changes(connection: &mut SqliteConnection, current: &Snapshot) -> Result<Snapshot> {
    let entries = "SELECT id, action, org, target FROM audit WHERE id > ? ORDER BY id LIMIT ?";
    let limit = i64::try_from(ENTRIES_MAX + 1).unwrap_or(i64::MAX);
    let entries = sqlx::query(entries).bind(current.audited).bind(limit).fetch_all(&mut *connection).await;
    let entries = entries.map_err(cannot_read)?;
    if entries.is_empty() || entries.len() > ENTRIES_MAX {
        return read_all(connection, current).await;
    }
    let mut next = current.next();
    for entry in &entries {
        next.audited = entry.get("id");
        let action: &str = entry.get("action");
        let target: serde_json::Value =
            serde_json::from_str(entry.get("target")).context_as(ErrorKind::Corrupt, Subject::Database, || {
                "the audit log holds a target that is no JSON".to_owned()
            })?;
        let id = |noun: &str| target.get(noun).and_then(serde_json::Value::as_str).map(str::to_owned);
        match action.split_once('.').map(|(noun, _)| noun) {
            Some("gateway") => {
                if let Some(row) = fetch(connection, GATEWAY, id("gateway")).await? {
                    take_gateway(&mut next, &row)?;
                }
            }
            Some("token") => {
                if let Some(row) = fetch(connection, TOKEN, id("token")).await? {
                    take_token(&mut next, &row)?;
                }
            }
            _ => {
                if let Some(row) = fetch(connection, ORG, entry.get("org")).await? {
                    take_org(&mut next, &row)?;
                }
            }
        }
    }
    Ok(next)
}

async fn fetch(
    connection: &mut SqliteConnection,
    query: &'static str,
    id: Option<String>,
) -> Result<Option<SqliteRow>> {
    let Some(id) = id else { return Ok(None) };
    sqlx::query(query).bind(id).fetch_optional(connection).await.map_err(cannot_read)
}

async fn read_all(connection: &mut SqliteConnection, current: &Snapshot) -> Result<Snapshot> {
    let mut next = current.next_empty();
    let last = sqlx::query("SELECT coalesce(max(id), 0) FROM audit").fetch_one(&mut *connection).await;
    next.audited = last.map_err(cannot_read)?.get(0);
    for (query, take) in [
        (ORGS, take_org as fn(&mut Snapshot, &SqliteRow) -> Result<()>),
        (GATEWAYS, take_gateway),
        (TOKENS, take_token),
    ] {
        let mut rows = sqlx::query(query).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(cannot_read)? {
            take(&mut next, &row)?;
        }
    }
    Ok(next)
}

fn take_org(next: &mut Snapshot, row: &SqliteRow) -> Result<()> {
    next.set_org(parse_column(row.get("id"))?, row.get::<Option<i64>, _>("suspended_ms").is_some());
    Ok(())
}

fn take_gateway(next: &mut Snapshot, row: &SqliteRow) -> Result<()> {
    let gateway = GatewayRow {
        id: parse_column(row.get("id"))?,
        org: parse_column(row.get("org"))?,
        expires: parse_time(row.get("expires_ms"))?,
        revoked: row.get::<Option<i64>, _>("revoked_ms").is_some(),
    };
    next.set_gateway(hash(row.get("fingerprint"))?, gateway);
    Ok(())
}

fn take_token(next: &mut Snapshot, row: &SqliteRow) -> Result<()> {
    let token =
        TokenRow { org: parse_column(row.get("org"))?, revoked: row.get::<Option<i64>, _>("revoked_ms").is_some() };
    next.set_token(hash(row.get("sha256"))?, token);
    Ok(())
}

fn hash(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| {
        let message = "the control database holds a SHA-256 that is none";
        Error::new(ErrorKind::Corrupt, Subject::Database, message)
    })
}
