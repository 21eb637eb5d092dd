//! Commands that need the engine: beside a running server, without one, and while one starts, stops or is killed.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use serde_json::Value;

use crate::readings;
use crate::server::{Icecore, Org};

fn manifest(icecore: &Icecore, org: &Org) -> Value {
    let printed =
        icecore.run(&["manifest", "show", "--org", &org.name, "--json", "--data-dir", &icecore.data_dir()]).ok();
    serde_json::from_str(&printed.stdout).expect("JSON")
}

#[test]
fn a_manifest_is_shown_beside_a_server_and_without_one() {
    // Without merges, which would add rollups between the two looks.
    let settings = [("ICECORE_ENGINE__FLUSH_AGE", "50ms"), ("ICECORE_ENGINE__COMPACTION", "false")];
    let mut icecore = Icecore::with_environment(&settings);
    icecore.start();
    let org = icecore.org("clinic");
    let empty = manifest(&icecore, &org);
    assert_eq!(empty["segments"], serde_json::json!([]));
    assert_eq!(empty["totals"]["readings"], 0);
    let sent = readings::fleet(4, 200);
    icecore.send(&org.identity, &readings::file(icecore.work(), "a.csv", &sent)).ok();
    while icecore.number(&org, "SELECT unflushed FROM totals") > 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    icecore.terminate();
    let flushed = manifest(&icecore, &org);
    assert_eq!(flushed["org"], "clinic");
    assert_eq!(flushed["totals"]["readings"], sent.len());
    let segments = flushed["segments"].as_array().expect("a list");
    let rows: u64 = segments.iter().filter(|s| s["kind"] == "readings").filter_map(|s| s["rows"].as_u64()).sum();
    assert_eq!(rows, sent.len() as u64);
    for segment in segments {
        let file =
            std::path::Path::new(&icecore.data_dir()).join("store").join(segment["key"].as_str().expect("a key"));
        let id = segment["id"].as_str().expect("an id");
        assert!(file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(id)));
        assert_eq!(fs::metadata(&file).expect("an object").len(), segment["bytes"].as_u64().expect("a number"));
    }
    icecore.start();
    assert_eq!(manifest(&icecore, &org), flushed);
    icecore.run(&["manifest", "show", "--org", "clinic", "--data-dir", &icecore.data_dir()]).ok();
    icecore
        .run(&["manifest", "show", "--org", "nobody", "--data-dir", &icecore.data_dir()])
        .refused(&["nobody", "org list"]);
}

#[test]
fn the_socket_is_the_users_own_and_goes_with_the_server() {
    let mut icecore = Icecore::new();
    icecore.start();
    let socket = std::path::Path::new(&icecore.data_dir()).join("local.sock");
    let found = fs::metadata(&socket).expect("a socket");
    assert!(found.file_type().is_socket() && found.permissions().mode() & 0o7777 == 0o600);
    icecore.kill();
    assert!(socket.exists(), "a killed server removes nothing");
    icecore.start();
    assert_eq!(icecore.terminate(), Some(0));
    assert!(!socket.exists());
}
