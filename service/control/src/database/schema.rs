//! The versions of the control database's tables, and who may bring them up to date.
//!
//! Tables are only changed under the data directory's lock: a server holds it, and a command takes it for that moment. So
//! no table changes under a running server of an older version, and a command of an older version refuses newer tables.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Row, SqlSafeStr, SqlitePool};

use super::cannot_read;
use crate::error::{Error, ErrorKind, Result, Subject, chain};

/// The tables of this program, as steps from an empty database.
pub(crate) struct Schema(Migrator);

fn step(version: i64, name: &'static str, sql: &'static str) -> Migration {
    Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
}

impl Schema {
    /// The tables that this program works with.
    pub(crate) fn current() -> Self {
        Self(Migrator::with_migrations(Self::steps()))
    }

    fn steps() -> Vec<Migration> {
        vec![
            step(1, "control", include_str!("../../migrations/0001_control.sql")),
            step(2, "audit", include_str!("../../migrations/0002_audit.sql")),
            step(3, "imports", include_str!("../../migrations/0003_imports.sql")),
            step(4, "retention", include_str!("../../migrations/0004_retention.sql")),
        ]
    }

    /// The tables of the program that had only the first of these steps.
    #[cfg(test)]
    pub(crate) fn first(count: usize) -> Self {
        Self(Migrator::with_migrations(Self::steps().into_iter().take(count).collect()))
    }

    /// The tables of a program that has one step more.
    #[cfg(test)]
    pub(crate) fn with_next(sql: &'static str) -> Self {
        let mut steps = Self::steps();
        steps.push(step(1_000, "next", sql));
        Self(Migrator::with_migrations(steps))
    }

    /// Returns whether steps of this program are missing in the database.
    ///
    /// # Errors
    /// When the database has steps that this program does not know, or cannot be read.
    pub(super) async fn is_behind(&self, pool: &SqlitePool) -> Result<bool> {
        let known = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
        let count: i64 = sqlx::query(known).fetch_one(pool).await.map_err(cannot_read)?.get(0);
        if count == 0 {
            return Ok(true);
        }
        let rows = sqlx::query("SELECT version, checksum FROM _sqlx_migrations ORDER BY version").fetch_all(pool).await;
        let applied: Vec<(i64, Vec<u8>)> =
            rows.map_err(cannot_read)?.iter().map(|row| (row.get("version"), row.get("checksum"))).collect();
        for (version, checksum) in &applied {
            let ours = self.0.iter().find(|step| step.version == *version);
            if ours.is_none_or(|step| step.checksum.as_ref() != checksum.as_slice()) {
                let message = "the control database has the tables of another version of icecore";
                return Err(Error::new(ErrorKind::Unavailable, Subject::Schema, message)
                    .with_detail(format!("it has step {version}, which this version does not know")));
            }
        }
        Ok(applied.len() < self.0.iter().count())
    }

    /// Brings the tables up to date; what is up to date stays as it is. Only for who holds the data directory's lock, or
    /// has just made the database.
    pub(super) async fn apply(&self, pool: &SqlitePool) -> Result<()> {
        self.0.run(pool).await.map_err(|error| {
            let message = "cannot bring the tables of the control database up to date";
            Error::new(ErrorKind::Unavailable, Subject::Database, message).with_detail(chain(&error))
        })
    }
}
