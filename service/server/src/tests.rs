//! The HTTP layer: who is let in, what is answered, and how errors look.

use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;

pub(super) fn config() -> HttpConfig {
    HttpConfig {
        addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        body_bytes_max: 1_000,
        request_time_max: Duration::from_millis(200),
        export_time_max: Duration::from_secs(1),
        requests_max: 3,
        requests_per_org_max: 2,
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
async fn starting() -> (tempfile::TempDir, HttpState, watch::Sender<Option<Backend>>, SocketAddr, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let control = control::Control::create(&dir.path().join("control.db")).await.expect("made");
    let (caller, now) = (control::Caller::command(0, "test"), storage_format::Millis::EPOCH);
    let org = control.create_org(&caller, "north", now).await.expect("made");
    let token = control.create_token(&caller, org.id, "test", now).await.expect("made").1;
    let standings = Standings::start(&control).await.expect("read");
    let (sender, receiver) = watch::channel(None);
    let state = HttpState::new(config(), standings, rendered(), receiver);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    let router = router(state.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (dir, state, sender, addr, token.expose().to_owned())
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
    let (code, body) = status(question).await;
    assert_eq!(code, 503, "it waits for as long as a request may take: {body}");
    assert!(body.contains("\"starting\""), "{body}");
    let (code, metrics) = status(client.get(format!("http://{addr}/metrics"))).await;
    assert_eq!(code, 200);
    assert!(metrics.contains("icecore_http_requests_total"), "{metrics}");
    assert!(!metrics.contains("north"), "{metrics}");
}

#[tokio::test]
async fn strangers_and_nonsense_are_turned_away() {
    let (_dir, _, _sender, addr, token) = starting().await;
    let client = reqwest::Client::new();
    let post = || client.post(format!("http://{addr}/api/v1/sql"));
    assert_eq!(status(post().body("SELECT 1")).await.0, 401);
    assert_eq!(status(post().bearer_auth("nonsense").body("SELECT 1")).await.0, 401);
    assert_eq!(status(post().header("authorization", "Basic eA==").body("SELECT 1")).await.0, 401);
    assert_eq!(status(post().bearer_auth(&token).body("x".repeat(2_000))).await.0, 413);
    assert_eq!(status(post().bearer_auth(&token).header("accept", "image/png").body("SELECT 1")).await.0, 406);
    let form = post().bearer_auth(&token).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(status(form.body("SELECT 1")).await.0, 415);
    let export = |query: &str| client.get(format!("http://{addr}/api/v1/export?{query}")).bearer_auth(&token);
    assert_eq!(status(export("from=yesterday")).await.0, 400);
    assert_eq!(status(export("org=7")).await.0, 400);
    assert_eq!(status(client.get(format!("http://{addr}/etc/passwd"))).await.0, 404);
    assert_eq!(status(client.get(format!("http://{addr}/api/v1/sql"))).await.0, 405);
}

#[tokio::test]
async fn places_are_limited_and_given_back() {
    let (_dir, state, _sender, _, _) = starting().await;
    let org = |id| OrgId::new(id).expect("an id");
    let (first, _second) = (state.place(org(1)).expect("room"), state.place(org(1)).expect("room"));
    let refused = |error: HttpError| axum::response::IntoResponse::into_response(error).status().as_u16();
    assert_eq!(state.place(org(1)).map_err(refused).err(), Some(429));
    let _third = state.place(org(2)).expect("room for another organisation");
    assert_eq!(state.place(org(3)).map_err(refused).err(), Some(503));
    drop(first);
    state.place(org(1)).expect("room again");
    assert_eq!(state.0.per_org.lock().expect("not poisoned").len(), 2, "nothing is kept of those who have left");
}
