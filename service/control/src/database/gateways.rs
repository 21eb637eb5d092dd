//! Gateways: the devices that forward readings, each known by its client certificate's fingerprint.

use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use storage_format::{GatewayId, Millis, OrgId};

use super::doors::{Act, Entry};
use super::orgs::{self, Org};
use super::{Control, cannot_read, cannot_write, check_name, parse_column, parse_time, random_id, taken_or};
use crate::Caller;
use crate::enrolment::{Identity, NewGateway};
use crate::error::{Context, Error, ErrorKind, Result, Subject};

/// A gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// What readings call it.
    pub id: GatewayId,
    /// Whose it is.
    pub org: OrgId,
    /// The organisation's name.
    pub org_name: String,
    /// What people call it.
    pub name: String,
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// When it was enrolled.
    pub created: Millis,
    /// When its certificate ends.
    pub expires: Millis,
    /// When it was revoked.
    pub revoked: Option<Millis>,
}

const ALL: &str = "SELECT gateways.id, org, orgs.name AS org_name, gateways.name, fingerprint, gateways.created_ms,
    expires_ms, revoked_ms FROM gateways JOIN orgs ON orgs.id = org ORDER BY org_name, gateways.name, revoked_ms";

const ORG_BY_NAME: &str = "SELECT id, name, created_ms, suspended_ms FROM orgs WHERE name = ?";

const NAME_IN_USE: &str = "SELECT id FROM gateways WHERE org = ? AND name = ? AND revoked_ms IS NULL";

fn from_row(row: &SqliteRow) -> Result<Gateway> {
    let revoked: Option<i64> = row.get("revoked_ms");
    let fingerprint: &[u8] = row.get("fingerprint");
    let no_fingerprint = || "the control database holds a fingerprint that is none".to_owned();
    Ok(Gateway {
        id: parse_column(row.get("id"))?,
        org: parse_column(row.get("org"))?,
        org_name: row.get("org_name"),
        name: row.get("name"),
        fingerprint: fingerprint.try_into().context_as(ErrorKind::Corrupt, Subject::Database, no_fingerprint)?,
        created: parse_time(row.get("created_ms"))?,
        expires: parse_time(row.get("expires_ms"))?,
        revoked: revoked.map(parse_time).transpose()?,
    })
}

fn taken(name: &str) -> Error {
    let message = format!("the organisation has a gateway named {name} already");
    Error::new(ErrorKind::Taken, Subject::Gateway, message)
}

impl Control {
    /// A fresh id for a gateway.
    pub(crate) fn new_gateway_id() -> Result<GatewayId> {
        GatewayId::new(random_id()?).context(|| "a random id was zero".to_owned())
    }

    /// Adds all of these gateways, or none. `issue` makes an identity once its name is known to be free; `keep` gets all
    /// of them before the act is committed.
    pub(crate) async fn add_gateways(
        &self,
        caller: &Caller,
        gateways: &[NewGateway<'_>],
        now: Millis,
        issue: impl Fn(&Org, &NewGateway<'_>) -> Result<Identity>,
        keep: impl FnOnce(&[Identity]) -> Result<()>,
    ) -> Result<Vec<Identity>> {
        let mut act = self.doors.act(caller, now).await?;
        let mut identities = Vec::with_capacity(gateways.len());
        for gateway in gateways {
            check_name(Subject::Gateway, gateway.name)?;
            let org = act.look_up(sqlx::query(ORG_BY_NAME).bind(gateway.org.to_owned())).await?;
            let org = orgs::from_row(&org.ok_or_else(|| orgs::not_found(gateway.org))?)?;
            let in_use = sqlx::query(NAME_IN_USE).bind(org.id.to_string()).bind(gateway.name.to_owned());
            if act.look_up(in_use).await?.is_some() {
                return Err(taken(gateway.name));
            }
            let identity = issue(&org, gateway)?;
            insert(&mut act, &identity, now).await?;
            identities.push(identity);
        }
        keep(&identities)?;
        act.commit().await?;
        Ok(identities)
    }

    /// All gateways, by organisation and name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn gateways(&self) -> Result<Vec<Gateway>> {
        let rows = sqlx::query(ALL).fetch_all(self.doors.readers()).await;
        rows.map_err(cannot_read)?.iter().map(from_row).collect()
    }

    /// Revokes a gateway's certificate.
    ///
    /// # Errors
    /// When the organisation has no such gateway, or the database cannot be written.
    pub async fn revoke_gateway(&self, caller: &Caller, org: OrgId, name: &str, now: Millis) -> Result<GatewayId> {
        let mut act = self.doors.act(caller, now).await?;
        let row = act.look_up(sqlx::query(NAME_IN_USE).bind(org.to_string()).bind(name.to_owned())).await?;
        let Some(row) = row else {
            let message = format!("the organisation has no gateway named {name} that is not revoked");
            return Err(Error::new(ErrorKind::NotFound, Subject::Gateway, message));
        };
        let id: GatewayId = parse_column(row.get("id"))?;
        let update =
            sqlx::query("UPDATE gateways SET revoked_ms = ? WHERE id = ?").bind(now.get()).bind(id.to_string());
        let entry = Entry {
            action: "gateway.revoke",
            target: json!({"gateway": id.to_string()}),
            org: Some(org),
            before: Some(json!({"revoked": null})),
            after: Some(json!({"revoked": now.to_string()})),
        };
        act.change(update, entry).await.map_err(cannot_write)?;
        act.commit().await?;
        Ok(id)
    }
}

async fn insert(act: &mut Act<'_>, identity: &Identity, now: Millis) -> Result<()> {
    let insert = sqlx::query(
        "INSERT INTO gateways (id, org, name, fingerprint, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(identity.gateway.to_string())
    .bind(identity.org.to_string())
    .bind(identity.name.clone())
    .bind(identity.fingerprint.to_vec())
    .bind(now.get())
    .bind(identity.expires.get());
    let entry = Entry {
        action: "gateway.enroll",
        target: json!({"gateway": identity.gateway.to_string()}),
        org: Some(identity.org),
        before: None,
        after: Some(json!({"name": identity.name, "expires": identity.expires.to_string()})),
    };
    act.change(insert, entry).await.map_err(|error| taken_or(error, || taken(&identity.name)))
}
