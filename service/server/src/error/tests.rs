//! Problem documents: their members, their headers, and what is logged.

use serde_json::{Value, json};

use super::*;

async fn document(error: HttpError) -> (StatusCode, axum::http::HeaderMap, Value) {
    let response = error.respond(&RequestId::of("0123456789abcdef"));
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    (parts.status, parts.headers, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test]
async fn a_document_has_what_is_known_and_no_more() {
    let (status, headers, body) = document(HttpError::invalid_parameter("from", "no time").hint("write one")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    let expected = json!({
        "type": "/problems/invalid-parameter",
        "title": "A parameter is not valid",
        "status": 422,
        "detail": "from: no time",
        "hint": "write one",
        "parameter": "from",
        "request_id": "0123456789abcdef",
    });
    assert_eq!(body, expected);
    let (_, _, body) = document(HttpError::timeout("too long")).await;
    let members: Vec<_> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(members, ["detail", "request_id", "status", "title", "type"]);
}

#[tokio::test]
async fn headers_say_when_to_come_back_and_how_to_get_in() {
    let (full, own) = (TurnRefused::Requests { requests_max: 3 }, TurnRefused::OrgTurns { running_max: 3 });
    for (error, retry_after) in [(full.into(), Some("1")), (own.into(), Some("1"))] {
        let (_, headers, _) = document(error).await;
        assert_eq!(headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()), retry_after);
    }
    let (_, headers, _) = document(HttpError::sign_in_required("no token")).await;
    assert!(headers[header::WWW_AUTHENTICATE].to_str().is_ok_and(|value| value.starts_with("Bearer")));
    let (_, headers, _) = document(HttpError::method_not_allowed("GET, HEAD".to_owned())).await;
    assert_eq!(headers[header::ALLOW], "GET, HEAD");
}

#[tokio::test]
async fn the_engine_says_whether_to_try_again() {
    for (kind, status, retries) in [
        (EngineErrorKind::Retry, 503, true),
        (EngineErrorKind::Full, 503, true),
        (EngineErrorKind::Corrupt, 503, false),
        (EngineErrorKind::Closed, 503, false),
        (EngineErrorKind::Failed, 503, false),
        (EngineErrorKind::Invalid, 500, false),
    ] {
        let secret = "/srv/icecore/store";
        let error = EngineError::new(kind, format!("cannot read {secret}"), "look");
        let (found, headers, body) = document(HttpError::engine(&error, "an organisation cannot be loaded")).await;
        assert_eq!(found.as_u16(), status, "{kind:?}");
        assert_eq!(headers.contains_key(header::RETRY_AFTER), retries, "{kind:?}");
        assert!(!body.to_string().contains(secret), "{body}");
    }
}

#[tokio::test]
async fn kinds_of_the_control_data_have_types() {
    for (kind, word, retries) in [
        (ErrorKind::NotFound, "not-found", false),
        (ErrorKind::Taken, "conflict", false),
        (ErrorKind::Invalid, "invalid-parameter", false),
        (ErrorKind::Forbidden, "forbidden", false),
        (ErrorKind::Unavailable, "unavailable", true),
        (ErrorKind::Corrupt, "unavailable", false),
    ] {
        let secret = "/srv/icecore/control.db";
        let error = control::Error::new(kind, control::Subject::Database, "it is so").with_detail(secret);
        let (_, headers, body) = document(HttpError::control(&error)).await;
        assert_eq!(body["type"], format!("/problems/{word}"), "{kind:?}");
        assert_eq!(headers.contains_key(header::RETRY_AFTER), retries, "{kind:?}");
        assert!(!body.to_string().contains(secret), "{body}");
    }
}

#[test]
fn queries_errors_have_types() {
    let turns = |refused| QueryError::Limit(LimitKind::Queries(refused));
    let time = LimitKind::Time { time_max: std::time::Duration::from_secs(1) };
    for (error, word) in [
        (QueryError::Refused("x".into()), "forbidden"),
        (QueryError::Invalid("x".into()), "invalid-sql"),
        (turns(TurnRefused::OrgRequests { requests_max: 1 }), "rate-limited"),
        (turns(TurnRefused::OrgTurns { running_max: 1 }), "rate-limited"),
        (turns(TurnRefused::Requests { requests_max: 1 }), "unavailable"),
        (turns(TurnRefused::Turns { running_max: 1 }), "unavailable"),
        (QueryError::Limit(LimitKind::Memory { bytes_max: 1 }), "quota"),
        (QueryError::Limit(LimitKind::Rows { rows_max: 1 }), "quota"),
        (QueryError::Limit(time), "quota"),
        (QueryError::Engine, "unavailable"),
        (QueryError::Defect, "internal"),
    ] {
        assert_eq!(HttpError::from(error).0.kind.word, word);
    }
}

#[test]
fn words_are_unique() {
    let mut words: Vec<_> = kind::ALL.iter().map(|kind| kind.word).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), kind::ALL.len());
    assert!(kind::ALL.iter().all(|kind| StatusCode::from_u16(kind.status).is_ok()));
}
