//! `icecore config`: show the defaults, or check a configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::output;
use crate::config::{self, DEFAULT_TOML, Overrides};
use problem::Result;

/// Show the default configuration with its comments, or check one.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting with its default and what it means
    Default,
    /// Check a configuration file together with the environment, as `serve` would
    Check {
        /// The file
        file: PathBuf,
    },
}

pub(super) fn run(args: &ConfigArgs) -> Result<()> {
    match &args.command {
        ConfigCommand::Default => output::write(DEFAULT_TOML.as_bytes()).map(drop),
        ConfigCommand::Check { file } => {
            config::load(file, &Overrides::default())?;
            output::line(format_args!("{} holds", file.display()))
        }
    }
}
