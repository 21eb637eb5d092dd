//! One behavioural suite for stores, run over the local one (on the machine's file system and on the faulty one) and
//! the library's in-memory one; what only the local one has to do (sync, hide staging files, stop after a failed sync);
//! puts over a faulty store.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{FutureExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tempfile::TempDir;

use super::*;
use crate::files::{FaultRates, FaultyFiles, Files as _, Loss, SyncKind};

mod power;
mod random;
mod remote;

fn local() -> (TempDir, LocalDurable) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalDurable::open(dir.path().join("store"), dir.path().join("tmp")).expect("a store");
    (dir, store)
}

fn root() -> PathBuf {
    PathBuf::from("data/store")
}

fn staging() -> PathBuf {
    PathBuf::from("data/tmp")
}

fn open_on(files: &FaultyFiles) -> LocalDurable {
    LocalDurable::open_on(files.clone(), root(), staging()).expect("a store")
}

fn faulty() -> (FaultyFiles, LocalDurable) {
    let files = FaultyFiles::new();
    let store = open_on(&files);
    (files, store)
}

fn path(name: &str) -> Path {
    Path::from(name)
}

async fn put(store: &dyn ObjectStore, name: &str, text: &'static str, mode: PutMode) -> Result<(), Error> {
    store.put_opts(&path(name), PutPayload::from_static(text.as_bytes()), mode.into()).await.map(|_| ())
}

async fn text(store: &dyn ObjectStore, name: &str) -> String {
    let bytes = store.get(&path(name)).await.expect("it is there").bytes().await.expect("it is read");
    String::from_utf8(bytes.to_vec()).expect("text")
}

