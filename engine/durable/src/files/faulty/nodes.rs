//! Files and directories as the model has them: as processes see them, as the disk has them, and the changes between.
//! Invariant: what is seen is the disk with the changes between applied, unless a failed sync threw some away
//! (`strayed`).

use std::collections::BTreeMap;

/// What the disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub(super) seen: Vec<u8>,
    pub(super) disk: Vec<u8>,
    pub(super) between: Vec<Change>,
    /// A sync failed: the disk no longer comes to what is seen.
    pub(super) strayed: bool,
    /// Names that processes see.
    pub(super) links: u32,
    /// All that keeps the bytes: names seen, on the disk and between, and open handles.
    pub(super) holds: u32,
    /// Open handles.
    pub(super) handles: u32,
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

/// What a power cut did to sectors.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) lost: u64,
    pub(super) kept: u64,
}

impl Change {
    pub(super) fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => to.resize(*len, 0),
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*offset..end].copy_from_slice(bytes);
            }
        }
    }

    /// Applies what `keep` says yes to: the new length, and each sector. A length that is kept without its sectors
    /// leaves zeros.
    pub(super) fn apply_some(&self, to: &mut Vec<u8>, mut keep: impl FnMut() -> bool, fate: &mut Fate) {
        match self {
            Self::SetLen(len) => {
                if keep() {
                    to.resize(*len, 0);
                }
            }
            Self::Write { offset, bytes } => {
                if to.len() < offset + bytes.len() && keep() {
                    to.resize(offset + bytes.len(), 0);
                }
                for (at, sector) in sectors(*offset, bytes) {
                    if keep() {
                        fate.kept += 1;
                        if to.len() < at + sector.len() {
                            to.resize(at + sector.len(), 0);
                        }
                        to[at..at + sector.len()].copy_from_slice(sector);
                    } else {
                        fate.lost += 1;
                    }
                }
            }
        }
    }

    /// How long the file is at least, after this.
    pub(super) fn end(&self) -> usize {
        match self {
            Self::SetLen(len) => *len,
            Self::Write { offset, bytes } => offset + bytes.len(),
        }
    }

    /// How many sectors it touches.
    pub(super) fn sector_count(&self) -> usize {
        match self {
            Self::SetLen(_) => 0,
            Self::Write { offset, bytes } => sectors(*offset, bytes).count(),
        }
    }

    /// Only its first so many sectors; nothing of a change of length.
    pub(super) fn first_sectors(self, count: usize) -> Option<Self> {
        match self {
            Self::Write { offset, mut bytes } if count > 0 => {
                bytes.truncate((offset / SECTOR + count) * SECTOR - offset);
                Some(Self::Write { offset, bytes })
            }
            _ => None,
        }
    }
}

/// The pieces of a write that lie in one sector each, with their offsets in the file.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let head = (SECTOR - offset % SECTOR).min(bytes.len());
    let (first, rest) = bytes.split_at(head);
    let rest = rest.chunks(SECTOR).enumerate().map(move |(i, sector)| (offset + head + i * SECTOR, sector));
    (!first.is_empty()).then_some((offset, first)).into_iter().chain(rest)
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(usize),
    Dir(usize),
}

pub(super) type Names = BTreeMap<String, Node>;

#[derive(Debug, Clone, Default)]
pub(super) struct DirNode {
    pub(super) seen: Names,
    pub(super) disk: Names,
    pub(super) between: Vec<NameChange>,
    /// A sync failed: the disk no longer comes to what is seen.
    pub(super) strayed: bool,
}

/// A change of names, which happens whole or not at all.
#[derive(Debug, Clone, Default)]
pub(super) struct NameChange {
    pub(super) remove: Option<String>,
    pub(super) add: Option<(String, Node)>,
}

impl NameChange {
    pub(super) fn add(name: &str, node: Node) -> Self {
        Self { remove: None, add: Some((name.to_owned(), node)) }
    }

    pub(super) fn remove(name: &str) -> Self {
        Self { remove: Some(name.to_owned()), add: None }
    }

    /// Applies it, and returns what lost a name by it.
    pub(super) fn apply(&self, names: &mut Names) -> [Option<Node>; 2] {
        let removed = self.remove.as_ref().and_then(|name| names.remove(name));
        let replaced = self.add.as_ref().and_then(|(name, node)| names.insert(name.clone(), *node));
        [removed, replaced]
    }
}
