//! The log of manifest versions: no holes, every version opens, every base is what the versions before it come to.

use std::time::Duration;

use storage_format::manifest::{Manifest, ManifestObject};
use storage_format::{ManifestVersion, ObjectKey, OrgId};

use super::objects::Listed;
use super::{Doctor, Examined, FaultKind, Finding, LOOKS, of_manifest};
use crate::manifest::{BASE_EVERY, ManifestError};

/// Pause before what went wrong is looked at again.
const PAUSE: Duration = Duration::from_millis(200);

impl Doctor {
    /// Every key that is there must open.
    pub(super) async fn examine_keys(&self, org: OrgId, listed: &Listed, examined: &mut Examined) {
        for version in &listed.keys {
            if let Err(error) = self.manifests.keys().get(org, *version).await {
                examined.find(of_manifest(&error));
            }
        }
    }

    /// The newest manifest, if it loads. An organisation that a crash left half made has none, and no fault.
    pub(super) async fn examine_log(&self, org: OrgId, listed: &Listed, examined: &mut Examined) -> Option<Manifest> {
        examined.versions = listed.versions.len() as u64;
        if listed.versions.is_empty() && listed.objects.is_empty() {
            return None;
        }
        let loaded = self.load(org).await;
        for version in &self.holes(org, &listed.versions).await {
            let name = ObjectKey::Manifest { org, version: ManifestVersion::new(*version) };
            if matches!(
                self.manifests.read(org, ManifestVersion::new(*version)).await,
                Err(ManifestError::Missing { .. })
            ) {
                let detail = "a hole in the log of manifest versions".to_owned();
                examined.find(Finding { kind: FaultKind::Missing, name: name.to_string(), detail });
            }
        }
        match loaded {
            Ok(manifest) => {
                if self.deep {
                    self.replay(org, &listed.versions, examined).await;
                }
                Some(manifest)
            }
            Err(ManifestError::NotFound(_)) => {
                let name = ObjectKey::manifest_prefix(org);
                let detail = "it has objects, and no manifest that names them".to_owned();
                examined.find(Finding { kind: FaultKind::Missing, name, detail });
                None
            }
            Err(error) => {
                let finding = of_manifest(&error);
                if !examined.findings.iter().any(|known| known.name == finding.name) {
                    examined.find(finding);
                }
                None
            }
        }
    }

    /// Holes in the log, after looks that they are not of versions that were removed while it was listed.
    async fn holes(&self, org: OrgId, versions: &[u64]) -> Vec<u64> {
        let mut found = holes(versions);
        let mut look = 1;
        while !found.is_empty() && look < LOOKS {
            look += 1;
            self.clock.sleep(PAUSE).await;
            let Ok(again) = self.list(org).await else { return found };
            let still = holes(&again.versions);
            found.retain(|version| still.contains(version));
        }
        found
    }

    async fn load(&self, org: OrgId) -> Result<Manifest, ManifestError> {
        let mut look = 1;
        loop {
            match self.manifests.load(org).await {
                Err(ManifestError::Missing { .. } | ManifestError::Store { .. }) if look < LOOKS => {
                    look += 1;
                    self.clock.sleep(PAUSE).await;
                }
                loaded => return loaded,
            }
        }
    }

    /// Reads every version from the oldest base on, and compares each base with what the versions before it come to.
    async fn replay(&self, org: OrgId, versions: &[u64], examined: &mut Examined) {
        let mut state: Option<Manifest> = None;
        for version in versions.iter().copied() {
            let version = ManifestVersion::new(version);
            let name = || ObjectKey::Manifest { org, version }.to_string();
            let object = match self.manifests.read(org, version).await {
                Ok(object) => object,
                // Collected since it was listed, or told already as a hole.
                Err(ManifestError::Missing { .. }) => {
                    state = None;
                    continue;
                }
                Err(error) => {
                    examined.find(of_manifest(&error));
                    state = None;
                    continue;
                }
            };
            let applied = state.as_mut().map(|state| state.apply(object.delta()));
            if let Some(Err(error)) = applied {
                examined.find(Finding { kind: FaultKind::Damaged, name: name(), detail: error.to_string() });
                state = None;
            }
            if let ManifestObject::Base(base) = object {
                if state.as_ref().is_some_and(|state| *state != base.state) {
                    let detail = "its state is not what the versions before it come to".to_owned();
                    examined.find(Finding { kind: FaultKind::Disagrees, name: name(), detail });
                }
                state = Some(base.state);
            }
        }
    }
}

/// Versions that are not there although one before and one after them is. What is before the oldest base may have been
/// collected, in part.
fn holes(versions: &[u64]) -> Vec<u64> {
    let is_base = |version: &u64| (version - 1).is_multiple_of(BASE_EVERY);
    let from = versions.iter().position(is_base).unwrap_or(0);
    let mut holes = Vec::new();
    for pair in versions[from..].windows(2) {
        holes.extend(pair[0] + 1..pair[1]);
    }
    // Without any base the log begins in the middle of nothing.
    if let (Some(first), false) = (versions.first(), versions.iter().any(is_base)) {
        holes.insert(0, first - (first - 1) % BASE_EVERY);
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_between_what_is_there() {
        let all = |range: std::ops::RangeInclusive<u64>, without: &[u64]| -> Vec<u64> {
            range.filter(|version| !without.contains(version)).collect()
        };
        assert_eq!(holes(&[]), [0; 0]);
        assert_eq!(holes(&all(1..=200, &[])), [0; 0]);
        assert_eq!(holes(&all(1..=200, &[2, 65, 199])), [2, 65, 199]);
        assert_eq!(holes(&all(2..=60, &[])), [1], "the first version is a base");
        assert_eq!(holes(&all(65..=200, &[])), [0; 0], "what is older was collected");
        assert_eq!(holes(&all(60..=200, &[62])), [0; 0], "a collection that was cut short");
        assert_eq!(holes(&all(66..=100, &[])), [65]);
    }
}
