//! Who may in, and how far: certificates, tokens, what is revoked under a running server, the audit log, SQL that tries
//! to leave its organisation, malformed files.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use control::data_dir::DataDir;
use ingest::client::{Client, ClientConfig, Identity};
use storage_format::{ChannelCode, FrameBuilder, LoggerId, Millis};

use crate::readings;
use crate::server::{Icecore, Org, PATIENCE};

/// How soon what a command takes away is gone, with a server beside it.
const SOON: Duration = Duration::from_secs(2);

/// Waits until this is so, and not longer than [`SOON`].
#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command on the data directory that must succeed.
#[track_caller]
fn run(icecore: &Icecore, args: &[&str]) -> String {
    let data_dir = icecore.data_dir();
    icecore.run(&[args, &["--data-dir", &data_dir]].concat()).ok().stdout
}

/// A frame with one reading.
fn frame(number: i64) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    let (logger, channel) = (LoggerId::new(1).expect("not zero"), ChannelCode::new(1).expect("temperature"));
    let time = Millis::new(1_700_000_000_000 + number).expect("a time");
    builder.push(logger, time, &[(channel, 4.5)]).expect("a reading");
    builder
}

#[test]
fn certificates() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("museum");
    let file = readings::file(icecore.work(), "few.csv", &readings::fleet(1, 10));

    let mut foreign = Icecore::new();
    foreign.start();
    let foreign_org = foreign.org("museum");
    icecore.send(&foreign_org.identity, &file).refused(&["certificate"]);
    // The right server's CA does not help a foreign certificate either.
    fs::copy(org.identity.join("ca.pem"), foreign_org.identity.join("ca.pem")).expect("the CA can be copied");
    icecore.send(&foreign_org.identity, &file).refused(&["certificate"]);

    icecore.send(&org.identity, &file).ok();
    icecore.run(&["gateway", "revoke", "first", "--org", "museum", "--data-dir", &icecore.data_dir()]).ok();
    soon("the certificate is refused", || icecore.send(&org.identity, &file).code != Some(0));
    icecore.send(&org.identity, &file).refused(&["certificate"]);
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 10, "what it sent before is kept");
}

#[test]
fn what_is_made_beside_a_server_works_at_once() {
    let mut icecore = Icecore::new();
    icecore.start();
    for round in 0..5 {
        let org = icecore.org(&format!("org-{round}"));
        assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 0);
        let identity = icecore.enroll(&org.name, "second");
        icecore.send(&identity, &readings::file(icecore.work(), "few.csv", &readings::fleet(1, 10))).ok();
        assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 10);
    }
}

#[test]
fn what_is_revoked_beside_a_server_ends_while_it_is_connected() {
    let mut icecore = Icecore::new();
    icecore.start();
    let (revoked, suspended) = (icecore.org("revoked"), icecore.org("suspended"));
    let answered = |org: &Org| icecore.sql(org, "SELECT count(*) FROM readings").err().unwrap_or_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let connect = |org: &Org| {
        let identity = Identity::load(&org.identity).expect("an identity");
        let config = ClientConfig { patience: PATIENCE, ..ClientConfig::new(icecore.ingest(), identity) };
        let mut client = runtime.block_on(Client::connect(config)).expect("connected");
        runtime.block_on(client.send(&mut frame(0))).expect("taken");
        let mut progress = client.progress();
        runtime.block_on(progress.wait_for(|p| p.acknowledged_frames == 1)).expect("acknowledged");
        client
    };
    let first = connect(&revoked);
    let mut second = connect(&suspended);

    run(&icecore, &["gateway", "revoke", "first", "--org", "revoked"]);
    let progress = first.progress();
    soon("the connection ends", || !progress.borrow().connected);
    runtime.block_on(first.finish()).expect_err("it is not let in again");

    let tokens = run(&icecore, &["token", "list", "--org", "revoked"]);
    let id = tokens.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 16).expect("an id").to_owned();
    assert_eq!(answered(&revoked), "");
    run(&icecore, &["token", "revoke", &id]);
    soon("the token is refused", || answered(&revoked).contains("401"));

    run(&icecore, &["org", "suspend", "suspended"]);
    let mut number = 0;
    let progress = second.progress();
    soon("frames are refused", || {
        number += 1;
        runtime.block_on(second.send(&mut frame(number))).expect("sent");
        progress.borrow().refused_frames > 0
    });
    soon("the suspended organisation's token opens nothing", || answered(&suspended).contains("403"));
    assert!(progress.borrow().connected, "it is told why, and not cut off");
    run(&icecore, &["org", "resume", "suspended"]);
    assert_eq!(answered(&suspended), "", "a token works again at once");
    soon("and frames are taken again", || {
        number += 1;
        runtime.block_on(second.send(&mut frame(number))).expect("sent");
        let progress = progress.borrow();
        progress.reconnects > 0 && progress.acknowledged_frames > 1
    });
}

