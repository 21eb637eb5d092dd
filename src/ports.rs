//! The ports of the wire, wired: frames go to the engine, certificates are looked up in the control database.
//!
//! Invariant: an organisation that a certificate or a token names is made in the store before anything of it is asked
//! or kept; commands only write the control database, so that they work beside a server.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use engine::{Engine, Submission, SubmitError, SubmitFailure};
use ingest::{BoxFuture, FrameSink, GatewayDirectory, GatewayIdentity, Refusal, RefusalCode, SinkError};
use rustls_pki_types::CertificateDer;
use storage_format::{Frame, FrameSequence, Millis, OrgId, SpoolId};

use crate::control::{Control, Standing};
use crate::error::{Problem, Result};
use crate::pki;

/// The wall clock.
pub type Now = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Sees to it that organisations are there when they are needed.
#[derive(Debug)]
pub struct Orgs {
    engine: Arc<Engine>,
    known: Mutex<HashSet<OrgId>>,
}

impl Orgs {
    /// Over this engine; nothing is known yet.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, known: Mutex::default() }
    }

    /// Loads an organisation, and makes it first if it has never been there.
    ///
    /// # Errors
    /// When its manifest cannot be read or made.
    pub async fn ensure(&self, org: OrgId) -> Result<()> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&org) {
            return Ok(());
        }
        let loaded = self.engine.ensure_org(org).await;
        loaded.map_err(|error| Problem::new(format!("organisation {org} cannot be loaded")).detail(error))?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(org);
        Ok(())
    }
}

/// Who a certificate is, by the control database.
pub struct Directory {
    control: Control,
    orgs: Arc<Orgs>,
    now: Now,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Directory")
    }
}

impl Directory {
    /// Over this control database.
    #[must_use]
    pub fn new(control: Control, orgs: Arc<Orgs>, now: Now) -> Self {
        Self { control, orgs, now }
    }

    async fn look_up(&self, certificate: &CertificateDer<'_>) -> std::result::Result<GatewayIdentity, Refusal> {
        let unavailable = |problem: Problem| {
            tracing::error!(%problem, "the directory of gateways does not answer");
            Refusal::Unavailable
        };
        let (org, gateway) = pki::parse_gateway(certificate).ok_or(Refusal::Unknown)?;
        let found = self.control.gateway_standing(&pki::fingerprint(certificate)).await.map_err(unavailable)?;
        let (known, expires, standing) = found.ok_or(Refusal::Unknown)?;
        match standing {
            Standing::Revoked => Err(Refusal::Revoked),
            _ if expires <= (self.now)() => Err(Refusal::Expired),
            Standing::Suspended => Err(Refusal::OrgSuspended),
            // What the certificate says and what the database says are the same, or one of them is forged.
            Standing::Good(of) if of != org || known != gateway => Err(Refusal::Unknown),
            Standing::Good(org) => {
                self.orgs.ensure(org).await.map_err(unavailable)?;
                Ok(GatewayIdentity { org, gateway })
            }
        }
    }
}

impl GatewayDirectory for Directory {
    fn lookup(&self, certificate: &CertificateDer<'_>) -> std::result::Result<GatewayIdentity, Refusal> {
        // The caller has told the runtime that this may block.
        tokio::runtime::Handle::current().block_on(self.look_up(certificate))
    }

    fn version(&self) -> Option<u64> {
        let version = tokio::runtime::Handle::current().block_on(self.control.version());
        // Then everybody is asked about, which tells the same.
        version.map_err(|problem| tracing::debug!(%problem, "the control database tells no version")).ok()
    }
}

/// Frames into the engine.
#[derive(Debug)]
pub struct Sink {
    engine: Arc<Engine>,
}

impl Sink {
    /// Into this engine.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

/// Answers of the engine, told to the wire.
struct Acks(Arc<dyn ingest::AckSink>);

impl engine::AckSink for Acks {
    fn durable(&self, up_to: FrameSequence) {
        self.0.durable(up_to);
    }

    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure) {
        // Only a final reason has a code; otherwise the stream ends and the sender keeps the frame.
        let code = match failure {
            SubmitFailure::UnknownOrg => Some(RefusalCode::NotKept),
            _ => None,
        };
        self.0.failed(sequence, code);
    }
}

fn sink_error(error: SubmitError) -> SinkError {
    match error {
        SubmitError::Full(submission) => SinkError::Full(submission.frame),
        SubmitError::Closed => SinkError::Closed,
        SubmitError::Unavailable => SinkError::Unavailable,
    }
}

impl FrameSink for Sink {
    fn try_submit(
        &self,
        from: GatewayIdentity,
        received: Millis,
        frame: Frame,
        acks: &Arc<dyn ingest::AckSink>,
    ) -> std::result::Result<(), SinkError> {
        let acks = Arc::new(Acks(Arc::clone(acks)));
        let submission = Submission { org: from.org, gateway: from.gateway, received, frame, acks };
        self.engine.try_submit(submission).map_err(sink_error)
    }

    fn submit(
        &self,
        from: GatewayIdentity,
        received: Millis,
        frame: Frame,
        acks: &Arc<dyn ingest::AckSink>,
    ) -> BoxFuture<'_, std::result::Result<(), SinkError>> {
        let acks = Arc::new(Acks(Arc::clone(acks)));
        let submission = Submission { org: from.org, gateway: from.gateway, received, frame, acks };
        Box::pin(async move { self.engine.submit(submission).await.map_err(sink_error) })
    }

    fn durable_sequence(&self, from: GatewayIdentity, spool: SpoolId) -> FrameSequence {
        self.engine.durable_sequence(from.org, from.gateway, spool)
    }
}
