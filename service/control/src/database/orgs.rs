//! Organisations: the tenants.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use storage_format::{Millis, OrgId};

use super::{Control, cannot_read, cannot_write, check_name, is_unique_violation, parse_column, parse_time, random_id};
use crate::error::{Context, Error, ErrorKind, Result, Subject};

/// An organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Org {
    /// What bytes and object keys call it.
    pub id: OrgId,
    /// What people call it.
    pub name: String,
    /// Since when.
    pub created: Millis,
    /// Since when nothing is accepted from it and nothing answered to it.
    pub suspended: Option<Millis>,
}

fn from_row(row: &SqliteRow) -> Result<Org> {
    let suspended: Option<i64> = row.get("suspended_ms");
    Ok(Org {
        id: parse_column(row.get("id"))?,
        name: row.get("name"),
        created: parse_time(row.get("created_ms"))?,
        suspended: suspended.map(parse_time).transpose()?,
    })
}

impl Control {
    /// Makes an organisation.
    ///
    /// # Errors
    /// When the name is taken or no name, or the database cannot be written.
    pub async fn create_org(&self, name: &str, now: Millis) -> Result<Org> {
        check_name(Subject::Org, name)?;
        let id = OrgId::new(random_id()?).context(|| "a random id was zero".to_owned())?;
        let mut act = self.begin().await?;
        let done = sqlx::query("INSERT INTO orgs (id, name, created_ms) VALUES (?, ?, ?)")
            .bind(id.to_string())
            .bind(name)
            .bind(now.get())
            .execute(&mut *act)
            .await;
        done.map_err(|error| match is_unique_violation(&error) {
            true => {
                Error::new(ErrorKind::Taken, Subject::Org, format!("there is an organisation named {name} already"))
            }
            false => cannot_write(error),
        })?;
        self.record(&mut act, now, "org create", Some(id), "").await?;
        act.commit().await.map_err(cannot_write)?;
        Ok(Org { id, name: name.to_owned(), created: now, suspended: None })
    }

    /// All organisations, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn orgs(&self) -> Result<Vec<Org>> {
        let rows = sqlx::query("SELECT id, name, created_ms, suspended_ms FROM orgs ORDER BY name");
        rows.fetch_all(&self.pool).await.map_err(cannot_read)?.iter().map(from_row).collect()
    }

    /// The organisation of this name.
    ///
    /// # Errors
    /// When there is none, or the database cannot be read.
    pub async fn org(&self, name: &str) -> Result<Org> {
        let row = sqlx::query("SELECT id, name, created_ms, suspended_ms FROM orgs WHERE name = ?").bind(name);
        match row.fetch_optional(&self.pool).await.map_err(cannot_read)? {
            Some(row) => from_row(&row),
            None => {
                Err(Error::new(ErrorKind::NotFound, Subject::Org, format!("there is no organisation named {name}")))
            }
        }
    }

    /// Suspends an organisation, or lifts the suspension: frames and questions are refused while it lasts.
    ///
    /// # Errors
    /// When there is none of this name, or the database cannot be written.
    pub async fn set_suspended(&self, name: &str, suspended: bool, now: Millis) -> Result<Org> {
        let mut org = self.org(name).await?;
        org.suspended = suspended.then_some(now);
        let mut act = self.begin().await?;
        sqlx::query("UPDATE orgs SET suspended_ms = ? WHERE id = ?")
            .bind(org.suspended.map(Millis::get))
            .bind(org.id.to_string())
            .execute(&mut *act)
            .await
            .map_err(cannot_write)?;
        let verb = if suspended { "org suspend" } else { "org resume" };
        self.record(&mut act, now, verb, Some(org.id), "").await?;
        act.commit().await.map_err(cannot_write)?;
        Ok(org)
    }
}
