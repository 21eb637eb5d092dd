//! Who asks: a bearer token, which stands for one organisation.

use axum::http::{HeaderMap, header};
use control::{ErrorKind, Standing};
use storage_format::OrgId;

use crate::HttpState;
use crate::error::{HttpError, kind};

/// Whoever sent a request, authenticated. Made once for each request, before its body is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// The organisation of the token.
    pub(crate) org: OrgId,
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
        match state.0.standings.token(secret.trim()).await.map_err(|error| cannot_tell(&error))? {
            Some(Standing::Good(org)) => Ok(Self { org }),
            // Whoever holds a revoked token does not learn that it once was one.
            Some(Standing::Revoked) | None => Err(HttpError::sign_in_required("the token is unknown or revoked")),
            Some(Standing::Suspended) => Err(HttpError::org_closed()),
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
