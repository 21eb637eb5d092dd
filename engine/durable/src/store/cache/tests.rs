//! The cache before a store in memory, on a disk that fails and loses what was not synced: what it returns is what the
//! store has, it stays within its bound, and what it has it does not ask for again.

use std::sync::Mutex;

use futures::FutureExt as _;
use object_store::memory::InMemory;
use object_store::{Error, ObjectStoreExt as _};

use super::super::{FaultStore, Operation};
use super::index::{BlockId, Index};
use super::*;
use crate::files::{FaultRates, FaultyFiles, Loss};

const BYTES_MAX: u64 = 40 * 1024;

struct Rig {
    memory: Arc<InMemory>,
    asked: Arc<FaultStore>,
    files: FaultyFiles,
    store: CachedStore,
}

fn dir() -> PathBuf {
    PathBuf::from("data/cache")
}

fn open(asked: &Arc<FaultStore>, files: &FaultyFiles, address: &str) -> std::io::Result<CachedStore> {
    let store: Arc<dyn ObjectStore> = Arc::clone(asked) as _;
    CachedStore::open(store, address, Arc::new(files.of_this_process()), dir(), BYTES_MAX)
}

fn rig() -> Rig {
    let memory = Arc::new(InMemory::new());
    let inner: Arc<dyn ObjectStore> = Arc::clone(&memory) as _;
    let (asked, files) = (Arc::new(FaultStore::new(inner)), FaultyFiles::new());
    let store = open(&asked, &files, "s3://one").expect("a cache");
    Rig { memory, asked, files, store }
}

fn segment(org: u64, id: u64) -> Path {
    Path::from(format!("orgs/{org:016x}/segments/2024050100-2024060100/{id:032x}.parquet"))
}

/// Bytes that tell where they are from.
fn content(seed: u64, length: u64) -> Bytes {
    let byte = |at: u64| at.wrapping_mul(31).wrapping_add(at >> 8).wrapping_add(seed * 97).to_le_bytes()[0];
    (0..length).map(byte).collect::<Vec<_>>().into()
}

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

/// Without a runtime all of it is done at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("there is nothing to wait for")
}

impl Rig {
    fn gets(&self) -> usize {
        self.asked.take_log().into_iter().filter(|(operation, _)| *operation == Operation::Get).count()
    }

    /// Into the store, past the cache.
    fn there(&self, path: &Path, bytes: &Bytes) {
        now(self.memory.put(path, bytes.clone().into())).expect("put");
    }
}

#[test]
fn what_was_read_once_is_not_asked_for_again() {
    let rig = rig();
    let (path, bytes) = (segment(1, 1), content(1, 3 * BLOCK_BYTES + 100));
    rig.there(&path, &bytes);
    let ranges = [10..20, BLOCK_BYTES - 5..BLOCK_BYTES + 5, 3 * BLOCK_BYTES + 50..3 * BLOCK_BYTES + 100];
    let read = || now(rig.store.get_ranges(&path, &ranges)).expect("read");
    let expected: Vec<_> = ranges.iter().map(|r| index::part(&bytes, r.start, r.end)).collect();
    assert_eq!(read(), expected);
    assert_eq!(rig.gets(), 2, "two runs of blocks: the first two, and the last");
    assert_eq!(read(), expected);
    assert_eq!(rig.gets(), 0);
    // The size is known by now: a suffix and the whole need only what is missing.
    let options = GetOptions { range: Some(GetRange::Suffix(200)), ..GetOptions::default() };
    let got = now(rig.store.get_opts(&path, options)).expect("read");
    assert_eq!((got.meta.size, got.range.clone()), (bytes.len() as u64, bytes.len() as u64 - 200..bytes.len() as u64));
    assert_eq!(now(got.bytes()).expect("read"), bytes.slice(bytes.len() - 200..));
    assert_eq!(now(now(rig.store.get(&path)).expect("there").bytes()).expect("read"), bytes);
    assert_eq!(rig.gets(), 1, "the third block");
    let counts = rig.store.counts();
    assert_eq!((counts.misses, counts.failures, counts.evicted), (4, 0, 0));
}

#[test]
fn a_suffix_of_an_unknown_object_brings_its_last_block() {
    let rig = rig();
    let (path, bytes) = (segment(1, 1), content(2, BLOCK_BYTES + 700));
    rig.there(&path, &bytes);
    for expected in [1, 0] {
        let options = GetOptions { range: Some(GetRange::Suffix(64)), ..GetOptions::default() };
        let got = now(rig.store.get_opts(&path, options)).expect("read");
        assert_eq!(now(got.bytes()).expect("read"), bytes.slice(bytes.len() - 64..));
        assert_eq!(rig.gets(), expected);
    }
    // Also of one that is smaller than what is asked for.
    let small = segment(1, 2);
    rig.there(&small, &content(3, 10));
    let options = GetOptions { range: Some(GetRange::Suffix(64)), ..GetOptions::default() };
    assert_eq!(now(now(rig.store.get_opts(&small, options)).expect("read").bytes()).expect("read").len(), 10);
}

