//! Tokens: what programs show to ask for an organisation's readings. Only a token's SHA-256 is kept; it has 256 random
//! bits, so that no salt and no slow hash are needed.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use sqlx::Row;
use storage_format::{Millis, OrgId};

use super::doors::Entry;
use super::{Control, cannot_read, cannot_write, check_name, parse_column, parse_time, random_id};
use crate::Caller;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::standings::sha256;

/// What every token starts with, so that scanners for leaked secrets can know one.
pub(crate) const PREFIX: &str = "ice_";

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

impl Control {
    /// Makes a token for an organisation.
    ///
    /// # Errors
    /// When the name is none, or the database cannot be written.
    pub async fn create_token(
        &self,
        caller: &Caller,
        org: OrgId,
        name: &str,
        now: Millis,
    ) -> Result<(String, TokenSecret)> {
        check_name(Subject::Token, name)?;
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::no_random())?;
        let secret = format!("{PREFIX}{}", hex::encode(bytes));
        let id = format!("{:016x}", random_id()?);
        let mut act = self.doors.act(caller, now).await?;
        let insert =
            sqlx::query("INSERT INTO tokens (id, org, name, sha256, last_four, created_ms) VALUES (?, ?, ?, ?, ?, ?)")
                .bind(id.clone())
                .bind(org.to_string())
                .bind(name.to_owned())
                .bind(sha256(&secret).to_vec())
                .bind(secret[secret.len() - 4..].to_owned())
                .bind(now.get());
        let entry = Entry {
            action: "token.create",
            target: json!({"token": id}),
            org: Some(org),
            before: None,
            after: Some(json!({"name": name})),
        };
        act.change(insert, entry).await.map_err(cannot_write)?;
        act.commit().await?;
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
        for row in sqlx::query(query).fetch_all(self.doors.readers()).await.map_err(cannot_read)? {
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

    /// Revokes a token, by its id.
    ///
    /// # Errors
    /// When there is no such token that is not revoked, or the database cannot be written.
    pub async fn revoke_token(&self, caller: &Caller, id: &str, now: Millis) -> Result<()> {
        let mut act = self.doors.act(caller, now).await?;
        let query = sqlx::query("SELECT org FROM tokens WHERE id = ? AND revoked_ms IS NULL").bind(id.to_owned());
        let Some(row) = act.look_up(query).await? else {
            let message = "there is no token of this id that is not revoked";
            return Err(Error::new(ErrorKind::NotFound, Subject::Token, message));
        };
        let update = sqlx::query("UPDATE tokens SET revoked_ms = ? WHERE id = ?").bind(now.get()).bind(id.to_owned());
        let entry = Entry {
            action: "token.revoke",
            target: json!({"token": id}),
            org: Some(parse_column(row.get("org"))?),
            before: Some(json!({"revoked": null})),
            after: Some(json!({"revoked": now.to_string()})),
        };
        act.change(update, entry).await.map_err(cannot_write)?;
        act.commit().await
    }
}
