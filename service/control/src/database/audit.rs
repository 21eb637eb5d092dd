//! The audit log: what was changed, by whom, and how it was before and after. Rows are only ever added, which the database
//! itself enforces.

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use storage_format::{Millis, OrgId};

use super::{Control, cannot_read, parse_column, parse_time};
use crate::caller::{Actor, ActorKind, Via, ViaKind};
use crate::error::{Context, Error, ErrorKind, Result, Subject};

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// The entry's number: later ones have higher ones.
    pub id: i64,
    /// When it happened.
    pub at: Millis,
    /// Who did it.
    pub actor: Actor,
    /// What was done, as `noun.verb`.
    pub action: String,
    /// What it was done to: an object with each thing's id by its kind.
    pub target: Value,
    /// Whose that is.
    pub org: Option<OrgId>,
    /// The network address that the act came from.
    pub from: Option<String>,
    /// Which way the act came in.
    pub via: Via,
    /// How it ended: `ok`, or `refused`.
    pub result: String,
    /// What was changed, as it was before.
    pub before: Option<Value>,
    /// What was changed, as it is since.
    pub after: Option<Value>,
    /// The request that it was.
    pub request_id: Option<String>,
}

impl AuditEntry {
    /// The entry as every door shows it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "at": self.at.to_string(),
            "actor": {"kind": self.actor.kind.as_str(), "id": self.actor.id, "name": self.actor.name},
            "action": self.action,
            "target": self.target,
            "org": self.org.map(|org| org.to_string()),
            "from": self.from,
            "via": {"kind": self.via.kind.as_str(), "id": self.via.id},
            "result": self.result,
            "before": self.before,
            "after": self.after,
            "request_id": self.request_id,
        })
    }
}

const COLUMNS: &str = "SELECT id, at_ms, actor_kind, actor_id, actor_name, action, target, org, \"from\", via_kind,
    via_id, result, before, after, request_id FROM audit WHERE id > ?1 AND (?2 IS NULL OR org = ?2) ORDER BY id LIMIT ?3";

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, Subject::Database, format!("the audit log holds {what}"))
}

fn parse_json(text: &str) -> Result<Value> {
    let message = || "the audit log holds JSON that is none".to_owned();
    serde_json::from_str(text).context_as(ErrorKind::Corrupt, Subject::Database, message)
}

fn from_row(row: &SqliteRow) -> Result<AuditEntry> {
    let (actor_kind, via_kind): (&str, &str) = (row.get("actor_kind"), row.get("via_kind"));
    let org: Option<&str> = row.get("org");
    let json = |column: &str| row.get::<Option<&str>, _>(column).map(parse_json).transpose();
    Ok(AuditEntry {
        id: row.get("id"),
        at: parse_time(row.get("at_ms"))?,
        actor: Actor {
            kind: ActorKind::parse(actor_kind).ok_or_else(|| corrupt("an actor of an unknown kind"))?,
            id: row.get("actor_id"),
            name: row.get("actor_name"),
        },
        action: row.get("action"),
        target: parse_json(row.get("target"))?,
        org: org.map(parse_column).transpose()?,
        from: row.get("from"),
        via: Via {
            kind: ViaKind::parse(via_kind).ok_or_else(|| corrupt("a way of an unknown kind"))?,
            id: row.get("via_id"),
        },
        result: row.get("result"),
        before: json("before")?,
        after: json("after")?,
        request_id: row.get("request_id"),
    })
}

impl Control {
    /// A page of the audit log, oldest first: at most `limit` entries with higher ids than `after`, of this organisation
    /// or of all. An empty page is the end.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn audit_page(&self, org: Option<OrgId>, after: i64, limit: u32) -> Result<Vec<AuditEntry>> {
        let rows = sqlx::query(COLUMNS).bind(after).bind(org.map(|org| org.to_string())).bind(limit);
        let rows = rows.fetch_all(self.doors.readers()).await.map_err(cannot_read)?;
        rows.iter().map(from_row).collect()
    }
}
