//! Retention: how long each organisation keeps its readings, and the record of what was dropped.
//!
//! Crash consistency, this database and manifests: a drop is begun here, with all that is to go, before the manifest
//! changes, and ended here afterwards. One that was begun and not ended tells that a process stopped in between: who
//! drops next looks at the manifest and ends it as what it was. Each step is an entry of the audit log.

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use storage_format::{Millis, OrgId};

use super::doors::Entry;
use super::{Control, Org, cannot_read, cannot_write, orgs, parse_column};
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::{Caller, Keep};

const BY_ORG: &str = "SELECT keep FROM retention WHERE org = ?";

const WITH_WORK: &str = "SELECT org, keep FROM retention
    UNION SELECT org, NULL FROM retention_drops WHERE outcome IS NULL AND org NOT IN (SELECT org FROM retention)
    ORDER BY org";

/// Number of a drop: later ones have higher ones.
pub type DropId = i64;

/// A drop whose end is not known.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenDrop {
    /// Its number.
    pub id: DropId,
    /// What was to go, as it was given when the drop was begun.
    pub plan: Value,
}

/// Outcome of a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropOutcome {
    /// All that the plan says is gone.
    Dropped,
    /// Nothing of it has gone under this drop, nor will.
    Void,
}

impl DropOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Void => "void",
        }
    }
}

fn keep_of(row: Option<&SqliteRow>) -> Result<Keep> {
    let Some(row) = row else { return Ok(Keep::ForEver) };
    parse_column(row.get("keep"))
}