/// A response that is running, and whose reader has read nothing but its beginning.
struct Running(TcpStream);

impl Running {
    /// Sends a request, and waits until the body begins.
    fn start(icecore: &Icecore, org: &Org, head: &str, body: &str) -> Self {
        let addr = icecore.url().trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(addr).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let request = format!(
            "{head} HTTP/1.1\r\nHost: x\r\nAccept: text/csv\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n\
             {body}",
            org.token,
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut begin = [0; 1024];
        stream.read_exact(&mut begin).expect("it begins");
        assert!(begin.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&begin));
        Self(stream)
    }

    /// Reads the rest; whether the body has its proper end.
    fn is_whole(mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = self.0.read_to_end(&mut rest).is_ok();
        rest.ends_with(b"0\r\n\r\n")
    }
}

#[test]
fn a_running_response_is_cut_off_with_its_token_or_organisation() {
    const CUT: &str = "its token is no longer valid, or its organisation is suspended";
    let mut icecore = Icecore::new();
    icecore.start();
    let (revoked, suspended) = (icecore.org("revoked"), icecore.org("suspended"));
    // Much more than sockets and channels hold.
    let many = readings::file(icecore.work(), "many.csv", &readings::fleet(30, 8_000));
    icecore.send(&revoked.identity, &many).ok();
    let few = readings::file(icecore.work(), "few.csv", &readings::fleet(1, 4_000));
    icecore.send(&suspended.identity, &few).ok();

    let export = Running::start(&icecore, &revoked, "GET /api/v1/export", "");
    let tokens = run(&icecore, &["token", "list", "--org", "revoked"]);
    let id = tokens.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 16).expect("an id").to_owned();
    assert!(!icecore.log().contains(CUT));
    run(&icecore, &["token", "revoke", &id]);
    soon("the export is cut off", || icecore.log().matches(CUT).count() == 1);
    assert!(!export.is_whole(), "an export that is cut off does not look whole");

    let sql = "SELECT a.time, b.time AS other FROM readings a, readings b WHERE a.temperature <> b.humidity";
    let answer = Running::start(&icecore, &suspended, "POST /api/v1/sql", sql);
    run(&icecore, &["org", "suspend", "suspended"]);
    soon("the response is cut off", || icecore.log().matches(CUT).count() == 2);
    assert!(!answer.is_whole(), "a response that is cut off does not look whole");
}

#[test]
fn the_audit_log_tells_who_changed_what() {
    let icecore = Icecore::new();
    let org = icecore.org("museum");
    let list = |args: &[&str]| -> Vec<serde_json::Value> {
        let printed = run(&icecore, &[&["audit", "list", "--json"], args].concat());
        assert!(!printed.contains(&org.token), "a secret is in the audit log");
        let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        printed["items"].as_array().expect("a list").clone()
    };
    run(&icecore, &["org", "create", "clinic"]);
    run(&icecore, &["gateway", "revoke", "first", "--org", "museum"]);
    run(&icecore, &["org", "suspend", "museum"]);
    let all = list(&[]);
    let actions: Vec<_> = all.iter().map(|entry| entry["action"].as_str().expect("a text")).collect();
    let expected = ["org.create", "gateway.enroll", "token.create", "org.create", "gateway.revoke", "org.suspend"];
    assert_eq!(actions, expected);
    let keys =
        ["id", "at", "actor", "action", "target", "org", "from", "via", "result", "before", "after", "request_id"];
    for entry in &all {
        assert!(keys.iter().all(|key| entry.get(key).is_some()), "{entry}");
        assert_eq!((&entry["actor"]["kind"], &entry["via"]["kind"]), (&"command".into(), &"command".into()));
        let at = entry["at"].as_str().expect("a text");
        assert!(at.parse::<Millis>().is_ok() && at.ends_with('Z'), "{at}");
    }
    assert_eq!(all[4]["before"]["revoked"], serde_json::Value::Null);
    assert!(all[4]["after"]["revoked"].is_string(), "{}", all[4]);
    assert_eq!(all[4]["target"], all[1]["target"], "the gateway's id");
    assert_eq!(list(&["--org", "clinic"]), [all[3].clone()]);
    let table = run(&icecore, &["audit", "list"]);
    assert!(expected.iter().all(|action| table.contains(action)) && table.contains("museum"), "{table}");
    let none = icecore.run(&["audit", "list", "--org", "x", "--data-dir", &icecore.data_dir()]);
    none.refused(&["no organisation named x", "icecore org list"]);

    // More than a page of it.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let control = DataDir::new(icecore.data_dir()).open_control().await.expect("opened");
        let caller = control::Caller::command(0, "test");
        for _ in 0..600 {
            control.set_suspended(&caller, "museum", true, Millis::EPOCH).await.expect("suspended");
        }
        control.close().await;
    });
    let ids: Vec<_> = list(&[]).iter().map(|entry| entry["id"].as_i64().expect("a number")).collect();
    assert_eq!(ids, (1..=606).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(run(&icecore, &["audit", "list"]).matches("org.suspend").count(), 601);
}

