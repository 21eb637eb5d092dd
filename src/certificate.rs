//! The server's certificate, wired: made ready at a start, and renewed while the server runs.
//!
//! Owns when to look, and what is reported. Does not own how a certificate is made (`control::pki`) or shown (`ingest`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ingest::{ServerTls, TlsError};
use storage_format::Millis;

use crate::advice::Advise as _;
use crate::ports::Now;
use control::pki::{self, Authority, ServerPem};
use problem::{Context, Problem, Result};

/// Makes the server's certificate and renews it.
pub struct Certificates {
    authority: Authority,
    keys: PathBuf,
    names: Vec<String>,
    now: Now,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

/// The certificate of this moment.
#[derive(Debug)]
pub struct Current {
    pem: ServerPem,
    expires: Millis,
}

impl Current {
    /// In the form that the wire takes.
    ///
    /// # Errors
    /// When it is not what it should be.
    pub fn tls(&self) -> Result<ServerTls> {
        let ServerPem { certificate, key, ca } = &self.pem;
        ServerTls::from_pem(certificate.as_bytes(), key.as_bytes(), ca.as_bytes()).context(unusable)
    }
}

fn unusable() -> String {
    "the server's certificate cannot be used".to_owned()
}

impl Certificates {
    /// Over the authority in this directory of keys, for these names.
    ///
    /// # Errors
    /// When the authority cannot be loaded.
    pub fn new(keys: PathBuf, names: Vec<String>, now: Now) -> Result<Self> {
        Ok(Self { authority: Authority::load(&keys).advise()?, keys, names, now })
    }

    /// The certificate, renewed before if it needs to be. Blocks on the disk; one caller at a time.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn current(&self) -> Result<Current> {
        let expires = self.authority.ensure_server_certificate(&self.keys, &self.names, (self.now)()).advise()?;
        Ok(Current { pem: pki::load_server(&self.keys).advise()?, expires })
    }

    /// Looks after the certificate in this interval, for ever, and hands every other one than `shown` to `show`.
    ///
    /// A failure is logged when it begins and when it is over, and tried again in the next interval: half a year is left
    /// then, and `icecore_server_certificate_expires_seconds` says when it ends.
    pub async fn keep_renewed(
        self,
        mut shown: Current,
        interval: Duration,
        show: impl Fn(&ServerTls) -> std::result::Result<(), TlsError>,
    ) {
        let this = Arc::new(self);
        let mut failing = false;
        report_expiry(shown.expires);
        loop {
            tokio::time::sleep(interval).await;
            match this.renew(&shown, &show).await {
                Ok(renewed) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the server's certificate can be renewed again");
                    }
                    if let Some(renewed) = renewed {
                        tracing::info!(expires = %renewed.expires, "the server's certificate is renewed");
                        report_expiry(renewed.expires);
                        shown = renewed;
                    }
                }
                Err(problem) if !std::mem::replace(&mut failing, true) => {
                    tracing::error!(
                        %problem, expires = %shown.expires,
                        "the server's certificate cannot be renewed; it is tried again in every \
                         ingest.certificate_check_interval. Gateways refuse the server once the certificate has \
                         expired: see that keys/ can be written, and that its disk has space"
                    );
                }
                Err(problem) => tracing::debug!(%problem, "the server's certificate still cannot be renewed"),
            }
        }
    }

    async fn renew(
        self: &Arc<Self>,
        shown: &Current,
        show: impl Fn(&ServerTls) -> std::result::Result<(), TlsError>,
    ) -> Result<Option<Current>> {
        let this = Arc::clone(self);
        // Keys are signed and files synced there.
        let current = tokio::task::spawn_blocking(move || this.current()).await;
        let current = current.map_err(|error| Problem::new("the check did not end").detail(error))??;
        // Compared with what is shown, not with what was on the disk: so a certificate that was written and could not be
        // shown is shown by a later check.
        if current.pem.certificate == shown.pem.certificate {
            return Ok(None);
        }
        show(&current.tls()?).context(unusable)?;
        Ok(Some(current))
    }
}

const EXPIRES: &str = "icecore_server_certificate_expires_seconds";

/// The time itself, not what is left of it: so it is right even if nothing sets it any more.
fn report_expiry(expires: Millis) {
    metrics::describe_gauge!(EXPIRES, metrics::Unit::Seconds, "Unix time at which the server's certificate expires");
    metrics::gauge!(EXPIRES).set(expires.get() as f64 / 1_000.0);
}

#[cfg(test)]
mod tests;