#[test]
fn what_is_written_is_there_and_what_changes_is_never_kept() {
    let rig = rig();
    let (path, bytes) = (segment(1, 1), content(4, BLOCK_BYTES + 9));
    now(rig.store.put_opts(&path, bytes.clone().into(), create())).expect("put");
    assert_eq!(now(now(rig.store.get(&path)).expect("there").bytes()).expect("read"), bytes);
    assert_eq!(rig.gets(), 0);
    // One that would push out everything else is not.
    let large = segment(1, 2);
    now(rig.store.put_opts(&large, content(4, BYTES_MAX / 4).into(), create())).expect("put");
    assert_eq!(now(rig.store.get_ranges(&large, &[0..1])).expect("read"), [content(4, 1)]);
    assert_eq!(rig.gets(), 1);
    let org = "orgs/0000000000000001";
    for name in [format!("{org}/manifest/00000000000000000001"), format!("{org}/keys/0000000001"), "other".into()] {
        let path = Path::from(name);
        now(rig.store.put_opts(&path, content(5, 100).into(), create())).expect("put");
        for _ in 0..2 {
            now(now(rig.store.get(&path)).expect("there").bytes()).expect("read");
        }
        assert_eq!(rig.gets(), 2, "{path}");
    }
    // A put that failed leaves nothing, and one that lost its race leaves what the winner put.
    assert!(matches!(now(rig.store.put_opts(&path, content(6, 9).into(), create())), Err(Error::AlreadyExists { .. })));
    assert_eq!(now(now(rig.store.get(&path)).expect("there").bytes()).expect("read"), bytes);
}

#[test]
fn organisations_and_stores_never_share() {
    let rig = rig();
    let (ours, theirs) = (segment(1, 7), segment(2, 7));
    now(rig.store.put_opts(&ours, content(1, 100).into(), create())).expect("put");
    assert!(matches!(now(rig.store.get(&theirs)), Err(Error::NotFound { .. })));
    assert!(now(rig.store.get_ranges(&theirs, &[0..10])).is_err());
    // Another store with an object of the same name, and the same directory.
    let (memory, inner) = (Arc::new(InMemory::new()), Arc::clone(&rig.memory));
    now(memory.put(&ours, content(9, 100).into())).expect("put");
    let other = open(&Arc::new(FaultStore::new(memory)), &rig.files, "s3://two").expect("a cache");
    assert_eq!(now(now(other.get(&ours)).expect("there").bytes()).expect("read"), content(9, 100));
    drop(inner);
}

#[test]
fn a_deleted_object_is_gone_and_files_of_others_stay() {
    let rig = rig();
    let path = segment(1, 1);
    now(rig.store.put_opts(&path, content(1, 100).into(), create())).expect("put");
    assert!(rig.store.counts().bytes > 0);
    now(rig.store.delete(&path)).expect("deleted");
    assert_eq!(rig.store.counts().bytes, 0);
    assert!(matches!(now(rig.store.get(&path)), Err(Error::NotFound { .. })));
    let names: usize =
        (0..=u8::MAX).map(|shard| rig.files.list(&dir().join(format!("{shard:02x}"))).expect("lists").len()).sum();
    assert_eq!(names, 0);
    rig.files.create_new(&dir().join("00/notes.txt")).expect("made");
    rig.files.create_new(&dir().join("00/7.tmp")).expect("made");
    open(&rig.asked, &rig.files, "s3://one").expect("opened again");
    assert_eq!(rig.files.list(&dir().join("00")).expect("lists"), ["notes.txt"]);
}

