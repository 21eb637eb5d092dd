//! Power cuts and kills at every operation of the local store, and what the next process finds.
//!
//! Rules: what was acknowledged is there whole; what was not is as before or as asked, never anything else; what a
//! process has found when it opened the store stays there, whatever power cut comes after.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::*;

/// Objects by name.
pub(super) type Objects = BTreeMap<String, Bytes>;

/// A change, as asked for, and what it makes of the objects.
pub(super) enum Step {
    Create(&'static str, u8, usize),
    Overwrite(&'static str, u8, usize),
    Parts(&'static str, u8, usize),
    Copy(&'static str, &'static str),
    Delete(&'static str),
}

use Step::{Copy, Create, Delete, Overwrite, Parts};

/// A life of a store: new directories and known ones, names new, taken, replaced and taken away.
const STEPS: [Step; 13] = [
    Create("org/manifest/1", 1, 700),
    Create("org/segments/2016/1", 2, 3000),
    Create("org/segments/2016/2", 3, 1),
    Create("org/manifest/2", 4, 700),
    Create("org/manifest/2", 5, 900),
    Overwrite("current", 6, 20),
    Overwrite("current", 7, 1500),
    Parts("org/exports/deep/one", 8, 2000),
    Copy("org/segments/2016/1", "other/copied/1"),
    Copy("org/segments/2016/2", "current"),
    Delete("org/segments/2016/2"),
    Create("org/segments/2016/2", 9, 600),
    Delete("org/manifest/1"),
];

fn bytes(fill: u8, len: usize) -> Bytes {
    // Every sector differs from its neighbours, so that one in another's place is seen.
    (0..len).map(|at| fill.wrapping_mul(31).wrapping_add(u8::try_from(at / 512).expect("short"))).collect()
}

impl Step {
    pub(super) fn apply(&self, objects: &mut Objects) {
        match *self {
            Create(name, fill, len) => {
                objects.entry(name.to_owned()).or_insert_with(|| bytes(fill, len));
            }
            Overwrite(name, fill, len) | Parts(name, fill, len) => {
                objects.insert(name.to_owned(), bytes(fill, len));
            }
            Copy(from, to) => {
                let copied = objects[from].clone();
                objects.insert(to.to_owned(), copied);
            }
            Delete(name) => {
                objects.remove(name);
            }
        }
    }

    pub(super) fn ask<'a>(&'a self, store: &'a LocalDurable) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match *self {
                Create(name, fill, len) => {
                    let asked = store.put_opts(&path(name), bytes(fill, len).into(), PutMode::Create.into()).await;
                    match asked {
                        Err(Error::AlreadyExists { .. }) | Ok(_) => Ok(()),
                        Err(error) => Err(error),
                    }
                }
                Overwrite(name, fill, len) => store.put(&path(name), bytes(fill, len).into()).await.map(drop),
                Parts(name, fill, len) => {
                    let mut upload = store.put_multipart(&path(name)).await?;
                    let mut all = bytes(fill, len);
                    let first = upload.put_part(all.split_to(len / 3).into());
                    upload.put_part(all.into()).await?;
                    first.await?;
                    upload.complete().await.map(drop)
                }
                Copy(from, to) => store.copy(&path(from), &path(to)).await,
                Delete(name) => store.delete(&path(name)).await,
            }
        }
        .boxed()
    }
}

/// Runs the steps until one fails: the objects as acknowledged, and as they would be with the one that failed.
fn live(store: &LocalDurable) -> (Objects, Objects) {
    let mut acknowledged = Objects::new();
    for step in &STEPS {
        let mut asked = acknowledged.clone();
        step.apply(&mut asked);
        if step.ask(store).now_or_never().expect("nothing to wait for").is_err() {
            return (acknowledged, asked);
        }
        acknowledged = asked;
    }
    (acknowledged.clone(), acknowledged)
}

/// All there is, read in every way there is.
pub(super) fn found(store: &LocalDurable) -> Objects {
    let all = async {
        let mut objects = Objects::new();
        for name in names(store, None).await {
            let got = store.get(&path(&name)).await.expect("listed").bytes().await.expect("read");
            assert_eq!(store.head(&path(&name)).await.expect("listed").size, got.len() as u64);
            objects.insert(name, got);
        }
        objects
    };
    all.now_or_never().expect("nothing to wait for")
}

fn losses(seed: u64) -> [Loss; 5] {
    [Loss::Process, Loss::Unsynced, Loss::Some(seed), Loss::Some(!seed), Loss::Some(seed << 20)]
}

#[test]
fn what_is_acknowledged_is_there_whole_after_a_crash_at_every_operation() {
    let (files, store) = faulty();
    let before = files.operations();
    let (whole, _) = live(&store);
    assert_eq!(whole.len(), 6);
    let operations = files.operations() - before;
    assert!(operations > 80, "{operations}");
    let (mut as_before, mut as_asked) = (0, 0);
    for crash in 0..operations {
        let (files, store) = faulty();
        files.crash_after(crash);
        let (acknowledged, asked) = live(&store);
        assert!(files.is_crashed(), "operation {crash} is reached");
        for loss in losses(crash) {
            let what = format!("crash in operation {crash}, {loss:?}");
            let image = files.fork();
            image.restart(loss);
            let store = open_on(&image);
            let now = found(&store);
            as_before += u32::from(now == acknowledged);
            as_asked += u32::from(now == asked && now != acknowledged);
            assert!(now == acknowledged || now == asked, "{what}: {:?}", now.keys());
            assert_eq!(image.list(&staging()).expect("lists"), [""; 0], "{what}: leftovers");

            // What was found is relied upon: it must be there after the next power cut, too. So must what is new, in
            // directories that the process before may have made.
            let mut now = now;
            for (name, fill) in [("org/segments/2016/after", 11), ("other/copied/after", 12)] {
                let step = Overwrite(name, fill, 800);
                step.ask(&store).now_or_never().expect("at once").expect("written");
                step.apply(&mut now);
            }
            image.restart(Loss::Unsynced);
            assert_eq!(found(&open_on(&image)), now, "{what}, then power cut");
        }
    }
    assert!(as_before > 100 && as_asked > 20, "{as_before} as before, {as_asked} as asked");
}

/// The open itself may be cut short, any number of times.
#[test]
fn an_open_that_is_cut_short_spoils_nothing() {
    let (files, store) = faulty();
    files.crash_after(30);
    let (acknowledged, asked) = live(&store);
    assert_ne!(acknowledged, asked);
    for loss in losses(5) {
        for crash in 0..2 {
            let image = files.fork();
            image.restart(Loss::Process);
            image.crash_after(crash);
            let _may_be_cut_short = LocalDurable::open_on(image.clone(), root(), staging());
            image.restart(loss);
            let now = found(&open_on(&image));
            assert!(now == acknowledged || now == asked, "crash in operation {crash}, {loss:?}");
        }
    }
}

#[test]
fn what_is_found_after_a_kill_stays() {
    // The last of these has its name and not yet its directory's sync.
    let mut stayed = 0;
    for crash in 0..7 {
        let (files, store) = faulty();
        files.crash_after(crash);
        put(&store, "new/b", "y", PutMode::Create).now_or_never().expect("at once").expect_err("cut short");
        files.restart(Loss::Process);
        let store = open_on(&files);
        let seen = found(&store);
        stayed += seen.len();
        for loss in [Loss::Unsynced, Loss::Some(1), Loss::Some(2), Loss::Some(3)] {
            let image = files.fork();
            image.restart(loss);
            assert_eq!(found(&open_on(&image)), seen, "crash in operation {crash}, {loss:?}");
        }
    }
    assert_eq!(stayed, 1);
}

#[test]
fn who_is_told_that_it_exists_may_rely_on_it() {
    // Another's put of the same name, stopped before its directory's sync.
    let (files, store) = faulty();
    put(&store, "a/first", "x", PutMode::Create).now_or_never().expect("at once").expect("created");
    let file = files.create_new(&staging().join("theirs")).expect("made");
    file.write_at(b"theirs", 0).expect("written");
    file.sync_all().expect("synced");
    files.hard_link(&staging().join("theirs"), &root().join("a/b")).expect("linked");
    let again = put(&store, "a/b", "ours", PutMode::Create).now_or_never().expect("at once");
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    files.restart(Loss::Unsynced);
    let store = open_on(&files);
    assert_eq!(text(&store, "a/b").now_or_never().expect("at once"), "theirs");
}

#[test]
fn a_process_that_is_gone_changes_nothing_any_more() {
    let (files, store) = faulty();
    let mut upload = store.put_multipart(&path("late")).now_or_never().expect("at once").expect("an upload");
    files.restart(Loss::Process);
    let next = open_on(&files);
    let upload_of_next = next.put_multipart(&path("b")).now_or_never().expect("at once").expect("an upload");
    // Both have the staging file of the same number: the earlier one's end must not remove it.
    assert!(upload.put_part("x".into()).now_or_never().expect("at once").is_err());
    drop(upload);
    assert_eq!(files.list(&staging()).expect("lists").len(), 1);
    assert!(put(&store, "a", "x", PutMode::Create).now_or_never().expect("at once").is_err());
    assert!(
        store.get(&path("a")).now_or_never().expect("at once").is_err_and(|e| !matches!(e, Error::NotFound { .. }))
    );
    drop(upload_of_next);
    assert_eq!(files.list(&staging()).expect("lists").len(), 0);
}
