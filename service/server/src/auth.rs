//! Who asks: a bearer token, which stands for one organisation.

use axum::http::{HeaderMap, StatusCode, header};
use storage_format::OrgId;

use super::HttpState;
use super::error::HttpError;
use control::Standing;
use problem::Problem;

/// The organisation of the request's token.
pub(super) async fn organisation(state: &HttpState, headers: &HeaderMap) -> Result<OrgId, HttpError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(HttpError::unauthorized("a token is missing"));
    };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let Some((_, secret)) = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(HttpError::unauthorized("the Authorization header holds no bearer token"));
    };
    let standing = state.0.control.token_standing(secret.trim()).await;
    match standing.map_err(|error| HttpError::internal(&Problem::new("a token cannot be looked up").detail(error)))? {
        Some(Standing::Good(org)) => Ok(org),
        // Whoever holds a revoked token does not learn that it once was one.
        Some(Standing::Revoked) | None => Err(HttpError::unauthorized("the token is unknown or revoked")),
        Some(Standing::Suspended) => {
            Err(HttpError::new(StatusCode::FORBIDDEN, "org_suspended", "the organisation is suspended"))
        }
    }
}