#[test]
fn who_reads_past_the_cache_gets_what_the_store_has_and_so_does_everybody_after() {
    let rig = rig();
    let (path, bytes) = (segment(1, 1), content(1, 100));
    rig.there(&path, &content(2, 100));
    let read = |options| now(now(rig.store.get_opts(&path, options)).expect("there").bytes()).expect("read");
    let all = || GetOptions { range: Some(GetRange::Suffix(100)), ..GetOptions::default() };
    assert!(read(all()) == content(2, 100));
    // Somebody mends the object.
    rig.there(&path, &bytes);
    assert!(read(all()) == content(2, 100), "it is still cached");
    assert!(read(past_cache(all())) == bytes);
    assert!(read(all()) == bytes);
    rig.gets();
    assert!(read(all()) == bytes);
    assert_eq!(rig.gets(), 0, "and cached again");
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

#[test]
fn in_random_lives_every_answer_is_the_store_s() {
    let (mut hits, mut evicted, mut failures) = (0, 0, 0);
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut rig = rig();
        let rates = FaultRates {
            write_error: 20_000,
            torn_write: 20_000,
            read_error: 20_000,
            read_rot: 20_000,
            misdirected_write: 20_000,
            name_error: 20_000,
            open_error: 20_000,
            ..FaultRates::default()
        };
        let mut paths: Vec<Path> = (0..8).map(|n| segment(n % 2 + 1, n / 2 + 1)).collect();
        let mut sizes: Vec<Option<u64>> = vec![None; paths.len()];
        rig.files.set_faults(seed, rates);
        for _ in 0..150 {
            let n = usize::try_from(dice.roll(8)).expect("small");
            let path = &paths[n].clone();
            let bytes = |size| content(n as u64, size);
            match (dice.roll(10), sizes[n]) {
                (0, Some(_)) => {
                    now(rig.store.delete(path)).expect("deleted");
                    // A name is never used again.
                    (sizes[n], paths[n]) = (None, segment(n as u64 % 2 + 1, 100 + dice.roll(u64::MAX / 2)));
                }
                (1, _) => {
                    let counts = rig.store.counts();
                    (hits, evicted, failures) =
                        (hits + counts.hits, evicted + counts.evicted, failures + counts.failures);
                    rig.files.restart(if dice.roll(2) == 0 { Loss::Process } else { Loss::Some(dice.roll(u64::MAX)) });
                    rig.store =
                        (0..200).find_map(|_| open(&rig.asked, &rig.files, "s3://one").ok()).unwrap_or_else(|| {
                            rig.files.set_faults(0, FaultRates::default());
                            open(&rig.asked, &rig.files, "s3://one").expect("no faults")
                        });
                    rig.files.set_faults(dice.roll(u64::MAX), rates);
                }
                (_, None) => {
                    let size = 1 + dice.roll(5 * BLOCK_BYTES);
                    if dice.roll(2) == 0 {
                        now(rig.store.put_opts(path, bytes(size).into(), create())).expect("put");
                    } else {
                        rig.there(path, &bytes(size));
                    }
                    sizes[n] = Some(size);
                }
                (2, Some(size)) => {
                    let length = 1 + dice.roll(2 * size);
                    let options = GetOptions { range: Some(GetRange::Suffix(length)), ..GetOptions::default() };
                    let got = now(rig.store.get_opts(path, options)).expect("there");
                    assert_eq!(got.meta.size, size);
                    let end = index::part(&bytes(size), size - length.min(size), size);
                    assert!(now(got.bytes()).expect("read") == end, "seed {seed}");
                }
                (3, Some(size)) => {
                    assert!(now(now(rig.store.get(path)).expect("there").bytes()).expect("read") == bytes(size));
                }
                (_, Some(size)) => {
                    let ranges: Vec<_> = (0..=dice.roll(3))
                        .map(|_| {
                            let start = dice.roll(size);
                            start..start + 1 + dice.roll(size - start)
                        })
                        .collect();
                    let read = now(rig.store.get_ranges(path, &ranges)).expect("read");
                    let all = bytes(size);
                    let expected: Vec<_> = ranges.iter().map(|r| index::part(&all, r.start, r.end)).collect();
                    assert!(read == expected, "seed {seed}");
                }
            }
            assert!(rig.store.counts().bytes <= BYTES_MAX, "seed {seed}");
        }
    }
    assert!(hits > 1000 && evicted > 100 && failures > 100, "{hits} {evicted} {failures}");
}

#[test]
fn after_a_restart_what_is_whole_is_used_and_what_is_torn_is_not() {
    let mut rig = rig();
    let (path, bytes) = (segment(1, 1), content(1, BLOCK_BYTES));
    now(rig.store.put_opts(&path, bytes.clone().into(), create())).expect("put");
    rig.files.restart(Loss::Process);
    rig.store = open(&rig.asked, &rig.files, "s3://one").expect("opened");
    let read = |rig: &Rig| now(now(rig.store.get(&path)).expect("there").bytes()).expect("read");
    assert_eq!((read(&rig), rig.gets()), (bytes.clone(), 0), "a kill loses nothing");
    // Each half that a power cut may leave.
    let shard = (0..=u8::MAX)
        .map(|shard| dir().join(format!("{shard:02x}")))
        .find(|shard| !rig.files.list(shard).expect("lists").is_empty())
        .expect("a file");
    let name = rig.files.list(&shard).expect("lists").remove(0);
    for length in [0, 8, 16, 100, BLOCK_BYTES + 15] {
        let file = rig.files.open(&shard.join(&name)).expect("there");
        file.set_len(length).expect("cut");
        file.set_len(BLOCK_BYTES + 16).expect("and zeros");
        drop(file);
        let failures = rig.store.counts().failures;
        assert_eq!((read(&rig), rig.gets()), (bytes.clone(), 1), "{length}");
        assert_eq!(rig.store.counts().failures, failures + 1);
        assert_eq!((read(&rig), rig.gets()), (bytes.clone(), 0), "it is there again");
    }
    // A file under a name that is not its own.
    let (other, stranger) = (segment(2, 1), content(8, BLOCK_BYTES));
    rig.there(&other, &stranger);
    let id = |path: &Path| rig.store.0.disk.id(path.as_ref());
    let named = |id: ObjectId| {
        let name = format!("{:032x}-{BLOCK_BYTES:x}-0", id.0);
        dir().join(&name[..2]).join(name)
    };
    rig.files.rename(&named(id(&path)), &named(id(&other))).expect("moved");
    rig.store = open(&rig.asked, &rig.files, "s3://one").expect("opened");
    assert_eq!(now(rig.store.get_ranges(&other, &[0..BLOCK_BYTES])).expect("read"), [stranger]);
    assert_eq!(rig.store.counts().failures, 1);
}

