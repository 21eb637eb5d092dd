//! Retention: `retention run`, and the same for all organisations as a server does it by itself.
//!
//! The policy is the control database's, the drop the engine's; here they meet. Each drop is recorded in the audit log
//! before it happens, with all that goes, and once more when it has ([`engine::DropLog`] over `control`). Whoever drops
//! first settles what an earlier process has left open.

use std::sync::Arc;

use async_trait::async_trait;
use control::{Caller, Control, Keep, Org};
use engine::{
    Clock, DropLog, DropOutcome, DropPlan, DropReport, Engine, EngineError, EngineErrorKind, ManifestError,
    ManifestStore, OpenDrop,
};
use problem::{Problem, Result, chain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage_format::{FlushNumber, ManifestVersion, Millis, OrgId, Window};

use crate::advice::Advise as _;
use crate::command::{CommandContext, Resources};
use crate::event::Events;
use crate::limits::{RETENTION_FIRST, RETENTION_INTERVAL};

/// Organisation of the readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRequest {
    /// The organisation's name.
    pub org: String,
}

pub(crate) async fn run(context: &CommandContext, request: &RetentionRequest, events: &Events) -> Result<()> {
    let CommandContext { engine, control, caller, clock, .. } = context;
    let org = control.org(&request.org).await.advise()?;
    let keep = control.retention(org.id).await.advise()?;
    let report = drop_old(engine, control, caller, clock, org.id, keep).await?;
    for plan in &report.plans {
        for line in lines(plan) {
            events.line(line).await;
        }
    }
    events.line(summary(&org, keep, "dropped", &report.plans)).await;
    match report.failed.first() {
        None => Ok(()),
        Some((window, error)) => {
            let count = report.failed.len();
            let what = format!("{count} windows of {} stay, because their readings cannot be counted", org.name);
            Err(Problem::new(what)
                .detail(format!("{window}: {}", chain(error)))
                .help("`icecore doctor --deep` names what is damaged; once it is mended, run this again"))
        }
    }
}

/// What `retention run` would drop now, as lines for a person. It is read from the store, so that it needs no engine
/// and changes nothing.
///
/// # Errors
/// When there is no such organisation, or its manifest cannot be read.
pub async fn dry_run(
    control: &Control,
    manifests: &ManifestStore,
    request: &RetentionRequest,
    now: Millis,
) -> Result<Vec<String>> {
    let org = control.org(&request.org).await.advise()?;
    let keep = control.retention(org.id).await.advise()?;
    let mut plans = Vec::new();
    if let Some(cutoff) = keep.cutoff(now) {
        match manifests.load(org.id).await {
            Ok(manifest) => plans.push(DropPlan::of(org.id, &manifest, cutoff)),
            // Nothing was ever sent.
            Err(ManifestError::NotFound(_)) => {}
            Err(error) => {
                let what = format!("the manifest of {} cannot be read", org.name);
                return Err(Problem::new(what).detail(chain(&error)));
            }
        }
    }
    plans.retain(|plan| !plan.windows.is_empty());
    let mut all: Vec<String> = plans.iter().flat_map(lines).collect();
    all.push(summary(&org, keep, "would drop", &plans));
    Ok(all)
}

/// A line for each readings segment.
fn lines(plan: &DropPlan) -> impl Iterator<Item = String> + '_ {
    plan.windows.iter().flat_map(|gone| {
        gone.segments().map(|entry| format!("{} segment {}: {} rows", dates(gone.window), entry.id, entry.rows))
    })
}

fn dates(window: Window) -> String {
    let (from, to) = (window.range().start().to_string(), window.range().end().to_string());
    format!("{} to {}", from.trim_end_matches("T00:00:00.000Z"), to.trim_end_matches("T00:00:00.000Z"))
}

fn summary(org: &Org, keep: Keep, verb: &str, plans: &[DropPlan]) -> String {
    let windows: usize = plans.iter().map(|plan| plan.windows.len()).sum();
    let readings: u64 = plans.iter().map(DropPlan::readings).sum();
    match keep {
        Keep::ForEver => format!("{} keeps its readings for ever: nothing goes", org.name),
        _ if windows == 0 => format!("{} keeps its readings for {keep}: nothing is that old", org.name),
        _ => format!("{} keeps its readings for {keep}: {verb} {readings} readings in {windows} windows", org.name),
    }
}

/// Drops what an organisation has kept long enough, and settles what was left open.
///
/// # Errors
/// From the control database, the manifest and the store.
async fn drop_old(
    engine: &Engine,
    control: &Control,
    caller: &Caller,
    clock: &Arc<dyn Clock>,
    org: OrgId,
    keep: Keep,
) -> Result<DropReport> {
    // Without a cutoff nothing goes, and yet what was left open is settled.
    let cutoff = keep.cutoff(clock.now());
    if cutoff.is_none() && control.open_drops(org).await.advise()?.is_empty() {
        return Ok(DropReport::default());
    }
    let log = AuditedDrops { control, caller, clock, keep };
    match engine.drop_older(org, cutoff.unwrap_or(Millis::MIN), &log).await {
        // It is made with its first reading or query.
        Err(error) if error.kind() == EngineErrorKind::Invalid => Ok(DropReport::default()),
        dropped => dropped.map_err(|error| {
            Problem::new("readings that were kept long enough could not be dropped")
                .detail(chain(&error))
                .help("nothing goes that is not in the audit log; run it again")
        }),
    }
}

