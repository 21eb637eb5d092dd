//! Which room of the engine may import which: a table as data, and the check that the sources keep to it.
//!
//! A room is a top-level module of `engine/src`: its file and the folder beside it. The table lists the rooms from the
//! top down, and a room imports only rooms below it, so that there is no cycle. Test modules may import what they like.

use std::collections::{BTreeMap, BTreeSet};

/// A room, and the rooms that it may import.
type Room<'a> = (&'a str, &'a [&'a str]);

const ENGINE: &[Room<'static>] = &[
    ("doctor", &["engine", "keys", "manifest", "segments"]),
    (
        "engine",
        &[
            "append", "buffer", "carried", "commit", "compact", "config", "error", "flush", "garbage", "health",
            "keys", "last", "limits", "maintain", "manifest", "metrics", "org", "recover", "retain", "segments",
            "snapshot", "trouble", "wal",
        ],
    ),
    ("append", &["apply", "error", "health", "org", "planted", "sync", "wal"]),
    ("recover", &["apply", "carried", "error", "keys", "org", "planted", "wal"]),
    (
        "trouble",
        &["apply", "carried", "commit", "config", "error", "flush", "keys", "maintain", "org", "planted", "wal"],
    ),
    (
        "compact",
        &[
            "commit",
            "config",
            "error",
            "first_wins",
            "health",
            "limits",
            "maintain",
            "manifest",
            "metrics",
            "org",
            "planted",
            "rollup",
            "segments",
        ],
    ),
    ("retain", &["commit", "error", "first_wins", "limits", "manifest", "metrics", "org", "planted", "segments"]),
    ("rollup", &["error", "planted", "segments"]),
    ("garbage", &["commit", "error", "maintain", "manifest", "metrics", "org", "planted"]),
    (
        "flush",
        &[
            "buffer",
            "commit",
            "config",
            "error",
            "first_wins",
            "health",
            "last",
            "maintain",
            "metrics",
            "manifest",
            "org",
            "planted",
            "segments",
            "wal",
        ],
    ),
    ("last", &["buffer", "error", "planted", "segments", "snapshot"]),
    ("commit", &["buffer", "error", "health", "manifest", "org", "planted"]),
    ("maintain", &["error"]),
    ("snapshot", &["buffer", "org"]),
    ("apply", &["org"]),
    ("org", &["buffer", "carried", "error", "planted", "sync"]),
    ("carried", &["error", "keys", "wal"]),
    ("wal", &["error", "keys", "planted"]),
    ("buffer", &["limits", "sync"]),
    ("segments", &["error", "first_wins", "limits", "manifest"]),
    ("manifest", &["error", "keys", "limits", "planted"]),
    ("first_wins", &["planted"]),
    ("metrics", &["error"]),
    ("config", &["error", "limits"]),
    ("limits", &["sync"]),
    ("health", &[]),
    ("keys", &[]),
    ("sync", &[]),
    ("planted", &[]),
    ("error", &[]),
];

/// The room that a file below the crate's `src` belongs to, and how many modules deep the file is below it.
fn room_of(path: &str) -> Option<(&str, usize)> {
    let path = path.strip_suffix(".rs")?;
    let room = path.split('/').next().filter(|room| *room != "lib")?;
    Some((room, path.matches('/').count()))
}

/// Paths (without `.rs`) of modules that are compiled for tests only, as their parents declare them.
fn test_modules(sources: &[(&str, &str)]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, text) in sources {
        let parent = path.strip_suffix(".rs").unwrap_or(path);
        for after in text.split("#[cfg(test)]\n").skip(1) {
            let Some(declared) = after.lines().next().and_then(|line| line.trim().strip_suffix(';')) else { continue };
            if let Some((_, name)) = declared.rsplit_once("mod ") {
                found.insert(format!("{parent}/{name}"));
            }
        }
    }
    found
}

/// The lines of code, without comments and without inline test modules.
fn code(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{')) {
            // rustfmt closes a top-level module with a brace in the first column.
            lines.by_ref().find(|line| *line == "}");
        } else if !line.trim_start().starts_with("//") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// What follows each `crate::` in the code: a name, or `{` for a group.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let after = code.split("crate::").skip(1);
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    after.map(|rest| if rest.starts_with('{') { "{".to_owned() } else { name(rest) }).collect()
}

