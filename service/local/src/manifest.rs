//! `manifest show`: the newest version of an organisation's manifest, as JSON.

use control::Control;
use engine::{ManifestError, ManifestStore};
use problem::{Problem, Result, chain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage_format::OrgId;
use storage_format::manifest::{Manifest, SegmentEntry};

use crate::advice::Advise as _;
use crate::command::CommandContext;
use crate::event::Events;

/// Manifest that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRequest {
    /// The organisation's name.
    pub org: String,
}

pub(crate) async fn run(context: &CommandContext, request: &ManifestRequest, events: &Events) -> Result<()> {
    let value = show(&context.control, context.engine.manifests(), request).await?;
    events.result(value).await;
    Ok(())
}

/// The newest manifest of an organisation. It is read from the store, so that it needs no engine.
///
/// # Errors
/// When there is no such organisation, or its manifest cannot be read.
pub async fn show(control: &Control, manifests: &ManifestStore, request: &ManifestRequest) -> Result<Value> {
    let org = control.org(&request.org).await.advise()?;
    match manifests.load(org.id).await {
        Ok(manifest) => Ok(to_json(&org.name, org.id, &manifest)),
        // It is made with the first reading or query.
        Err(ManifestError::NotFound(_)) => Ok(json!({
            "org": org.name, "version": 0, "segments": [],
            "totals": {"readings": 0, "duplicates": 0, "conflicts": 0, "filled": 0, "dropped": 0},
        })),
        Err(error) => Err(Problem::new(format!("the manifest of {} cannot be read", org.name)).detail(chain(&error))),
    }
}

fn to_json(name: &str, org: OrgId, manifest: &Manifest) -> Value {
    let totals = manifest.totals();
    let segments: Vec<Value> = manifest.objects().map(|entry| segment(org, entry)).collect();
    json!({
        "org": name,
        "version": manifest.version().get(),
        "epoch": manifest.epoch().get(),
        "flush": manifest.flush().get(),
        "lsn_covered": manifest.lsn_covered().get(),
        "segments": segments,
        "totals": {
            "readings": totals.readings,
            "duplicates": totals.duplicates,
            "conflicts": totals.conflicts,
            "filled": totals.filled,
            "dropped": totals.dropped,
        },
    })
}

fn segment(org: OrgId, entry: &SegmentEntry) -> Value {
    let window = entry.window.range();
    let channels: Vec<String> = entry.channels.iter().map(ToString::to_string).collect();
    json!({
        "id": entry.id.to_string(),
        "kind": entry.kind.name(),
        "of": entry.of.map(|of| of.to_string()),
        "window": {"from": window.start().to_string(), "to": window.end().to_string()},
        "rows": entry.rows,
        "bytes": entry.bytes,
        "key": entry.object_key(org).to_string(),
        "flush_first": entry.flush_first.get(),
        "flush_last": entry.flush_last.get(),
        "shares_keys": entry.shares_keys,
        "time_min": entry.time_min.to_string(),
        "time_max": entry.time_max.to_string(),
        "channels": channels,
    })
}
