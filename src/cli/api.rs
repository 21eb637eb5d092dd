//! The server's HTTP interface, as commands reach it: which server, by which token.

use clap::Args;
pub(super) use client::{Api, copy, cut_off};
use problem::Result;

use super::output;

/// Which server, and by which token.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// The server's URL
    #[arg(long, value_name = "URL", env = "ICECORE_SERVER", default_value = "http://127.0.0.1:8080")]
    pub(super) server: String,
    /// The token (`icecore token create` makes one)
    #[arg(long, value_name = "TOKEN", env = "ICECORE_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
}

impl ServerArgs {
    pub(super) fn api(&self) -> Result<Api> {
        let token = self.token.as_deref().unwrap_or_default();
        if token.trim().is_empty() {
            super::usage("there is no token: pass --token, or set ICECORE_TOKEN (`icecore token create` makes one)");
        }
        Api::new(&self.server, token)
    }
}

/// Copies a response to stdout.
pub(super) fn print(response: client::Response) -> Result<()> {
    copy(response, output::write).map(drop)
}
