//! The doctor: compares manifests and store, organisation by organisation, and reports what is wrong.
//!
//! Works without an open engine, so that a directory that no server starts on can be examined, and beside a running one:
//! it only reads. What it finds wrong it looks at again with the newest manifest before it says so, because segments are
//! merged, dropped and collected meanwhile.
//!
//! A fault is what costs readings, or will: an object that a manifest names and that is missing, has another size or is
//! damaged; a hole in the log of manifest versions; a key that does not open; an object that no manifest names and that
//! is older than a day. No fault is what compaction or retention has replaced and an older manifest names, and what was
//! written within a day: the garbage collection removes it.
//!
//! Memory: one manifest, the ids that it names, and at most [`FINDINGS_MAX`] findings of an organisation; a deep look
//! adds a batch and a row group.

mod deep;
mod log;
mod log_files;
mod objects;
mod rollups;

use std::fmt;
use std::sync::Arc;

use durable::{Clock, Files};
use object_store::ObjectStore;
use storage_format::OrgId;
use storage_format::manifest::{Manifest, SegmentEntry};

use crate::engine::EngineParts;
use crate::keys::KeyProvider;
use crate::manifest::{ManifestError, ManifestStore, OrgKeys};
use crate::segments::{SegmentReadError, Segments};

pub use log_files::LogState;

/// Findings that are told of one organisation; more are only counted.
const FINDINGS_MAX: usize = 1_000;

/// Looks at something that a running server may have changed meanwhile, before it is called a fault.
const LOOKS: u32 = 3;

/// What kind of fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// An object that must be there is not.
    Missing,
    /// An object has another size than its manifest says.
    Size,
    /// The bytes of an object are not those that were written.
    Damaged,
    /// An object is whole, and disagrees with what belongs to it.
    Disagrees,
    /// An old object that no manifest names.
    Unnamed,
    /// A file of the write-ahead log is damaged as no crash leaves it.
    DamagedLog,
    /// A record that could not be applied waits for a person.
    SetAside,
    /// Records that wait until their organisation is mended.
    Carried,
    /// An organisation that whoever keeps the list of them does not know.
    Unknown,
    /// Something could not be read, so that nobody knows.
    Unreadable,
}

impl FaultKind {
    /// A word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Size => "wrong size",
            Self::Damaged => "damaged",
            Self::Disagrees => "disagrees",
            Self::Unnamed => "unnamed",
            Self::DamagedLog => "damaged log",
            Self::SetAside => "set aside",
            Self::Carried => "carried on",
            Self::Unknown => "unknown",
            Self::Unreadable => "unreadable",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Missing | Self::Size | Self::Damaged => {
                "restore this object from a backup, byte for byte, under the same name; a running server takes it up by \
                 itself"
            }
            Self::Disagrees => "this is a defect of icecore, or a forged object: keep it, and report it",
            Self::Unnamed => {
                "nothing reads it. A server removes what a crash left behind some minutes after its start; if it stays, \
                 or was put here by hand, move it away"
            }
            Self::DamagedLog => {
                "do not remove it: restore it from a copy, or look with `icecore wal inspect` what stands before the \
                 damage"
            }
            Self::SetAside => {
                "the readings in it are kept, and no query sees them: look with `icecore wal inspect`, and report it"
            }
            Self::Carried => {
                "nothing of it is lost: restore what else is wrong with its organisation, and a running server writes it \
                 to segments within a minute"
            }
            Self::Unknown => {
                "was the control database put back to an older state? Restore the newest copy of control.db"
            }
            Self::Unreadable => "look at the rights and the reach of the store, then ask again",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of fault.
    pub kind: FaultKind,
    /// The object's or file's name.
    pub name: String,
    /// What is wrong with it.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.name, self.kind.as_str(), self.detail)
    }
}

/// What an examination of one organisation came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examined {
    /// Versions of its manifest in the store.
    pub versions: u64,
    /// Objects that the newest manifest names.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Rows that were read, in a deep look.
    pub rows: u64,
    /// Objects that no manifest names any more or yet, and that are no fault.
    pub passing: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings past those.
    pub more: u64,
}

