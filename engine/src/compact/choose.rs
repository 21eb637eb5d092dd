//! Which segments to merge next: a pure function over what a manifest says of them.
//!
//! Only neighbours in the order of precedence are merged, so that the result has one place in that order and needs no
//! precedence row by row. Segments of one flush are one place: all of them are merged, or none. A segment that fills
//! channels of older readings is left as it is, and what is before it is not merged with what is after it.
//!
//! While its window lasts, a merge takes at least [`INPUTS_MIN`] segments of which none is larger than all others
//! together: whatever is rewritten without being the largest ends up in something at least twice as large, so that
//! bytes are rewritten a logarithmic number of times. Once the window is over, what is left is merged until there are
//! [`OVER_MAX`], by merges of that kind as long as there is one, and then by the cheapest.

use std::cmp::Reverse;

use storage_format::manifest::SegmentEntry;
use storage_format::{FlushNumber, Millis};

/// Fewest segments that are merged while their window lasts: fewer are not worth a commit.
const INPUTS_MIN: usize = 4;
/// Segments that a window is left with once it is over.
const OVER_MAX: usize = 3;
/// A smaller segment counts as one of this size: opening and naming an object costs something, whatever is in it.
const BYTES_LEAST: u64 = 64 << 10;

/// Limits of one merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MergeLimits {
    /// Most segments in, at least two: each takes a row group of memory.
    pub(crate) inputs_max: usize,
    /// Most bytes of all of them together: the result is about as large, and is encoded in memory.
    pub(crate) bytes_max: u64,
    /// Most rows of all of them together: a Parquet file has a limited number of row groups.
    pub(crate) rows_max: u64,
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

/// Returns the segments to merge next into one, in order of precedence; `None` if nothing is worth it. `segments` are a
/// manifest's readings segments, by (window, first flush, id).
pub(crate) fn next_merge(segments: &[SegmentEntry], now: Millis, limits: MergeLimits) -> Option<&[SegmentEntry]> {
    segments.chunk_by(|a, b| a.window == b.window).find_map(|of_window| {
        let is_over = of_window[0].window.range().end() <= now;
        mergeable(of_window).into_iter().find_map(|stretch| {
            let places = places(stretch);
            let candidates = candidates(stretch, &places, limits);
            if is_over { cheapest(stretch.len(), candidates) } else { even(candidates) }
        })
    })
}

/// The longest parts of a window's segments without any that fills channels of older readings.
fn mergeable(of_window: &[SegmentEntry]) -> Vec<&[SegmentEntry]> {
    let (mut stretches, mut start, mut end) = (Vec::new(), 0, 0);
    for place in places(of_window) {
        let next = end + place.segments.len();
        if place.segments.iter().any(|entry| entry.shares_keys) {
            stretches.push(&of_window[start..end]);
            start = next;
        }
        end = next;
    }
    stretches.push(&of_window[start..end]);
    stretches
}

/// The segments, place by place: those with flushes in common have one.
fn places(segments: &[SegmentEntry]) -> Vec<Place<'_>> {
    let (mut places, mut start, mut last) = (Vec::new(), 0, FlushNumber::ZERO);
    for (index, entry) in segments.iter().enumerate() {
        if entry.flush_first > last && index > start {
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

/// While the window lasts: of the merges in which nothing is larger than all else, one of the smallest segments, and as
/// many of them as possible.
fn even(candidates: Vec<Candidate<'_>>) -> Option<&[SegmentEntry]> {
    let worth = candidates.into_iter().filter(|c| c.segments.len() >= INPUTS_MIN && c.is_even());
    let best = worth.min_by_key(|candidate| (candidate.cost_max, Reverse(candidate.segments.len())));
    best.map(|candidate| candidate.segments)
}

/// After the window's end: the merges that leave the fewest beyond [`OVER_MAX`], of those the even ones, if there are
/// any, and of those the cheapest.
fn cheapest(count: usize, candidates: Vec<Candidate<'_>>) -> Option<&[SegmentEntry]> {
    if count <= OVER_MAX {
        return None;
    }
    let left = |candidate: &Candidate<'_>| (count - candidate.segments.len() + 1).max(OVER_MAX);
    let best = candidates.into_iter().min_by_key(|candidate| (left(candidate), !candidate.is_even(), candidate.cost));
    best.map(|candidate| candidate.segments)
}

#[cfg(test)]
mod tests;