async fn names(store: &dyn ObjectStore, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(path);
    let listed: Vec<_> = store.list(prefix.as_ref()).try_collect().await.expect("a list");
    let mut names: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

async fn behaves(store: &dyn ObjectStore) {
    behaves_with_parts(store, 8).await;
}

/// The suite, for a store whose uploads have parts of at least so many bytes, but for the last.
async fn behaves_with_parts(store: &dyn ObjectStore, part_bytes_min: usize) {
    // Nothing is there.
    assert!(matches!(store.get(&path("a/b/c")).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(&path("a/b/c")).await, Err(Error::NotFound { .. })));
    assert_eq!(names(store, None).await, [""; 0]);
    assert_eq!(names(store, Some("a")).await, [""; 0]);
    // Create is once.
    put(store, "a/b/c", "first", PutMode::Create).await.expect("created");
    let again = put(store, "a/b/c", "second", PutMode::Create).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(text(store, "a/b/c").await, "first");
    // Overwrite is not.
    put(store, "a/b/d", "old", PutMode::Overwrite).await.expect("made");
    put(store, "a/b/d", "newer", PutMode::Overwrite).await.expect("replaced");
    assert_eq!(text(store, "a/b/d").await, "newer");
    assert_eq!(store.head(&path("a/b/d")).await.expect("there").size, 5);
    put(store, "a/empty", "", PutMode::Create).await.expect("an empty object is one");
    assert_eq!(text(store, "a/empty").await, "");
    // Of many payload chunks, all in order.
    let chunks: PutPayload = ["one ", "two ", "three"].into_iter().map(Bytes::from).collect();
    store.put(&path("a/chunks"), chunks).await.expect("put");
    assert_eq!(text(store, "a/chunks").await, "one two three");
    // Parts of it.
    let ranges = store.get_ranges(&path("a/chunks"), &[0..3, 8..13]).await.expect("ranges");
    assert_eq!(ranges, [Bytes::from("one"), Bytes::from("three")]);
    let suffix = GetOptions { range: Some(GetRange::Suffix(5)), ..GetOptions::default() };
    let got = store.get_opts(&path("a/chunks"), suffix).await.expect("a suffix");
    assert_eq!((got.meta.size, got.range.clone()), (13, 8..13));
    assert_eq!(got.bytes().await.expect("read"), "three");
    let suffix = GetOptions { range: Some(GetRange::Suffix(500)), ..GetOptions::default() };
    let got = store.get_opts(&path("a/chunks"), suffix).await.expect("more than there is");
    assert_eq!(got.bytes().await.expect("read").len(), 13);
    // Lists.
    assert_eq!(names(store, None).await, ["a/b/c", "a/b/d", "a/chunks", "a/empty"]);
    assert_eq!(names(store, Some("a/b")).await, ["a/b/c", "a/b/d"]);
    let level = store.list_with_delimiter(Some(&path("a"))).await.expect("a list");
    assert_eq!(level.common_prefixes, [path("a/b")]);
    assert_eq!(level.objects.len(), 2);
    let after: Vec<_> = store.list_with_offset(None, &path("a/b/d")).try_collect().await.expect("a list");
    assert_eq!(after.len(), 2);
    // Uploads in parts are there at their end, and not before.
    let part_1 = format!("part 1, {}", " ".repeat(part_bytes_min.saturating_sub(8)));
    let mut upload = store.put_multipart(&path("u/parts")).await.expect("an upload");
    let (first, second) = (upload.put_part(part_1.clone().into()), upload.put_part("part 2".into()));
    second.await.expect("written");
    first.await.expect("written");
    assert!(matches!(store.head(&path("u/parts")).await, Err(Error::NotFound { .. })));
    assert_eq!(names(store, Some("u")).await, [""; 0]);
    upload.complete().await.expect("complete");
    assert!(text(store, "u/parts").await == part_1 + "part 2");
    let mut upload = store.put_multipart(&path("u/never")).await.expect("an upload");
    upload.put_part("gone".into()).await.expect("written");
    upload.abort().await.expect("aborted");
    assert_eq!(names(store, Some("u")).await, ["u/parts"]);
    // Copies.
    store.copy(&path("a/b/c"), &path("x/copy")).await.expect("copied");
    assert_eq!(text(store, "x/copy").await, "first");
    let again = store.copy_if_not_exists(&path("a/b/d"), &path("x/copy")).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    store.copy(&path("a/b/d"), &path("x/copy")).await.expect("copied over");
    assert_eq!(text(store, "x/copy").await, "newer");
    assert!(matches!(store.copy(&path("a/none"), &path("x/none")).await, Err(Error::NotFound { .. })));
    store.rename(&path("x/copy"), &path("y/moved")).await.expect("renamed");
    assert_eq!(names(store, Some("x")).await, [""; 0]);
    assert_eq!(text(store, "y/moved").await, "newer");
    // Gone is gone.
    store.delete(&path("a/b/c")).await.expect("deleted");
    assert!(matches!(store.get(&path("a/b/c")).await, Err(Error::NotFound { .. })));
    put(store, "a/b/c", "anew", PutMode::Create).await.expect("the name is free again");
    assert_eq!(text(store, "a/b/c").await, "anew");
}

#[tokio::test]
async fn the_library_s_store_behaves() {
    behaves(&InMemory::new()).await;
}

#[tokio::test]
async fn the_local_store_behaves() {
    let (_dir, store) = local();
    behaves(&store).await;
    assert!(store.delete(&path("a/none")).await.is_err());
}

#[test]
fn the_local_store_behaves_without_a_runtime() {
    let (_dir, store) = local();
    behaves(&store).now_or_never().expect("there is nothing to wait for");
    let (files, store) = faulty();
    behaves(&store).now_or_never().expect("there is nothing to wait for");
    assert!(matches!(store.delete(&path("a/none")).now_or_never().expect("at once"), Err(Error::NotFound { .. })));
    assert_eq!(files.list(&staging()).expect("lists"), [""; 0]);
}

#[tokio::test]
async fn the_local_store_behaves_on_the_faulty_files() {
    behaves(&faulty().1).await;
}

#[tokio::test]
async fn odd_names_are_the_same_on_both_file_systems() {
    let (_dir, real) = local();
    let faulty = faulty().1;
    for name in ["a b/c%2Fd/ä+.x", "#/1", "a#b", "a#1b", "x#1", "x##2", "..a", "a/x#9", "new\nline", "~"] {
        let location = path(name);
        let mut found = Vec::new();
        for store in [&real, &faulty] {
            let done = store.put(&location, "x".into()).await.is_ok();
            let got = store.get(&location).await.is_ok();
            assert_eq!(done, got, "{name}");
            found.push((done, names(store, None).await, store.list_with_delimiter(None).await.expect("a list")));
        }
        let [(_, real, real_level), (_, faulty, faulty_level)] = &found[..] else { panic!("two") };
        assert_eq!((found[0].0, real), (found[1].0, faulty), "{name}");
        assert_eq!(real_level.common_prefixes, faulty_level.common_prefixes, "{name}");
        assert_eq!(real_level.objects.len(), faulty_level.objects.len(), "{name}");
    }
}

#[tokio::test]
async fn a_faulty_store_that_is_told_nothing_behaves() {
    behaves(&FaultStore::new(Arc::new(InMemory::new()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creators_one_wins() {
    let (_dir, store) = local();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let tasks: Vec<_> = (0..16_u8)
        .map(|id| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let options = PutOptions::from(PutMode::Create);
                store.put_opts(&path("deep/down/one"), vec![id; 100].into(), options).await.map(|_| id)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        winners.extend(task.await.expect("no panic").ok());
    }
    let [winner] = winners[..] else { panic!("{winners:?}") };
    assert_eq!(store.get(&path("deep/down/one")).await.expect("there").bytes().await.expect("read"), vec![winner; 100]);
}

/// What a put syncs. That it is the right files and directories, in the right order, is what the power cuts show.
#[tokio::test]
async fn each_write_syncs_what_it_must_and_no_more() {
    use SyncKind::{Dir, File, FileSystem};
    let files = FaultyFiles::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    files.set_sync_cost(Some(Arc::new(move |kind| writer.lock().expect("not poisoned").push(kind))));
    let synced = || std::mem::take(&mut *log.lock().expect("not poisoned"));
    let store = open_on(&files);
    assert_eq!(synced(), [FileSystem]);
    put(&store, "a/b/c", "x", PutMode::Create).await.expect("created");
    assert_eq!(synced(), [File, Dir, Dir, Dir], "the file, then the root, a and a/b");
    put(&store, "a/b/d", "x", PutMode::Create).await.expect("created");
    assert_eq!(synced(), [File, Dir], "what is durable is not synced again");
    put(&store, "a/b/d", "y", PutMode::Create).await.expect_err("it exists");
    assert_eq!(synced(), [File, Dir], "whoever is told that it exists may rely on it");
    store.delete(&path("a/b/d")).await.expect("deleted");
    assert_eq!(synced(), [Dir]);
    store.copy(&path("a/b/c"), &path("z")).await.expect("copied");
    assert_eq!(synced(), [File, Dir]);
    // A directory that another put made, and may not have synced, counts as new.
    files.create_dir(&root().join("other")).expect("made");
    put(&store, "other/c", "x", PutMode::Overwrite).await.expect("made");
    assert_eq!(synced(), [File, Dir, Dir]);
}

#[tokio::test]
async fn a_failed_sync_stops_all_writing() {
    for syncs_before in 0..4 {
        let (files, store) = faulty();
        put(&store, "kept", "x", PutMode::Create).await.expect("created");
        files.fail_sync_after(syncs_before);
        let error = put(&store, "a/b/c", "x", PutMode::Create).await.expect_err("a sync failed");
        assert!(is_fatal(&error), "{error:?}");
        for name in ["a/b/c", "d"] {
            let error = put(&store, name, "x", PutMode::Overwrite).await.expect_err("stopped");
            assert!(is_fatal(&error), "{error:?}");
        }
        assert!(is_fatal(&store.delete(&path("kept")).await.expect_err("stopped")));
        assert!(store.put_multipart(&path("e")).await.is_err());
        assert_eq!(text(&store, "kept").await, "x", "reading goes on");
        let bytes = Bytes::from_static(b"x");
        assert!(matches!(put_create(&store, &path("f"), &bytes).await, Err(PutError::Fatal { .. })));
        // The next process finds one or the other, and that lasts.
        files.restart(Loss::Process);
        let found = names(&open_on(&files), None).await;
        files.restart(Loss::Unsynced);
        let store = open_on(&files);
        assert_eq!(names(&store, None).await, found);
        for name in &found {
            assert_eq!(text(&store, name).await, "x");
        }
        assert!(found.iter().any(|name| name == "kept"));
    }
}

#[tokio::test]
async fn when_nothing_can_be_opened_nothing_happened() {
    let (files, store) = faulty();
    put(&store, "kept", "x", PutMode::Create).await.expect("created");
    // Of uploads that are staged already, one makes its directories, the other has them.
    let mut uploads = Vec::new();
    for name in ["a/b/c", "d"] {
        let mut upload = store.put_multipart(&path(name)).await.expect("an upload");
        upload.put_part("x".into()).await.expect("written");
        uploads.push(upload);
    }
    files.set_faults(1, FaultRates { open_error: 1_000_000, ..FaultRates::default() });
    let mut errors = vec![
        put(&store, "e", "x", PutMode::Create).await.expect_err("no file"),
        store.copy(&path("kept"), &path("f")).await.expect_err("no file"),
        store.delete(&path("kept")).await.expect_err("no directory"),
    ];
    for mut upload in uploads {
        errors.push(upload.complete().await.expect_err("no directory"));
    }
    for error in errors {
        let Error::Generic { source, .. } = error else { panic!("{error:?}") };
        let error = source.downcast::<LocalDurableError>().expect("ours");
        assert!(error.did_not_happen(), "{error:?}");
    }
    files.set_faults(1, FaultRates::default());
    assert_eq!(names(&store, None).await, ["kept"]);
    put(&store, "a/b/c", "x", PutMode::Create).await.expect("all is well again");
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_and_is_over_when_it_is_over() {
    let (files, store) = faulty();
    // With a file or without one: nothing can be made, or the bytes do not fit.
    for space in [0, 100] {
        files.set_space(Some(space));
        let bytes = Bytes::from_static(&[7; 101]);
        let error = put_create(&store, &path("a"), &bytes).await.expect_err("no space");
        assert!(matches!(error, PutError::DidNotHappen { .. }), "{error:?}");
        assert_eq!(files.list(&staging()).expect("lists"), [""; 0], "no staging file is left");
        assert_eq!(names(&store, None).await, [""; 0]);
    }
    files.set_space(None);
    let bytes = Bytes::from_static(b"x");
    assert_eq!(put_create(&store, &path("a"), &bytes).await.expect("there is space"), PutOutcome::Created);
}

#[tokio::test]
async fn leftovers_go_at_open_and_are_never_listed() {
    let (dir, store) = local();
    put(&store, "kept", "x", PutMode::Create).await.expect("created");
    let mut upload = store.put_multipart(&path("half")).await.expect("an upload");
    upload.put_part("half".into()).await.expect("written");
    std::mem::forget(upload);
    std::fs::write(dir.path().join("tmp/17.staged"), "left by a crash").expect("written");
    std::fs::write(dir.path().join("tmp/notes.txt"), "not ours").expect("written");
    assert_eq!(names(&store, None).await, ["kept"]);
    let store = LocalDurable::open(dir.path().join("store"), dir.path().join("tmp")).expect("opened again");
    assert_eq!(names(&store, None).await, ["kept"]);
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("tmp")).expect("there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
    assert!(LocalDurable::open(dir.path().join("store"), dir.path().join("store/tmp")).is_err(), "staging inside");
}

#[tokio::test]
async fn an_upload_with_a_hole_does_not_become_an_object() {
    let store = faulty().1;
    let mut upload = store.put_multipart(&path("holes")).await.expect("an upload");
    drop(upload.put_part("dropped".into()));
    upload.put_part("written".into()).await.expect("written");
    assert!(upload.complete().await.is_err());
    assert!(upload.complete().await.is_err(), "nor later");
    assert_eq!(names(&store, None).await, [""; 0]);
}

#[tokio::test]
async fn a_put_that_was_applied_and_answered_with_an_error_is_known_again() {
    let store = FaultStore::new(Arc::new(InMemory::new()));
    let (ours, theirs) = (Bytes::from_static(b"ours"), Bytes::from_static(b"theirs"));
    store.fail_next(Operation::Put, "a", Fault::Applied, 0);
    assert_eq!(put_create(&store, &path("a"), &ours).await.expect("known"), PutOutcome::Created);
    assert_eq!(put_create(&store, &path("a"), &theirs).await.expect("known"), PutOutcome::Exists(ours.clone()));
    assert_eq!(store.clear(), 0);
    // One that was not applied is tried again.
    store.fail_next(Operation::Put, "b", Fault::Before, 0);
    store.fail_next(Operation::Put, "b", Fault::Before, 0);
    assert_eq!(put_create(&store, &path("b"), &ours).await.expect("at last"), PutOutcome::Created);
    // But not for ever.
    for _ in 0..9 {
        store.fail_next(Operation::Put, "c", Fault::Before, 0);
    }
    let error = put_create(&store, &path("c"), &ours).await.expect_err("never");
    assert!(matches!(error, PutError::MayHaveHappened { .. }), "{error:?}");
    assert_eq!(store.clear(), 6, "three tries");
    // Whoever can not look does not know.
    store.fail_next(Operation::Put, "d", Fault::Applied, 0);
    store.fail_next(Operation::Get, "d", Fault::Before, 0);
    let error = put_create(&store, &path("d"), &ours).await.expect_err("unknown");
    assert!(matches!(error, PutError::MayHaveHappened { .. }), "{error:?}");
    assert_eq!(put_create(&store, &path("d"), &ours).await.expect("asked again"), PutOutcome::Created);
}
