//! Who is served next of those in the queue: each organisation has a line, and the lines take turns, frame by frame. So
//! a flood of one organisation has another's frame wait for one group, not for all that is in the queue.

use std::collections::{HashMap, VecDeque};

use storage_format::OrgId;

/// Empty lines whose memory is kept for the next organisations.
const SPARE_MAX: usize = 64;
/// The longest of them, in frames.
const SPARE_FRAMES_MAX: usize = 256;

/// What waits, by organisation. Each is in `turns` once while its line is not empty.
#[derive(Debug)]
pub(super) struct Lines<T> {
    lines: HashMap<OrgId, VecDeque<T>>,
    turns: VecDeque<OrgId>,
    spare: Vec<VecDeque<T>>,
}

impl<T> Lines<T> {
    pub(super) fn new() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), spare: Vec::new() }
    }

    /// Goes to the end of its organisation's line.
    pub(super) fn push(&mut self, org: OrgId, waiting: T) {
        let line = self.lines.entry(org).or_insert_with(|| {
            self.turns.push_back(org);
            self.spare.pop().unwrap_or_default()
        });
        line.push_back(waiting);
    }

    /// The first of the line whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let org = self.turns.pop_front()?;
        let line = self.lines.get_mut(&org)?;
        let first = line.pop_front();
        if !line.is_empty() {
            self.turns.push_back(org);
        } else if let Some(line) = self.lines.remove(&org)
            && self.spare.len() < SPARE_MAX
            && line.capacity() <= SPARE_FRAMES_MAX
        {
            self.spare.push(line);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_take_turns_and_keep_their_order() {
        let org = |id| OrgId::new(id).expect("not zero");
        let mut lines = Lines::new();
        for number in 1..=4 {
            lines.push(org(1), (1, number));
        }
        lines.push(org(2), (2, 1));
        assert_eq!(lines.pop(), Some((1, 1)));
        lines.push(org(3), (3, 1));
        lines.push(org(2), (2, 2));
        let rest: Vec<_> = std::iter::from_fn(|| lines.pop()).collect();
        assert_eq!(rest, [(2, 1), (1, 2), (3, 1), (2, 2), (1, 3), (1, 4)]);
        assert!(lines.lines.is_empty() && lines.spare.len() <= SPARE_MAX);
        // A line that was empty begins anew.
        lines.push(org(2), (2, 3));
        assert_eq!((lines.pop(), lines.pop()), (Some((2, 3)), None));
    }

    #[test]
    fn a_long_line_keeps_no_memory() {
        let org = |id| OrgId::new(id).expect("not zero");
        let mut lines = Lines::new();
        for number in 0..=4 * SPARE_FRAMES_MAX {
            lines.push(org(1), number);
        }
        lines.push(org(2), 0);
        while lines.pop().is_some() {}
        let kept: Vec<_> = lines.spare.iter().map(VecDeque::capacity).collect();
        assert!(kept.len() == 1 && kept[0] <= SPARE_FRAMES_MAX, "{kept:?}");
    }
}
