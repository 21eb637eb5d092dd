//! `icecore retention`: how long an organisation keeps its readings, and the drop of what was kept long enough.

use clap::{Args, Subcommand};
use local::Command;
use local::retention::{RetentionRequest, dry_run};

use super::local::LocalArgs;
use super::offline::manifests;
use super::{DataDirArgs, block_on, caller, now, output};
use crate::advice::Advise as _;
use control::Keep;
use problem::Result;

/// Show and set how long readings are kept, and drop what was kept long enough.
///
/// Readings are kept for ever unless a policy says less, and two years at least. A running server drops by itself, once
/// a day, months (UTC) that ended longer ago than the policy says; each drop is in the audit log for ever.
#[derive(Debug, Args)]
pub(super) struct RetentionArgs {
    #[command(subcommand)]
    command: RetentionCommand,
}

#[derive(Debug, Subcommand)]
enum RetentionCommand {
    /// Set how long an organisation keeps its readings; nothing is dropped by this
    Set {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: String,
        #[command(flatten)]
        keep: KeepArgs,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// Show how long an organisation keeps its readings
    Show {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: String,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// Drop now what an organisation has kept long enough
    Run {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: String,
        /// Only list the segments that would go
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
}

/// One of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct KeepArgs {
    /// Years or months of the calendar, two years at least: 3y, 30mo
    #[arg(long, value_name = "TIME")]
    keep: Option<String>,
    /// Never drop anything
    #[arg(long)]
    for_ever: bool,
}

impl KeepArgs {
    fn parse(&self) -> Result<Keep> {
        match &self.keep {
            Some(text) => text.parse().advise(),
            None => Ok(Keep::ForEver),
        }
    }
}

pub(super) fn run(args: &RetentionArgs) -> Result<()> {
    block_on(async {
        match &args.command {
            RetentionCommand::Set { org, keep, data_dir } => {
                let keep = keep.parse()?;
                let control = data_dir.open().open_control().await.advise()?;
                let (org, before) = control.set_retention(&caller(), org, keep, now()).await.advise()?;
                control.close().await;
                output::line(format_args!(
                    "{} keeps its readings for {} from now on; before: {}",
                    org.name,
                    word(keep),
                    word(before)
                ))
            }
            RetentionCommand::Show { org, data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                let org = control.org(org).await.advise()?;
                let keep = control.retention(org.id).await.advise()?;
                control.close().await;
                output::line(format_args!("{} keeps its readings for {}", org.name, word(keep)))?;
                match keep.cutoff(now()) {
                    None => Ok(()),
                    Some(cutoff) => output::line(format_args!("months (UTC) that ended before {cutoff} are dropped")),
                }
            }
            RetentionCommand::Run { org, dry_run: true, local } => {
                let data = local.open();
                let control = data.open_control().await.advise()?;
                let request = RetentionRequest { org: org.clone() };
                let lines = dry_run(&control, &manifests(&data, &local.config(&data))?, &request, now()).await;
                control.close().await;
                lines?.into_iter().try_for_each(output::line)
            }
            RetentionCommand::Run { org, dry_run: false, local } => {
                let request = RetentionRequest { org: org.clone() };
                local.run(Command::RetentionRun(request)).await.map(drop)
            }
        }
    })
}

/// A policy in a sentence after "for": `Keep` says "for ever" itself.
fn word(keep: Keep) -> String {
    match keep {
        Keep::ForEver => "ever".to_owned(),
        other => other.to_string(),
    }
}
