//! Who may in, and how far: certificates, tokens, SQL that tries to leave its organisation, malformed files.

use std::fs;

use crate::readings;
use crate::server::Icecore;

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
    icecore.send(&org.identity, &file).refused(&["certificate"]);
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 10, "what it sent before is kept");
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
    let metrics = icecore.get("/metrics");
    assert!(metrics.contains("icecore_"), "{metrics}");
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
