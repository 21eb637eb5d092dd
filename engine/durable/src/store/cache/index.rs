//! Which blocks the cache holds, and which of them goes first: the one that was not used for longest.
//!
//! Invariant: `by_use` and `objects` name the same blocks, and `bytes` is the sum of what they cost.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use bytes::Bytes;

/// Size of a block: one request brings at least that much, and a file holds it.
#[cfg(not(test))]
pub(super) const BLOCK_BYTES: u64 = 1024 * 1024;
/// Small in tests, so that many fit into the faulty disk.
#[cfg(test)]
pub(super) const BLOCK_BYTES: u64 = 2048;
/// Bytes before a block in its file.
pub(super) const HEADER_BYTES: u64 = 16;
/// What a file takes from the disk is a multiple of this.
const SECTOR_BYTES: u64 = 4096;

/// An object: the store's address and the object's name, digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ObjectId(pub(super) u128);

/// A block of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct BlockId {
    pub(super) object: ObjectId,
    pub(super) size: u64,
    pub(super) block: u64,
}

/// Returns the range of a block within an object of `size` bytes. Both may be those of a file that is none of ours.
pub(super) fn block_range(size: u64, block: u64) -> Range<u64> {
    let start = block.saturating_mul(BLOCK_BYTES).min(size);
    start..start.saturating_add(BLOCK_BYTES).min(size)
}

/// Returns these bytes of what is in memory already, so that the numbers are those of a slice.
pub(super) fn part(bytes: &Bytes, from: u64, to: u64) -> Bytes {
    let at = |offset: u64| usize::try_from(offset).expect("within the bytes, whose length is a usize");
    bytes.slice(at(from)..at(to))
}

impl BlockId {
    /// Bytes of the block.
    pub(super) fn length(&self) -> usize {
        let range = block_range(self.size, self.block);
        usize::try_from(range.end - range.start).expect("a block is small")
    }

    /// Bytes of the disk.
    pub(super) fn cost(&self) -> u64 {
        let range = block_range(self.size, self.block);
        (range.end - range.start + HEADER_BYTES).next_multiple_of(SECTOR_BYTES)
    }
}

#[derive(Debug)]
struct Object {
    size: u64,
    /// When each block was last used.
    blocks: BTreeMap<u64, u64>,
}

/// The blocks of a cache.
#[derive(Debug)]
pub(super) struct Index {
    objects: HashMap<ObjectId, Object>,
    by_use: BTreeMap<u64, BlockId>,
    bytes: u64,
    bytes_max: u64,
    now: u64,
}

impl Index {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { objects: HashMap::new(), by_use: BTreeMap::new(), bytes: 0, bytes_max, now: 0 }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The size of an object of which a block is there.
    pub(super) fn size(&self, object: ObjectId) -> Option<u64> {
        self.objects.get(&object).map(|object| object.size)
    }

    /// Uses a block; returns whether it is there.
    pub(super) fn touch(&mut self, block: BlockId) -> bool {
        let Some(object) = self.objects.get_mut(&block.object).filter(|object| object.size == block.size) else {
            return false;
        };
        let Some(used) = object.blocks.get_mut(&block.block) else { return false };
        self.now += 1;
        self.by_use.remove(used);
        *used = self.now;
        self.by_use.insert(self.now, block);
        true
    }

    /// Adds a block, or uses it if it is there; returns those that have to go.
    pub(super) fn insert(&mut self, block: BlockId) -> Vec<BlockId> {
        let mut gone = Vec::new();
        if block.cost() > self.bytes_max {
            gone.push(block);
            return gone;
        }
        if self.touch(block) {
            return gone;
        }
        // Objects never change: if one seems to have, what was known of it is not believed any more.
        if self.size(block.object).is_some_and(|size| size != block.size) {
            gone = self.forget(block.object);
        }
        self.now += 1;
        let object =
            self.objects.entry(block.object).or_insert_with(|| Object { size: block.size, blocks: BTreeMap::new() });
        object.blocks.insert(block.block, self.now);
        self.by_use.insert(self.now, block);
        self.bytes += block.cost();
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, block)| *block) else { break };
            self.remove(oldest);
            gone.push(oldest);
        }
        gone
    }

    /// Removes a block.
    pub(super) fn remove(&mut self, block: BlockId) {
        let Some(object) = self.objects.get_mut(&block.object).filter(|object| object.size == block.size) else {
            return;
        };
        let Some(used) = object.blocks.remove(&block.block) else { return };
        if object.blocks.is_empty() {
            self.objects.remove(&block.object);
        }
        self.by_use.remove(&used);
        self.bytes -= block.cost();
    }

    /// Removes all blocks of an object; returns them.
    pub(super) fn forget(&mut self, object: ObjectId) -> Vec<BlockId> {
        let Some(Object { size, blocks }) = self.objects.remove(&object) else { return Vec::new() };
        let gone = blocks.into_iter().map(|(block, used)| {
            self.by_use.remove(&used);
            BlockId { object, size, block }
        });
        let gone: Vec<_> = gone.collect();
        self.bytes -= gone.iter().map(BlockId::cost).sum::<u64>();
        gone
    }
}
