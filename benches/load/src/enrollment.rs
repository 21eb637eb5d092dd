//! Organisations, tokens and gateways for a run, created in this process, many at a time.

use ingest::client::Identity;
use storage_format::{Millis, OrgId};

use control::data_dir::DataDir;
use control::pki::Authority;
use control::{Control, NewGateway};
use problem::{Context, Problem, Result};

/// Validity of the certificates.
const CERTIFICATE_DAYS: u32 = 2;

/// Participants of a run.
#[derive(Debug)]
pub(super) struct Enrollment {
    /// One token of each organisation.
    pub tokens: Vec<String>,
    /// Gateways, assigned to the organisations in turn.
    pub gateways: Vec<Identity>,
}

impl Enrollment {
    /// Creates organisations, and gateways that are assigned to them in turn.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    pub(super) async fn create(
        data: &DataDir,
        orgs: u32,
        gateways: usize,
        server_name: &str,
        now: Millis,
    ) -> Result<Self> {
        let control = data.open_control().await?;
        let (mut ids, mut tokens) = (Vec::new(), Vec::new());
        for index in 0..orgs {
            let org = control.create_org(&format!("org {index}"), now).await?;
            tokens.push(control.create_token(org.id, "bench", now).await?.1.expose().to_owned());
            ids.push(org.id);
        }
        let authority = Authority::load(&data.keys())?;
        let gateways = issue(&control, &authority, &ids, gateways, server_name, now).await?;
        control.close().await;
        Ok(Self { tokens, gateways })
    }
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
        let id = Control::new_gateway_id()?;
        let certificate = authority.issue_gateway(*org, id, now, CERTIFICATE_DAYS)?;
        let (pem, key) = (certificate.certificate_pem.as_bytes(), certificate.key_pem.as_bytes());
        let identity = Identity::from_pem(pem, key, authority.pem().as_bytes(), server_name);
        identities.push(identity.context(|| "a new identity cannot be used".to_owned())?);
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
    control.add_gateways(&new, now).await?;
    if identities.len() == count { Ok(identities) } else { Err(Problem::new("a run needs an organisation")) }
}
