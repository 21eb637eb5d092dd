//! `compact`: merges an organisation's segments, or those of all, until nothing is left to do.

use std::time::Duration;

use control::Org;
use engine::{CompactProgress, CompactReport, CompactScope};
use problem::{Problem, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use storage_format::OrgId;

use crate::advice::Advise as _;
use crate::command::CommandContext;
use crate::event::Events;

/// Failures that are listed one by one.
const LISTED: usize = 20;

/// What to compact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {
    /// The organisation's name; all of them without one.
    pub org: Option<String>,
}

pub(crate) async fn run(context: &CommandContext, request: &CompactRequest, events: &Events) -> Result<()> {
    let orgs = context.control.orgs().await.advise()?;
    let (scope, only) = match &request.org {
        None => (CompactScope::All, None),
        Some(name) => {
            let org = context.control.org(name).await.advise()?;
            // One that nothing was sent to has no manifest yet.
            let made = context.engine.ensure_org(org.id).await;
            made.map_err(|error| Problem::new(format!("{} cannot be compacted now", org.name)).detail(error))?;
            (CompactScope::Org(org.id), Some(org.id))
        }
    };
    let begun = context.clock.monotonic();
    let tell = |progress: CompactProgress| {
        let text = format!("{} merges, {} rows of {}", progress.merges, progress.rows, name(&orgs, progress.org));
        events.progress(progress.orgs_done, Some(progress.orgs), text);
    };
    let report = context.engine.compact(scope, &tell).await;
    let report = report.map_err(|error| {
        Problem::new("the compaction ended early").detail(error).help("what was merged stays; run it again")
    })?;
    let took = context.clock.monotonic().saturating_sub(begun);
    let done = json!({
        "merges": report.merges, "segments": report.segments, "rows": report.rows,
        "bytes_read": report.bytes_read, "bytes_written": report.bytes_written, "failed": report.failed,
    });
    let noted = context.control.note_compaction(&context.caller, only, done, context.now()).await;
    events.line(summary(request.org.as_deref(), &report, took)).await;
    let failed = failed(&orgs, &report);
    match (failed, noted.advise()) {
        (Some(problem), Ok(())) => Err(problem),
        (Some(problem), Err(noted)) => {
            events.note(format!("error: {noted}")).await;
            Err(problem)
        }
        (None, noted) => noted,
    }
}

fn name(orgs: &[Org], id: OrgId) -> String {
    orgs.iter().find(|org| org.id == id).map_or_else(|| id.to_string(), |org| org.name.clone())
}

fn summary(org: Option<&str>, report: &CompactReport, took: Duration) -> String {
    let whose = org.map_or_else(|| format!("{} organisations", report.orgs), str::to_owned);
    let seconds = took.as_secs_f64();
    if report.merges == 0 {
        return format!("{whose}: nothing to merge, {seconds:.2} s");
    }
    format!(
        "{whose}: {} merges of {} objects, {} rows, {} bytes into {}, {seconds:.2} s",
        report.merges, report.segments, report.rows, report.bytes_read, report.bytes_written
    )
}

fn failed(orgs: &[Org], report: &CompactReport) -> Option<Problem> {
    if report.failed == 0 {
        return None;
    }
    let line = |failure: &engine::CompactFailure| match failure.window {
        Some(window) => format!("{}, window {window}: {}", name(orgs, failure.org), failure.error),
        None => format!("{}: {}", name(orgs, failure.org), failure.error),
    };
    let mut lines: Vec<String> = report.failures.iter().take(LISTED).map(line).collect();
    if report.failed > lines.len() as u64 {
        lines.push(format!("and {} more", report.failed - lines.len() as u64));
    }
    Some(
        Problem::new(format!("{} of the windows could not be merged; they stay as they are", report.failed))
            .detail(lines.join("\n"))
            .help("`icecore doctor` tells what is wrong with them"),
    )
}