/// Drops once for all organisations that have a policy, one after the other, and settles what was left open. What fails is logged, and tried again by
/// the next pass.
pub async fn pass(resources: &Resources) {
    let Resources { engine, control, clock, .. } = resources;
    let caller = Caller::command(rustix::process::geteuid().as_raw(), "icecore serve");
    let policies = match control.retentions().await {
        Ok(policies) => policies,
        Err(error) => {
            tracing::error!(%error, "the policies of retention cannot be read; nothing is dropped, and it is tried again");
            return;
        }
    };
    for (org, keep) in policies {
        match drop_old(engine, control, &caller, clock, org, keep).await {
            Ok(report) => {
                for (window, error) in report.failed {
                    tracing::warn!(%org, %window, %error, "a window stays although it was kept long enough");
                }
            }
            Err(error) => tracing::error!(%org, %error, "retention could not drop what was kept long enough"),
        }
    }
}

/// Runs [`pass`] some minutes after the start, and then every day. Never ends; dropped, it leaves what a crash would.
pub async fn every_day(resources: Resources) {
    tokio::time::sleep(RETENTION_FIRST).await;
    loop {
        pass(&resources).await;
        tokio::time::sleep(RETENTION_INTERVAL).await;
    }
}

type Logged<T> = std::result::Result<T, EngineError>;

/// Drops in the audit log.
struct AuditedDrops<'a> {
    control: &'a Control,
    caller: &'a Caller,
    clock: &'a Arc<dyn Clock>,
    keep: Keep,
}

fn not_recorded(error: control::Error) -> EngineError {
    EngineError::new(
        EngineErrorKind::Retry,
        "a drop of readings could not be recorded in the audit log",
        "Look at the control database and its disk, then run it again.",
    )
    .because(error)
}

#[async_trait]
impl DropLog for AuditedDrops<'_> {
    async fn begin(&self, plan: &DropPlan) -> Logged<i64> {
        let value = to_json(plan, self.keep);
        let begun = self.control.begin_drop(self.caller, plan.org, self.keep, &value, self.clock.now()).await;
        begun.map_err(not_recorded)
    }

    async fn end(&self, id: i64, outcome: DropOutcome) -> Logged<()> {
        let outcome = match outcome {
            DropOutcome::Dropped => control::DropOutcome::Dropped,
            DropOutcome::Void => control::DropOutcome::Void,
        };
        self.control.end_drop(self.caller, id, outcome, self.clock.now()).await.map_err(not_recorded)
    }

    async fn open(&self, org: OrgId) -> Logged<Vec<OpenDrop>> {
        let open = self.control.open_drops(org).await.map_err(not_recorded)?;
        open.into_iter()
            .map(|open| {
                from_json(open.id, &open.plan).ok_or_else(|| {
                    let what = "the control database holds a drop that does not say what was to go";
                    EngineError::new(EngineErrorKind::Corrupt, what, "Restore control.db from its newest copy.")
                        .at(format_args!("organisation {org}, drop {}", open.id))
                })
            })
            .collect()
    }
}

/// A plan as the audit log keeps it.
fn to_json(plan: &DropPlan, keep: Keep) -> Value {
    let windows = plan.windows.iter().map(|gone| {
        let segments = gone.segments().map(|entry| {
            json!({"id": entry.id.to_string(), "rows": entry.rows, "bytes": entry.bytes,
                "digest": hex(&entry.digest)})
        });
        json!({
            "window": gone.window.to_string(),
            "from": gone.window.range().start().to_string(),
            "to": gone.window.range().end().to_string(),
            "readings": gone.readings,
            "flush_last": gone.flush_last.get(),
            "segments": segments.collect::<Vec<_>>(),
            "objects": gone.objects.len(),
        })
    });
    json!({
        "keep": keep.to_string(),
        "cutoff": plan.cutoff.to_string(),
        "version": plan.version.get(),
        "readings": plan.readings(),
        "windows": windows.collect::<Vec<_>>(),
    })
}

fn from_json(id: i64, plan: &Value) -> Option<OpenDrop> {
    let version = ManifestVersion::new(plan["version"].as_u64()?);
    let windows = plan["windows"].as_array()?.iter().map(|gone| {
        let window: Window = gone["window"].as_str()?.parse().ok()?;
        Some((window, FlushNumber::new(gone["flush_last"].as_u64()?)))
    });
    Some(OpenDrop { id, version, windows: windows.collect::<Option<_>>()? })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
