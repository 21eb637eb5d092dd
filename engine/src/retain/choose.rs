//! What goes: a pure function of a manifest and a cutoff.

use std::collections::{BTreeMap, HashSet};

use storage_format::manifest::{Manifest, SegmentKind};
use storage_format::{Millis, Window};

use super::DroppedWindow;
use crate::planted::{self, PlantedBug};

/// Every window that ended by `cutoff`, by time, with all its live objects, but for those left out. Whole windows, as
/// long as they have `objects_max` objects together; one at least.
pub(super) fn choose(
    manifest: &Manifest,
    cutoff: Millis,
    objects_max: usize,
    left_out: &HashSet<Window>,
) -> Vec<DroppedWindow> {
    let early = planted::has(PlantedBug::DropEarly);
    let is_old = |window: Window| {
        let range = window.range();
        let end = if early { range.start() } else { range.end() };
        end <= cutoff && !left_out.contains(&window)
    };
    let mut windows: BTreeMap<Window, DroppedWindow> = BTreeMap::new();
    // Segments come first among a manifest's objects.
    for entry in manifest.objects().filter(|entry| is_old(entry.window)) {
        let window = windows.entry(entry.window).or_insert_with(|| DroppedWindow {
            window: entry.window,
            flush_last: entry.flush_last,
            readings: 0,
            objects: Vec::new(),
        });
        if entry.kind == SegmentKind::Readings {
            window.readings += entry.rows;
            window.flush_last = window.flush_last.max(entry.flush_last);
        }
        window.objects.push(entry.clone());
    }
    let mut objects = 0;
    let fits = |window: &DroppedWindow| {
        let first = objects == 0;
        objects += window.objects.len();
        first || objects <= objects_max
    };
    windows.into_values().take_while(fits).collect()
}
