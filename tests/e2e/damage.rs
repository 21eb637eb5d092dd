//! Damaged files through the real program: a torn WAL tail is cut, everything else is an error with file and offset.

use std::fs;
use std::path::Path;

use crate::readings;
use crate::server::Icecore;

fn flip_bit(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("the file can be read");
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).expect("the file can be written");
}

/// A server that was killed with everything still in its WAL.
fn killed_with_readings() -> (Icecore, crate::server::Org) {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("lab");
    icecore.send(&org.identity, &readings::file(icecore.work(), "a.csv", &readings::fleet(3, 100))).ok();
    icecore.kill();
    (icecore, org)
}

#[test]
fn a_flipped_bit_in_the_wal_stops_the_start() {
    let (icecore, _) = killed_with_readings();
    let wal = icecore.files("/wal/");
    let wal = wal.first().expect("a WAL file");
    // Behind the 4096 bytes of header, inside the first block.
    flip_bit(wal, 4096 + 100);
    let name = wal.file_name().expect("a name").to_string_lossy().into_owned();
    icecore.start_refused().refused(&[&name, "4096"]);
    let inspected = icecore.run(&["wal", "inspect", &wal.to_string_lossy(), "--data-dir", &icecore.data_dir()]);
    inspected.refused(&["4096"]);
}

#[test]
fn a_wal_file_of_another_directory_is_not_called_damaged() {
    let (icecore, _) = killed_with_readings();
    let other = Icecore::new();
    let wal = icecore.files("/wal/");
    let wal = wal.first().expect("a WAL file").to_string_lossy().into_owned();
    let printed = icecore.run(&["wal", "inspect", &wal, "--data-dir", &other.data_dir()]);
    let printed = printed.refused(&["does not open as a WAL file of this data directory", "--data-dir"]);
    assert!(!printed.stderr.contains("is damaged:"), "{printed:#?}");
    icecore.run(&["wal", "inspect", &wal, "--data-dir", &icecore.data_dir()]).ok();
}

#[test]
fn a_truncated_wal_stops_the_start() {
    let (icecore, _) = killed_with_readings();
    let wal = icecore.files("/wal/");
    let wal = wal.first().expect("a WAL file");
    let length = fs::metadata(wal).expect("metadata").len();
    fs::File::options().write(true).open(wal).and_then(|f| f.set_len(length / 2)).expect("the file can be cut");
    icecore.start_refused().refused(&[&wal.file_name().expect("a name").to_string_lossy()]);
}

#[test]
fn damaged_segments_and_manifests_are_errors_not_answers() {
    let mut icecore =
        Icecore::with_environment(&[("ICECORE_ENGINE__FLUSH_BYTES", "65536"), ("ICECORE_ENGINE__FLUSH_AGE", "1s")]);
    icecore.start();
    let (org, other) = (icecore.org("lab"), icecore.org("other"));
    let sent = readings::fleet(5, 1_000);
    let file = readings::file(icecore.work(), "a.csv", &sent);
    icecore.send(&org.identity, &file).ok();
    icecore.send(&other.identity, &file).ok();
    let begun = std::time::Instant::now();
    while icecore.number(&org, "SELECT unflushed FROM totals") > 0
        || icecore.number(&other, "SELECT unflushed FROM totals") > 0
    {
        assert!(begun.elapsed() < crate::server::PATIENCE, "no flush came");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(icecore.terminate(), Some(0));

    let listed = icecore.run(&["org", "list", "--data-dir", &icecore.data_dir()]).ok().stdout;
    let id = listed.lines().find(|line| line.contains("lab")).and_then(|line| {
        line.split_whitespace().find(|word| word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let id = id.unwrap_or_else(|| panic!("no id of lab in {listed}")).to_owned();
    let segments = icecore.files(&format!("/{id}/segments/"));
    let segment = segments.first().expect("a segment").clone();
    let whole = fs::read(&segment).expect("the segment can be read");
    for offset in [whole.len() / 3, whole.len() - 6, whole.len() - 40] {
        flip_bit(&segment, offset);
        icecore.start();
        let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
        let all = "SELECT sum(temperature), sum(humidity), max(time), max(gateway) FROM readings WHERE battery IS NULL";
        // Who asks learns that it failed, and nothing of the store; the operator reads which file, and where.
        icecore.query(&org, all).refused(&["operator"]);
        let request = format!(
            "POST /api/v1/sql HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\
             \r\n{all}",
            org.token,
            all.len()
        );
        let response = icecore.http(&request).to_ascii_lowercase();
        assert!(response.starts_with("http/1.1 503 ") && !response.contains("retry-after"), "{offset}: {response}");
        let log = icecore.log();
        assert!(log.contains(&name) && log.contains("at byte"), "{offset}: no file and offset in the log:\n{log}");
        fs::remove_file(icecore.log_path()).expect("the log");
        // The neighbour is none the wiser.
        assert_eq!(icecore.number(&other, "SELECT count(*) FROM readings"), sent.len() as u64);
        icecore.kill();
        fs::write(&segment, &whole).expect("the segment can be mended");
    }
    fs::remove_file(&segment).expect("the segment can be removed");
    icecore.start();
    icecore.query(&org, "SELECT sum(temperature) FROM readings").refused(&[]);
    icecore.kill();
    fs::write(&segment, &whole).expect("the segment can be mended");

    let manifests = icecore.files(&format!("/{id}/manifest/"));
    let manifest = manifests.last().expect("a manifest").clone();
    let bytes = fs::read(&manifest).expect("the manifest can be read");
    for offset in [2, bytes.len() / 2, bytes.len() - 1] {
        flip_bit(&manifest, offset);
        // The log still has records of this organisation, and without its manifest nobody can say which are new. That is
        // nobody else's affair.
        let name = manifest.file_name().expect("a name").to_string_lossy().into_owned();
        icecore.start();
        icecore.query(&org, "SELECT count(*) FROM readings").refused(&["operator"]);
        let log = icecore.log();
        assert!(log.contains(&name) && log.contains("at byte"), "{offset}: no file and offset in the log:\n{log}");
        assert_eq!(icecore.number(&other, "SELECT count(*) FROM readings"), sent.len() as u64);
        icecore.kill();
        fs::write(&manifest, &bytes).expect("the manifest can be mended");
    }
    icecore.start();
    let begun = std::time::Instant::now();
    while icecore.query(&org, "SELECT 1").code != Some(0) {
        assert!(begun.elapsed() < crate::server::PATIENCE, "it was not mended");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent, "mended, everything is there");
}