#[test]
fn the_index_drops_what_was_not_used_for_longest() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let bytes_max = 4096 * (3 + dice.roll(20));
        let mut index = Index::new(bytes_max);
        // The model: blocks, the last used one last.
        let mut model: Vec<BlockId> = Vec::new();
        for _ in 0..300 {
            let object = ObjectId(u128::from(dice.roll(4)));
            let size = (u64::try_from(object.0).expect("small") + 1) * 3000;
            let block = BlockId { object, size, block: dice.roll(size.div_ceil(BLOCK_BYTES)) };
            let place = model.iter().position(|held| *held == block);
            match dice.roll(6) {
                0 => {
                    index.remove(block);
                    model.retain(|held| *held != block);
                }
                1 if dice.roll(4) == 0 => {
                    let mut gone = index.forget(object);
                    gone.sort();
                    let mut expected: Vec<_> = model.iter().copied().filter(|held| held.object == object).collect();
                    expected.sort();
                    assert_eq!(gone, expected);
                    model.retain(|held| held.object != object);
                }
                2 => {
                    assert_eq!(index.touch(block), place.is_some());
                    if let Some(place) = place {
                        let held = model.remove(place);
                        model.push(held);
                    }
                }
                _ => {
                    model.retain(|held| *held != block);
                    model.push(block);
                    let mut expected = Vec::new();
                    while model.iter().map(BlockId::cost).sum::<u64>() > bytes_max {
                        expected.push(model.remove(0));
                    }
                    assert_eq!(index.insert(block), expected, "seed {seed}");
                }
            }
            assert_eq!(index.bytes(), model.iter().map(BlockId::cost).sum::<u64>());
            for held in &model {
                assert_eq!(index.size(held.object), Some(held.size));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_a_small_cache_read_what_is_there() {
    let rig = rig();
    let store = rig.store.clone();
    let wrong = Arc::new(Mutex::new(Vec::new()));
    for n in 0..6 {
        now(rig.memory.put(&segment(1, n + 1), content(n, 4 * BLOCK_BYTES).into())).expect("put");
    }
    let tasks = (0..4).map(|reader| {
        let (store, wrong) = (store.clone(), Arc::clone(&wrong));
        tokio::spawn(async move {
            let mut dice = Dice(reader);
            for _ in 0..150 {
                let n = dice.roll(6);
                let start = dice.roll(3 * BLOCK_BYTES);
                let read = store.get_ranges(&segment(1, n + 1), &[start..start + BLOCK_BYTES]).await.expect("read");
                let all = content(n, 4 * BLOCK_BYTES);
                if read != [index::part(&all, start, start + BLOCK_BYTES)] {
                    wrong.lock().expect("not poisoned").push((n, start));
                }
            }
        })
    });
    futures::future::join_all(tasks).await.into_iter().for_each(|done| done.expect("no panic"));
    assert_eq!(*wrong.lock().expect("not poisoned"), []);
    assert!(store.counts().bytes <= BYTES_MAX);
}

#[test]
fn a_file_whose_name_claims_the_largest_object_is_no_block_beyond_its_end() {
    let files = FaultyFiles::new();
    let shard = dir().join("00");
    files.create_dir_all(&shard).expect("made");
    let last = u64::MAX.div_ceil(BLOCK_BYTES) - 1;
    let name = format!("{:032x}-{:x}-{last:x}", 1, u64::MAX);
    files.create_new(&shard.join(&name)).expect("made");
    let asked = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let store = open(&asked, &files, "s3://one").expect("a cache");
    assert!(store.counts().bytes <= BYTES_MAX);
}
