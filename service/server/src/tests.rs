//! The HTTP layer: who is let in, what is answered, and how errors look.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use query::QueryLimits;

use super::*;

mod turns;

pub(super) fn config() -> HttpConfig {
    HttpConfig {
        addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        body_bytes_max: 1_000,
        request_time_max: Duration::from_millis(200),
        export_time_max: Duration::from_secs(1),
        connections_max: 8,
        header_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(1),
        shutdown_grace: Duration::from_secs(1),
    }
}

/// The process's recorder, installed once.
fn rendered() -> RenderMetrics {
    static HANDLE: std::sync::OnceLock<metrics_exporter_prometheus::PrometheusHandle> = std::sync::OnceLock::new();
    let handle = HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().expect("the only recorder"));
    Arc::new(|| handle.render())
}

/// A server without a backend, as it is before recovery; the sender is the backend's.
pub(super) async fn starting() -> (tempfile::TempDir, HttpState, watch::Sender<Option<Backend>>, SocketAddr, String) {
    starting_with(config(), &QueryLimits::default()).await
}

/// The same with other settings.
async fn starting_with(
    config: HttpConfig,
    limits: &QueryLimits,
) -> (tempfile::TempDir, HttpState, watch::Sender<Option<Backend>>, SocketAddr, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let control = control::Control::create(&dir.path().join("control.db")).await.expect("made");
    let (caller, now) = (control::Caller::command(0, "test"), storage_format::Millis::EPOCH);
    let org = control.create_org(&caller, "north", now).await.expect("made");
    let token = control.create_token(&caller, org.id, "test", now).await.expect("made").1;
    let standings = Standings::start(&control).await.expect("read");
    let (sender, receiver) = watch::channel(None);
    let state = HttpState::new(config, Turns::new(limits), standings, rendered(), receiver);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    let router = router(state.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (dir, state, sender, addr, token.expose().to_owned())
}

/// A problem document: its status and its members. Whatever is an error must be one.
pub(super) async fn problem(response: reqwest::Response) -> (u16, serde_json::Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let id = response.headers()["request-id"].to_str().expect("a text").to_owned();
    let document: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(document["request_id"], id, "{document}");
    assert_eq!(document["status"], status, "{document}");
    (status, document)
}

/// The status and the type's word of an error.
async fn refused(request: reqwest::RequestBuilder) -> (u16, String) {
    let (status, document) = problem(request.send().await.expect("a response")).await;
    let word = document["type"].as_str().and_then(|uri| uri.strip_prefix("/problems/"));
    (status, word.expect("a type").to_owned())
}

async fn status(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

#[tokio::test]
async fn before_recovery_it_lives_and_is_not_ready() {
    let (_dir, _, _sender, addr, token) = starting().await;
    let client = reqwest::Client::new();
    assert_eq!(status(client.get(format!("http://{addr}/healthz"))).await.0, 200);
    assert_eq!(status(client.get(format!("http://{addr}/readyz"))).await.0, 503);
    let question = client.post(format!("http://{addr}/api/v1/sql")).bearer_auth(token).body("SELECT 1");
    assert_eq!(refused(question).await, (503, "unavailable".to_owned()), "it waits for as long as a request may take");
    let (code, metrics) = status(client.get(format!("http://{addr}/metrics"))).await;
    assert_eq!(code, 200);
    assert!(metrics.contains("icecore_http_requests_total"), "{metrics}");
    assert!(metrics.contains("icecore_ready 0\n"), "{metrics}");
    assert!(!metrics.contains("north"), "{metrics}");
}

#[tokio::test]
async fn strangers_and_nonsense_are_turned_away() {
    let (_dir, _, _sender, addr, token) = starting().await;
    let client = reqwest::Client::new();
    let post = || client.post(format!("http://{addr}/api/v1/sql"));
    let json = |body: &'static str| post().bearer_auth(&token).header("content-type", "application/json").body(body);
    let form = post().bearer_auth(&token).header("content-type", "application/x-www-form-urlencoded");
    let coded = |name: &'static str, value: &str| post().bearer_auth(&token).header(name, value).body("SELECT 1");
    let export = |query: &str| client.get(format!("http://{addr}/api/v1/export?{query}")).bearer_auth(&token);
    for (request, status, word) in [
        (post().body("SELECT 1"), 401, "sign-in-required"),
        (post().bearer_auth("nonsense").body("SELECT 1"), 401, "sign-in-required"),
        (post().header("authorization", "Basic eA==").body("SELECT 1"), 401, "sign-in-required"),
        (post().bearer_auth(&token).body("x".repeat(2_000)), 413, "too-large"),
        (post().bearer_auth(&token).header("accept", "image/png").body("SELECT 1"), 406, "not-acceptable"),
        (form.body("SELECT 1"), 415, "unsupported-media-type"),
        (coded("content-encoding", "gzip"), 415, "unsupported-media-type"),
        (coded("content-encoding", "identity, br"), 415, "unsupported-media-type"),
        (coded("content-type", "text/plain; charset=iso-8859-1"), 415, "unsupported-media-type"),
        (coded("content-encoding", "identity").header("accept", "image/png"), 406, "not-acceptable"),
        (post().bearer_auth(&token).body(&b"\xff"[..]), 400, "invalid-body"),
        (json("SELECT 1"), 400, "invalid-body"),
        (json(r#"{"query": "SELECT 1"}"#), 422, "invalid-parameter"),
        (json(r#"{"sql": "SELECT 1", "sql": "SELECT 2"}"#), 422, "invalid-parameter"),
        (export("format=csv&format=csv"), 422, "invalid-parameter"),
        (export("from=yesterday"), 422, "invalid-parameter"),
        (export("org=7"), 422, "invalid-parameter"),
        (client.get(format!("http://{addr}/etc/passwd")), 404, "not-found"),
        (client.get(format!("http://{addr}/api/v1/sql")), 405, "method-not-allowed"),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(refused(request).await, (status, word.to_owned()), "{shown}");
    }
    let (_, document) = problem(export("from=yesterday").send().await.expect("a response")).await;
    assert_eq!(document["parameter"], "from");
    assert!(document.get("hint").is_none(), "{document}");
    let zone = export("to=2024-05-01T00:00:00+02:00").send().await.expect("a response");
    let (status, document) = problem(zone).await;
    assert_eq!((status, &document["parameter"]), (422, &"to".into()));
    assert!(document["hint"].as_str().is_some_and(|hint| hint.contains("%2B")), "{document}");
}

/// Sends this, and nothing more; returns what the server sends until it closes.
async fn raw(addr: SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes)).await;
    // A reset is an end as well.
    let _ = read.expect("the server closes").is_ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_length_past_the_limit_is_refused_before_the_body_comes() {
    let config = HttpConfig { request_time_max: Duration::from_secs(60), ..config() };
    let (_dir, _, _sender, addr, token) = starting_with(config, &QueryLimits::default()).await;
    let head = format!("POST /api/v1/sql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
    let response = raw(addr, &format!("{head}Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")).await;
    assert!(response.starts_with("HTTP/1.1 413 ") && response.contains("/problems/too-large"), "{response}");
}

/// What `docs/http.md` says of requests that do not come as far as this crate.
#[tokio::test]
async fn what_is_no_request_has_a_status_alone() {
    let (_dir, _, _sender, addr, _) = starting().await;
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), "400 Bad Request"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000)), "414 URI Too Long"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200)), "431 Request Header Fields Too Large"),
    ] {
        let response = raw(addr, &request).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{response}");
        assert!(response.contains("connection: close\r\n") && response.ends_with("\r\n\r\n"), "{response}");
    }
}

