//! Organisations: the tenants.

use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use storage_format::{Millis, OrgId};

use super::doors::Entry;
use super::{Control, cannot_read, cannot_write, check_name, parse_column, parse_time, random_id, taken_or};
use crate::Caller;
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
    /// Since when nothing is accepted from it and no query of it is answered.
    pub suspended: Option<Millis>,
}

pub(super) const BY_NAME: &str = "SELECT id, name, created_ms, suspended_ms FROM orgs WHERE name = ?";

pub(super) fn from_row(row: &SqliteRow) -> Result<Org> {
    let suspended: Option<i64> = row.get("suspended_ms");
    Ok(Org {
        id: parse_column(row.get("id"))?,
        name: row.get("name"),
        created: parse_time(row.get("created_ms"))?,
        suspended: suspended.map(parse_time).transpose()?,
    })
}

pub(super) fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, Subject::Org, format!("there is no organisation named {name}"))
}

impl Control {
    /// Makes an organisation.
    ///
    /// # Errors
    /// When the name is taken or no name, or the database cannot be written.
    pub async fn create_org(&self, caller: &Caller, name: &str, now: Millis) -> Result<Org> {
        check_name(Subject::Org, name)?;
        let id = OrgId::new(random_id()?).context(|| "a random id was zero".to_owned())?;
        let mut act = self.doors.act(caller, now).await?;
        let insert = sqlx::query("INSERT INTO orgs (id, name, created_ms) VALUES (?, ?, ?)")
            .bind(id.to_string())
            .bind(name.to_owned())
            .bind(now.get());
        let entry = Entry {
            action: "org.create",
            target: json!({"org": id.to_string()}),
            org: Some(id),
            before: None,
            after: Some(json!({"name": name})),
        };
        act.change(insert, entry).await.map_err(|error| {
            let message = format!("there is an organisation named {name} already");
            taken_or(error, || Error::new(ErrorKind::Taken, Subject::Org, message))
        })?;
        act.commit().await?;
        Ok(Org { id, name: name.to_owned(), created: now, suspended: None })
    }

    /// All organisations, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn orgs(&self) -> Result<Vec<Org>> {
        let rows = sqlx::query("SELECT id, name, created_ms, suspended_ms FROM orgs ORDER BY name");
        rows.fetch_all(self.doors.readers()).await.map_err(cannot_read)?.iter().map(from_row).collect()
    }

    /// The organisation of this name.
    ///
    /// # Errors
    /// When there is none, or the database cannot be read.
    pub async fn org(&self, name: &str) -> Result<Org> {
        let row = sqlx::query(BY_NAME).bind(name).fetch_optional(self.doors.readers()).await;
        row.map_err(cannot_read)?.map_or_else(|| Err(not_found(name)), |row| from_row(&row))
    }

    /// Suspends an organisation, or lifts the suspension: frames and queries are refused while it lasts.
    ///
    /// One that is suspended already stays suspended since then, and one that is not stays as it is; the audit log has
    /// the act all the same, with the same before and after.
    ///
    /// # Errors
    /// When there is none of this name, or the database cannot be written.
    pub async fn set_suspended(&self, caller: &Caller, name: &str, suspended: bool, now: Millis) -> Result<Org> {
        let mut act = self.doors.act(caller, now).await?;
        let row = act.look_up(sqlx::query(BY_NAME).bind(name.to_owned())).await?;
        let before = from_row(&row.ok_or_else(|| not_found(name))?)?;
        let since = suspended.then_some(before.suspended.unwrap_or(now));
        let update = sqlx::query("UPDATE orgs SET suspended_ms = ? WHERE id = ?")
            .bind(since.map(Millis::get))
            .bind(before.id.to_string());
        let state = |since: Option<Millis>| Some(json!({"suspended": since.map(|since| since.to_string())}));
        let entry = Entry {
            action: if suspended { "org.suspend" } else { "org.resume" },
            target: json!({"org": before.id.to_string()}),
            org: Some(before.id),
            before: state(before.suspended),
            after: state(since),
        };
        act.change(update, entry).await.map_err(cannot_write)?;
        act.commit().await?;
        Ok(Org { suspended: since, ..before })
    }
}
