//! Gateways: the devices that forward readings, each known by its client certificate's fingerprint.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use storage_format::{GatewayId, Millis, OrgId};

use super::{
    Control, Standing, cannot_read, cannot_write, check_name, is_unique_violation, parse_column, parse_time, random_id,
};
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

/// What an enrolment adds.
#[derive(Debug, Clone, Copy)]
pub struct NewGateway<'a> {
    /// The id that the certificate carries.
    pub id: GatewayId,
    /// Whose it is.
    pub org: OrgId,
    /// What people call it.
    pub name: &'a str,
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// When its certificate ends.
    pub expires: Millis,
}

const COLUMNS: &str = "SELECT gateways.id, org, orgs.name AS org_name, gateways.name, fingerprint,
    gateways.created_ms, expires_ms, revoked_ms FROM gateways JOIN orgs ON orgs.id = org ORDER BY org_name, gateways.name, revoked_ms";

fn from_row(row: &SqliteRow) -> Result<Gateway> {
    let revoked: Option<i64> = row.get("revoked_ms");
    let fingerprint: &[u8] = row.get("fingerprint");
    Ok(Gateway {
        id: parse_column(row.get("id"))?,
        org: parse_column(row.get("org"))?,
        org_name: row.get("org_name"),
        name: row.get("name"),
        fingerprint: fingerprint.try_into().context_as(ErrorKind::Corrupt, Subject::Database, || {
            "the control database holds a fingerprint that is none".to_owned()
        })?,
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
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn new_gateway_id() -> Result<GatewayId> {
        GatewayId::new(random_id()?).context(|| "a random id was zero".to_owned())
    }

    /// Checks, before a certificate is made, that a gateway of this name can be added.
    ///
    /// # Errors
    /// When the name is none or taken.
    pub async fn check_gateway_name(&self, org: OrgId, name: &str) -> Result<()> {
        check_name(Subject::Gateway, name)?;
        let query = "SELECT 1 FROM gateways WHERE org = ? AND name = ? AND revoked_ms IS NULL";
        let row = sqlx::query(query).bind(org.to_string()).bind(name).fetch_optional(&self.pool).await;
        if row.map_err(cannot_read)?.is_some() { Err(taken(name)) } else { Ok(()) }
    }

    /// Adds a gateway: from now on its certificate is known.
    ///
    /// # Errors
    /// When the name is taken, or the database cannot be written.
    pub async fn add_gateway(&self, gateway: NewGateway<'_>, now: Millis) -> Result<()> {
        self.add_gateways(&[gateway], now).await
    }

    /// Adds all of these gateways, or none: one act, and one sync, for many.
    ///
    /// # Errors
    /// As [`Self::add_gateway`].
    pub async fn add_gateways(&self, gateways: &[NewGateway<'_>], now: Millis) -> Result<()> {
        let mut act = self.begin().await?;
        for gateway in gateways {
            self.insert_gateway(&mut act, gateway, now).await?;
        }
        act.commit().await.map_err(cannot_write)
    }

    async fn insert_gateway(&self, act: &mut SqliteConnection, gateway: &NewGateway<'_>, now: Millis) -> Result<()> {
        check_name(Subject::Gateway, gateway.name)?;
        let insert =
            "INSERT INTO gateways (id, org, name, fingerprint, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?)";
        let done = sqlx::query(insert)
            .bind(gateway.id.to_string())
            .bind(gateway.org.to_string())
            .bind(gateway.name)
            .bind(gateway.fingerprint.as_slice())
            .bind(now.get())
            .bind(gateway.expires.get())
            .execute(&mut *act)
            .await;
        done.map_err(|error| match is_unique_violation(&error) {
            true => taken(gateway.name),
            false => cannot_write(error),
        })?;
        let detail = format!("gateway {}", gateway.id);
        self.record(act, now, "gateway enroll", Some(gateway.org), &detail).await
    }

    /// All gateways, by organisation and name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn gateways(&self) -> Result<Vec<Gateway>> {
        sqlx::query(COLUMNS).fetch_all(&self.pool).await.map_err(cannot_read)?.iter().map(from_row).collect()
    }

    /// Takes a gateway's certificate back.
    ///
    /// # Errors
    /// When the organisation has no such gateway, or the database cannot be written.
    pub async fn revoke_gateway(&self, org: OrgId, name: &str, now: Millis) -> Result<GatewayId> {
        let mut act = self.begin().await?;
        let query = "UPDATE gateways SET revoked_ms = ? WHERE org = ? AND name = ? AND revoked_ms IS NULL RETURNING id";
        let row = sqlx::query(query).bind(now.get()).bind(org.to_string()).bind(name).fetch_optional(&mut *act).await;
        let Some(row) = row.map_err(cannot_write)? else {
            let message = format!("the organisation has no gateway named {name} that is not revoked");
            return Err(Error::new(ErrorKind::NotFound, Subject::Gateway, message));
        };
        let id: GatewayId = parse_column(row.get("id"))?;
        self.record(&mut act, now, "gateway revoke", Some(org), &format!("gateway {id}")).await?;
        act.commit().await.map_err(cannot_write)?;
        Ok(id)
    }

    /// Who has the certificate of this fingerprint, and how they stand; `None` for an unknown one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn gateway_standing(&self, fingerprint: &[u8; 32]) -> Result<Option<(GatewayId, Millis, Standing)>> {
        let query = "SELECT gateways.id, org, expires_ms, revoked_ms, suspended_ms FROM gateways
            JOIN orgs ON orgs.id = org WHERE fingerprint = ?";
        let row = sqlx::query(query).bind(fingerprint.as_slice()).fetch_optional(&self.pool).await;
        let Some(row) = row.map_err(cannot_read)? else { return Ok(None) };
        let (revoked, suspended): (Option<i64>, Option<i64>) = (row.get("revoked_ms"), row.get("suspended_ms"));
        let standing = match (revoked, suspended) {
            (Some(_), _) => Standing::Revoked,
            (None, Some(_)) => Standing::Suspended,
            (None, None) => Standing::Good(parse_column(row.get("org"))?),
        };
        Ok(Some((parse_column(row.get("id"))?, parse_time(row.get("expires_ms"))?, standing)))
    }

    /// The gateways from which nothing is accepted any more although a connection of theirs may still be open.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn gateways_shut_out(&self) -> Result<Vec<(GatewayId, Standing)>> {
        let query = "SELECT gateways.id, revoked_ms FROM gateways JOIN orgs ON orgs.id = org
            WHERE revoked_ms IS NOT NULL OR suspended_ms IS NOT NULL";
        let mut shut_out = Vec::new();
        for row in sqlx::query(query).fetch_all(&self.pool).await.map_err(cannot_read)? {
            let revoked: Option<i64> = row.get("revoked_ms");
            let standing = if revoked.is_some() { Standing::Revoked } else { Standing::Suspended };
            shut_out.push((parse_column(row.get("id"))?, standing));
        }
        Ok(shut_out)
    }
}
