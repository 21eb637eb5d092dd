//! `icecore init`: make a data directory.

use clap::Args;

use super::{DataDirArgs, block_on, now, output};
use crate::advice::Advise as _;
use crate::config::DEFAULT_TOML;
use problem::Result;

/// Make a data directory.
///
/// Writes the master key, an internal certificate authority, an empty control database and a commented configuration
/// into a new or empty directory. Keep a copy of keys/master.key in a safe place: without it nothing can be read.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
}

pub(super) fn run(args: &InitArgs) -> Result<()> {
    let data = args.data_dir.open();
    block_on(async { data.init(DEFAULT_TOML, now()).await.advise() })?;
    let place = data.path().display();
    output::line(format_args!("initialised {place}"))?;
    let key = data.keys().join("master.key");
    if key.exists() {
        output::note(format_args!("keep a copy of {} in a safe place: without it nothing can be read", key.display()));
    }
    output::note(format_args!("next: icecore serve --data-dir {place}"));
    Ok(())
}
