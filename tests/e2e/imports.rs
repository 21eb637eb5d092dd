//! `icecore import`: beside a running server and without one, interrupted and run again, wrong files, Parquet of another
//! make.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::readings;
use crate::server::{Icecore, Org, Printed};

fn import(icecore: &Icecore, org: &str, files: &[&Path]) -> Printed {
    let data_dir = icecore.data_dir();
    let mut args = vec!["import", "--org", org, "--data-dir", &data_dir];
    let names: Vec<_> = files.iter().map(|file| file.to_str().expect("UTF-8")).collect();
    args.extend(names);
    icecore.run(&args)
}

fn gateways(icecore: &Icecore, org: &Org) -> BTreeSet<String> {
    let text = icecore.sql(org, "SELECT DISTINCT gateway FROM readings").expect("an answer");
    // SQL has the number, commands its 16 hex digits.
    text.lines().skip(1).map(|id| format!("{:016x}", id.parse::<u64>().expect("a number"))).collect()
}

fn write(icecore: &Icecore, name: &str, text: &str) -> PathBuf {
    let path = icecore.work().join(name);
    fs::write(&path, text).expect("written");
    path
}

/// Has DuckDB write a file.
fn made(copy: &str) {
    crate::other_reader::duckdb(copy, "SELECT 1").expect("DuckDB writes it");
}

#[test]
fn what_is_imported_is_there_with_an_id_of_its_own() {
    let mut icecore = Icecore::with_environment(&[("ICECORE_ENGINE__FLUSH_AGE", "100ms")]);
    icecore.start();
    let org = icecore.org("clinic");
    assert_eq!(icecore.terminate(), Some(0));
    let all = readings::fleet(6, 300);
    let (first, second): (Vec<_>, Vec<_>) =
        all.clone().into_iter().enumerate().partition(|(number, _)| *number < all.len() / 2);
    let half = |name: &str, half: Vec<_>| {
        readings::file(icecore.work(), name, &half.into_iter().map(|(_, reading)| reading).collect())
    };
    let halves = [half("a.csv", first), half("b.csv", second)];
    // Without a server.
    let printed = import(&icecore, "clinic", &[&halves[0]]).ok();
    assert!(printed.stdout.contains("900 readings imported for clinic as "), "{printed:?}");
    icecore.start();
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 900);
    // Through one.
    import(&icecore, "clinic", &[&halves[1]]).ok();
    assert_eq!(readings::parse_export(&icecore.export(&org)), all);
    let ids = gateways(&icecore, &org);
    assert_eq!(ids.len(), 2);
    let list = icecore.run(&["import", "list", "--org", "clinic", "--data-dir", &icecore.data_dir()]).ok().stdout;
    assert!(ids.iter().all(|id| list.contains(id.as_str())) && list.matches("done").count() == 2, "{list}");
    assert!(list.contains("a.csv") && list.contains("b.csv"), "{list}");
    let known = icecore.run(&["gateway", "list", "--org", "clinic", "--data-dir", &icecore.data_dir()]).ok().stdout;
    assert!(ids.iter().all(|id| !known.contains(id.as_str())), "{known}");
    let audit = icecore.run(&["audit", "list", "--org", "clinic", "--json", "--data-dir", &icecore.data_dir()]).ok();
    for text in ["import.begin", "import.end", "a.csv", "b.csv"] {
        assert!(audit.stdout.contains(text), "{text} is not in the audit log");
    }
    // Again: an import of its own, in which everything is a duplicate.
    import(&icecore, "clinic", &[&halves[0], &halves[1]]).ok();
    assert_eq!(readings::parse_export(&icecore.export(&org)), all);
    assert_eq!(gateways(&icecore, &org), ids);
}

#[test]
fn an_interrupted_import_goes_on_where_it_was() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("lab");
    let all = readings::fleet(20, 8_000);
    let file = readings::file(icecore.work(), "long.csv", &all);
    // So old that nobody takes it for a file that is being written.
    std::thread::sleep(Duration::from_millis(200));
    let data_dir = icecore.data_dir();
    let args = ["import", "--org", "lab", "--data-dir", &data_dir, file.to_str().expect("UTF-8")];
    let count = |icecore: &Icecore| icecore.number(&org, "SELECT count(*) FROM readings");
    // The command is killed, then its server, each in the middle.
    let mut command = icecore.spawn(&args);
    while count(&icecore) == 0 {
        assert!(command.try_wait().expect("asked").is_none_or(|status| status.success()));
    }
    command.kill().expect("killed");
    command.wait().expect("ended");
    let after_first = count(&icecore);
    let mut command = icecore.spawn(&args);
    while count(&icecore) <= after_first && command.try_wait().expect("asked").is_none() {}
    icecore.kill();
    command.wait().expect("a command ends with its server");
    icecore.start();
    let there = count(&icecore);
    assert!(there >= after_first && there <= all.len() as u64, "{there}");
    import(&icecore, "lab", &[&file]).ok();
    assert_eq!(readings::parse_export(&icecore.export(&org)), all);
    if after_first < all.len() as u64 {
        assert_eq!(gateways(&icecore, &org).len(), 1, "one import, however often it was interrupted");
    }
    icecore.run(&["audit", "list", "--org", "lab", "--json", "--data-dir", &data_dir]).ok();
}

