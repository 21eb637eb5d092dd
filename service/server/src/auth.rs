//! Who asks: a bearer token, which stands for one organisation.

use axum::http::{HeaderMap, header};
use control::Standing;
use storage_format::OrgId;

use crate::HttpState;
use crate::error::HttpError;

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
        match state.0.standings.token(secret.trim()).await.map_err(|error| HttpError::control(&error))? {
            Some(Standing::Good(org)) => Ok(Self { org }),
            // Whoever holds a revoked token does not learn that it once was one.
            Some(Standing::Revoked) | None => Err(HttpError::sign_in_required("the token is unknown or revoked")),
            Some(Standing::Suspended) => Err(HttpError::org_closed()),
        }
    }
}
