//! `icecore token`: make, list and revoke the tokens by which programs ask.

use clap::{Args, Subcommand};

use super::table::text_table;
use super::{DataDirArgs, block_on, caller, now, output};
use crate::advice::Advise as _;
use problem::Result;

/// Make, list and revoke tokens. Works beside a running server, which learns of it at once.
///
/// A token lets a program ask for the readings of one organisation. It is shown once, when it is made; only its hash is
/// kept.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is the last word printed
    Create {
        /// The organisation whose readings it opens
        #[arg(long, value_name = "ORG")]
        org: String,
        /// What it is for
        #[arg(long, default_value = "token")]
        name: String,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// List tokens by id, name and their last four digits
    List {
        /// Only those of this organisation
        #[arg(long, value_name = "ORG")]
        org: Option<String>,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// Revoke a token; it is refused within a second or so
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
}

pub(super) fn run(args: &TokenArgs) -> Result<()> {
    block_on(async {
        match &args.command {
            TokenCommand::Create { org, name, data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                let org = control.org(org).await.advise()?;
                let (id, secret) = control.create_token(&caller(), org.id, name, now()).await.advise()?;
                control.close().await;
                output::line(format_args!("created token {id} of {}; it is not shown again:", org.name))?;
                output::line(secret.expose())
            }
            TokenCommand::List { org, data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                let only = match org {
                    Some(name) => Some(control.org(name).await.advise()?.name),
                    None => None,
                };
                let tokens = control.tokens().await.advise()?.into_iter();
                let tokens = tokens.filter(|token| only.as_ref().is_none_or(|only| *only == token.org_name));
                let rows = tokens.map(|token| {
                    let standing = token.revoked.map_or_else(String::new, |at| format!("revoked {at}"));
                    let digits = format!("…{}", token.last_four);
                    vec![token.id, token.org_name, token.name, digits, token.created.to_string(), standing]
                });
                output::line(text_table(&["id", "organisation", "name", "token", "created", "standing"], rows))
            }
            TokenCommand::Revoke { id, data_dir } => {
                let control = data_dir.open().open_control().await.advise()?;
                control.revoke_token(&caller(), id, now()).await.advise()?;
                control.close().await;
                output::line(format_args!("revoked token {id}"))
            }
        }
    })
}
