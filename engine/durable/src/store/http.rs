//! The HTTP beneath a remote store: counts each request, and gives it and its response times that grow with their bytes.
//!
//! Requests run on the runtime of the network, because flushes and queries run on runtimes that can wait but not talk.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector, SpawnService,
};
use object_store::{ClientOptions, HeaderValue};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use super::requests::{RequestKind, StoreRequests};

/// The slowest connection that a large object still goes through: 1 MiB a second.
const BYTES_PER_SECOND_MIN: u64 = 1024 * 1024;

/// Makes clients that count.
#[derive(Debug, Clone)]
pub(super) struct CountingConnector {
    pub(super) requests: Arc<StoreRequests>,
    /// Time of a request without bytes.
    pub(super) request_time_max: Duration,
    pub(super) runtime: Handle,
    /// Whether an upload in parts is completed only if its name is free. The library has no way to ask for that.
    pub(super) create_only: bool,
}

impl HttpConnector for CountingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        let counting = Counting { client, connector: self.clone() };
        Ok(HttpClient::new(SpawnService::new(counting, self.runtime.clone())))
    }
}

#[derive(Debug, Clone)]
struct Counting {
    client: HttpClient,
    connector: CountingConnector,
}

#[derive(Debug, thiserror::Error)]
#[error("no whole response within {0:?}")]
struct TimedOut(Duration);

impl TimedOut {
    fn error(time_max: Duration) -> HttpError {
        HttpError::new(HttpErrorKind::Timeout, Self(time_max))
    }
}

/// The bytes of a response, which ends with an error if they take too long. They are read as they come, whoever wants
/// them ([`SpawnService`]): so this is the network's time alone.
struct TimedBody {
    body: HttpResponseBody,
    time_max: Duration,
    over: Pin<Box<Sleep>>,
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.over.as_mut().poll(context).map(|()| Some(Err(TimedOut::error(self.time_max)))),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[async_trait]
impl HttpService for Counting {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if self.connector.create_only && completes_upload(&request) {
            // Not among the headers that are signed, which need not be all.
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        let kind = kind_of(&request);
        let requests = &self.connector.requests;
        let bytes = request.body().content_length() as u64;
        if matches!(kind, RequestKind::Put) {
            requests.sent(kind, bytes);
        }
        let time_max = |bytes: u64| self.connector.request_time_max + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let called = tokio::time::timeout(time_max(bytes), self.client.execute(request)).await;
        let response = called.unwrap_or_else(|_| Err(TimedOut::error(time_max(bytes))));
        let ok = response.as_ref().is_ok_and(|response| is_answer(response.status().as_u16()));
        requests.count(kind, ok);
        if let (RequestKind::Get, Ok(response)) = (kind, &response)
            && response.status().is_success()
        {
            requests.received(kind, content_length(response));
        }
        response.map(|response| {
            let time_max = time_max(content_length(&response));
            response.map(|body| HttpResponseBody::new(TimedBody { body, time_max, over: Box::pin(sleep(time_max)) }))
        })
    }
}

/// Returns whether a response with this status tells the state of things: done, not there, there already, not changed.
fn is_answer(status: u16) -> bool {
    matches!(status, 200..=299 | 304 | 404 | 409 | 412)
}

fn content_length(response: &HttpResponse) -> u64 {
    let length = response.headers().get("content-length").and_then(|length| length.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

fn completes_upload(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method().as_str() == "POST" && query.split('&').any(|part| part.starts_with("uploadId="))
}

/// What a request is billed as, by its method and query. Requests for credentials go elsewhere, to paths of their own,
/// and are told apart as far as their form allows.
fn kind_of(request: &HttpRequest) -> RequestKind {
    let has = |name: &str| request.headers().contains_key(name);
    kind(request.method().as_str(), request.uri().query().unwrap_or_default(), has)
}

/// Headers of requests for credentials.
const OF_CREDENTIALS: [&str; 4] =
    ["x-aws-ec2-metadata-token", "x-aws-ec2-metadata-token-ttl-seconds", "metadata-flavor", "metadata"];
const OF_COPIES: [&str; 3] = ["x-amz-copy-source", "x-goog-copy-source", "x-ms-copy-source"];

fn kind(method: &str, query: &str, has: impl Fn(&str) -> bool) -> RequestKind {
    let asks = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
    match method {
        "PUT" | "GET" if OF_CREDENTIALS.into_iter().any(&has) => RequestKind::Other,
        "PUT" if OF_COPIES.into_iter().any(&has) => RequestKind::Copy,
        "PUT" => RequestKind::Put,
        "GET" if asks("list-type") || query.contains("comp=list") => RequestKind::List,
        "GET" => RequestKind::Get,
        "HEAD" => RequestKind::Head,
        "DELETE" => RequestKind::Delete,
        "POST" if asks("delete") || query.contains("comp=batch") => RequestKind::Delete,
        // Begins or completes an upload in parts.
        "POST" if asks("uploads") || asks("uploadId") => RequestKind::Put,
        _ => RequestKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_of_the_store_is_not_counted_as_if() {
        for (method, query, header, expected) in [
            ("PUT", "", "x-aws-ec2-metadata-token-ttl-seconds", RequestKind::Other),
            ("GET", "", "x-aws-ec2-metadata-token", RequestKind::Other),
            ("PUT", "", "x-amz-copy-source", RequestKind::Copy),
            ("PUT", "partNumber=1&uploadId=x", "", RequestKind::Put),
            ("GET", "list-type=2", "", RequestKind::List),
            ("GET", "", "range", RequestKind::Get),
        ] {
            assert_eq!(kind(method, query, |name| name == header), expected, "{method} {query} {header}");
        }
    }
}
