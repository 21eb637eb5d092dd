//! Tokens: what programs show to ask for an organisation's readings. Only a token's SHA-256 is kept; it has 256 random
//! bits, so that no salt and no slow hash are needed.

use std::fmt;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use sqlx::Row;
use storage_format::{Millis, OrgId};

use super::{Control, Standing, cannot_read, cannot_write, check_name, parse_column, parse_time, random_id};
use crate::error::{Error, ErrorKind, Result, Subject};

/// What every token starts with, so that scanners for leaked secrets can know one.
const PREFIX: &str = "ice_";

/// A token as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// By which it is revoked: 16 lower-case hex digits.
    pub id: String,
    /// The organisation's name.
    pub org_name: String,
    /// What people call it.
    pub name: String,
    /// The secret's last four digits, to know it again.
    pub last_four: String,
    /// When it was made.
    pub created: Millis,
    /// When it was revoked.
    pub revoked: Option<Millis>,
}

/// The secret itself. It exists only between its making and its printing.
#[derive(Clone)]
pub struct TokenSecret(String);

impl TokenSecret {
    /// The text to print, once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(…)")
    }
}

fn sha256(text: &str) -> Vec<u8> {
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

impl Control {
    /// Makes a token for an organisation.
    ///
    /// # Errors
    /// When the name is none, or the database cannot be written.
    pub async fn create_token(&self, org: OrgId, name: &str, now: Millis) -> Result<(String, TokenSecret)> {
        check_name(Subject::Token, name)?;
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::no_random())?;
        let secret = format!("{PREFIX}{}", hex::encode(bytes));
        let id = format!("{:016x}", random_id()?);
        let mut act = self.begin().await?;
        sqlx::query("INSERT INTO tokens (id, org, name, sha256, last_four, created_ms) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(&id)
            .bind(org.to_string())
            .bind(name)
            .bind(sha256(&secret))
            .bind(&secret[secret.len() - 4..])
            .bind(now.get())
            .execute(&mut *act)
            .await
            .map_err(cannot_write)?;
        self.record(&mut act, now, "token create", Some(org), &format!("token {id}")).await?;
        act.commit().await.map_err(cannot_write)?;
        Ok((id, TokenSecret(secret)))
    }

    /// All tokens, by organisation and time of making.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        let query = "SELECT tokens.id, orgs.name AS org_name, tokens.name, last_four, tokens.created_ms, revoked_ms
            FROM tokens JOIN orgs ON orgs.id = org ORDER BY org_name, tokens.created_ms, tokens.id";
        let mut tokens = Vec::new();
        for row in sqlx::query(query).fetch_all(&self.pool).await.map_err(cannot_read)? {
            let revoked: Option<i64> = row.get("revoked_ms");
            tokens.push(Token {
                id: row.get("id"),
                org_name: row.get("org_name"),
                name: row.get("name"),
                last_four: row.get("last_four"),
                created: parse_time(row.get("created_ms"))?,
                revoked: revoked.map(parse_time).transpose()?,
            });
        }
        Ok(tokens)
    }

    /// Takes a token back, by its id.
    ///
    /// # Errors
    /// When there is no such token that is not revoked, or the database cannot be written.
    pub async fn revoke_token(&self, id: &str, now: Millis) -> Result<()> {
        let mut act = self.begin().await?;
        let query = "UPDATE tokens SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL RETURNING org";
        let row = sqlx::query(query).bind(now.get()).bind(id).fetch_optional(&mut *act).await;
        let Some(row) = row.map_err(cannot_write)? else {
            let message = "there is no token of this id that is not revoked";
            return Err(Error::new(ErrorKind::NotFound, Subject::Token, message));
        };
        self.record(&mut act, now, "token revoke", Some(parse_column(row.get("org"))?), &format!("token {id}")).await?;
        act.commit().await.map_err(cannot_write)
    }

    /// What this secret stands for; `None` for one that no token has.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn token_standing(&self, secret: &str) -> Result<Option<Standing>> {
        if !secret.starts_with(PREFIX) {
            return Ok(None);
        }
        let query =
            "SELECT org, revoked_ms, suspended_ms FROM tokens JOIN orgs ON orgs.id = org WHERE tokens.sha256 = ?";
        let row = sqlx::query(query).bind(sha256(secret)).fetch_optional(&self.pool).await;
        let Some(row) = row.map_err(cannot_read)? else { return Ok(None) };
        let (revoked, suspended): (Option<i64>, Option<i64>) = (row.get("revoked_ms"), row.get("suspended_ms"));
        Ok(Some(match (revoked, suspended) {
            (Some(_), _) => Standing::Revoked,
            (None, Some(_)) => Standing::Suspended,
            (None, None) => Standing::Good(parse_column(row.get("org"))?),
        }))
    }
}