/// Everything that is wrong between this table and these sources, which are paths below `src` and texts.
fn faults(table: &[Room<'_>], sources: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let tests = test_modules(sources);
    let is_test = |path: &str| {
        let path = path.strip_suffix(".rs").unwrap_or(path);
        tests
            .iter()
            .any(|test| path == test || path.strip_prefix(test.as_str()).is_some_and(|rest| rest.starts_with('/')))
    };
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources.iter().filter(|(path, _)| !is_test(path)) {
        let Some((room, depth)) = room_of(path) else { continue };
        let code = code(text);
        if code.contains(&"super::".repeat(depth + 1)) {
            faults.push(format!("{path} leaves its room through `super`: write `crate::`"));
        }
        let imports = used.entry(room).or_default();
        for name in crate_paths(&code) {
            if name == "{" {
                faults.push(format!("{path} imports a group of rooms: write a `use` for each"));
            } else if name != room {
                imports.insert(name);
            }
        }
    }
    for (place, (room, allowed)) in table.iter().enumerate() {
        let Some(imports) = used.remove(room) else {
            faults.push(format!("{room} is in the table, and there is no such room"));
            continue;
        };
        for import in &imports {
            if !allowed.contains(&import.as_str()) {
                faults.push(format!("{room} imports {import}, which the table does not allow"));
            }
        }
        for allowed in *allowed {
            if !imports.contains(*allowed) {
                faults.push(format!("{room} may import {allowed}, and does not: take it out of the table"));
            }
            if !table[place + 1..].iter().any(|(below, _)| below == allowed) {
                faults.push(format!(
                    "{room} may import {allowed}, which is not below it in the table: a cycle begins so"
                ));
            }
        }
    }
    faults.extend(used.into_keys().map(|room| format!("{room} is a room that the table does not know")));
    faults
}

#[test]
fn rooms_of_the_engine_import_only_what_the_table_allows() {
    let sources = super::sources();
    let of_engine: Vec<(&str, &str)> =
        sources.iter().filter_map(|(path, text)| Some((path.strip_prefix("engine/src/")?, text.as_str()))).collect();
    assert!(of_engine.len() > 30, "the walk found only {} files of the engine", of_engine.len());
    super::none("rooms of the engine (tests/tidy/rooms.rs)", &faults(ENGINE, &of_engine));
}

#[test]
fn the_check_of_rooms_can_fail() {
    let table: &[Room<'_>] = &[("top", &["low"]), ("low", &[])];
    let top = ("top.rs", "use crate::low::Thing;\n");
    let low = ("low.rs", "//! See [`crate::top`].\n\npub(crate) struct Thing;\n");
    let check = |table: &[Room<'_>], sources: &[(&str, &str)], fault: &str| {
        let found = faults(table, sources);
        assert!(found.iter().any(|found| found.contains(fault)), "{fault:?} is not in {found:?}");
    };
    assert_eq!(faults(table, &[top, low]), [""; 0]);

    check(table, &[top, ("low.rs", "use crate::top::Other;\n")], "low imports top");
    check(table, &[top, low, ("low/part.rs", "fn f() { crate::top::g() }\n")], "low imports top");
    check(table, &[top, ("low.rs", "pub use crate::Thing;\n")], "low imports Thing");
    check(table, &[top, low, ("new.rs", "")], "new is a room that the table does not know");
    check(table, &[("top.rs", ""), low], "top may import low, and does not");
    check(table, &[top], "no such room");
    check(&[("top", &["low"]), ("low", &["top"])], &[top, ("low.rs", "use crate::top::Other;\n")], "a cycle begins so");
    check(table, &[top, low, ("low/part.rs", "use super::super::top::Other;\n")], "leaves its room");
    check(table, &[top, ("low.rs", "use super::top::Other;\n")], "leaves its room");
    check(table, &[("top.rs", "use crate::{low, other};\n"), low], "a group of rooms");

    // Tests import what they like, beside their room's code and in files of their own.
    let inline = ("low.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::top::Other;\n}\n");
    assert_eq!(faults(table, &[top, inline]), [""; 0]);
    let declared = ("low.rs", "#[cfg(test)]\npub(crate) mod support;\n");
    assert_eq!(faults(table, &[top, declared, ("low/support.rs", "use crate::top::Other;\n")]), [""; 0]);
    check(table, &[top, low, ("low/support.rs", "use crate::top::Other;\n")], "low imports top");
}
