//! Which segments of a window to merge next: a pure function over what a manifest says of them.
//!
//! Only neighbours in the order of precedence are merged, so that the result has one place in that order and needs no
//! precedence row by row. Segments of one flush are one place: all of them are merged, or none. Conflicts and fills
//! objects have no precedence, and are chosen in the same way, each by itself.
//!
//! As long as flushes write to a window ([`Aim::Even`]), a merge takes segments of which none is larger than all others
//! together: whatever is rewritten without being the largest ends up in something at least twice as large, so that
//! bytes are rewritten a logarithmic number of times, in whatever order they come. How few segments that leaves is
//! logarithmic, too.
//!
//! Once nothing has come to a window that is over for a while, or when somebody asks for it ([`Aim::Few`]), what is left
//! is merged until there are [`OVER_MAX`], by even merges as long as there are any, and then by the cheapest; and until
//! no segment fills channels of readings in another one.

use std::cmp::Reverse;

use storage_format::FlushNumber;
use storage_format::manifest::{SegmentEntry, SegmentKind};

/// Fewest segments of an even merge: fewer are not worth a commit.
const INPUTS_MIN: usize = 4;
/// Size of all inputs together under which a merge waits for more of them: what it costs then is requests, not bytes.
const SMALL_BYTES: u64 = 1 << 20;
/// Segments that a window is left with once it is over.
pub(super) const OVER_MAX: usize = 3;
/// A smaller segment counts as one of this size: opening and naming an object costs something, whatever is in it.
const BYTES_LEAST: u64 = 64 << 10;

/// What a window's merges are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Few segments for little rewriting, while more may come.
    Even,
    /// At most three segments, whatever that takes.
    Few,
}

/// Limits of one merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MergeLimits {
    /// Most segments in, at least two: each takes a row group of memory.
    pub(crate) inputs_max: usize,
    /// Most bytes of all of them together: the result is about as large, and is encoded in memory.
    pub(crate) bytes_max: u64,
    /// Most rows of all of them together: a Parquet file has a limited number of row groups.
    pub(crate) rows_max: u64,
    /// Fewest segments of an even merge of small ones.
    pub(crate) small_inputs_min: usize,
}

/// Segments with one place in the order of precedence.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    segments: &'a [SegmentEntry],
    bytes: u64,
    rows: u64,
    cost: u64,
    cost_max: u64,
}

impl<'a> Place<'a> {
    fn new(segments: &'a [SegmentEntry]) -> Self {
        let cost = |entry: &SegmentEntry| entry.bytes.max(BYTES_LEAST);
        let sum = |sum: u64, more| sum.saturating_add(more);
        Self {
            segments,
            bytes: segments.iter().map(|entry| entry.bytes).fold(0, sum),
            rows: segments.iter().map(|entry| entry.rows).fold(0, sum),
            cost: segments.iter().map(cost).fold(0, sum),
            cost_max: segments.iter().map(cost).max().unwrap_or(0),
        }
    }
}

/// Neighbouring places that could be merged, as far as the limits go.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    segments: &'a [SegmentEntry],
    cost: u64,
    cost_max: u64,
}

/// Returns the objects of a window to merge next into one, in order of precedence; `None` if nothing is worth it.
/// `of_window` are all live ones of one kind and window, by (first flush, id).
pub(crate) fn next_merge(of_window: &[SegmentEntry], aim: Aim, limits: MergeLimits) -> Option<&[SegmentEntry]> {
    let places = places(of_window);
    let candidates = || candidates(of_window, &places, limits);
    match aim {
        Aim::Even if of_window.len() < INPUTS_MIN.min(limits.small_inputs_min) => None,
        Aim::Even => even(candidates(), limits),
        Aim::Few if of_window.len() > OVER_MAX => cheapest(of_window.len(), candidates()),
        Aim::Few => reunite(of_window, &places, limits),
    }
}

/// The objects, place by place: segments with flushes in common have one. Others have no precedence, so that each has one
/// of its own: every merge of segments may add a fills object with the flushes of all that it has merged, and all of them
/// together would soon be more than one merge can take.
fn places(segments: &[SegmentEntry]) -> Vec<Place<'_>> {
    let (mut places, mut start, mut last) = (Vec::new(), 0, FlushNumber::ZERO);
    for (index, entry) in segments.iter().enumerate() {
        if index > start && (entry.kind != SegmentKind::Readings || entry.flush_first > last) {
            places.push(Place::new(&segments[start..index]));
            start = index;
        }
        last = last.max(entry.flush_last);
    }
    if start < segments.len() {
        places.push(Place::new(&segments[start..]));
    }
    places
}

