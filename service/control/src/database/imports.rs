//! Imports: which files a command on this machine has put in, who ran it, and how it ended.
//!
//! Crash consistency, this database and readings: an import is begun here before its first reading is submitted, so that
//! no reading names an import that is not here. One that was begun and not ended is found by the next command with the
//! same source, and continued under the same id.

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use storage_format::{GatewayId, Millis, OrgId, SpoolId};

use super::doors::Entry;
use super::{Control, cannot_read, cannot_write, parse_column, parse_time, random_id};
use crate::Caller;
use crate::error::{Context, Error, ErrorKind, Result, Subject};

/// What to import.
#[derive(Debug, Clone, PartialEq)]
pub struct NewImport {
    /// Organisation of the readings.
    pub org: OrgId,
    /// What its frames depend on. Only an import of the same source is continued.
    pub source: Value,
    /// The names of its files.
    pub files: Vec<String>,
    /// The earliest time that is accepted.
    pub time_min: Millis,
    /// The latest time that is accepted.
    pub time_max: Millis,
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// What readings call it, in the column `gateway`.
    pub id: GatewayId,
    /// Organisation of the readings.
    pub org: OrgId,
    /// The store of its numbered frames.
    pub spool: SpoolId,
    /// The names of its files.
    pub files: Vec<String>,
    /// The earliest time that it accepts, as fixed when it began.
    pub time_min: Millis,
    /// The latest time that it accepts, as fixed when it began.
    pub time_max: Millis,
    /// Actor that began it.
    pub started_by: String,
    /// When.
    pub started: Millis,
    /// Time of its end; `None` while it is under way, and when it was interrupted.
    pub ended: Option<Millis>,
    /// Whether all was imported; `None` without an end.
    pub is_done: Option<bool>,
    /// Number of readings that it put in; `None` without an end.
    pub readings: Option<u64>,
}

const OPEN: &str = "SELECT id, org, spool, files, time_min_ms, time_max_ms, started_by, started_ms, ended_ms, outcome,
    readings FROM imports WHERE org = ? AND ended_ms IS NULL AND source = ? ORDER BY started_ms DESC, id LIMIT 1";

const ALL: &str = "SELECT id, org, spool, files, time_min_ms, time_max_ms, started_by, started_ms, ended_ms, outcome,
    readings FROM imports WHERE ?1 IS NULL OR org = ?1 ORDER BY started_ms, id";

fn from_row(row: &SqliteRow) -> Result<Import> {
    let corrupt = || "the control database holds files of an import that are none".to_owned();
    let (ended, outcome): (Option<i64>, Option<&str>) = (row.get("ended_ms"), row.get("outcome"));
    let files = serde_json::from_str(row.get("files"));
    Ok(Import {
        id: parse_column(row.get("id"))?,
        org: parse_column(row.get("org"))?,
        spool: parse_column(row.get("spool"))?,
        files: files.context_as(ErrorKind::Corrupt, Subject::Database, corrupt)?,
        time_min: parse_time(row.get("time_min_ms"))?,
        time_max: parse_time(row.get("time_max_ms"))?,
        started_by: row.get("started_by"),
        started: parse_time(row.get("started_ms"))?,
        ended: ended.map(parse_time).transpose()?,
        is_done: outcome.map(|outcome| outcome == "done"),
        readings: row.get::<Option<i64>, _>("readings").and_then(|readings| u64::try_from(readings).ok()),
    })
}

