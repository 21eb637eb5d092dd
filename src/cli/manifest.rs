//! `icecore manifest show`: an organisation's segments, totals, and what they cover.

use std::path::Path;

use clap::{Args, Subcommand};
use local::{Command, ManifestRequest};
use serde_json::Value;

use super::local::{LocalArgs, Screen, ask};
use super::offline::manifests;
use super::table::text_table;
use super::{block_on, output};
use crate::advice::Advise as _;
use crate::config::{self, Overrides, StoreConfig};
use control::data_dir::DataDir;
use problem::Result;

/// Show an organisation's manifest, beside a running server or without one.
#[derive(Debug, Args)]
pub(super) struct ManifestArgs {
    #[command(subcommand)]
    command: ManifestCommand,
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    /// Show the newest version: totals, what is covered, every live segment
    Show {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: String,
        /// As JSON: {"org", "version", "segments": [ … ], "totals": { … }}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
}

pub(super) fn run(args: &ManifestArgs) -> Result<()> {
    let ManifestCommand::Show { org, json, local } = &args.command;
    let data = local.open();
    let config = local.config(&data);
    let manifest = block_on(load(&data, &config, ManifestRequest { org: org.clone() }))?;
    if *json {
        return output::line(serde_json::to_string_pretty(&manifest).unwrap_or_default());
    }
    if manifest["version"] == 0 {
        return output::line(format_args!(
            "{} has no manifest yet: nothing was sent or asked",
            field(&manifest, "org")
        ));
    }
    show(&manifest)?;
    paths(&data, &config, &manifest)
}

/// Asks the server. Without one it reads the store: that needs neither the lock nor a recovery, and changes nothing.
async fn load(data: &DataDir, config: &Path, request: ManifestRequest) -> Result<Value> {
    if let Some(mut server) = ask(data, &Command::ManifestShow(request.clone())).await? {
        let mut screen = Screen::new();
        while let Some(event) = server.next().await? {
            screen.show(event)?;
        }
        return Ok(screen.result.take().unwrap_or_default());
    }
    let control = data.open_control().await.advise()?;
    let shown = local::show_manifest(&control, &manifests(data, config)?, &request).await;
    control.close().await;
    shown
}

fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn show(manifest: &Value) -> Result<()> {
    let segments = list(manifest, "segments");
    let bytes: u64 = segments.iter().filter_map(|segment| segment["bytes"].as_u64()).sum();
    output::line(format_args!("organisation  {}", field(manifest, "org")))?;
    output::line("shows         what is flushed; newer readings are in the WAL, and in what queries answer")?;
    let of = |name| field(manifest, name);
    output::line(format_args!("version       {}, written by epoch {}", of("version"), of("epoch")))?;
    output::line(format_args!("flushes       {}", of("flush")))?;
    output::line(format_args!("covers        every record up to LSN {}", of("lsn_covered")))?;
    let totals = |name| field(&manifest["totals"], name);
    output::line(format_args!(
        "totals        {} readings; samples: {} duplicates, {} conflicts, {} filled in later",
        totals("readings"),
        totals("duplicates"),
        totals("conflicts"),
        totals("filled")
    ))?;
    let of_kind = |kind: &str| {
        segments.iter().filter(|segment| segment["kind"].as_str().is_some_and(|found| found.starts_with(kind))).count()
    };
    output::line(format_args!(
        "objects       {} segments, {} with conflicts, {} with fills, {} rollups, {bytes} bytes",
        of_kind("readings"),
        of_kind("conflicts"),
        of_kind("fills"),
        of_kind("rollup")
    ))?;
    let header = ["kind", "window", "segment", "flushes", "fills", "rows", "bytes", "first", "last", "channels"];
    output::line(text_table(&header, segments.iter().map(row)))
}

/// One line per object, below the table: as wide as they are, nobody could read or copy them in it.
fn paths(data: &DataDir, config: &Path, manifest: &Value) -> Result<()> {
    let config = config::load(config, &Overrides::default())?;
    let place = match &config.store {
        StoreConfig::Local => data.store().display().to_string(),
        StoreConfig::Remote { settings, .. } => settings.url.to_string(),
    };
    for segment in list(manifest, "segments") {
        output::line(format_args!("{place}/{}", field(segment, "key")))?;
    }
    Ok(())
}

fn row(segment: &Value) -> Vec<String> {
    let of = |name| field(segment, name);
    let edge = |name| field(&segment["window"], name).trim_end_matches("T00:00:00Z").to_owned();
    let window = format!("{}/{}", edge("from"), edge("to"));
    let channels: Vec<_> = list(segment, "channels").iter().filter_map(Value::as_str).collect();
    vec![
        of("kind"),
        window,
        of("id"),
        format!("{}-{}", of("flush_first"), of("flush_last")),
        if segment["shares_keys"] == true { "older" } else { "" }.to_owned(),
        of("rows"),
        of("bytes"),
        of("time_min"),
        of("time_max"),
        channels.join(" "),
    ]
}
