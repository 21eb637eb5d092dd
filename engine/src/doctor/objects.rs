//! Which objects are there, against which the newest manifest names: by names, sizes and ages.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use durable::object_path;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _};
use storage_format::manifest::{Manifest, ManifestObject, SegmentEntry};
use storage_format::{ManifestVersion, ObjectKey, OrgId, SegmentId};

use super::{Doctor, Examined, FaultKind, Finding, LOOKS, ids};

/// An object that no manifest names is a fault once it is this old: by then the collection of a running server, or of
/// the next one, has had its time.
const UNNAMED_AGE: Duration = Duration::from_secs(86_400);

/// All objects of an organisation, as one list of the store shows them.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Versions of the manifest, ascending.
    pub(super) versions: Vec<u64>,
    /// Versions of the organisation's key.
    pub(super) keys: Vec<u32>,
    /// Segments, conflicts and so on: size, and whether it is old.
    pub(super) objects: HashMap<SegmentId, Object>,
    /// Names that are no object's.
    pub(super) strangers: Vec<(String, bool)>,
}

/// An object in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) key: ObjectKey,
    pub(super) bytes: u64,
    pub(super) is_old: bool,
}

impl Doctor {
    pub(super) async fn list(&self, org: OrgId) -> Result<Listed, Finding> {
        let mut look = 1;
        loop {
            match self.list_once(org).await {
                // What vanishes while it is listed.
                Err(Error::NotFound { .. }) if look < LOOKS => look += 1,
                listed => {
                    let name = ObjectKey::org_prefix(org);
                    let unreadable = |error: Error| Finding {
                        kind: FaultKind::Unreadable,
                        name,
                        detail: format!("its objects cannot be listed: {error}"),
                    };
                    return listed.map_err(unreadable);
                }
            }
        }
    }

    async fn list_once(&self, org: OrgId) -> Result<Listed, Error> {
        let now = self.clock.now().get();
        let prefix = Path::from(ObjectKey::org_prefix(org));
        let mut listing = self.store.list(Some(&prefix));
        let mut listed = Listed::default();
        while let Some(meta) = listing.try_next().await? {
            let age = now.saturating_sub(meta.last_modified.timestamp_millis());
            let is_old = u128::try_from(age).is_ok_and(|age| age > UNNAMED_AGE.as_millis());
            match meta.location.as_ref().parse::<ObjectKey>() {
                Ok(ObjectKey::Manifest { version, .. }) => listed.versions.push(version.get()),
                Ok(ObjectKey::OrgKey { version, .. }) => listed.keys.push(version),
                Ok(key) => match segment_id(&key) {
                    // Two objects with one id, in other windows or of other kinds: the second is nobody's.
                    Some(id) if !listed.objects.contains_key(&id) => {
                        listed.objects.insert(id, Object { key, bytes: meta.size, is_old });
                    }
                    _ => listed.strangers.push((meta.location.to_string(), is_old)),
                },
                Err(_) => listed.strangers.push((meta.location.to_string(), is_old)),
            }
        }
        listed.versions.sort_unstable();
        listed.keys.sort_unstable();
        Ok(listed)
    }

    /// Compares what is there with what the manifest names.
    pub(super) async fn examine_objects(
        &self,
        org: OrgId,
        manifest: &Manifest,
        mut listed: Listed,
        examined: &mut Examined,
    ) {
        let mut suspects = Vec::new();
        for entry in manifest.objects() {
            examined.objects += 1;
            examined.bytes += entry.bytes;
            let there = listed.objects.get(&entry.id).filter(|object| object.key == entry.object_key(org));
            if there.is_none_or(|object| object.bytes != entry.bytes) {
                suspects.push(entry);
            }
            if there.is_some() {
                listed.objects.remove(&entry.id);
            }
        }
        for entry in suspects {
            if let Some(finding) = self.object_fault(org, entry).await
                && self.names_still(org, entry).await
            {
                examined.find(finding);
            }
        }
        let mut unnamed = HashMap::new();
        for (id, object) in listed.objects {
            if object.is_old {
                unnamed.insert(id, object.key.to_string());
            } else {
                examined.passing += 1;
            }
        }
        examined.passing += self.pass_by_log(org, &mut unnamed).await;
        let strangers = listed.strangers.into_iter().filter(|(_, is_old)| *is_old).map(|(name, _)| name);
        let mut names: Vec<String> = unnamed.into_values().chain(strangers).collect();
        names.sort_unstable();
        for name in names {
            if self.is_there(&name).await {
                let detail = "no manifest names it, and it is older than a day".to_owned();
                examined.find(Finding { kind: FaultKind::Unnamed, name, detail });
            }
        }
    }

    /// What is wrong with an object that is named, by its name and size.
    async fn object_fault(&self, org: OrgId, entry: &SegmentEntry) -> Option<Finding> {
        let name = entry.object_key(org);
        let finding = |kind, detail: String| Some(Finding { kind, name: name.to_string(), detail });
        match self.store.head(&object_path(&name)).await {
            Ok(meta) if meta.size == entry.bytes => None,
            Ok(meta) => {
                finding(FaultKind::Size, format!("it has {} bytes, and the manifest says {}", meta.size, entry.bytes))
            }
            Err(Error::NotFound { .. }) => {
                let readings = if entry.kind.is_rollup() { "" } else { ", with rows that nothing else has" };
                finding(FaultKind::Missing, format!("the manifest names it: {} rows{readings}", entry.rows))
            }
            Err(error) => finding(FaultKind::Unreadable, error.to_string()),
        }
    }

    async fn is_there(&self, name: &str) -> bool {
        !matches!(self.store.head(&Path::from(name)).await, Err(Error::NotFound { .. }))
    }

    /// Takes out what the newest manifest names by now, or an older one of the log did: that is replaced, and waits for
    /// its collection. Returns how many.
    async fn pass_by_log(&self, org: OrgId, unnamed: &mut HashMap<SegmentId, String>) -> u64 {
        let before = unnamed.len();
        if unnamed.is_empty() {
            return 0;
        }
        let Ok(newest) = self.manifests.load(org).await else { return 0 };
        let mut version = newest.version();
        ids(&newest).for_each(|id| drop(unnamed.remove(&id)));
        // From the newest on: what was replaced lately is what is still there.
        while !unnamed.is_empty() && version > ManifestVersion::ZERO {
            let Ok(object) = self.manifests.read(org, version).await else { break };
            let delta = object.delta();
            let mut named: HashSet<SegmentId> =
                delta.added.iter().map(|entry| entry.id).chain(delta.removed.iter().copied()).collect();
            if let ManifestObject::Base(base) = &object {
                // What is before it may have been collected.
                named.extend(ids(&base.state));
            }
            unnamed.retain(|id, _| !named.contains(id));
            version = ManifestVersion::new(version.get() - 1);
        }
        (before - unnamed.len()) as u64
    }
}

/// The id of an object that manifests name.
fn segment_id(key: &ObjectKey) -> Option<SegmentId> {
    match key {
        ObjectKey::Segment { id, .. }
        | ObjectKey::Conflicts { id, .. }
        | ObjectKey::Fills { id, .. }
        | ObjectKey::Rollup { id, .. } => Some(*id),
        ObjectKey::Manifest { .. } | ObjectKey::OrgKey { .. } => None,
    }
}
