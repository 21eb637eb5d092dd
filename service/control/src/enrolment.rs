//! Enrolment: a gateway gets a certificate, and the control database gets to know it.
//!
//! Crash consistency: the identity is handed to the caller before the database knows the gateway. If that fails, or the
//! process ends in between, there may be files of an identity that opens nothing; there is never a gateway in the
//! database whose identity nobody has.

use storage_format::{GatewayId, Millis, OrgId};

use crate::data_dir::DataDir;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::pki::Authority;
use crate::{Caller, Control};

/// How long a gateway's certificate may be good for, in days.
const DAYS: std::ops::RangeInclusive<u32> = 1..=36_500;

/// A gateway to be.
#[derive(Debug, Clone, Copy)]
pub struct NewGateway<'a> {
    /// The name of its organisation.
    pub org: &'a str,
    /// What people are to call it.
    pub name: &'a str,
    /// How long its certificate is to be good for.
    pub days: u32,
}

/// What a gateway needs to prove who it is. It exists only between its making and its keeping: the key is nowhere else.
#[derive(Clone)]
pub struct Identity {
    /// The gateway.
    pub gateway: GatewayId,
    /// What people call it.
    pub name: String,
    /// Its organisation.
    pub org: OrgId,
    /// The organisation's name.
    pub org_name: String,
    /// Its certificate.
    pub certificate_pem: String,
    /// Its private key: a secret.
    pub key_pem: String,
    /// The authority by which it knows the server.
    pub ca_pem: String,
    /// When the certificate ends.
    pub expires: Millis,
    pub(crate) fingerprint: [u8; 32],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("gateway", &self.gateway).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Issues identities, and makes them known.
#[derive(Debug)]
pub struct Enrolment<'a> {
    control: &'a Control,
    authority: Authority,
}

impl<'a> Enrolment<'a> {
    /// With the authority of this data directory, whose database `control` is.
    ///
    /// # Errors
    /// When the authority is missing or damaged.
    pub fn open(control: &'a Control, data: &DataDir) -> Result<Self> {
        Ok(Self { control, authority: Authority::load(&data.keys())? })
    }

    /// Enrolls a gateway. `keep` gets the identity before the database knows it; if it fails, nothing has happened.
    ///
    /// # Errors
    /// When there is no such organisation, the name is none or taken, the days are too few or too many, `keep` fails, or
    /// the database cannot be written.
    pub async fn enroll(
        &self,
        caller: &Caller,
        gateway: &NewGateway<'_>,
        now: Millis,
        keep: impl FnOnce(&Identity) -> Result<()>,
    ) -> Result<Identity> {
        let mut keep = Some(keep);
        let mut identities = self
            .enroll_all(caller, std::slice::from_ref(gateway), now, |identities| {
                keep.take().zip(identities.first()).map_or(Ok(()), |(keep, identity)| keep(identity))
            })
            .await?;
        identities.pop().ok_or_else(|| Error::new(ErrorKind::Invalid, Subject::Gateway, "no gateway was enrolled"))
    }

    /// Enrolls all of these gateways, or none: one act, and one sync, for many.
    ///
    /// # Errors
    /// As [`Self::enroll`].
    pub async fn enroll_all(
        &self,
        caller: &Caller,
        gateways: &[NewGateway<'_>],
        now: Millis,
        keep: impl FnOnce(&[Identity]) -> Result<()>,
    ) -> Result<Vec<Identity>> {
        for gateway in gateways {
            if !DAYS.contains(&gateway.days) {
                let message = format!("a certificate cannot be good for {} days", gateway.days);
                return Err(Error::new(ErrorKind::Invalid, Subject::Certificate, message).with_detail(format!(
                    "from {} to {}",
                    DAYS.start(),
                    DAYS.end()
                )));
            }
        }
        self.control.add_gateways(caller, gateways, now, |org, gateway| self.issue(org, gateway, now), keep).await
    }

    fn issue(&self, org: &crate::Org, gateway: &NewGateway<'_>, now: Millis) -> Result<Identity> {
        let id = Control::new_gateway_id()?;
        let issued = self.authority.issue_gateway(org.id, id, now, gateway.days)?;
        Ok(Identity {
            gateway: id,
            name: gateway.name.to_owned(),
            org: org.id,
            org_name: org.name.clone(),
            certificate_pem: issued.certificate_pem,
            key_pem: issued.key_pem,
            ca_pem: self.authority.pem().to_owned(),
            expires: issued.expires,
            fingerprint: issued.fingerprint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Millis {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    #[tokio::test]
    async fn an_identity_is_kept_before_the_database_knows_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path().join("data"));
        data.init("# settings\n", now()).await.expect("made");
        let control = data.open_control().await.expect("opened");
        let caller = Caller::command(1_000, "ann");
        let org = control.create_org(&caller, "north", now()).await.expect("made").id;
        let enrolment = Enrolment::open(&control, &data).expect("an authority");
        let dock = NewGateway { org: "north", name: "dock", days: 30 };
        let audited = async || control.audit_page(None, 0, 100).await.expect("read").len();

        // The process ends, or the disk is full, after some of the files.
        let full = || Error::new(ErrorKind::Unavailable, Subject::Machine, "the disk is full");
        let failed = enrolment.enroll(&caller, &dock, now(), |_| Err(full())).await;
        assert_eq!(failed.expect_err("not kept"), full());
        assert_eq!((control.gateways().await.expect("listed").len(), audited().await), (0, 1), "nothing has happened");

        let mut kept = None;
        let keep = |identity: &Identity| {
            kept = Some(identity.clone());
            Ok(())
        };
        let identity = enrolment.enroll(&caller, &dock, now(), keep).await.expect("enrolled");
        assert_eq!((identity.org, identity.expires), (org, now().saturating_add(30 * 86_400_000)));
        assert_eq!(kept.expect("handed over").key_pem, identity.key_pem);
        assert!(!format!("{identity:?}").contains("PRIVATE"));
        let known = control.gateways().await.expect("listed");
        assert_eq!((known[0].id, known[0].fingerprint), (identity.gateway, identity.fingerprint));
        assert_eq!(audited().await, 2);

        let never = |_: &Identity| panic!("no identity for a gateway that cannot be");
        for (wrong, kind) in [
            (dock, ErrorKind::Taken),
            (NewGateway { org: "south", ..dock }, ErrorKind::NotFound),
            (NewGateway { name: "a/b", ..dock }, ErrorKind::Invalid),
            (NewGateway { name: "b", days: 0, ..dock }, ErrorKind::Invalid),
        ] {
            let refused = enrolment.enroll(&caller, &wrong, now(), never).await;
            assert_eq!(refused.expect_err("refused").kind(), kind, "{wrong:?}");
        }
        assert_eq!(audited().await, 2);
    }
}
