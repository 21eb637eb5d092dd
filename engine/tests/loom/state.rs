//! An organisation's state behind one pointer: its writer freezes, a flush takes frozen buffers away, readers look.

use std::sync::Arc as Plain;

use loom::sync::{Arc, Mutex};

use crate::engine::applied::Applied;
use crate::engine::column::Column;
use crate::engine::extent::Extent;
use crate::engine::state::State;

/// A write buffer of frames with one row, which is the frame's LSN.
struct Buffer {
    lsns: Column,
    extent: Extent,
}

impl Buffer {
    fn new() -> Plain<Self> {
        Plain::new(Self { lsns: Column::new(0), extent: Extent::new() })
    }

    fn view(&self) -> Vec<u64> {
        (0..self.extent.rows()).map(|row| self.lsns.get(row)).collect()
    }
}

/// A manifest: the LSNs that its segments have.
type OrgState = State<Vec<u64>, Buffer>;

/// `ArcSwap`: loads, and swaps if nobody else has meanwhile.
struct Pointer(Mutex<Plain<OrgState>>);

impl Pointer {
    fn load(&self) -> Plain<OrgState> {
        Plain::clone(&self.0.lock().expect("no panic"))
    }

    fn rcu(&self, change: impl Fn(&OrgState) -> OrgState) {
        loop {
            let before = self.load();
            let after = Plain::new(change(&before));
            let mut now = self.0.lock().expect("no panic");
            if Plain::ptr_eq(&now, &before) {
                *now = after;
                return;
            }
        }
    }
}

struct Org {
    state: Pointer,
    applied: Applied,
}

impl Org {
    fn new() -> Self {
        let active = Buffer::new();
        let state = OrgState { manifest: Plain::default(), frozen: Vec::new(), active, whole: true };
        Self { state: Pointer(Mutex::new(Plain::new(state))), applied: Applied::new() }
    }

    /// Applies a record that is its buffer's first, and tells so.
    fn apply(&self, buffer: &Buffer, lsn: u64) {
        buffer.lsns.write(0, 1, |_| lsn);
        buffer.extent.publish(1, 1, lsn);
        self.applied.set(lsn);
    }

    fn freeze(&self) -> Plain<Buffer> {
        let active = Buffer::new();
        self.state.rcu(|state| state.froze(&active));
        active
    }

    /// Flushes the oldest frozen buffer, as `Flusher::flush_buffer`, if there is one.
    fn flush(&self) {
        let state = self.state.load();
        let Some(buffer) = state.frozen.first() else { return };
        let view = buffer.view();
        assert_eq!(buffer.extent.lsn_last(), view.last().copied(), "frozen: what it shows is all of it");
        let manifest = Plain::new(state.manifest.iter().copied().chain(view).collect());
        self.state.rcu(|state| state.flushed(&manifest, buffer));
    }

    /// As `Orgs::first_unflushed`.
    fn first_unflushed(&self) -> u64 {
        let first = || self.state.load().buffers().find_map(|buffer| buffer.extent.lsn_first());
        self.applied.first_unflushed(first)
    }

    /// The LSNs of a snapshot's rows, wherever they are.
    fn snapshot(&self) -> Vec<u64> {
        let state = self.state.load();
        let buffered = state.buffers().flat_map(|buffer| buffer.view());
        state.manifest.iter().copied().chain(buffered).collect()
    }
}

/// A record, a freeze, another record.
fn write(org: &Arc<Org>) -> loom::thread::JoinHandle<()> {
    let org = Arc::clone(org);
    loom::thread::spawn(move || {
        let active = Plain::clone(&org.state.load().active);
        org.apply(&active, 1);
        let active = org.freeze();
        org.apply(&active, 2);
    })
}

#[test]
fn a_snapshot_has_every_applied_record_once() {
    crate::model_of_three(|| {
        let org = Arc::new(Org::new());
        let writer = write(&org);
        let flush = {
            let org = Arc::clone(&org);
            loom::thread::spawn(move || org.flush())
        };
        let applied = org.applied.get();
        let seen = org.snapshot();
        assert!(seen.len() as u64 >= applied, "{applied} applied, {seen:?} seen");
        assert!([&[][..], &[1], &[1, 2]].contains(&&*seen), "{seen:?}");
        writer.join().expect("the writer ends");
        flush.join().expect("the flush ends");
        assert_eq!(org.snapshot(), [1, 2]);
    });
}

#[test]
fn a_freeze_and_a_flush_do_not_undo_each_other() {
    loom::model(|| {
        let org = Arc::new(Org::new());
        let first = Plain::clone(&org.state.load().active);
        org.apply(&first, 1);
        let second = org.freeze();
        let writer = {
            let org = Arc::clone(&org);
            loom::thread::spawn(move || {
                org.apply(&second, 2);
                org.freeze();
            })
        };
        org.flush();
        let seen = org.snapshot();
        assert!([&[1][..], &[1, 2]].contains(&&*seen), "{seen:?}");
        writer.join().expect("the writer ends");
        let state = org.state.load();
        assert_eq!((org.snapshot(), state.frozen.len()), (vec![1, 2], 1));
    });
}

#[test]
fn a_freeze_and_a_manifest_that_was_loaded_again_do_not_undo_each_other() {
    loom::model(|| {
        let org = Arc::new(Org::new());
        let writer = write(&org);
        // Somebody else's commit, of a record that is none of ours.
        let found = Plain::new(vec![7]);
        org.state.rcu(|state| state.reloaded(&found));
        writer.join().expect("the writer ends");
        assert_eq!(org.snapshot(), [7, 1, 2]);
    });
}

#[test]
fn the_log_keeps_what_is_not_in_segments() {
    crate::model_of_three(|| {
        let org = Arc::new(Org::new());
        let writer = write(&org);
        for _ in 0..2 {
            org.flush();
            let kept = org.first_unflushed();
            let manifest = Plain::clone(&org.state.load().manifest);
            assert!((1..kept).all(|lsn| manifest.contains(&lsn)), "kept from {kept}, in segments {manifest:?}");
        }
        writer.join().expect("the writer ends");
        org.flush();
        assert_eq!(org.first_unflushed(), 2);
    });
}
