//! Organisations, tokens and gateways for a run, created in this process, many at a time.

use ingest::client::Identity;
use storage_format::Millis;

use control::data_dir::DataDir;
use control::{Caller, Control, Enrolment, NewGateway};
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
        let control = data.open_control().await.context(cannot_make)?;
        let caller = Caller::command(0, "bench");
        let (mut names, mut tokens) = (Vec::new(), Vec::new());
        for index in 0..orgs {
            let org = control.create_org(&caller, &format!("org {index}"), now).await.context(cannot_make)?;
            let (_, token) = control.create_token(&caller, org.id, "bench", now).await.context(cannot_make)?;
            tokens.push(token.expose().to_owned());
            names.push(org.name);
        }
        let gateways = issue(&control, data, &names, gateways, server_name, now).await?;
        control.close().await;
        Ok(Self { tokens, gateways })
    }
}

fn cannot_make() -> String {
    "cannot make the organisations and gateways of the run".to_owned()
}

async fn issue(
    control: &Control,
    data: &DataDir,
    orgs: &[String],
    count: usize,
    server_name: &str,
    now: Millis,
) -> Result<Vec<Identity>> {
    let names: Vec<_> = (0..count).map(|index| format!("gateway {index}")).collect();
    let new: Vec<_> = names
        .iter()
        .zip(orgs.iter().cycle())
        .map(|(name, org)| NewGateway { org, name, days: CERTIFICATE_DAYS })
        .collect();
    let enrolment = Enrolment::open(control, data).context(cannot_make)?;
    let caller = Caller::command(0, "bench");
    let made = enrolment.enroll_all(&caller, &new, now, |_| Ok(())).await.context(cannot_make)?;
    let mut identities = Vec::with_capacity(count);
    for made in &made {
        let (pem, key) = (made.certificate_pem.as_bytes(), made.key_pem.as_bytes());
        let identity = Identity::from_pem(pem, key, made.ca_pem.as_bytes(), server_name);
        identities.push(identity.context(|| "a new identity cannot be used".to_owned())?);
    }
    if identities.len() == count { Ok(identities) } else { Err(Problem::new("a run needs an organisation")) }
}
