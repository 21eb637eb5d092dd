//! Bodies of requests, within their limits of size and time.

use std::fmt;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderMap, Uri, header};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::HttpState;
use crate::error::{HttpError, kind};

/// Refuses a query string: whoever reads a body would leave it out without a word.
pub(crate) fn only_parameters(uri: &Uri) -> Result<(), HttpError> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(HttpError::invalid_parameter("query string", "a POST takes its parameters in the body alone")),
    }
}

/// Reads the whole body, until the deadline.
pub(crate) async fn read(
    state: &HttpState,
    headers: &HeaderMap,
    body: Body,
    deadline: Instant,
) -> Result<Bytes, HttpError> {
    let config = &state.0.config;
    check_coding(headers)?;
    // What Content-Length says. So who sends too much is told so at once, and need not send it.
    let length = body.size_hint().lower();
    if usize::try_from(length).map_or(true, |length| length > config.body_bytes_max) {
        let detail = format!("the body has {length} bytes, and may have {}", config.body_bytes_max);
        return Err(HttpError::new(&kind::TOO_LARGE, detail));
    }
    let body = to_bytes(body, config.body_bytes_max);
    match timeout_at(deadline, body).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let detail = format!("the body is longer than {} bytes, or broke off", config.body_bytes_max);
            Err(HttpError::new(&kind::TOO_LARGE, detail))
        }
        Err(_) => Err(HttpError::timeout("the body did not come in time")),
    }
}

/// Refuses a body that is compressed, or text in another encoding than UTF-8.
fn check_coding(headers: &HeaderMap) -> Result<(), HttpError> {
    let unsupported = |detail: String| HttpError::new(&kind::UNSUPPORTED_MEDIA_TYPE, detail);
    let codings =
        headers.get_all(header::CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    for coding in codings.map(<[u8]>::trim_ascii) {
        if !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity") {
            let coding = String::from_utf8_lossy(coding);
            let error = unsupported(format!("the body is sent with Content-Encoding: {coding}"));
            return Err(error.hint("send the body as it is, without Content-Encoding"));
        }
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    for (name, value) in content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('=')) {
        let charset = value.trim().trim_matches('"');
        // ASCII is UTF-8 as well.
        let is_known = ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known));
        if name.trim().eq_ignore_ascii_case("charset") && !is_known {
            return Err(unsupported(format!("the body's text is in {charset}")).hint("send it in UTF-8"));
        }
    }
    Ok(())
}

/// Reads a JSON object in which no name comes twice. Whether its members are right is for the caller to say.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, HttpError> {
    let members: Members = serde_json::from_slice(bytes)
        .map_err(|error| HttpError::invalid_body(format!("the body is no JSON object: {error}")))?;
    match members.twice {
        None => Ok(members.map),
        Some(name) => Err(HttpError::invalid_parameter(&name, "it is given twice")),
    }
}

/// The members of a JSON object, of which a map alone would keep the last of each name without a word.
#[derive(Default)]
struct Members {
    map: Map<String, Value>,
    /// A name that came twice.
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            if members.map.insert(name.clone(), value).is_some() {
                members.twice.get_or_insert(name);
            }
        }
        Ok(members)
    }
}
