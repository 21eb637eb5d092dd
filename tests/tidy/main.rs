//! The tree's own habits, kept by a test: file headers, no over-long files, no `mod.rs`, one format page beside every
//! codec and in step with it, an entry in the architecture page for every crate, rooms that import only what lies below.

mod rooms;

use std::fs;
use std::path::{Path, PathBuf};

/// Past this there are two rooms in one file.
const FILE_LINES_MAX: usize = 600;
/// A file of tests may be longer than code: it is read a test at a time.
const TEST_FILE_LINES_MAX: usize = 900;
/// A header that takes more is a page, and belongs into a page.
const HEADER_LINES_MAX: usize = 40;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the workspace, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for top in ["src", "storage-format", "engine", "ingest", "query", "service", "benches", "tests", "fuzz"] {
        walk(&root().join(top), &mut files);
    }
    files.sort();
    assert!(files.len() > 50, "the walk found only {} files: it looks in the wrong place", files.len());
    files
}

fn walk(dir: &Path, files: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a directory entry can be read").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is UTF-8");
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            files.push((name, text));
        }
    }
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// Fails with every finding at once, so that one run is enough to mend them all.
fn none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

/// What is wrong with a file's header, if anything.
fn header_fault(text: &str) -> Option<&'static str> {
    let header = text.lines().take_while(|line| line.starts_with("//!")).count();
    match header {
        0 => Some("does not open with `//!` lines that say what it is for"),
        n if n > HEADER_LINES_MAX => Some("has a header longer than a screen: make it a page"),
        _ => None,
    }
}

/// The longest a file may be, by what it is.
fn too_long(name: &str, lines: usize) -> bool {
    lines > if is_test(name) { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX }
}

#[test]
fn every_file_says_what_it_is_for() {
    assert!(header_fault("use std::fs;\n").is_some(), "the check can fail");
    let findings: Vec<_> =
        sources().iter().filter_map(|(name, text)| header_fault(text).map(|fault| format!("{name} {fault}"))).collect();
    none("file headers", &findings);
}

/// Names of metrics that a file uses without a constant, or whose constant it does not describe. What is not described
/// has no HELP in `/metrics`.
fn undescribed_metrics(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| Some((line, line.split_once("\"icecore_")?)));
    let faults = names.filter_map(|(line, (before, after))| {
        let name = format!("icecore_{}", after.split('"').next().unwrap_or_default());
        let constant = before.trim_start().strip_prefix("const ").and_then(|text| text.strip_suffix(": &str = "));
        let is_described = |constant: &str| {
            text.match_indices("describe_").any(|(at, _)| {
                let call = text[at..].split_once('(').map(|(_, arguments)| arguments.trim_start());
                call.is_some_and(|arguments| arguments.starts_with(&format!("{constant},")))
            })
        };
        match constant {
            Some(constant) if is_described(constant) => None,
            Some(_) => Some(format!("{name} is not described")),
            None if line.contains("!(") => Some(format!("{name} has no constant")),
            None => None,
        }
    });
    faults.collect()
}

#[test]
fn every_metric_is_described() {
    let described = "const A: &str = \"icecore_a_total\";\ndescribe_counter!(\n    A, Unit::Count, \"a\");\n";
    assert!(undescribed_metrics(described).is_empty(), "{:?}", undescribed_metrics(described));
    for bad in
        ["const A: &str = \"icecore_a_total\";\ndescribe_counter!(AB, \"a\");\n", "counter!(\"icecore_a_total\")\n"]
    {
        assert_eq!(undescribed_metrics(bad).len(), 1, "the check can fail: {bad}");
    }
    let (mut found, mut findings) = (0, Vec::new());
    for (name, text) in sources() {
        let is_product = ["src/", "engine/", "ingest/", "query/", "service/"].iter().any(|top| name.starts_with(top));
        if is_product && !is_test(&name) {
            found += text.matches(": &str = \"icecore_").count();
            findings.extend(undescribed_metrics(&text).into_iter().map(|fault| format!("{name}: {fault}")));
        }
    }
    assert!(found > 30, "only {found} metrics were found");
    none("metrics", &findings);
}

#[test]
fn no_file_has_two_rooms() {
    assert!(too_long("engine/src/wal.rs", FILE_LINES_MAX + 1), "the check can fail");
    let findings: Vec<_> = sources()
        .iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(name, lines)| too_long(name, *lines))
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    none("over-long files", &findings);
}

