//! The door and the way to it: events as they were sent, ends of either side, who may come in, how many.

use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::command::Command;
use crate::manifest::ManifestRequest;
use crate::reach::{Connection, Reached, ask, reach};

const LONG: Duration = Duration::from_secs(30);

/// A directory that looks like one to a command.
fn data(dir: &tempfile::TempDir) -> DataDir {
    for name in ["control.db", "config.toml"] {
        std::fs::write(dir.path().join(name), "").expect("written");
    }
    DataDir::new(dir.path())
}

fn call(org: &str) -> Call {
    Call { user: "ann".to_owned(), command: Command::ManifestShow(ManifestRequest { org: org.to_owned() }) }
}

/// The user that runs the tests.
fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn handler<F: Future<Output = Result<()>> + Send + 'static>(
    run: impl Fn(String, Events) -> F + Send + Sync + 'static,
) -> Handler {
    Arc::new(move |call, events| {
        let Command::ManifestShow(request) = call.command else { panic!("another command") };
        Box::pin(run(request.org, events))
    })
}

async fn connected(data: &DataDir, org: &str) -> Connection {
    *ask(data, &call(org)).await.expect("a data directory").expect("a server")
}

async fn end_of(connection: &mut Connection) -> Problem {
    loop {
        match connection.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended well"),
            Err(problem) => return problem,
        }
    }
}

#[tokio::test]
async fn events_come_as_they_were_sent() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = data(&dir);
    let door = Door::with(
        &data,
        own(),
        handler(async |org, events| {
            events.line(format!("of {org}")).await;
            events.result(serde_json::json!({"long": "x".repeat(100_000)})).await;
            if org == "bad" { Err(Problem::new("it is bad").detail("very").help("mend it")) } else { Ok(()) }
        }),
    )
    .expect("opened");
    let mut good = connected(&data, "good").await;
    assert_eq!(good.next().await, Ok(Some(Event::Line { text: "of good".to_owned() })));
    let Ok(Some(Event::Result { value })) = good.next().await else { panic!("no result") };
    assert_eq!(value["long"].as_str().map(str::len), Some(100_000));
    assert_eq!(good.next().await, Ok(None));
    let problem = end_of(&mut connected(&data, "bad").await).await;
    assert_eq!(problem, Problem::new("it is bad").detail("very").help("mend it"));
    door.close().await;
    assert!(!data.local_socket().exists());
}

#[tokio::test]
async fn a_command_ends_with_who_called_it_and_with_its_server() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = data(&dir);
    struct Told(mpsc::UnboundedSender<&'static str>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send("gone");
        }
    }
    #[allow(clippy::disallowed_methods, reason = "two texts for each command of a test")]
    let (sender, mut told) = mpsc::unbounded_channel();
    let run = move |_, _| {
        let told = Told(sender.clone());
        async move {
            let _ = told.0.send("begun");
            std::future::pending::<Result<()>>().await
        }
    };
    let door = Door::with(&data, own(), handler(run)).expect("opened");
    let caller = connected(&data, "any").await;
    assert_eq!(told.recv().await, Some("begun"));
    drop(caller);
    assert_eq!(told.recv().await, Some("gone"), "nobody listens to it any more");

    let mut caller = connected(&data, "any").await;
    assert_eq!(told.recv().await, Some("begun"));
    let (ended, ()) = tokio::join!(end_of(&mut caller), door.close());
    assert!(ended.what().contains("is stopping"), "{ended}");
    assert_eq!(told.recv().await, Some("gone"));
}

#[tokio::test]
async fn more_commands_than_may_run_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = data(&dir);
    let door = Door::with(&data, own(), handler(async |_, _| std::future::pending().await)).expect("opened");
    let mut running = Vec::new();
    for _ in 0..COMMANDS_MAX {
        running.push(connected(&data, "any").await);
    }
    let refused = end_of(&mut connected(&data, "any").await).await;
    assert!(refused.what().contains("are running on this server already"), "{refused}");
    running.pop();
    // Its place is free as soon as the server has seen that it is gone.
    let begun = tokio::time::Instant::now();
    loop {
        let mut next = connected(&data, "any").await;
        if timeout(Duration::from_millis(200), next.next()).await.is_err() {
            break;
        }
        assert!(begun.elapsed() < LONG, "a place does not become free");
    }
    door.close().await;
}

#[tokio::test]
async fn what_is_no_request_is_answered() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = data(&dir);
    let _door = Door::with(&data, own(), handler(async |_, _| Ok(()))).expect("opened");
    for (request, status, text) in [
        ("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "404", "same version"),
        ("POST /v1/commands HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", "400", "missing"),
        ("PUT /v1/commands HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "405", ""),
        ("nonsense\r\n\r\n", "400", ""),
    ] {
        let mut stream = socket::connect(&data).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_command_waits_for_a_server_that_starts() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = data(&dir);
    let lock = data.lock().expect("free");
    assert!(ask(&data, &call("x")).await.expect("a data directory").is_none(), "there is no socket yet");
    let (sender, told) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let waiting = {
        let data = data.clone();
        tokio::spawn(async move {
            reach(&data, &call("x"), |_| {
                sender.lock().expect("no panic").take().map(|sender| sender.send(()));
            })
            .await
        })
    };
    told.await.expect("it says that it waits");
    let door = Door::open(&data, &lock, watch::channel(None).1).expect("opened");
    let Ok(Ok(Reached::Server(_))) = waiting.await else { panic!("no server") };
    door.close().await;
    drop(lock);
    let Ok(Reached::Free(_lock)) = reach(&data, &call("x"), |_| {}).await else { panic!("not free") };
}

#[tokio::test]
async fn another_user_is_refused_before_a_command_is_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = data(&dir);
    let door = Door::with(&data, own() + 1, handler(async |_, _| panic!("it ran"))).expect("opened");
    let refused = end_of(&mut connected(&data, "any").await).await;
    assert!(refused.what().contains("runs as another user"), "{refused}");
    door.close().await;
}

#[tokio::test]
async fn a_name_that_is_not_utf_8_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = data(&dir);
    let _lock = data.lock().expect("free");
    let door = Door::with(&data, own(), handler(async |_, _| Ok(()))).expect("opened");
    let file = std::path::PathBuf::from(std::ffi::OsString::from_vec(b"/caf\xe9.csv".to_vec()));
    let (org, form) = ("x".to_owned(), gateway::readings_csv::CsvForm::default());
    let request = crate::ImportRequest { org, files: vec![file], form, skip_bad_rows: None };
    let call = Call { user: "ann".to_owned(), command: Command::Import(request) };
    let reached = timeout(Duration::from_secs(5), reach(&data, &call, |_| {})).await.expect("no waiting");
    let refused = reached.expect_err("refused");
    assert!(refused.to_string().contains("UTF-8"), "{refused}");
    door.close().await;
}
