//! Retention and the doctor through the real program: beside a running server and without one.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use engine::{Clock as _, SystemClock};
use serde_json::Value;

use crate::readings;
use crate::server::{Icecore, Org, Printed};

/// A server that flushes at once, with readings of early 2024 and of yesterday in each of two organisations.
fn filled() -> (Icecore, [Org; 2]) {
    let mut icecore = Icecore::with_environment(&[("ICECORE_ENGINE__FLUSH_AGE", "50ms")]);
    icecore.start();
    let orgs = ["clinic", "museum"].map(|name| icecore.org(name));
    let old = readings::file(icecore.work(), "old.csv", &readings::fleet(2, 100));
    let new = recent(&icecore);
    for org in &orgs {
        icecore.send(&org.identity, &old).ok();
        icecore.send(&org.identity, &new).ok();
        until_flushed(&icecore, org);
    }
    (icecore, orgs)
}

const RECENT: u64 = 5;

fn recent(icecore: &Icecore) -> PathBuf {
    let yesterday = SystemClock::new().now().saturating_add(-86_400_000);
    let mut text = "time,logger,temperature,humidity\n".to_owned();
    for n in 0..RECENT {
        let time = yesterday.saturating_add(n.cast_signed() * 60_000);
        text.push_str(&format!("{time},00124B000A6E0001,4.{n},40\n"));
    }
    let path = icecore.work().join("new.csv");
    fs::write(&path, text).expect("written");
    path
}

