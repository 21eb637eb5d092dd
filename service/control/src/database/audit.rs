//! The record of administrative acts: rows are only ever added, which the database itself enforces.

use sqlx::{Row, SqliteConnection};
use storage_format::{Millis, OrgId};

use super::{Control, cannot_read, cannot_write, parse_column, parse_time};
use crate::error::Result;

/// One administrative act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Millis,
    /// Who: the operating system's user.
    pub actor: String,
    /// What, as `noun verb`.
    pub act: String,
    /// Upon which organisation.
    pub org: Option<OrgId>,
    /// Ids of what was acted upon; never a secret.
    pub detail: String,
}

impl Control {
    /// Every administrative act, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn audit(&self) -> Result<Vec<AuditEntry>> {
        let rows = sqlx::query("SELECT at_ms, actor, act, org, detail FROM audit ORDER BY id").fetch_all(&self.pool);
        let mut entries = Vec::new();
        for row in rows.await.map_err(cannot_read)? {
            let org: Option<String> = row.get("org");
            entries.push(AuditEntry {
                at: parse_time(row.get("at_ms"))?,
                actor: row.get("actor"),
                act: row.get("act"),
                org: org.as_deref().map(parse_column).transpose()?,
                detail: row.get("detail"),
            });
        }
        Ok(entries)
    }

    /// Adds a row within the transaction of the act itself.
    pub(super) async fn record(
        &self,
        connection: &mut SqliteConnection,
        now: Millis,
        act: &str,
        org: Option<OrgId>,
        detail: &str,
    ) -> Result<()> {
        sqlx::query("INSERT INTO audit (at_ms, actor, act, org, detail) VALUES (?, ?, ?, ?, ?)")
            .bind(now.get())
            .bind(&self.actor)
            .bind(act)
            .bind(org.map(|org| org.to_string()))
            .bind(detail)
            .execute(connection)
            .await
            .map_err(cannot_write)?;
        Ok(())
    }

    /// Begins the transaction of an administrative act: it takes the write lock at once, so that what it reads first
    /// still holds when it writes.
    pub(super) async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(cannot_write)
    }
}