impl Control {
    /// Returns the time for which this organisation keeps its readings.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn retention(&self, org: OrgId) -> Result<Keep> {
        let row = sqlx::query(BY_ORG).bind(org.to_string()).fetch_optional(self.doors.readers()).await;
        keep_of(row.map_err(cannot_read)?.as_ref())
    }

    /// The organisations that do not keep their readings for ever, and how long they do; besides those that do by now,
    /// but have a drop that was begun under an earlier policy and not ended.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn retentions(&self) -> Result<Vec<(OrgId, Keep)>> {
        let rows = sqlx::query(WITH_WORK).fetch_all(self.doors.readers()).await.map_err(cannot_read)?;
        let keep = |row: &SqliteRow| row.get::<Option<&str>, _>("keep").map_or(Ok(Keep::ForEver), parse_column);
        rows.iter().map(|row| Ok((parse_column(row.get("org"))?, keep(row)?))).collect()
    }

    /// Sets how long the organisation of this name keeps its readings from now on. Returns the organisation and how
    /// long it did before. Nothing is dropped by this.
    ///
    /// # Errors
    /// When there is none of this name, or the database cannot be written.
    pub async fn set_retention(&self, caller: &Caller, name: &str, keep: Keep, now: Millis) -> Result<(Org, Keep)> {
        let mut act = self.doors.act(caller, now).await?;
        let row = act.look_up(sqlx::query(orgs::BY_NAME).bind(name.to_owned())).await?;
        let org = orgs::from_row(&row.ok_or_else(|| orgs::not_found(name))?)?;
        let before = keep_of(act.look_up(sqlx::query(BY_ORG).bind(org.id.to_string())).await?.as_ref())?;
        let statement = match keep.months() {
            None => sqlx::query("DELETE FROM retention WHERE org = ?").bind(org.id.to_string()),
            Some(months) => sqlx::query(
                "INSERT INTO retention (org, keep, keep_months, set_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (org) DO UPDATE SET keep = ?2, keep_months = ?3, set_ms = ?4",
            )
            .bind(org.id.to_string())
            .bind(keep.to_string())
            .bind(months)
            .bind(now.get()),
        };
        let entry = Entry {
            action: "retention.set",
            target: json!({"org": org.id.to_string()}),
            org: Some(org.id),
            before: Some(json!({"keep": before.to_string()})),
            after: Some(json!({"keep": keep.to_string()})),
        };
        act.change(statement, entry).await.map_err(cannot_write)?;
        act.commit().await?;
        Ok((org, before))
    }

    /// Records for ever that what `plan` says is about to be dropped, because `keep` is the policy. Whoever drops does
    /// so only after this.
    ///
    /// # Errors
    /// When the policy is another one by now, or the database cannot be written; then nothing may be dropped.
    pub async fn begin_drop(
        &self,
        caller: &Caller,
        org: OrgId,
        keep: Keep,
        plan: &Value,
        now: Millis,
    ) -> Result<DropId> {
        let mut act = self.doors.act(caller, now).await?;
        let in_force = keep_of(act.look_up(sqlx::query(BY_ORG).bind(org.to_string())).await?.as_ref())?;
        if in_force != keep || in_force == Keep::ForEver {
            let message = format!("the policy is now {in_force}, and not {keep}");
            return Err(Error::new(ErrorKind::Forbidden, Subject::Retention, message));
        }
        // Nobody else begins one meanwhile, and none is ever removed.
        let row = act.look_up(sqlx::query("SELECT coalesce(max(id), 0) + 1 AS id FROM retention_drops")).await?;
        let id: DropId = row.map_or(1, |row| row.get("id"));
        let insert = sqlx::query("INSERT INTO retention_drops (id, org, plan, begun_ms) VALUES (?, ?, ?, ?)")
            .bind(id)
            .bind(org.to_string())
            .bind(plan.to_string())
            .bind(now.get());
        let entry = Entry {
            action: "retention.drop",
            target: json!({"org": org.to_string(), "drop": id}),
            org: Some(org),
            before: Some(plan.clone()),
            after: None,
        };
        act.change(insert, entry).await.map_err(cannot_write)?;
        act.commit().await?;
        Ok(id)
    }

    /// Records how a drop ended. One whose end is recorded stays as it is.
    ///
    /// # Errors
    /// When there is none of this number, or the database cannot be written.
    pub async fn end_drop(&self, caller: &Caller, id: DropId, outcome: DropOutcome, now: Millis) -> Result<()> {
        let mut act = self.doors.act(caller, now).await?;
        let row = act.look_up(sqlx::query("SELECT org, outcome FROM retention_drops WHERE id = ?").bind(id)).await?;
        let row = row.ok_or_else(|| Error::new(ErrorKind::NotFound, Subject::Retention, format!("no drop {id}")))?;
        if row.get::<Option<&str>, _>("outcome").is_some() {
            return Ok(());
        }
        let org: OrgId = parse_column(row.get("org"))?;
        let update = sqlx::query("UPDATE retention_drops SET outcome = ?, ended_ms = ? WHERE id = ?")
            .bind(outcome.as_str())
            .bind(now.get())
            .bind(id);
        let entry = Entry {
            action: match outcome {
                DropOutcome::Dropped => "retention.dropped",
                DropOutcome::Void => "retention.void",
            },
            target: json!({"org": org.to_string(), "drop": id}),
            org: Some(org),
            before: None,
            after: Some(json!({"outcome": outcome.as_str()})),
        };
        act.change(update, entry).await.map_err(cannot_write)?;
        act.commit().await
    }

    /// The organisation's drops that were begun and not ended, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_drops(&self, org: OrgId) -> Result<Vec<OpenDrop>> {
        let rows = sqlx::query("SELECT id, plan FROM retention_drops WHERE org = ? AND outcome IS NULL ORDER BY id");
        let rows = rows.bind(org.to_string()).fetch_all(self.doors.readers()).await.map_err(cannot_read)?;
        let plan = |row: &SqliteRow| {
            let message = || "the control database holds a drop that is no JSON".to_owned();
            serde_json::from_str(row.get("plan")).context_as(ErrorKind::Corrupt, Subject::Database, message)
        };
        rows.iter().map(|row| Ok(OpenDrop { id: row.get("id"), plan: plan(row)? })).collect()
    }
}
