//! The behavioural suite over a real S3 server (and over Azure's emulator, where it is installed), and what a remote
//! store must do beyond it: keep its promises while requests fail, count them, and tell what is known of a write.

use std::time::Duration;

use bucket::{Fault, FaultProxy, Matching, S3Server};
use tokio::runtime::Handle;

use super::super::remote::{Patience, RemoteStore};
use super::super::url::{RemoteSettings, StoreUrl, open_remote};
use super::*;
use crate::{Clock, Random, SystemClock, SystemRandom};

struct Remote {
    store: Arc<dyn ObjectStore>,
    requests: Arc<StoreRequests>,
    settings: RemoteSettings,
    _credentials: TempDir,
}

fn settings(url: &str, endpoint: String) -> RemoteSettings {
    RemoteSettings {
        url: url.parse().expect("a url"),
        endpoint: Some(endpoint),
        region: Some("us-east-1".to_owned()),
        account: None,
        path_style: true,
        allow_http: true,
        credentials_file: None,
        ca_file: None,
        request_time_max: Duration::from_secs(5),
        connect_time_max: Duration::from_secs(2),
        retries_max: 2,
        retry_time_max: Duration::from_secs(20),
    }
}

fn connect(settings: &RemoteSettings) -> (Arc<dyn ObjectStore>, Arc<StoreRequests>) {
    let requests = Arc::new(StoreRequests::default());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let store = open_remote(settings, &requests, &Handle::current(), &clock, &random).expect("a store");
    (store, requests)
}

fn s3_at(endpoint: String, prefix: &str) -> Remote {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("credentials");
    let (key, secret) = (S3Server::KEY_ID, S3Server::SECRET);
    std::fs::write(&file, format!("aws_access_key_id = {key}\naws_secret_access_key = {secret}\n")).expect("written");
    let mut settings = settings(&format!("s3://{}{prefix}", S3Server::BUCKET), endpoint);
    settings.credentials_file = Some(file);
    let (store, requests) = connect(&settings);
    Remote { store, requests, settings, _credentials: dir }
}

fn behind_proxy() -> (S3Server, FaultProxy, Remote) {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.addr());
    let remote = s3_at(proxy.url(), "/some/prefix");
    (server, proxy, remote)
}