fn until_flushed(icecore: &Icecore, org: &Org) {
    while icecore.number(org, "SELECT unflushed FROM totals") > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn count(icecore: &Icecore, org: &Org) -> u64 {
    icecore.number(org, "SELECT count(*) FROM readings")
}

fn retention(icecore: &Icecore, verb: &str, org: &Org, more: &[&str]) -> Printed {
    let data_dir = icecore.data_dir();
    let mut args = vec!["retention", verb, "--org", &org.name, "--data-dir", &data_dir];
    args.extend(more);
    icecore.run(&args)
}

fn doctor(icecore: &Icecore, more: &[&str]) -> Printed {
    let data_dir = icecore.data_dir();
    let mut args = vec!["doctor", "--data-dir", &data_dir];
    args.extend(more);
    icecore.run(&args)
}

/// Ids of the live readings segments, of 2024 and of later.
fn segments(icecore: &Icecore, org: &Org) -> (Vec<String>, Vec<String>) {
    let shown = icecore.run(&["manifest", "show", "--org", &org.name, "--json", "--data-dir", &icecore.data_dir()]);
    let manifest: Value = serde_json::from_str(&shown.ok().stdout).expect("JSON");
    let all = manifest["segments"].as_array().expect("a list").clone();
    let readings = all.into_iter().filter(|entry| entry["kind"] == "readings");
    let (old, new): (Vec<Value>, Vec<Value>) =
        readings.partition(|entry| entry["window"]["from"].as_str().is_some_and(|from| from.starts_with("2024")));
    let ids = |entries: Vec<Value>| entries.iter().map(|e| e["id"].as_str().expect("an id").to_owned()).collect();
    (ids(old), ids(new))
}

#[test]
fn what_was_kept_long_enough_goes_and_is_in_the_audit() {
    let (mut icecore, [clinic, museum]) = filled();
    let all = count(&icecore, &clinic);
    assert!(retention(&icecore, "show", &clinic, &[]).ok().stdout.contains("for ever"));
    assert!(retention(&icecore, "run", &clinic, &[]).ok().stdout.contains("nothing goes"));
    retention(&icecore, "set", &clinic, &["--keep", "1y"]).refused(&["two years", "2y"]);
    retention(&icecore, "set", &clinic, &["--keep", "banana"]).refused(&["banana", "3y"]);
    assert_eq!(retention(&icecore, "set", &clinic, &[]).code, Some(2), "one of the two is needed");
    retention(&icecore, "set", &clinic, &["--keep", "2y"]).ok();
    assert!(retention(&icecore, "show", &clinic, &[]).ok().stdout.contains("for 2y"));
    assert_eq!(count(&icecore, &clinic), all, "a policy alone drops nothing");

    let (old, new) = segments(&icecore, &clinic);
    assert!(!old.is_empty() && !new.is_empty());
    let listed = retention(&icecore, "run", &clinic, &["--dry-run"]).ok().stdout;
    assert!(old.iter().all(|id| listed.contains(id)) && !new.iter().any(|id| listed.contains(id)), "{listed}");
    assert_eq!(segments(&icecore, &clinic), (old.clone(), new.clone()), "nothing has changed");

    retention(&icecore, "run", &clinic, &[]).ok();
    assert_eq!(count(&icecore, &clinic), RECENT);
    assert_eq!(count(&icecore, &museum), all, "others keep theirs");
    assert_eq!(segments(&icecore, &clinic), (vec![], new.clone()));
    let first = "SELECT count(*) FROM readings WHERE time < '2025-01-01T00:00:00Z'";
    assert_eq!(icecore.number(&clinic, first), 0);
    doctor(&icecore, &[]).ok();
    icecore.kill();

    // Without a server: the other one.
    retention(&icecore, "set", &museum, &["--keep", "24mo"]).ok();
    retention(&icecore, "run", &museum, &[]).ok();
    doctor(&icecore, &["--deep"]).ok();
    let audit = icecore.run(&["audit", "list", "--org", "clinic", "--json", "--data-dir", &icecore.data_dir()]).ok();
    let audit: Value = serde_json::from_str(&audit.stdout).expect("JSON");
    let drops: Vec<&Value> =
        audit["items"].as_array().expect("a list").iter().filter(|entry| entry["action"] == "retention.drop").collect();
    assert!(old.iter().all(|id| drops.iter().any(|drop| drop.to_string().contains(id))), "{drops:#?}");
    assert!(audit.to_string().contains("retention.dropped"));
    icecore.start();
    assert_eq!((count(&icecore, &clinic), count(&icecore, &museum)), (RECENT, RECENT));
    retention(&icecore, "set", &clinic, &["--for-ever"]).ok();
    assert!(retention(&icecore, "show", &clinic, &[]).ok().stdout.contains("for ever"));
}

#[test]
fn the_doctor_names_what_is_wrong_and_nothing_else() {
    let (mut icecore, [clinic, museum]) = filled();
    doctor(&icecore, &["--deep"]).ok();
    icecore.terminate();
    let report: Value = serde_json::from_str(&doctor(&icecore, &["--deep", "--json"]).ok().stdout).expect("JSON");
    assert_eq!((&report["well"], &report["faults"]), (&Value::Bool(true), &Value::from(0)));
    assert_eq!(report["organisations"].as_array().map(Vec::len), Some(2));

    let (old, _) = segments(&icecore, &clinic);
    let files = icecore.files("/segments/");
    let file = files.iter().find(|file| file.to_string_lossy().contains(&old[0])).expect("its file");
    let bytes = fs::read(file).expect("read");
    let ill = |more: &[&str]| {
        let printed = doctor(&icecore, more);
        assert_eq!(printed.code, Some(1), "{printed:#?}");
        assert!(printed.stdout.contains(&old[0]) && printed.stdout.contains("restore"), "{printed:#?}");
        doctor(&icecore, &["--org", &museum.name, "--deep"]).ok();
    };
    fs::remove_file(file).expect("removed");
    ill(&[]);
    ill(&["--org", &clinic.name]);
    fs::write(file, &bytes[1..]).expect("written");
    ill(&[]);
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    fs::write(file, &flipped).expect("written");
    doctor(&icecore, &[]).ok();
    ill(&["--deep"]);
    fs::write(file, &bytes).expect("written");
    doctor(&icecore, &["--deep"]).ok();
    doctor(&icecore, &["--org", "nobody"]).refused(&["nobody"]);
}
