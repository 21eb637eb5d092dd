//! `icecore manifest show`: an organisation's segments, totals, and what they cover.

use clap::{Args, Subcommand};
use engine::ManifestError;
use storage_format::OrgId;
use storage_format::manifest::{Manifest, SegmentEntry};

use super::offline::manifests;
use super::table::text_table;
use super::{DataDirArgs, block_on, output};
use crate::advice::Advise as _;
use control::data_dir::DataDir;
use problem::{Problem, Result, chain};

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
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
}

pub(super) fn run(args: &ManifestArgs) -> Result<()> {
    let ManifestCommand::Show { org, data_dir } = &args.command;
    let data = data_dir.open();
    block_on(async {
        let control = data.open_control().await.advise()?;
        let org = control.org(org).await.advise()?;
        control.close().await;
        let manifest = match manifests(&data)?.load(org.id).await {
            Ok(manifest) => manifest,
            Err(ManifestError::NotFound(_)) => {
                return output::line(format_args!("{} has no manifest yet: nothing was sent or asked", org.name));
            }
            Err(error) => {
                return Err(Problem::new(format!("the manifest of {} cannot be read", org.name)).detail(chain(&error)));
            }
        };
        show(&org.name, &manifest)?;
        paths(&data, org.id, &manifest)
    })
}

fn show(org: &str, manifest: &Manifest) -> Result<()> {
    let entries = || manifest.objects();
    let bytes: u64 = entries().map(|entry| entry.bytes).sum();
    output::line(format_args!("organisation  {org}"))?;
    output::line("shows         what is flushed; newer readings are in the WAL, and in what queries answer")?;
    output::line(format_args!("version       {}, written by epoch {}", manifest.version(), manifest.epoch()))?;
    output::line(format_args!("flushes       {}", manifest.flush()))?;
    output::line(format_args!("covers        every record up to LSN {}", manifest.lsn_covered()))?;
    let totals = manifest.totals();
    output::line(format_args!(
        "totals        {} readings; samples: {} duplicates, {} conflicts, {} filled in later",
        totals.readings, totals.duplicates, totals.conflicts, totals.filled
    ))?;
    output::line(format_args!(
        "objects       {} segments, {} with conflicts, {} with fills, {} rollups, {bytes} bytes",
        manifest.segments().len(),
        manifest.conflicts().len(),
        manifest.fills().len(),
        manifest.rollups().len()
    ))?;
    let header = ["kind", "window", "segment", "flushes", "fills", "rows", "bytes", "first", "last", "channels"];
    output::line(text_table(&header, entries().map(row)))
}

/// One line per object, below the table: as wide as they are, nobody could read or copy them in it.
fn paths(data: &DataDir, org: OrgId, manifest: &Manifest) -> Result<()> {
    let store = data.store();
    for entry in manifest.objects() {
        output::line(store.join(entry.object_key(org).to_string()).display())?;
    }
    Ok(())
}

fn row(entry: &SegmentEntry) -> Vec<String> {
    let channels: Vec<_> = entry.channels.iter().map(ToString::to_string).collect();
    vec![
        entry.kind.name().to_owned(),
        entry.window.to_string(),
        entry.id.to_string(),
        format!("{}-{}", entry.flush_first, entry.flush_last),
        if entry.shares_keys { "older" } else { "" }.to_owned(),
        entry.rows.to_string(),
        entry.bytes.to_string(),
        entry.time_min.to_string(),
        entry.time_max.to_string(),
        channels.join(" "),
    ]
}
