//! The server's HTTP, from the client's side: blocking, plain, with errors that say what to do.

use std::io::Read;
use std::time::Duration;

use clap::Args;
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde::Deserialize;

use super::output;
use crate::error::{Context, Problem, Result, chain};

/// Which server, and by which token.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// The server's URL
    #[arg(long, value_name = "URL", env = "ICECORE_SERVER", default_value = "http://127.0.0.1:8080")]
    pub(super) server: String,
    /// The token (`icecore token create` makes one)
    #[arg(long, value_name = "TOKEN", env = "ICECORE_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
}

/// The token as it goes into a header: files and shells like to add a line break.
fn header_token(token: Option<&str>) -> Result<String> {
    let token = token.unwrap_or_default().trim();
    if token.is_empty() {
        super::usage("there is no token: pass --token, or set ICECORE_TOKEN (`icecore token create` makes one)");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        // Without showing it: it may be most of a good one.
        return Err(Problem::new("this is no token: it has blanks or other characters that no token has")
            .help("pass --token or set ICECORE_TOKEN to the last line that `icecore token create` printed"));
    }
    Ok(token.to_owned())
}

/// A server that can be asked.
#[derive(Debug)]
pub(super) struct Api {
    base: String,
    token: String,
    client: Client,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorText,
}

#[derive(Deserialize)]
struct ErrorText {
    message: String,
    help: Option<String>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Api {
    pub(super) fn new(args: &ServerArgs) -> Result<Self> {
        let token = header_token(args.token.as_deref())?;
        let base = args.server.trim_end_matches('/').to_owned();
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
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(None).no_proxy().build();
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
        let what = match status {
            StatusCode::UNAUTHORIZED => format!("the server {} does not accept this token", self.base),
            StatusCode::BAD_REQUEST => format!("the {asked} is not valid"),
            StatusCode::FORBIDDEN => "the server refuses this".to_owned(),
            status => format!("the server answers {status}"),
        };
        match response.json::<ErrorBody>() {
            Ok(ErrorBody { error: ErrorText { message, help } }) => {
                let problem = Problem::new(what).detail(message);
                match help {
                    // What to type here is for this side to say.
                    _ if status == StatusCode::UNAUTHORIZED => problem.help(
                        "pass --token or set ICECORE_TOKEN; `icecore token list` shows which tokens there are, and \
                         `icecore token create` makes one",
                    ),
                    Some(help) => problem.help(help),
                    None => problem,
                }
            }
            Err(_) => Problem::new(what).help(format!("is {} an icecore server?", self.base)),
        }
    }

    /// The answer to a query, in the form that `accept` names.
    pub(super) fn sql(&self, sql: &str, accept: &str) -> Result<Response> {
        let request = self.client.post(format!("{}/api/v1/sql", self.base));
        let request = request.header("accept", accept).header("content-type", "text/plain; charset=utf-8");
        self.send(request.body(sql.to_owned()), "query")
    }

    /// An export with these parameters.
    pub(super) fn export(&self, parameters: &serde_json::Value) -> Result<Response> {
        let request = self.client.post(format!("{}/api/v1/export", self.base));
        self.send(request.header("content-type", "application/json").body(parameters.to_string()), "export")
    }
}

/// What an answer that broke off is told as.
pub(super) fn cut_off(error: &dyn std::error::Error) -> Problem {
    Problem::new("the answer was cut off: what came so far is not all of it")
        .detail(chain(error))
        .help("the server's log says why; a limit of time, rows or memory is likely")
}

/// Hands an answer on, piece by piece; tells how many bytes there were.
pub(super) fn copy(mut response: Response, mut sink: impl FnMut(&[u8]) -> Result<bool>) -> Result<u64> {
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

/// Hands an answer on to stdout.
pub(super) fn print(response: Response) -> Result<()> {
    copy(response, output::write).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fit_into_a_header() {
        assert_eq!(header_token(Some(" abc_1\n")).as_deref(), Ok("abc_1"));
        for bad in ["a b", "a\nb", "a\u{e9}b", "a\0"] {
            let problem = header_token(Some(bad)).expect_err(bad).to_string();
            assert!(problem.contains("token") && !problem.contains(bad), "{problem}");
        }
    }
}