#[test]
fn tokens_and_isolation() {
    let mut icecore = Icecore::new();
    icecore.start();
    let (a, b) = (icecore.org("a"), icecore.org("b"));
    icecore.send(&a.identity, &readings::file(icecore.work(), "few.csv", &readings::fleet(2, 50))).ok();
    assert_eq!(icecore.number(&a, "SELECT count(*) FROM readings"), 100);
    assert_eq!(icecore.number(&b, "SELECT count(*) FROM readings"), 0);

    for sql in [
        "SELECT * FROM information_schema.tables",
        "SHOW TABLES",
        "SHOW ALL",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO 'x.csv'",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "SET datafusion.execution.batch_size = 1",
        "INSERT INTO readings SELECT * FROM readings",
        "DELETE FROM readings",
        "UPDATE readings SET temperature = 1",
        "DROP TABLE readings",
        "SELECT 1; SELECT 2",
        "PREPARE p AS SELECT 1",
        "",
    ] {
        let printed = icecore.query(&b, sql).refused(&[]);
        assert!(!printed.stderr.contains(&icecore.data_dir()), "{sql} tells the server's paths: {printed:#?}");
    }
    assert_eq!(icecore.number(&a, "SELECT count(*) FROM readings"), 100);

    let nonsense = crate::server::Org { name: "a".into(), identity: a.identity.clone(), token: "nonsense".into() };
    icecore.query(&nonsense, "SELECT 1").refused(&["token"]);
    let list = icecore.run(&["token", "list", "--org", "a", "--data-dir", &icecore.data_dir()]).ok();
    assert!(!list.stdout.contains(&a.token), "a list never shows a token");
    let answer =
        icecore.http("POST /api/v1/sql HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nConnection: close\r\n\r\nSELECT 1");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("/problems/sign-in-required"), "{answer}");
    icecore.query(&b, "DROP TABLE readings").refused(&["refuses"]);
    icecore.query(&b, "SELECT nonsense FROM readings").refused(&["query is not valid", "nonsense"]);
    let metrics = icecore.get("/metrics");
    assert!(metrics.contains("icecore_"), "{metrics}");
    let kinds: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let undescribed: Vec<_> = kinds.iter().filter(|name| !metrics.contains(&format!("# HELP {name} "))).collect();
    assert!(kinds.len() > 20 && undescribed.is_empty(), "{undescribed:?}");
    assert!(!icecore.log().contains(&a.token) && !metrics.contains(&a.token));
}

#[test]
fn malformed_files_say_where() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("bad");
    let path = icecore.work().join("bad.csv");
    let good = "2024-01-01T00:00:00Z,00124B0000000001";
    for (body, texts) in [
        (format!("time,logger,temperature\n{good},1\n{good},warm\n"), &["line 3", "temperature", "warm"][..]),
        (format!("time,logger,temperature\n{good},NaN\n"), &["line 2", "temperature"]),
        (format!("time,logger,temperature\n{good},inf\n"), &["line 2", "temperature"]),
        ("time,logger,temperature\nyesterday,00124B0000000001,1\n".into(), &["line 2", "time", "yesterday"]),
        ("time,logger,temperature\n2024-01-01T00:00:00Z,XYZ,1\n".into(), &["line 2", "logger", "XYZ"]),
        ("time,logger,colour\n2024-01-01T00:00:00Z,00124B0000000001,1\n".into(), &["line 1", "colour"]),
        ("time,temperature\n2024-01-01T00:00:00Z,1\n".into(), &["line 1", "logger"]),
        (format!("time,logger,temperature\n{good},1,2\n"), &["line 2"]),
        (format!("time,logger,temperature\n{good},1,2\n"), &["line 2", "4 cells"]),
        ("time,logger,temperature\n2999-01-01T00:00:00Z,00124B0000000001,1\n".into(), &["2999"]),
        (String::new(), &[]),
        ("\0\u{1}\u{2}\n".into(), &["line 1"]),
    ] {
        fs::write(&path, &body).expect("the file can be written");
        let printed = icecore.send(&org.identity, &path).refused(texts);
        assert!(printed.stderr.contains("bad.csv") || body.contains("2999"), "{printed:#?}");
    }
    // A line before the bad one may have been sent, the bad one and those after it never.
    assert!(icecore.number(&org, "SELECT count(*) FROM readings") <= 1);
}
