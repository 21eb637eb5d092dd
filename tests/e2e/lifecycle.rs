//! Starts and ends: an empty, a foreign, a filled, a crashed and a locked data directory; help; exit codes.

use std::fs;

use crate::readings;
use crate::server::{Icecore, icecore};

#[test]
fn an_uninitialised_directory_says_what_to_do() {
    let icecore = Icecore::uninitialised(&[]);
    icecore.start_refused().refused(&["icecore init"]);
    fs::create_dir_all(icecore.data_dir()).expect("a directory");
    fs::write(icecore.work().join("data/holiday.jpg"), b"not ours").expect("a file");
    icecore.run(&["init", "--data-dir", &icecore.data_dir()]).refused(&["not empty"]);
    icecore.start_refused().refused(&["icecore init"]);
}

#[test]
fn init_twice_keeps_the_keys() {
    let icecore = Icecore::new();
    let keys = || icecore.files("/keys/").into_iter().map(|path| fs::read(path).expect("a key")).collect::<Vec<_>>();
    let before = keys();
    assert!(!before.is_empty());
    icecore.run(&["init", "--data-dir", &icecore.data_dir()]).refused(&["already"]);
    assert_eq!(keys(), before);
    for path in icecore.files("/keys/") {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
        let public = path.extension().is_some_and(|e| e == "pem") && !path.to_string_lossy().contains("key");
        assert!(public || mode == 0o600, "{} has mode {mode:o}", path.display());
    }
}

#[test]
fn one_server_per_directory() {
    let mut icecore = Icecore::new();
    icecore.start();
    icecore.start_refused().refused(&["another"]);
    // The first one has not noticed.
    let org = icecore.org("still-here");
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 0);
    icecore.kill();
    // A dead process holds no lock.
    icecore.start();
}

#[test]
fn a_locked_directory_is_left_as_it_is() {
    let icecore = Icecore::new();
    let data = control::data_dir::DataDir::new(icecore.data_dir());
    let lock = data.lock().expect("no server runs");
    // Whoever opened this, or brought its tables up to date, would say something else than that the directory is locked.
    fs::write(data.control(), "tables of another version").expect("written");
    icecore.start_refused().refused(&["another server", &std::process::id().to_string()]);
    assert_eq!(fs::read(data.control()).expect("read"), b"tables of another version");
    drop(lock);
    icecore.start_refused().refused(&["control database"]);
}

#[test]
fn filled_and_crashed_directories_say_what_they_found() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("lab");
    let sent = readings::fleet(4, 200);
    icecore.send(&org.identity, &readings::file(icecore.work(), "a.csv", &sent)).ok();
    icecore.kill();
    fs::remove_file(icecore.log_path()).expect("a log");
    icecore.start();
    assert!(icecore.log().contains("recover"), "a start after a crash tells what was recovered:\n{}", icecore.log());
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent);
    assert_eq!(icecore.terminate(), Some(0));
    icecore.start();
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent);
}

#[test]
fn without_its_keys_a_directory_stays_shut() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("lab");
    icecore.send(&org.identity, &readings::file(icecore.work(), "a.csv", &readings::fleet(1, 10))).ok();
    icecore.kill();
    let key = icecore.work().join("data/keys/master.key");
    let right = fs::read(&key).expect("the master key");
    fs::write(&key, "ab".repeat(32)).expect("another key");
    icecore.start_refused().refused(&["key"]);
    fs::remove_file(&key).expect("no key");
    icecore.start_refused().refused(&["master"]);
    fs::write(&key, right).expect("the right key");
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode 0600");
    }
    icecore.start();
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 10);
}

#[test]
fn a_configuration_is_checked_by_its_file_or_its_directory() {
    let icecore = Icecore::new();
    let (dir, file) = (icecore.data_dir(), icecore.work().join("data/config.toml"));
    let check = |args: &[&str]| icecore.run(&[&["config", "check"], args].concat());
    assert!(check(&["--data-dir", &dir]).ok().stdout.contains("config.toml holds"));
    fs::write(&file, "[query]\nqueries_max = 1\n").expect("written");
    check(&["--data-dir", &dir]).refused(&["query.queries_max"]);
    check(&[&file.to_string_lossy()]).refused(&["query.queries_max"]);
    assert_eq!(check(&[]).refused(&["--data-dir"]).code, Some(2));
    assert_eq!(check(&["--data-dir", &dir, &file.to_string_lossy()]).code, Some(2), "one of them");
}

#[test]
fn an_enrolment_that_was_interrupted_is_told_to_be_removed() {
    let icecore = Icecore::new();
    let dir = icecore.data_dir();
    icecore.run(&["org", "create", "lab", "--data-dir", &dir]).ok();
    let out = icecore.work().join("identity");
    let out_text = out.to_string_lossy();
    let enroll = || icecore.run(&["gateway", "enroll", "door", "--org", "lab", "--data-dir", &dir, "--out", &out_text]);
    fs::create_dir(&out).expect("made");
    fs::write(out.join("gateway.key.pem"), "the beginning of a key").expect("written");
    enroll().refused(&["not empty", "icecore gateway list", "remove the directory first"]);
    fs::remove_dir_all(&out).expect("removed");
    enroll().ok();
}

#[test]
fn help_is_enough_to_get_by() {
    let help = |args: &[&str]| {
        let output = icecore().args(args).arg("--help").output().expect("the program starts");
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let top = help(&[]);
    for command in
        ["init", "serve", "org", "token", "gateway", "audit", "query", "export", "segment", "wal", "manifest", "demo"]
    {
        assert!(top.contains(command), "{command} is not in the help:\n{top}");
        assert!(help(&[command]).len() > 100, "{command} has next to no help");
    }
    let wrong = icecore().arg("frobnicate").output().expect("the program starts");
    assert_eq!(wrong.status.code(), Some(2), "a usage error has its own exit code");
}
