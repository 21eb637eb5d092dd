//! Which segments and which buffered rows can have keys in common, and must therefore be merged.
//!
//! A segment that shares keys with none is plain: its rows are the readings. Segments that do, and segments that a
//! buffered row may repeat a key of, form a merge with exactly those buffered rows. Buffered rows that no segment can
//! hold are merged among themselves.
//!
//! Invariant: two rows of the same key, wherever they are, end up in the same part.

use engine::{BufferView, SortedBatches};
use storage_format::ChannelCode;
use storage_format::manifest::{Manifest, SegmentEntry};

use crate::key_range::KeyRange;
use crate::prune::KeyBounds;

/// Segments that are merged with each other and with buffered rows.
#[derive(Debug)]
pub(crate) struct MergePart {
    /// In order of precedence; none for buffered rows that no segment can hold.
    pub(crate) entries: Vec<SegmentEntry>,
    /// The buffered rows, one run per write buffer, oldest first.
    pub(crate) buffers: Vec<SortedBatches>,
}

/// What is read how.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) plain: Vec<SegmentEntry>,
    pub(crate) merges: Vec<MergePart>,
}

impl Layout {
    /// The layout of everything that can have a key within `bounds`. Buffered rows are sorted here, with `channels`.
    pub(crate) fn new(
        manifest: &Manifest,
        buffers: &[BufferView],
        bounds: &KeyBounds,
        channels: &[ChannelCode],
    ) -> Self {
        if bounds.is_empty() {
            return Self::default();
        }
        let entries: Vec<&SegmentEntry> = manifest.segments().iter().filter(|entry| bounds.may_hold(entry)).collect();
        let mut groups = Groups::new(entries.len());
        join_sharing(&entries, &mut groups);
        let mut touched = vec![false; entries.len()];
        for view in buffers {
            join_buffered(&entries, view, bounds, &mut groups, &mut touched);
        }
        Self::build(&entries, groups, &touched, buffers, bounds, channels)
    }

    fn build(
        entries: &[&SegmentEntry],
        mut groups: Groups,
        touched: &[bool],
        buffers: &[BufferView],
        bounds: &KeyBounds,
        channels: &[ChannelCode],
    ) -> Self {
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); entries.len()];
        let mut with_rows = vec![false; entries.len()];
        for (index, &touched) in touched.iter().enumerate() {
            let root = groups.root(index);
            members[root].push(index);
            with_rows[root] |= touched;
        }

        let mut plain = Vec::new();
        let mut merges: Vec<MergePart> = Vec::new();
        let mut part_of: Vec<Option<usize>> = vec![None; entries.len()];
        for (root, members) in members.iter().enumerate() {
            match members.as_slice() {
                [] => {}
                [single] if !with_rows[root] => plain.push(entries[*single].clone()),
                several => {
                    for &member in several {
                        part_of[member] = Some(merges.len());
                    }
                    // Entries come in order of precedence from the manifest, and stay so.
                    let entries = several.iter().map(|&member| entries[member].clone()).collect();
                    merges.push(MergePart { entries, buffers: Vec::new() });
                }
            }
        }

        let rest = merges.len();
        merges.push(MergePart { entries: Vec::new(), buffers: Vec::new() });
        for view in buffers {
            let near = near(entries, view);
            let parts = view.parts(rest + 1, channels, |logger, time| {
                if !bounds.contains(logger, time) {
                    return None;
                }
                let holder = near.iter().find(|&&index| KeyRange::of(entries[index]).contains(logger, time));
                Some(holder.and_then(|&index| part_of[index]).unwrap_or(rest))
            });
            for (merge, rows) in merges.iter_mut().zip(parts) {
                if rows.rows() > 0 {
                    merge.buffers.push(rows);
                }
            }
        }
        merges.retain(|merge| !merge.entries.is_empty() || !merge.buffers.is_empty());
        Self { plain, merges }
    }

    /// How many sorted inputs it has.
    pub(crate) fn parts(&self) -> usize {
        self.plain.len() + self.merges.len()
    }

    /// How many sorted runs are open when all parts are read at once.
    pub(crate) fn runs(&self) -> usize {
        self.plain.len() + self.merges.iter().map(|part| part.entries.len() + part.buffers.len()).sum::<usize>()
    }

    /// What the order of its write buffers' rows takes of memory.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.merges.iter().flat_map(|part| &part.buffers).map(SortedBatches::memory_bytes).sum()
    }
}

/// Joins each segment that fills channels of older readings with every older one that may have them.
fn join_sharing(entries: &[&SegmentEntry], groups: &mut Groups) {
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.shares_keys) {
        for (older, earlier) in entries[..index].iter().enumerate() {
            if earlier.window == entry.window && earlier.may_share_keys_with(entry) {
                groups.join(older, index);
            }
        }
    }
}

/// Joins the segments that can each hold one and the same buffered row: which of them does is not known.
fn join_buffered(
    entries: &[&SegmentEntry],
    view: &BufferView,
    bounds: &KeyBounds,
    groups: &mut Groups,
    touched: &mut [bool],
) {
    let near = near(entries, view);
    if near.is_empty() {
        return;
    }
    view.each_key(|logger, time| {
        if !bounds.contains(logger, time) {
            return;
        }
        let may_hold = |index: &usize| KeyRange::of(entries[*index]).contains(logger, time);
        let mut holders = near.iter().copied().filter(may_hold);
        if let Some(first) = holders.next() {
            touched[first] = true;
            for other in holders {
                groups.join(first, other);
            }
        }
    });
}

/// The segments that any row of this view could be in.
fn near(entries: &[&SegmentEntry], view: &BufferView) -> Vec<usize> {
    let Some(buffered) = KeyRange::of_buffer(view) else { return Vec::new() };
    (0..entries.len()).filter(|&index| KeyRange::of(entries[index]).and(buffered).is_some()).collect()
}

/// Disjoint sets (union by smaller index, paths halved).
#[derive(Debug)]
struct Groups {
    parents: Vec<usize>,
}

impl Groups {
    fn new(count: usize) -> Self {
        Self { parents: (0..count).collect() }
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.parents[index] != index {
            self.parents[index] = self.parents[self.parents[index]];
            index = self.parents[index];
        }
        index
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.parents[one.max(other)] = one.min(other);
    }
}
