//! The server's HTTP, from the client's side: blocking, plain, with errors that say what to do.

use std::io::Read;
use std::time::Duration;

use reqwest::StatusCode;
pub use reqwest::blocking::Response;
use reqwest::blocking::{Client, RequestBuilder};
use serde::Deserialize;

use problem::{Context, Problem, Result, chain};

mod repeat;

pub use repeat::repeat_when_closed;

/// The token as it goes into a header: files and shells like to add a line break.
fn header_token(token: &str) -> Result<String> {
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        // Without showing it: it may be most of a good one.
        return Err(Problem::new("this is no token: it is empty, or has blanks or other characters that no token has")
            .help("pass --token or set ICECORE_TOKEN to the last line that `icecore token create` printed"));
    }
    Ok(token.to_owned())
}

/// A server that can be asked.
#[derive(Debug)]
pub struct Api {
    base: String,
    token: String,
    client: Client,
}

/// What a person needs of the server's problem documents (RFC 9457). Members that are not here may come and go.
#[derive(Debug, Deserialize)]
struct Document {
    /// A URI reference whose last segment is a stable word.
    #[serde(rename = "type")]
    kind: String,
    title: String,
    detail: Option<String>,
    hint: Option<String>,
    request_id: Option<String>,
}

impl Document {
    fn word(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Api {
    /// A client of the server at this URL, with this token.
    ///
    /// # Errors
    /// When the URL or the token cannot be one.
    pub fn new(server: &str, token: &str) -> Result<Self> {
        let token = header_token(token)?;
        let base = server.trim_end_matches('/').to_owned();
        if base.starts_with("https://") {
            return Err(Problem::new("https is not supported yet")
                .help("use http:// to a server on this machine, or through a tunnel"));
        }
        if !base.starts_with("http://") {
            return Err(
                Problem::new(format!("{base:?} is not a server's URL")).help("it looks like http://127.0.0.1:8080")
            );
        }
        // No limit on the whole: an export takes as long as it takes.
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(None).no_proxy();
        let client = client.retry(repeat_when_closed()).build();
        let client = client.context(|| "cannot make an HTTP client".to_owned())?;
        Ok(Self { base, token, client })
    }

    fn send(&self, request: RequestBuilder, what: &str) -> Result<Response> {
        let response = request.bearer_auth(&self.token).send().map_err(|error| {
            Problem::new(format!("the server {} cannot be reached", self.base))
                .detail(chain(&error))
                .help("is it running (`icecore serve`), and is --server its HTTP address?")
        })?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response, what)) }
    }

    fn refusal(&self, response: Response, asked: &str) -> Problem {
        let status = response.status();
        match response.json::<Document>() {
            Ok(document) => self.problem(document, status, asked),
            Err(_) => Problem::new(format!("the server answers {status}"))
                .help(format!("is {} an icecore server of this version?", self.base)),
        }
    }

    fn problem(&self, document: Document, status: StatusCode, asked: &str) -> Problem {
        let what = match document.word() {
            "sign-in-required" => format!("the server {} does not accept this token", self.base),
            "invalid-sql" | "invalid-body" | "invalid-parameter" => format!("the {asked} is not valid"),
            "forbidden" | "org-closed" => "the server refuses this".to_owned(),
            _ => format!("the server answers {status}"),
        };
        let detail = document.detail.as_deref().unwrap_or(&document.title);
        let problem = match &document.request_id {
            // The operator finds it in the log by this.
            Some(id) if status.is_server_error() => Problem::new(what).detail(format_args!("{detail} (request {id})")),
            _ => Problem::new(what).detail(detail),
        };
        match document.hint {
            // What to type here is for this side to say.
            _ if status == StatusCode::UNAUTHORIZED => problem.help(
                "pass --token or set ICECORE_TOKEN; `icecore token list` shows which tokens there are, and \
                 `icecore token create` makes one",
            ),
            Some(hint) => problem.help(hint),
            None => problem,
        }
    }

    /// The response to a query, in the form that `accept` names.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub fn sql(&self, sql: &str, accept: &str) -> Result<Response> {
        let request = self.client.post(format!("{}/api/v1/sql", self.base));
        let request = request.header("accept", accept).header("content-type", "text/plain; charset=utf-8");
        self.send(request.body(sql.to_owned()), "query")
    }

    /// How many readings the token's organisation has.
    ///
    /// # Errors
    /// As [`Self::sql`], and when the response is no number.
    pub fn count(&self) -> Result<u64> {
        let mut text = Vec::new();
        copy(self.sql("SELECT count(*) AS readings FROM readings", "text/csv")?, |bytes| {
            text.extend_from_slice(bytes);
            Ok(true)
        })?;
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().last().unwrap_or_default();
        last.parse().context(|| format!("the server's count is no number: {last:?}"))
    }

    /// An export with these parameters.
    ///
    /// # Errors
    /// As [`Self::sql`].
    pub fn export(&self, parameters: &serde_json::Value) -> Result<Response> {
        let request = self.client.post(format!("{}/api/v1/export", self.base));
        self.send(request.header("content-type", "application/json").body(parameters.to_string()), "export")
    }
}

/// The error for a response that broke off.
#[must_use]
pub fn cut_off(error: &dyn std::error::Error) -> Problem {
    Problem::new("the answer was cut off: what came so far is not all of it")
        .detail(chain(error))
        .help("the server's log says why; a limit of time, rows or memory is likely")
}

/// Hands a response's body to `sink`, piece by piece, until it says `false`; returns the number of bytes.
///
/// # Errors
/// When the response is cut off, or the sink fails.
pub fn copy(mut response: Response, mut sink: impl FnMut(&[u8]) -> Result<bool>) -> Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let read = response.read(&mut buffer).map_err(|error| cut_off(&error))?;
        if read == 0 {
            return Ok(total);
        }
        total += u64::try_from(read).unwrap_or(0);
        if !sink(&buffer[..read])? {
            return Ok(total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fit_into_a_header() {
        assert_eq!(header_token(" abc_1\n").as_deref(), Ok("abc_1"));
        for bad in ["a b", "a\nb", "a\u{e9}b", "a\0"] {
            let problem = header_token(bad).expect_err(bad).to_string();
            assert!(problem.contains("token") && !problem.contains(bad), "{problem}");
        }
    }

    #[test]
    fn problem_documents_are_told_to_a_person() {
        let api = Api::new("http://127.0.0.1:1/", "abc").expect("fine");
        let told = |status: u16, text: &str| {
            let document: Document = serde_json::from_str(text).expect("a document");
            api.problem(document, StatusCode::from_u16(status).expect("a status"), "query").to_string()
        };
        assert_eq!(
            told(
                400,
                r#"{"type": "/problems/invalid-sql", "title": "t", "status": 400, "detail": "no column x", "hint": "look",
                    "request_id": "12", "later": [1]}"#
            ),
            "the query is not valid\n  no column x\n  help: look"
        );
        assert_eq!(
            told(
                503,
                r#"{"type": "https://example.org/problems/unavailable", "title": "Not now", "request_id": "12"}"#
            ),
            "the server answers 503 Service Unavailable\n  Not now (request 12)"
        );
        let token = told(401, r#"{"type": "/problems/sign-in-required", "title": "t", "hint": "curl"}"#);
        assert!(token.contains("token") && token.contains("--token") && !token.contains("curl"), "{token}");
    }
}
