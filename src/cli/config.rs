//! `icecore config`: show the defaults, or check a configuration.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::output;
use crate::config::{self, DEFAULT_TOML, Overrides};
use control::data_dir::DataDir;
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
    #[command(group = ArgGroup::new("which").required(true))]
    Check {
        /// The file
        #[arg(group = "which")]
        file: Option<PathBuf>,
        /// The data directory whose configuration is checked, instead of a file
        #[arg(long, value_name = "DIR", group = "which")]
        data_dir: Option<PathBuf>,
    },
}

pub(super) fn run(args: &ConfigArgs) -> Result<()> {
    match &args.command {
        ConfigCommand::Default => output::write(DEFAULT_TOML.as_bytes()).map(drop),
        ConfigCommand::Check { file, data_dir } => {
            let of_dir = data_dir.as_ref().map(|dir| DataDir::new(dir).config());
            let file = file.clone().or(of_dir).unwrap_or_default();
            config::load(&file, &Overrides::default())?;
            output::line(format_args!("{} holds", file.display()))
        }
    }
}
