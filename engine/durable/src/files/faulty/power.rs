//! The end of a process and of the power: what the next process finds.

use super::Loss;
use super::draw::Draw;
use super::nodes::{DirNode, Fate, FileNode, Node};
use super::state::{ROOT, State};

impl State {
    /// The process is gone, with its handles and locks.
    pub(super) fn end_process(&mut self) {
        self.process += 1;
        self.locks.clear();
        for file in 0..self.files.len() {
            let handles = std::mem::take(&mut self.files[file].handles);
            if handles > 0 {
                self.files[file].holds -= handles;
                self.drop_if_free(file);
            }
        }
    }

    /// A file system that could not write its names has stopped, and comes back as after a power cut.
    pub(super) fn at_least(&mut self, loss: Loss) -> Loss {
        let stopped = self.dirty_dirs.iter().any(|&dir| self.dirs[dir].strayed);
        if stopped && loss == Loss::Process { Loss::Some(self.draw.next()) } else { loss }
    }

    /// The power is cut: the disk gets of what is between as much as the loss leaves, and is all there is.
    pub(super) fn cut_power(&mut self, loss: Loss) {
        let mut draw = match loss {
            Loss::Process => return,
            Loss::Unsynced => None,
            Loss::Some(seed) => Some(Draw::new(seed)),
        };
        let mut keep = || draw.as_mut().is_some_and(Draw::coin);
        let mut fate = Fate::default();
        for file in std::mem::take(&mut self.dirty_files) {
            let node = &mut self.files[file];
            for change in std::mem::take(&mut node.between) {
                change.apply_some(&mut node.disk, &mut keep, &mut fate);
            }
            node.seen.clone_from(&node.disk);
            node.strayed = false;
        }
        self.counts.sectors_lost += fate.lost;
        self.counts.sectors_kept += fate.kept;
        for dir in std::mem::take(&mut self.dirty_dirs) {
            let node = &mut self.dirs[dir];
            for change in std::mem::take(&mut node.between) {
                if keep() {
                    self.counts.names_kept += 1;
                    change.apply(&mut node.disk);
                } else {
                    self.counts.names_lost += 1;
                }
            }
            node.seen.clone_from(&node.disk);
            node.strayed = false;
        }
        self.count_again();
    }

    /// After a power cut names on the disk are all that holds anything. What no path leads to any more is gone.
    fn count_again(&mut self) {
        let mut links = vec![0; self.files.len()];
        let mut reached = vec![false; self.dirs.len()];
        let mut left = vec![ROOT];
        while let Some(dir) = left.pop() {
            reached[dir] = true;
            for node in self.dirs[dir].disk.values() {
                match *node {
                    Node::File(file) => links[file] += 1,
                    Node::Dir(dir) => left.push(dir),
                }
            }
        }
        for (dir, _) in self.dirs.iter_mut().zip(reached).filter(|(_, reached)| !reached) {
            *dir = DirNode::default();
        }
        self.used = 0;
        for (file, links) in self.files.iter_mut().zip(links) {
            if links == 0 {
                *file = FileNode::default();
            } else {
                (file.links, file.holds, file.handles) = (links, links * 2, 0);
                self.used += file.seen.len() as u64;
            }
        }
    }
}