impl Control {
    /// Continues the import of this source that was interrupted, or begins one. `is_free` tells whether nobody is at work
    /// on an import.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn begin_import(
        &self,
        caller: &Caller,
        import: &NewImport,
        now: Millis,
        is_free: impl Fn(GatewayId) -> bool,
    ) -> Result<Import> {
        let mut act = self.doors.act(caller, now).await?;
        let (org, source) = (import.org.to_string(), import.source.to_string());
        let open = sqlx::query(OPEN).bind(org.clone()).bind(source.clone());
        let found = act.look_up(open).await?.as_ref().map(from_row).transpose()?;
        if let Some(found) = found.filter(|found| is_free(found.id)) {
            let touch = sqlx::query("UPDATE imports SET org = org WHERE id = ?").bind(found.id.to_string());
            let entry = Entry {
                action: "import.continue",
                target: json!({"import": found.id.to_string()}),
                org: Some(found.org),
                before: None,
                after: Some(json!({"files": found.files})),
            };
            act.change(touch, entry).await.map_err(cannot_write)?;
            act.commit().await?;
            return Ok(found);
        }
        let zero = || "a random id was zero".to_owned();
        let id = GatewayId::new(random_id()?).context(zero)?;
        let spool = SpoolId::new(random_id()?).context(zero)?;
        let taken = sqlx::query("SELECT id FROM gateways WHERE id = ?").bind(id.to_string());
        if act.look_up(taken).await?.is_some() {
            let message = "a random id is in use already; try again";
            return Err(Error::new(ErrorKind::Unavailable, Subject::Machine, message));
        }
        let files = json!(import.files);
        let insert = sqlx::query(
            "INSERT INTO imports (id, org, spool, source, files, time_min_ms, time_max_ms, started_by, started_ms)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id.to_string())
        .bind(org)
        .bind(spool.to_string())
        .bind(source)
        .bind(files.to_string())
        .bind(import.time_min.get())
        .bind(import.time_max.get())
        .bind(caller.actor.name.clone())
        .bind(now.get());
        let entry = Entry {
            action: "import.begin",
            target: json!({"import": id.to_string()}),
            org: Some(import.org),
            before: None,
            after: Some(json!({"files": files})),
        };
        act.change(insert, entry).await.map_err(cannot_write)?;
        act.commit().await?;
        let NewImport { org, files, time_min, time_max, .. } = import.clone();
        let started_by = caller.actor.name.clone();
        let (started, ended, is_done, readings) = (now, None, None, None);
        Ok(Import { id, org, spool, files, time_min, time_max, started_by, started, ended, is_done, readings })
    }

    /// Notes the end of an import: whether all was imported, and how many readings it put in.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn end_import(
        &self,
        caller: &Caller,
        import: &Import,
        is_done: bool,
        readings: u64,
        now: Millis,
    ) -> Result<()> {
        let mut act = self.doors.act(caller, now).await?;
        let outcome = if is_done { "done" } else { "failed" };
        let update = sqlx::query("UPDATE imports SET ended_ms = ?, outcome = ?, readings = ? WHERE id = ?")
            .bind(now.get())
            .bind(outcome)
            .bind(i64::try_from(readings).unwrap_or(i64::MAX))
            .bind(import.id.to_string());
        let entry = Entry {
            action: "import.end",
            target: json!({"import": import.id.to_string()}),
            org: Some(import.org),
            before: None,
            after: Some(json!({"files": import.files, "outcome": outcome, "readings": readings})),
        };
        act.change(update, entry).await.map_err(cannot_write)?;
        act.commit().await
    }

    /// All imports of an organisation, or of all, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn imports(&self, org: Option<OrgId>) -> Result<Vec<Import>> {
        let rows = sqlx::query(ALL).bind(org.map(|org| org.to_string()));
        rows.fetch_all(self.doors.readers()).await.map_err(cannot_read)?.iter().map(from_row).collect()
    }

    /// Notes in the audit log what a command has done to an organisation's objects, or to those of all.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn note_compaction(&self, caller: &Caller, org: Option<OrgId>, done: Value, now: Millis) -> Result<()> {
        let mut act = self.doors.act(caller, now).await?;
        let entry = Entry {
            action: "org.compact",
            target: org.map_or_else(|| json!({"orgs": "all"}), |org| json!({"org": org.to_string()})),
            org,
            before: None,
            after: Some(done),
        };
        // Nothing of this database changes: readings stay what they are.
        act.change(sqlx::query("UPDATE orgs SET name = name WHERE 0"), entry).await.map_err(cannot_write)?;
        act.commit().await
    }
}
