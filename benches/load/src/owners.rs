//! Organisations, tokens and gateways for a run, made in this process and many at a time.

use ingest::client::Identity;
use storage_format::{Millis, OrgId};

use control::data_dir::DataDir;
use control::pki::Authority;
use control::{Control, NewGateway};
use problem::{Context, Problem, Result};

/// How long the certificates are good for.
const CERTIFICATE_DAYS: u32 = 2;

/// Who takes part in a run.
#[derive(Debug)]
pub(super) struct Owners {
    /// A token of each organisation.
    pub tokens: Vec<String>,
    /// Gateways, the organisations in turn.
    pub gateways: Vec<Identity>,
}

impl Owners {
    /// Makes so many organisations, and so many gateways, dealt out to them in turn.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    pub(super) async fn enroll(
        data: &DataDir,
        orgs: u32,
        gateways: usize,
        server_name: &str,
        now: Millis,
    ) -> Result<Self> {
        let control = data.open_control().await.context(cannot_make)?;
        let (mut ids, mut tokens) = (Vec::new(), Vec::new());
        for index in 0..orgs {
            let org = control.create_org(&format!("org {index}"), now).await.context(cannot_make)?;
            let (_, token) = control.create_token(org.id, "bench", now).await.context(cannot_make)?;
            tokens.push(token.expose().to_owned());
            ids.push(org.id);
        }
        let authority = Authority::load(&data.keys()).context(cannot_make)?;
        let gateways = issue(&control, &authority, &ids, gateways, server_name, now).await?;
        control.close().await;
        Ok(Self { tokens, gateways })
    }
}

fn cannot_make() -> String {
    "cannot make the organisations and gateways of the run".to_owned()
}

async fn issue(
    control: &Control,
    authority: &Authority,
    orgs: &[OrgId],
    count: usize,
    server_name: &str,
    now: Millis,
) -> Result<Vec<Identity>> {
    let mut identities = Vec::with_capacity(count);
    let mut issued = Vec::with_capacity(count);
    for (index, org) in (0..count).zip(orgs.iter().cycle()) {
        let id = Control::new_gateway_id().context(cannot_make)?;
        let certificate = authority.issue_gateway(*org, id, now, CERTIFICATE_DAYS).context(cannot_make)?;
        let (pem, key) = (certificate.certificate_pem.as_bytes(), certificate.key_pem.as_bytes());
        let identity = Identity::from_pem(pem, key, authority.pem().as_bytes(), server_name);
        identities.push(identity.context(|| "an identity that was just made cannot be used".to_owned())?);
        issued.push((id, *org, format!("gateway {index}"), certificate));
    }
    let new: Vec<_> = issued
        .iter()
        .map(|(id, org, name, certificate)| NewGateway {
            id: *id,
            org: *org,
            name,
            fingerprint: certificate.fingerprint,
            expires: certificate.expires,
        })
        .collect();
    control.add_gateways(&new, now).await.context(cannot_make)?;
    if identities.len() == count { Ok(identities) } else { Err(Problem::new("a run needs an organisation")) }
}