#[tokio::test]
async fn each_request_has_an_id_of_its_own() {
    let (_dir, _, _sender, addr, _) = starting().await;
    let client = reqwest::Client::new();
    let id = async || {
        let response = client.get(format!("http://{addr}/healthz")).send().await.expect("a response");
        response.headers()["request-id"].to_str().expect("a text").to_owned()
    };
    let (first, second) = (id().await, id().await);
    assert!(first != second && first.len() == 16, "{first} {second}");
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_the_caller_does_not_learn_is_logged_with_the_request_s_id() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let fails = async || {
        tracing::info!("on the way");
        Err::<(), _>(HttpError::internal(problem::Problem::new("a secret")))
    };
    let router = Router::new().route("/", axum::routing::get(fails));
    let router = router.layer(axum::middleware::from_fn(request::handle));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (status, document) = problem(reqwest::get(format!("http://{addr}/")).await.expect("a response")).await;
    assert_eq!((status, document["type"].as_str()), (500, Some("/problems/internal")));
    assert!(!document.to_string().contains("secret"), "{document}");
    let id = document["request_id"].as_str().expect("an id");
    let log = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("UTF-8");
    for text in ["on the way", "a secret"] {
        let line = log.lines().find(|line| line.contains(text)).expect("it is logged");
        assert!(line.contains(id), "{log}");
    }
}

#[tokio::test]
async fn tokens_that_cannot_be_looked_up_are_nobody_s_defect() {
    let (_dir, state, _sender, addr, _) = starting().await;
    // Nobody looks at the database any more, so a token that is not in memory cannot be looked up.
    state.0.standings.stop().await;
    let request = reqwest::Client::new().get(format!("http://{addr}/api/v1/export")).bearer_auth("ice_x");
    assert_eq!(refused(request).await, (503, "unavailable".to_owned()));
}
