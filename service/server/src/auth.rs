//! Who asks: a bearer token, which stands for one organisation.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use control::{ErrorKind, Standing};
use storage_format::OrgId;

use crate::HttpState;
use crate::error::{HttpError, kind};

/// Interval at which the token of a running response is looked up again, in memory.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Sender of a request, authenticated once, before the body of the request is read.
pub(crate) struct Caller {
    /// Organisation of the token.
    pub(crate) org: OrgId,
    /// Text of the token.
    secret: String,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("org", &self.org).finish_non_exhaustive()
    }
}

impl Caller {
    /// Looks up the request's token.
    pub(crate) async fn authenticate(state: &HttpState, headers: &HeaderMap) -> Result<Self, HttpError> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(HttpError::sign_in_required("a token is missing"));
        };
        let text = value.to_str().ok().and_then(|text| text.split_once(' '));
        let Some((_, secret)) = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(HttpError::sign_in_required("the Authorization header holds no bearer token"));
        };
        let secret = secret.trim();
        match state.0.standings.token(secret).await.map_err(|error| cannot_tell(&error))? {
            Some(Standing::Good(org)) => Ok(Self { org, secret: secret.to_owned() }),
            // Whoever holds a revoked token does not learn that it once was one.
            Some(Standing::Revoked) | None => Err(HttpError::sign_in_required("the token is unknown or revoked")),
            Some(Standing::Suspended) => Err(HttpError::org_closed()),
        }
    }

    /// Waits until the token is no longer valid: revoked, of a suspended organisation, or not known for too long because
    /// the control database cannot be read.
    pub(crate) async fn rejected(self, state: HttpState) {
        loop {
            tokio::time::sleep(RECHECK_INTERVAL).await;
            match state.0.standings.token(&self.secret).await {
                Ok(Some(Standing::Good(org))) if org == self.org => {}
                _ => return,
            }
        }
    }
}

/// Returns the error of a token that cannot be looked up.
fn cannot_tell(error: &control::Error) -> HttpError {
    match error.kind() {
        // Why the database cannot be read is logged once where it is watched, not for every request.
        ErrorKind::Unavailable => {
            HttpError::new(&kind::UNAVAILABLE, "tokens cannot be looked up at present").hint("try again in a moment")
        }
        _ => HttpError::control(error),
    }
}
