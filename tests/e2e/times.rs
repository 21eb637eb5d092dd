//! Local days and bounds over HTTP, and statements that are refused in every format alike.

use std::fmt::Write as _;

use crate::server::Icecore;

const FORMATS: [&str; 4] =
    ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"];

/// Every 10 minutes from 26 October 2024 22:00 to 28 October 03:50 UTC: clocks in the Azores go back on the 27th from 01:00
/// to 00:00.
fn file() -> String {
    let mut file = "time,logger,temperature\n".to_owned();
    let minutes = (22 * 60..24 * 60 * 2 + 4 * 60).step_by(10);
    for minute in minutes {
        let (day, hour, minute) = (26 + minute / 1_440, minute / 60 % 24, minute % 60);
        writeln!(file, "2024-10-{day}T{hour:02}:{minute:02}:00Z,00124B00000C0001,5.0").expect("texts grow");
    }
    file
}

#[test]
fn times_are_local_and_what_is_wrong_is_refused_in_every_format() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("archive");
    let path = icecore.work().join("azores.csv");
    std::fs::write(&path, file()).expect("the file can be written");
    icecore.send(&org.identity, &path).ok();

    let azores = "time AT TIME ZONE 'Atlantic/Azores'";
    let days =
        format!("SELECT date_trunc('day', {azores}) AS day, count(*) AS n FROM readings GROUP BY day ORDER BY day");
    let days = icecore.sql(&org, &days).expect("answers");
    let counts: Vec<&str> = days.lines().skip(1).filter_map(|line| line.rsplit(',').next()).collect();
    assert_eq!(counts, ["12", "150", "18"], "{days}");
    let bounds = format!("SELECT count(*) FROM readings WHERE {azores} >= '2024-10-27' AND {azores} < '2024-10-28'");
    assert_eq!(icecore.number(&org, &bounds), 150);
    let always = "SELECT count(*) FROM readings WHERE time < '9999-12-31' AND time > '0001-01-01'";
    assert_eq!(icecore.number(&org, always), 180);
    let to_timestamp = "SELECT to_timestamp(s) AS t FROM (VALUES ('2024-05-01T00:00:00')) v(s)";
    assert!(icecore.sql(&org, to_timestamp).is_ok_and(|text| text.contains("2024-05-01T00:00:00")));

    for (sql, advice) in [
        (
            "SELECT time AT TIME ZONE 'Europe/Berln' FROM readings LIMIT 1",
            "'Europe/Berln'; did you mean 'Europe/Berlin'?",
        ),
        (
            "SELECT arrow_cast(time, 'Timestamp(Millisecond, Some(\"Europe/Berln\"))') FROM readings LIMIT 1",
            "'Europe/Berln'; did you mean 'Europe/Berlin'?",
        ),
        ("SELECT a.time, b.time FROM readings a JOIN readings b ON a.time = b.time", "a.time AS a_time"),
    ] {
        for format in FORMATS {
            let (status, text) = icecore.sql_as(&org, format, sql).expect("answers");
            assert!(status == 400 && text.contains(advice), "{sql} as {format}: {status} {text}");
        }
    }
    for format in FORMATS {
        let sql = format!("SELECT {azores} AS local, time FROM readings LIMIT 1");
        let (status, text) = icecore.sql_as(&org, format, &sql).expect("answers");
        assert_eq!(status, 200, "{format}: {text}");
    }
}