fn on(method: &'static str, target_contains: &str) -> Matching {
    Matching { method, target_contains: target_contains.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_server_behaves() {
    let server = S3Server::start();
    for prefix in ["", "/some/prefix"] {
        let remote = s3_at(format!("http://{}", server.addr()), prefix);
        behaves_with_parts(remote.store.as_ref(), 5 * 1024 * 1024).await;
        let left: Vec<_> = remote.store.list(None).try_collect().await.expect("a list");
        let paths = left.into_iter().map(|meta| Ok(meta.location));
        let paths = futures::StreamExt::boxed(futures::stream::iter(paths.collect::<Vec<_>>()));
        let gone: Vec<_> = remote.store.delete_stream(paths).try_collect().await.expect("deleted");
        assert!(gone.len() > 4);
        assert_eq!(names(remote.store.as_ref(), None).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_one_wins() {
    let server = S3Server::start();
    let remote = s3_at(format!("http://{}", server.addr()), "");
    for name in ["a", "deep/down/b"] {
        let tasks: Vec<_> = (0..8)
            .map(|id: u8| {
                let store = Arc::clone(&remote.store);
                let path = path(name);
                tokio::spawn(async move { put_create(store.as_ref(), &path, &Bytes::from(vec![id; 100])).await })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            won += usize::from(task.await.expect("no panic").expect("an answer") == PutOutcome::Created);
        }
        assert_eq!(won, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_on_the_way_a_put_is_made_once_and_known() {
    let (_server, proxy, remote) = behind_proxy();
    let faults = [
        Fault::Slow(Duration::from_millis(300)),
        Fault::Status(503),
        Fault::Status(500),
        Fault::Applied500,
        Fault::AppliedCut,
        Fault::CutUpload,
    ];
    for (n, fault) in (0_u8..).zip(faults) {
        for times in [1, 2] {
            let (path, bytes) = (path(&format!("f/{n}-{times}")), Bytes::from(vec![n; 10_000]));
            proxy.next(&on("PUT", &format!("{n}-{times}")), fault, times);
            let put = put_create(remote.store.as_ref(), &path, &bytes).await;
            assert!(matches!(put, Ok(PutOutcome::Created)), "{fault:?}, {times} times: {put:?}");
            proxy.clear();
            let other = put_create(remote.store.as_ref(), &path, &Bytes::from_static(b"other")).await;
            let found = matches!(&other, Ok(PutOutcome::Exists(found)) if *found == bytes);
            assert!(found, "{fault:?}, {times} times: {other:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_happened_is_never_said_not_to_have() {
    let (_server, proxy, remote) = behind_proxy();
    let bytes = Bytes::from_static(b"ours");
    // Applied and answered with an error; then the credentials expire.
    proxy.next(&on("PUT", "a"), Fault::Applied500, 1);
    proxy.next(&on("PUT", "a"), Fault::Status(403), 1);
    let put = remote.store.put_opts(&path("a"), bytes.clone().into(), PutMode::Create.into()).await;
    assert!(matches!(put, Err(Error::Generic { .. })), "it is there: {put:?}");
    assert_eq!(put_create(remote.store.as_ref(), &path("a"), &bytes).await.expect("asked again"), PutOutcome::Created);
    // Refused at once: nothing happened.
    proxy.next(&on("PUT", "b"), Fault::Status(403), 1);
    let put = put_create(remote.store.as_ref(), &path("b"), &bytes).await;
    assert!(matches!(put, Err(PutError::DidNotHappen { .. })), "{put:?}");
    assert!(matches!(remote.store.get(&path("b")).await, Err(Error::NotFound { .. })));
    // Away: bounded tries, each of them counted, and nothing claimed.
    proxy.away(true);
    let before = remote.requests.get(RequestKind::Put).failed;
    let put = put_create(remote.store.as_ref(), &path("c"), &bytes).await;
    assert!(matches!(put, Err(PutError::MayHaveHappened { .. })), "{put:?}");
    assert_eq!(remote.requests.get(RequestKind::Put).failed - before, 3, "one and two retries");
    proxy.away(false);
    assert_eq!(put_create(remote.store.as_ref(), &path("c"), &bytes).await.expect("it is back"), PutOutcome::Created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_through_faults() {
    let (_server, proxy, remote) = behind_proxy();
    let bytes: Bytes = (0..=u8::MAX).cycle().take(300_000).collect::<Vec<_>>().into();
    remote.store.put(&path("big"), bytes.clone().into()).await.expect("put");
    for fault in [Fault::Status(503), Fault::CutDownload, Fault::Slow(Duration::from_millis(200))] {
        proxy.next(&on("GET", "big"), fault, 1);
        let got = remote.store.get(&path("big")).await.expect("there").bytes().await.expect("read");
        assert!(got == bytes, "{fault:?}");
        proxy.next(&on("GET", "list-type"), fault, 1);
        assert_eq!(names(remote.store.as_ref(), None).await, ["big"], "{fault:?}");
    }
    assert_eq!(proxy.planned(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_hangs_ends_and_is_read_on_where_that_is_allowed() {
    let (_server, proxy, remote) = behind_proxy();
    remote.store.put(&path("big"), vec![7; 300_000].into()).await.expect("put");
    for retries_max in [0, 2] {
        let request_time_max = Duration::from_millis(500);
        let settings = RemoteSettings { retries_max, request_time_max, ..remote.settings.clone() };
        let (store, _) = connect(&settings);
        proxy.next(&on("GET", "big"), Fault::HungDownload, 1);
        let got = async { store.get(&path("big")).await?.bytes().await };
        let got = tokio::time::timeout(Duration::from_secs(20), got).await.expect("it ends");
        match retries_max {
            0 => assert!(format!("{:?}", got.expect_err("half of it")).contains("TimedOut")),
            _ => assert_eq!(got.expect("read on").len(), 300_000),
        }
    }
}

/// A store that does not give the end of an object whose size it is not told, as Azure's.
#[tokio::test]
async fn the_end_of_an_object_is_read_by_its_size_where_need_be() {
    let memory = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let patience = Patience {
        retries_max: 0,
        time_max: Duration::ZERO,
        pause_min: Duration::ZERO,
        pause_max: Duration::ZERO,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SystemRandom),
    };
    let inner: Arc<dyn ObjectStore> = Arc::clone(&memory) as _;
    let clients = (Arc::clone(&inner), inner, None);
    let store = RemoteStore::new("az://container".to_owned(), clients, false, patience);
    put(&store, "ten", "0123456789", PutMode::Create).await.expect("put");
    put(&store, "none", "", PutMode::Create).await.expect("put");
    for (name, length, expected) in [("ten", 3, "789"), ("ten", 30, "0123456789"), ("none", 3, "")] {
        memory.take_log();
        let options = GetOptions { range: Some(GetRange::Suffix(length)), ..GetOptions::default() };
        let got = store.get_opts(&path(name), options).await.expect("there");
        assert_eq!(got.bytes().await.expect("read"), expected, "the last {length} of {name}");
        assert_eq!(memory.take_log().len(), 2, "its size, and its end");
    }
}

/// Objects in parts: none is there before it is whole, and none is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_objects_go_in_parts_and_never_replace() {
    let (server, proxy, remote) = behind_proxy();
    let bytes = |fill: u8| Bytes::from(vec![fill; 40 * 1024 * 1024]);
    proxy.next(&on("PUT", "partNumber"), Fault::CutUpload, 1);
    proxy.next(&on("PUT", "partNumber"), Fault::Status(503), 1);
    let put = put_create(remote.store.as_ref(), &path("large"), &bytes(1)).await;
    assert!(matches!(put, Ok(PutOutcome::Created)), "{put:?}");
    assert_eq!(proxy.planned(), 0);
    let asked = proxy.take_asked();
    let parts = asked.iter().filter(|asked| asked.target.contains("partNumber")).count();
    assert_eq!(parts, 5, "three parts, of which two were sent again");
    let other = put_create(remote.store.as_ref(), &path("large"), &bytes(2)).await;
    assert!(matches!(&other, Ok(PutOutcome::Exists(found)) if *found == bytes(1)), "the first stays");
    // Applied and answered with an error, or with nothing.
    for (name, fault) in [("a500", Fault::Applied500), ("cut", Fault::AppliedCut)] {
        proxy.next(&on("POST", "uploadId"), fault, 1);
        let put = put_create(remote.store.as_ref(), &path(name), &bytes(3)).await;
        assert!(matches!(put, Ok(PutOutcome::Created)), "{fault:?}: {put:?}");
        assert_eq!(proxy.planned(), 0);
    }
    // Whose parts cannot be sent leaves nothing that counts.
    proxy.next(&on("PUT", "partNumber"), Fault::Status(503), 20);
    let put = put_create(remote.store.as_ref(), &path("never"), &bytes(4)).await;
    assert!(matches!(put, Err(PutError::MayHaveHappened { .. })), "{put:?}");
    assert!(matches!(remote.store.head(&path("never")).await, Err(Error::NotFound { .. })));
    let uploads = server.bucket_dir().join(".sgwtmp/multipart");
    let left = std::fs::read_dir(uploads)
        .map_or(0, |entries| entries.filter_map(|e| std::fs::read_dir(e.ok()?.path()).ok()).flatten().count());
    assert_eq!(left, 0, "given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_as_they_are_billed() {
    let (_server, proxy, remote) = behind_proxy();
    let counts = |kind| remote.requests.get(kind);
    remote.store.put(&path("a/one"), Bytes::from(vec![7; 1000]).into()).await.expect("put");
    remote.store.head(&path("a/one")).await.expect("there");
    remote.store.get(&path("a/one")).await.expect("there").bytes().await.expect("read");
    remote.store.get(&path("a/none")).await.expect_err("none");
    names(remote.store.as_ref(), None).await;
    remote.store.copy(&path("a/one"), &path("a/two")).await.expect("copied");
    remote.store.delete(&path("a/one")).await.expect("deleted");
    proxy.next(&on("GET", "a/two"), Fault::Status(503), 1);
    remote.store.get(&path("a/two")).await.expect("at last").bytes().await.expect("read");
    let expected = [
        (RequestKind::Put, 1, 0),
        (RequestKind::Get, 3, 1),
        (RequestKind::Head, 1, 0),
        (RequestKind::List, 1, 0),
        (RequestKind::Copy, 1, 0),
        (RequestKind::Delete, 1, 0),
        (RequestKind::Other, 0, 0),
    ];
    for (kind, ok, failed) in expected {
        assert_eq!((counts(kind).ok, counts(kind).failed), (ok, failed), "{kind:?}");
    }
    assert_eq!(counts(RequestKind::Put).bytes_sent, 1000);
    assert!((2000..4000).contains(&counts(RequestKind::Get).bytes_received), "{:?}", counts(RequestKind::Get));
    let asked = proxy.take_asked().len() as u64;
    assert_eq!(remote.requests.total(), asked, "as the other end sees them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_credentials_are_used_without_a_restart_and_never_shown() {
    let server = S3Server::start();
    let remote = s3_at(format!("http://{}", server.addr()), "");
    let file = remote.settings.credentials_file.as_deref().expect("a file");
    let good = std::fs::read_to_string(file).expect("there");
    remote.store.put(&path("a"), "x".into()).await.expect("put");
    std::fs::write(file, good.replace(S3Server::SECRET, "expired-secret")).expect("written");
    let error = remote.store.put(&path("b"), "x".into()).await.expect_err("refused");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    for shown in [format!("{error:?} {error}"), format!("{:?} {:?}", remote.settings, remote.store)] {
        assert!(!shown.contains("expired-secret") && !shown.contains(S3Server::SECRET), "{shown}");
    }
    std::fs::remove_file(file).expect("removed");
    remote.store.put(&path("b"), "x".into()).await.expect_err("no credentials");
    std::fs::write(file, good).expect("written");
    remote.store.put(&path("b"), "x".into()).await.expect("put");
}

/// Flushes and queries run on runtimes that cannot talk to the network: their requests run elsewhere.
#[test]
fn a_runtime_without_a_network_can_use_it() {
    let server = S3Server::start();
    let network = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    let remote = {
        let _entered = network.enter();
        s3_at(format!("http://{}", server.addr()), "")
    };
    let flushes = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("one");
    flushes.block_on(async {
        let put = put_create(remote.store.as_ref(), &path("a"), &Bytes::from_static(b"x")).await;
        assert_eq!(put.expect("put"), PutOutcome::Created);
        assert_eq!(text(remote.store.as_ref(), "a").await, "x");
    });
}

#[test]
fn addresses_have_one_form() {
    for (text, shown) in [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("gs://my.bucket_1/a/b-c/", "gs://my.bucket_1/a/b-c"),
        ("az://container/x", "az://container/x"),
    ] {
        let url: StoreUrl = text.parse().expect(text);
        assert_eq!(url.to_string(), shown);
        assert_eq!(shown.parse::<StoreUrl>().expect("its own form"), url);
    }
    for text in [
        "",
        "bucket",
        "s3:/x",
        "s3://",
        "s3://Up/x",
        "s3://user:pw@host/x",
        "s3://bucket//x",
        "s3://bucket/../x",
        "http://bucket",
    ] {
        text.parse::<StoreUrl>().expect_err(text);
    }
}
