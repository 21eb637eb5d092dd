//! `icecore org`: make, list, suspend and resume organisations.

use clap::{Args, Subcommand};

use super::table::text_table;
use super::{DataDirArgs, block_on, caller, now, output};
use crate::advice::Advise as _;
use problem::Result;

/// Make and list organisations. Works beside a running server, which learns of it at once.
#[derive(Debug, Args)]
pub(super) struct OrgArgs {
    #[command(subcommand)]
    command: OrgCommand,
}

#[derive(Debug, Subcommand)]
enum OrgCommand {
    /// Make an organisation
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// List all organisations
    List {
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// Suspend an organisation: its frames and queries are refused, its readings stay
    Suspend {
        /// Its name
        name: String,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// Lift a suspension
    Resume {
        /// Its name
        name: String,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
}

pub(super) fn run(args: &OrgArgs) -> Result<()> {
    block_on(async {
        match &args.command {
            OrgCommand::Create { name, data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                let org = control.create_org(&caller(), name, now()).await.advise()?;
                control.close().await;
                output::line(format_args!("created organisation {} {}", org.name, org.id))
            }
            OrgCommand::List { data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                let rows = control.orgs().await.advise()?.into_iter().map(|org| {
                    let standing = org.suspended.map_or_else(String::new, |since| format!("suspended {since}"));
                    vec![org.name, org.id.to_string(), org.created.to_string(), standing]
                });
                output::line(text_table(&["name", "id", "created", "standing"], rows))
            }
            OrgCommand::Suspend { name, data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                let org = control.set_suspended(&caller(), name, true, now()).await.advise()?;
                control.close().await;
                output::line(format_args!("suspended organisation {} {}", org.name, org.id))
            }
            OrgCommand::Resume { name, data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                let org = control.set_suspended(&caller(), name, false, now()).await.advise()?;
                control.close().await;
                output::line(format_args!("resumed organisation {} {}", org.name, org.id))
            }
        }
    })
}