impl Examined {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

/// Progress of an examination: objects done, of how many.
pub type DoctorProgress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Examines organisations of one store.
#[derive(Debug)]
pub struct Doctor {
    store: Arc<dyn ObjectStore>,
    files: Arc<dyn Files>,
    keys: Arc<dyn KeyProvider>,
    manifests: ManifestStore,
    segments: Segments,
    clock: Arc<dyn Clock>,
    deep: bool,
}

impl Doctor {
    /// A doctor for this store. A deep look reads every page of every object, another one names and sizes only.
    #[must_use]
    pub fn new(parts: &EngineParts, deep: bool) -> Self {
        let EngineParts { files, store, keys, clock, random } = parts.clone();
        let org_keys = Arc::new(OrgKeys::new(Arc::clone(&store), Arc::clone(&keys), Arc::clone(&random)));
        let manifests =
            ManifestStore::new(Arc::clone(&store), Arc::clone(&org_keys), Arc::clone(&random), Arc::clone(&clock));
        let segments = Segments::new(Arc::clone(&store), org_keys, random);
        Self { store, files, keys, manifests, segments, clock, deep }
    }

    /// The organisations that have anything in the store, ascending.
    ///
    /// # Errors
    /// The finding, if what is there cannot be listed or is not icecore's.
    pub async fn orgs(&self) -> Result<Vec<OrgId>, Finding> {
        self.manifests.list_orgs().await.map_err(|error| of_manifest(&error))
    }

    /// Examines one organisation.
    pub async fn examine(&self, org: OrgId, progress: DoctorProgress<'_>) -> Examined {
        let mut examined = Examined::default();
        let listed = match self.list(org).await {
            Ok(listed) => listed,
            Err(finding) => {
                examined.find(finding);
                return examined;
            }
        };
        self.examine_keys(org, &listed, &mut examined).await;
        let Some(manifest) = self.examine_log(org, &listed, &mut examined).await else { return examined };
        self.examine_objects(org, &manifest, listed, &mut examined).await;
        if self.deep {
            self.examine_pages(org, &manifest, &mut examined, progress).await;
        }
        examined
    }

    /// The newest manifest, if it names this object still.
    async fn names_still(&self, org: OrgId, entry: &SegmentEntry) -> bool {
        match self.manifests.load(org).await {
            Ok(manifest) => manifest.objects().any(|live| live.id == entry.id),
            // Nobody knows; then what was found counts.
            Err(_) => true,
        }
    }
}

fn ids(manifest: &Manifest) -> impl Iterator<Item = storage_format::SegmentId> + '_ {
    manifest.objects().map(|entry| entry.id)
}

/// A manifest or key that does not load, as a finding.
fn of_manifest(error: &ManifestError) -> Finding {
    let (kind, name, detail) = match error {
        ManifestError::NotFound(org) => (FaultKind::Missing, org.to_string(), error.to_string()),
        ManifestError::Missing { name } => (FaultKind::Missing, name.to_string(), "it is not there".to_owned()),
        ManifestError::Stranger { name } => (FaultKind::Unnamed, name.clone(), "no object of icecore's".to_owned()),
        ManifestError::Object { name, source } => (FaultKind::Damaged, name.to_string(), source.to_string()),
        ManifestError::Apply { name, source } => (FaultKind::Damaged, name.to_string(), source.to_string()),
        ManifestError::Store { name, source } => (FaultKind::Unreadable, name.clone(), source.to_string()),
        ManifestError::Put(_) | ManifestError::Key(_) => {
            (FaultKind::Unreadable, "the keys".to_owned(), error.to_string())
        }
    };
    Finding { kind, name, detail }
}

/// A segment that does not read, as a finding.
fn of_segment(error: &SegmentReadError) -> Finding {
    let (kind, name, detail) = match error {
        SegmentReadError::Missing { name } => (FaultKind::Missing, name, "it is not there".to_owned()),
        SegmentReadError::Object { name, source } => (FaultKind::Damaged, name, source.to_string()),
        SegmentReadError::Parquet { name, source } => (FaultKind::Damaged, name, source.to_string()),
        SegmentReadError::Store { name, source } => (FaultKind::Unreadable, name, source.to_string()),
        SegmentReadError::Key(error) => return of_manifest(error),
    };
    Finding { kind, name: name.to_string(), detail }
}