#[test]
fn modules_stand_beside_their_folders() {
    let findings: Vec<_> =
        sources().into_iter().map(|(name, _)| name).filter(|name| name.ends_with("/mod.rs")).collect();
    none("mod.rs files (write foo.rs beside foo/)", &findings);
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file does not find itself.
    let marks =
        [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["todo", "!("].concat(), ["unimplemented", "!("].concat()];
    let mut findings = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                findings.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("unfinished", &findings);
}

/// A page of bytes, the module that it describes, and constants of that module which the page must state: the file
/// below `storage-format/src`, the constant, and how the page writes its value (`{}` stands for it).
struct Page {
    page: &'static str,
    module: &'static str,
    constants: &'static [(&'static str, &'static str, &'static str)],
}

const PAGES: &[Page] = &[
    Page {
        page: "frame.md",
        module: "frame",
        constants: &[("frame.rs", "MAGIC", "{}"), ("frame.rs", "VERSION", "version = {}")],
    },
    Page {
        page: "wal.md",
        module: "wal",
        constants: &[
            ("wal/file_header.rs", "MAGIC", "{}"),
            ("wal/file_header.rs", "LOG", "version = {} in the log"),
            ("wal/file_header.rs", "CARRIED", "version = {} for carried records"),
            ("wal/block.rs", "MAGIC", "{}"),
        ],
    },
    Page { page: "encryption.md", module: "encryption", constants: &[] },
    Page { page: "org-key.md", module: "org_key", constants: &[("org_key.rs", "MAGIC", "{}")] },
    Page {
        page: "segment.md",
        module: "segment",
        constants: &[
            ("segment/key_metadata.rs", "MAGIC", "{}"),
            ("segment/key_metadata.rs", "SEGMENT_KEY_METADATA_BYTES", "{}"),
        ],
    },
    Page {
        page: "rollup.md",
        module: "rollup",
        constants: &[("rollup/encoder.rs", "OF", "{}"), ("rollup/encoder.rs", "INTERVAL", "{}")],
    },
    Page {
        page: "manifest.md",
        module: "manifest",
        constants: &[
            ("manifest/codec/header.rs", "MAGIC", "{}"),
            ("manifest/codec/header.rs", "MANIFEST_HEADER_BYTES", "{}"),
        ],
    },
    Page { page: "object-keys.md", module: "object_key", constants: &[] },
];

/// The value of `const NAME: … = VALUE;` as it is written, without what makes a byte string of a text.
fn constant(text: &str, name: &str) -> Option<String> {
    let rest = &text[text.find(&format!("const {name}:"))?..];
    let value = rest[rest.find(" = ")? + 3..].split_once(";\n")?.0;
    Some(value.trim_start_matches(['*', 'b']).trim_matches('"').to_owned())
}

#[test]
fn format_pages_are_in_step_with_the_code() {
    let sources = sources();
    let source = |name: &str| {
        let name = format!("storage-format/src/{name}");
        sources.iter().find(|(path, _)| *path == name).map(|(_, text)| text.as_str())
    };
    let docs = root().join("storage-format/docs");
    let mut findings = Vec::new();
    for Page { page, module, constants } in PAGES {
        let Ok(text) = fs::read_to_string(docs.join(page)) else {
            findings.push(format!("storage-format/docs/{page} is missing"));
            continue;
        };
        if !text.to_lowercase().contains("version history") {
            findings.push(format!("{page} has no version history"));
        }
        if source(&format!("{module}.rs")).is_none() {
            findings.push(format!("{page} describes {module}.rs, which is not there"));
        }
        for (file, name, form) in *constants {
            match source(file).and_then(|text| constant(text, name)) {
                None => findings.push(format!("{page}: {file} has no constant {name}")),
                Some(value) => {
                    let wanted = form.replace("{}", &value);
                    if !text.contains(&wanted) {
                        findings.push(format!("{page} does not say {wanted:?}, which is what {name} in {file} says"));
                    }
                }
            }
        }
    }
    let known: Vec<_> = PAGES.iter().map(|page| page.page).collect();
    for entry in fs::read_dir(docs).expect("the pages are there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&name.as_str()) {
            findings.push(format!("storage-format/docs/{name} is held to nothing: add it to PAGES"));
        }
    }
    none("format pages", &findings);
}

#[test]
fn the_architecture_page_knows_every_crate() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let missing: Vec<_> = ["storage-format", "engine", "ingest", "query", "service", "benches", "tests", "fuzz"]
        .iter()
        .filter(|name| !page.contains(&format!("`{name}/`")))
        .map(ToString::to_string)
        .collect();
    none("crates and folders that ARCHITECTURE.md does not explain", &missing);
}