/// All that the limits allow: two segments or more, whole places, one after the other.
fn candidates<'a>(stretch: &'a [SegmentEntry], places: &[Place<'a>], limits: MergeLimits) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    let mut start = 0;
    for (index, first) in places.iter().enumerate() {
        let (mut count, mut bytes, mut rows, mut cost, mut cost_max) = (0_usize, 0_u64, 0_u64, 0_u64, 0);
        for place in &places[index..] {
            count += place.segments.len();
            bytes = bytes.saturating_add(place.bytes);
            rows = rows.saturating_add(place.rows);
            if count > limits.inputs_max || bytes > limits.bytes_max || rows > limits.rows_max {
                break;
            }
            cost = cost.saturating_add(place.cost);
            cost_max = place.cost_max.max(cost_max);
            if count >= 2 {
                candidates.push(Candidate { segments: &stretch[start..start + count], cost, cost_max });
            }
        }
        start += first.segments.len();
    }
    candidates
}

impl Candidate<'_> {
    /// Returns whether no segment is larger than all others together.
    fn is_even(&self) -> bool {
        self.cost_max <= self.cost - self.cost_max
    }
}

/// Of the merges in which nothing is larger than all else, one of the smallest segments, and as many of them as possible.
fn even(candidates: Vec<Candidate<'_>>, limits: MergeLimits) -> Option<&[SegmentEntry]> {
    let is_worth = |candidate: &Candidate<'_>| {
        let count = candidate.segments.len();
        count >= limits.small_inputs_min || (count >= INPUTS_MIN && candidate.cost >= SMALL_BYTES)
    };
    let worth = candidates.into_iter().filter(|candidate| is_worth(candidate) && candidate.is_even());
    let best = worth.min_by_key(|candidate| (candidate.cost_max, Reverse(candidate.segments.len())));
    best.map(|candidate| candidate.segments)
}

/// The merges that leave the fewest beyond [`OVER_MAX`], of those the even ones, if there are any, and of those the
/// cheapest.
fn cheapest(count: usize, candidates: Vec<Candidate<'_>>) -> Option<&[SegmentEntry]> {
    let left = |candidate: &Candidate<'_>| (count - candidate.segments.len() + 1).max(OVER_MAX);
    let best = candidates.into_iter().min_by_key(|candidate| (left(candidate), !candidate.is_even(), candidate.cost));
    best.map(|candidate| candidate.segments)
}

/// A segment that fills channels of older readings, with all segments that may have those, and all between them.
fn reunite<'a>(of_window: &'a [SegmentEntry], places: &[Place<'_>], limits: MergeLimits) -> Option<&'a [SegmentEntry]> {
    let mut ends = Vec::with_capacity(places.len());
    for place in places {
        ends.push(ends.last().copied().unwrap_or(0) + place.segments.len());
    }
    let fillers = of_window.iter().enumerate().filter(|(_, entry)| entry.shares_keys);
    let mut ranges = fillers.filter_map(|(index, filler)| {
        let first = of_window[..index].iter().position(|older| older.may_share_keys_with(filler))?;
        let (from, to) = (ends.partition_point(|end| *end <= first), ends.partition_point(|end| *end <= index));
        let start = from.checked_sub(1).map_or(0, |before| ends[before]);
        Some((from..=to, &of_window[start..ends[to]]))
    });
    let fits = |range: std::ops::RangeInclusive<usize>, segments: &[SegmentEntry]| {
        let sum = |of: fn(&Place<'_>) -> u64| places[range.clone()].iter().map(of).fold(0, u64::saturating_add);
        (2..=limits.inputs_max).contains(&segments.len())
            && sum(|place| place.bytes) <= limits.bytes_max
            && sum(|place| place.rows) <= limits.rows_max
    };
    ranges.find(|(range, segments)| fits(range.clone(), segments)).map(|(_, segments)| segments)
}

#[cfg(test)]
mod tests;