#[test]
fn a_wrong_file_is_named_with_its_line() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("bad");
    let row = |minute: u32, logger: u32, value: &str| {
        format!("2024-01-01T00:0{minute}:00Z,00124B000000000{logger},{value}\n")
    };
    let header = "time,logger,temperature\n";
    for (name, text, errors) in [
        ("value.csv", format!("{header}{}{}{}", row(1, 1, "4.5"), row(2, 1, "warm"), row(3, 9, "4")), &["line 3"][..]),
        ("time.csv", format!("{header}yesterday,00124B0000000001,4\n"), &["line 2"]),
        ("header.csv", "time,logger,colour\n".to_owned(), &["line 1", "colour"]),
        ("empty.csv", String::new(), &["line 1", "empty"]),
        ("not.parquet", "PAR1 and nothing more".to_owned(), &["cannot be read as Parquet"]),
        (
            "future.csv",
            format!("{header}2999-01-01T00:00:00Z,00124B0000000001,4\n{}", row(4, 2, "5")),
            &["line 2", "2999"],
        ),
    ] {
        let path = write(&icecore, name, &text);
        import(&icecore, "bad", &[&path]).refused(&[name]).refused(errors);
    }
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings WHERE logger = eui64('00124B0000000009')"), 0);
    assert_eq!(
        icecore.number(&org, "SELECT count(*) FROM readings"),
        2,
        "the first of one file, the second of another"
    );
    let good = write(
        &icecore,
        "good.csv",
        &format!("{header}{}{},,\n", row(5, 3, "4"), "2024-01-01T00:06:00Z,00124B0000000003"),
    );
    import(&icecore, "bad", &[&good, &good]).refused(&["named twice"]);
    import(&icecore, "bad", &[&icecore.work().join("missing.csv")]).refused(&["missing.csv"]);
    import(&icecore, "bad", &[Path::new("-")]).refused(&["stdin"]);
    import(&icecore, "nobody", &[&good]).refused(&["nobody", "org list"]);
    icecore.run(&["org", "suspend", "bad", "--data-dir", &icecore.data_dir()]).ok();
    import(&icecore, "bad", &[&good]).refused(&["suspended"]);
}

#[test]
fn rows_with_mistakes_can_be_put_aside() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("aside");
    let text = "time,logger,temperature\n2024-01-01T00:00:00Z,00124B0000000001,4\nx,y,z\n2024-01-01T00:01:00Z,00124B0000000001,5\n";
    let file = write(&icecore, "mixed.csv", text);
    let bad = icecore.work().join("bad-rows.csv");
    let (data_dir, bad_rows) = (icecore.data_dir(), bad.to_string_lossy().into_owned());
    let args = [
        "import",
        "--org",
        "aside",
        "--skip-bad-rows",
        &bad_rows,
        "--data-dir",
        &data_dir,
        file.to_str().expect("UTF-8"),
    ];
    icecore.run(&args).refused(&["line 3", "bad-rows.csv"]);
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 2);
    assert!(fs::read_to_string(&bad).expect("written").contains("x,y,z"));
}

#[test]
fn parquet_of_another_make_is_imported() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("duck");
    let parquet = icecore.work().join("all.parquet");
    let sql = "COPY (SELECT printf('%016X', 1000 + i % 7) AS logger, (i * 0.25)::DOUBLE AS temperature, 'x' AS gateway,
                  CASE WHEN i % 3 = 0 THEN NULL ELSE 55.5::DOUBLE END AS humidity,
                  TIMESTAMPTZ '2024-01-01 00:00:00+00' + INTERVAL (i) MINUTE AS time FROM range(20000) t(i)) TO '{}' (FORMAT parquet)";
    made(&sql.replace("{}", parquet.to_str().expect("UTF-8")));
    let printed = import(&icecore, "duck", &[&parquet]).ok();
    assert!(printed.stdout.contains("20000 readings imported"), "{printed:?}");
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 20_000);
    assert_eq!(icecore.number(&org, "SELECT count(humidity) FROM readings"), 13_333);
    assert_eq!(icecore.number(&org, "SELECT count(DISTINCT logger) FROM readings"), 7);
    assert_eq!(icecore.number(&org, "SELECT CAST(sum(temperature * 4) AS BIGINT) FROM readings"), 199_990_000);
    for (name, columns, error) in [
        ("float.parquet", "1::UBIGINT AS logger, now() AS time, 1.5::FLOAT AS temperature", "DOUBLE"),
        (
            "zone.parquet",
            "1::UBIGINT AS logger, TIMESTAMP '2024-01-01' AS time, 1.5::DOUBLE AS temperature",
            "time zone",
        ),
        ("colour.parquet", "1::UBIGINT AS logger, now() AS time, 1.5::DOUBLE AS colour", "no channel"),
        (
            "nan.parquet",
            "1::UBIGINT AS logger, TIMESTAMPTZ '2024-01-01' AS time, 'nan'::DOUBLE AS temperature",
            "row 1",
        ),
        ("logger.parquet", "TIMESTAMPTZ '2024-01-01' AS time, 1.5::DOUBLE AS temperature", "logger is missing"),
    ] {
        let path = icecore.work().join(name);
        made(&format!("COPY (SELECT {columns}) TO '{}' (FORMAT parquet)", path.display()));
        import(&icecore, "duck", &[&path]).refused(&[name, error]);
    }
}

#[test]
fn a_failed_import_says_what_it_did_also_without_a_server() {
    let mut icecore = Icecore::new();
    icecore.start();
    icecore.org("alone");
    assert_eq!(icecore.terminate(), Some(0));
    let text = "time,logger,temperature\n2024-01-01T00:00:00Z,00124B0000000001,4\nx,y,z\n";
    let file = write(&icecore, "mixed.csv", text);
    let printed = import(&icecore, "alone", &[&file]).refused(&["line 3"]);
    assert!(printed.stdout.contains("1 reading imported for alone as "), "{printed:?}");
}
