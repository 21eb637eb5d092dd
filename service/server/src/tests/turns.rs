//! Requests that wait for their turn, over real sockets and a real engine. The test itself holds the turns.

use engine::{Engine, EngineConfig, EngineParts, LocalDurable, MasterKey, RealFiles, SystemClock, SystemRandom};
use query::{InFlight, TurnRefused};
use storage_format::encryption::SecretKey;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;

/// Long enough for a debug build on a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with an engine.
struct Served {
    _dir: tempfile::TempDir,
    _backend: watch::Sender<Option<Backend>>,
    turns: Turns,
    addr: SocketAddr,
    token: String,
    /// The organisation of the token.
    org: OrgId,
}

async fn serve(limits: QueryLimits) -> Served {
    let config = HttpConfig { request_time_max: PATIENCE, ..config() };
    let (dir, state, backend, addr, token) = starting_with(config, &limits).await;
    let parts = EngineParts {
        files: Arc::new(RealFiles),
        store: Arc::new(LocalDurable::open(dir.path().join("store"), dir.path().join("staging")).expect("a store")),
        keys: Arc::new(MasterKey::new(SecretKey::from_bytes([7; 32]), SystemRandom)),
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SystemRandom),
    };
    let engine = Engine::open(EngineConfig::new(dir.path()), parts).await.expect("it opens");
    let turns = state.0.turns.clone();
    let query = QueryEngine::new(Arc::clone(&engine), limits, 1 << 20).with_turns(turns.clone());
    backend.send_replace(Some(Backend { engine, query, health: HealthCheck::new(Health::default) }));
    let org = match state.0.standings.token(&token).await.expect("it is known") {
        Some(control::Standing::Good(org)) => org,
        other => panic!("{other:?}"),
    };
    Served { _dir: dir, _backend: backend, turns, addr, token, org }
}

fn limits() -> QueryLimits {
    QueryLimits {
        queries_max: 4,
        queries_per_org_max: 2,
        requests_max: 20,
        requests_per_org_max: 10,
        queue_time_max: PATIENCE,
        threads: 1,
        ..QueryLimits::default()
    }
}

impl Served {
    fn ask(&self) -> reqwest::RequestBuilder {
        let request = reqwest::Client::new().post(format!("http://{}/api/v1/sql", self.addr));
        request.bearer_auth(&self.token).header("accept", "text/csv").body("SELECT 1 AS one")
    }

    /// Takes a turn, as a query of this organisation would.
    async fn hold(&self, org: OrgId) -> (InFlight, Turn) {
        let in_flight = self.turns.enter(org).expect("room");
        let turn = in_flight.turn(TurnKind::Query).await.expect("a turn");
        (in_flight, turn)
    }

    async fn until(&self, waiting: usize) {
        let reached = async {
            while self.turns.waiting() != waiting {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("{} wait instead of {waiting}", self.turns.waiting()));
    }

    /// Metrics are the process's, and other tests set them too.
    async fn until_metrics(&self, text: &str) {
        let page = async || {
            let response = reqwest::get(format!("http://{}/metrics", self.addr)).await.expect("a response");
            response.text().await.expect("text")
        };
        let reached = async { while !page().await.contains(text) {} };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{text} is never in the metrics"));
    }
}

fn other(org: OrgId) -> OrgId {
    OrgId::new(org.get() ^ 1).expect("an id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_past_the_limit_wait_and_are_answered() {
    let served = serve(limits()).await;
    let held = [served.hold(served.org).await, served.hold(served.org).await];
    let asked: Vec<_> = (0..8).map(|_| tokio::spawn(served.ask().send())).collect();
    served.until(8).await;
    // Another organisation has its turn at once.
    drop(served.hold(other(served.org)).await);
    served.until_metrics("icecore_http_requests_waiting 8\n").await;
    served.until_metrics("icecore_http_requests_running 2\n").await;
    drop(held);
    for response in asked {
        let response = response.await.expect("no panic").expect("a response");
        assert_eq!(response.status(), 200);
        assert_eq!(response.text().await.expect("whole"), "one\n1\n");
    }
    served.until_metrics(r#"icecore_http_request_wait_seconds_count{kind="query"}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_vain_learns_whose_limit_it_was() {
    let served = serve(QueryLimits { queue_time_max: Duration::from_millis(20), ..limits() }).await;
    let refused = async || {
        let response = served.ask().send().await.expect("a response");
        assert!(response.headers().contains_key("retry-after"));
        let (status, document) = problem(response).await;
        (status, document["type"].as_str().unwrap_or_default().to_owned())
    };
    let mut held = vec![served.hold(served.org).await, served.hold(served.org).await];
    assert_eq!(refused().await, (429, "/problems/rate-limited".to_owned()));
    held.pop();
    for _ in 0..2 {
        held.push(served.hold(other(served.org)).await);
    }
    held.push(served.hold(OrgId::new(served.org.get() ^ 2).expect("an id")).await);
    assert_eq!(refused().await, (503, "/problems/unavailable".to_owned()));
    assert_eq!(served.turns.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_requests_in_flight_nobody_waits() {
    let served = serve(QueryLimits { requests_max: 5, requests_per_org_max: 3, ..limits() }).await;
    let enter = |org| served.turns.enter(org).expect("room");
    let own = [enter(served.org), enter(served.org), enter(served.org)];
    let status = async || served.ask().send().await.expect("a response").status().as_u16();
    assert_eq!(status().await, 429);
    let others = [enter(other(served.org)), enter(other(served.org))];
    let [last, ..] = own;
    drop(last);
    let third = served.turns.enter(OrgId::new(served.org.get() ^ 2).expect("an id"));
    assert!(third.is_ok(), "{third:?}");
    assert_eq!(status().await, 503);
    drop((others, third));
    assert_eq!(status().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_leaves_the_queue() {
    let served = serve(limits()).await;
    let held = [served.hold(served.org).await, served.hold(served.org).await];
    let mut stream = TcpStream::connect(served.addr).await.expect("connected");
    let request = format!(
        "POST /api/v1/sql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 8\r\n\r\nSELECT 1",
        served.token
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    served.until(1).await;
    drop(stream);
    served.until(0).await;
    let enough = (0..10 - held.len()).map(|_| served.turns.enter(served.org)).collect::<Result<Vec<_>, TurnRefused>>();
    assert!(enough.is_ok(), "it is not in flight any more either");
}
