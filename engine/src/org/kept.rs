//! Objects that must stay in the store although the newest manifest does not name them: what is being written, to be
//! named soon; what was replaced, and a reader of an older manifest may still open.
//!
//! Whoever reads segments holds the manifest that names them, so that an old manifest that is still in memory is a
//! reader. Readers outside of this process, such as commands, have the time that replaced objects stay.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use storage_format::manifest::Manifest;
use storage_format::{ObjectKey, SegmentId};

use crate::planted::{self, PlantedBug};

/// The objects of one organisation that must stay.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Manifests that were the newest once, as long as somebody holds them.
    older: Vec<Weak<Manifest>>,
    /// Replaced objects, and when they were, in monotonic time; with their names, if those are known.
    replaced: HashMap<SegmentId, (Duration, Option<ObjectKey>)>,
    writing: HashSet<SegmentId>,
}

/// An object that is being written and may be named by a commit, while this lives.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    kept: &'a Kept,
    id: SegmentId,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.kept.lock().writing.remove(&self.id);
    }
}

impl Inner {
    /// What older manifests name that somebody holds.
    fn read(&self) -> HashSet<SegmentId> {
        if planted::has(PlantedBug::CollectReplaced) {
            return HashSet::new();
        }
        let older: Vec<Arc<Manifest>> = self.older.iter().filter_map(Weak::upgrade).collect();
        older.iter().flat_map(|manifest| manifest.objects()).map(|entry| entry.id).collect()
    }
}

impl Kept {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This manifest is about to be the newest no more: what it names stays while somebody holds it.
    pub(super) fn superseded(&self, manifest: &Arc<Manifest>) {
        let mut inner = self.lock();
        inner.older.retain(|older| older.strong_count() > 0 && !std::ptr::eq(older.as_ptr(), Arc::as_ptr(manifest)));
        inner.older.push(Arc::downgrade(manifest));
    }

    /// These objects are replaced now.
    #[cfg(test)]
    fn replace(&self, ids: impl IntoIterator<Item = SegmentId>, now: Duration) {
        self.lock().replaced.extend(ids.into_iter().map(|id| (id, (now, None))));
    }

    /// These objects are replaced now, by a commit that was made: nobody names them again, and
    /// [`take_over`](Self::take_over) hands them out when they may go.
    pub(crate) fn replace_named(&self, objects: impl IntoIterator<Item = (SegmentId, ObjectKey)>, now: Duration) {
        self.lock().replaced.extend(objects.into_iter().map(|(id, name)| (id, (now, Some(name)))));
    }

    /// Takes the replaced objects whose names are known, that were replaced at least `delay` ago, and that nobody reads any
    /// more.
    pub(crate) fn take_over(&self, now: Duration, delay: Duration) -> Vec<(SegmentId, ObjectKey)> {
        let mut inner = self.lock();
        let over = |at: Duration| at.saturating_add(delay) <= now || planted::has(PlantedBug::CollectReplaced);
        if !inner.replaced.values().any(|(at, name)| name.is_some() && over(*at)) {
            return Vec::new();
        }
        let read = inner.read();
        let taken = inner.replaced.extract_if(|id, (at, name)| name.is_some() && over(*at) && !read.contains(id));
        let mut taken: Vec<_> = taken.filter_map(|(id, (_, name))| Some((id, name?))).collect();
        taken.sort_unstable_by_key(|(id, _)| *id);
        taken
    }

    /// An object is about to be written without the organisation's turn.
    pub(crate) fn write(&self, id: SegmentId) -> Writing<'_> {
        self.lock().writing.insert(id);
        Writing { kept: self, id }
    }

    /// Returns what must stay now. What was replaced at least `delay` ago stays only while somebody reads it, or until it is
    /// taken over.
    pub(crate) fn now(&self, now: Duration, delay: Duration) -> HashSet<SegmentId> {
        let mut inner = self.lock();
        // Those with names stay until they are taken over.
        inner.replaced.retain(|_, (at, name)| name.is_some() || at.saturating_add(delay) > now);
        if planted::has(PlantedBug::CollectReplaced) {
            return inner.writing.clone();
        }
        let mut kept = inner.read();
        kept.extend(inner.replaced.keys().chain(&inner.writing));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(60);

    fn id(id: u128) -> SegmentId {
        SegmentId::new(id).expect("not zero")
    }

    #[test]
    fn what_is_replaced_stays_for_the_delay_and_what_is_written_until_it_is() {
        let kept = Kept::default();
        let at = Duration::from_secs(100);
        kept.replace([id(1), id(2)], at);
        kept.replace([id(3)], at + DELAY);
        let writing = kept.write(id(4));
        assert_eq!(kept.now(at, DELAY), HashSet::from([id(1), id(2), id(3), id(4)]));
        drop(writing);
        assert_eq!(kept.now(at + DELAY, DELAY), HashSet::from([id(3)]));
        assert_eq!(kept.now(at + DELAY * 2, DELAY), HashSet::new());
    }

    #[test]
    fn what_has_a_name_is_taken_over_once() {
        let org = storage_format::OrgId::new(1).expect("not zero");
        let window = storage_format::Window::month_of(storage_format::Millis::EPOCH);
        let named = |number| (id(number), ObjectKey::Segment { org, window, id: id(number) });
        let kept = Kept::default();
        let at = Duration::from_secs(100);
        kept.replace_named([named(1)], at);
        kept.replace_named([named(2)], at + DELAY);
        kept.replace([id(3)], at);
        assert_eq!(kept.take_over(at + DELAY - Duration::from_secs(1), DELAY), []);
        assert_eq!(kept.now(at + DELAY, DELAY), HashSet::from([id(1), id(2)]), "nobody has taken them");
        assert_eq!(kept.take_over(at + DELAY, DELAY), [named(1)]);
        assert_eq!(kept.take_over(at + DELAY, DELAY), []);
        assert_eq!(kept.now(at + DELAY, DELAY), HashSet::from([id(2)]));
    }

    #[test]
    fn older_manifests_count_while_somebody_holds_them() {
        let kept = Kept::default();
        let manifests: Vec<_> = (0..3).map(|_| Arc::new(Manifest::empty())).collect();
        for manifest in manifests.iter().chain(&manifests) {
            kept.superseded(manifest);
        }
        assert_eq!(kept.lock().older.len(), 3);
        drop(manifests);
        kept.superseded(&Arc::new(Manifest::empty()));
        assert_eq!(kept.lock().older.len(), 1);
    }
}
