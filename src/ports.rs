//! The ports of the wire, wired: frames go to the engine, certificates are looked up among the standings.
//!
//! Invariant: an organisation that a certificate or a token names is made in the store before anything of it is asked
//! or kept; commands only write the control database, so that they work beside a server.

use std::sync::Arc;

use engine::{Engine, EngineErrorKind, Submission, SubmitError, SubmitFailure};
use ingest::{BoxFuture, FrameSink, FrameStream, GatewayDirectory, GatewayIdentity, Refusal, RefusalCode, SinkError};
use rustls_pki_types::CertificateDer;
use storage_format::{Frame, FrameSequence, Millis, SpoolId};

use control::pki;
use control::{GatewayStanding, Standing, Standings};

/// The wall clock.
pub type Now = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Who a certificate is, by what the control database says.
pub struct Directory {
    standings: Standings,
    engine: Arc<Engine>,
    now: Now,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Directory")
    }
}

impl Directory {
    /// With these standings.
    #[must_use]
    pub fn new(standings: Standings, engine: Arc<Engine>, now: Now) -> Self {
        Self { standings, engine, now }
    }

    async fn look_up(&self, certificate: &CertificateDer<'_>) -> std::result::Result<GatewayIdentity, Refusal> {
        let (org, gateway) = pki::parse_gateway(certificate).ok_or(Refusal::Unknown)?;
        // Why the database cannot be read is logged where it is watched.
        let found = self.standings.gateway(&pki::fingerprint(certificate)).await.map_err(|_| Refusal::Unavailable)?;
        let GatewayStanding { id, expires, standing } = found.ok_or(Refusal::Unknown)?;
        match standing {
            Standing::Revoked => Err(Refusal::Revoked),
            _ if expires <= (self.now)() => Err(Refusal::Expired),
            Standing::Suspended => Err(Refusal::OrgSuspended),
            // What the certificate says and what the database says are the same, or one of them is forged.
            Standing::Good(of) if of != org || id != gateway => Err(Refusal::Unknown),
            Standing::Good(org) => {
                let loaded = self.engine.ensure_org(org).await;
                loaded.map_err(|error| {
                    // Of an organisation in trouble the log has it already.
                    if error.kind() == EngineErrorKind::Corrupt {
                        tracing::debug!(%org, %error, "a gateway of an organisation in trouble has to wait");
                    } else {
                        tracing::error!(%org, %error, "an organisation cannot be loaded, so its gateway has to wait");
                    }
                    Refusal::Unavailable
                })?;
                Ok(GatewayIdentity { org, gateway })
            }
        }
    }
}

impl GatewayDirectory for Directory {
    fn lookup(&self, certificate: &CertificateDer<'_>) -> std::result::Result<GatewayIdentity, Refusal> {
        // Known gateways are found in memory. For others the caller has told the runtime that this may block.
        tokio::runtime::Handle::current().block_on(self.look_up(certificate))
    }

    fn version(&self) -> Option<u64> {
        self.standings.version()
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

    fn has_failed(&self) -> bool {
        self.0.has_failed()
    }
}

fn sink_error(error: SubmitError) -> SinkError {
    match error {
        SubmitError::Full(submission) => SinkError::Full(submission.frame),
        SubmitError::Closed => SinkError::Closed,
        SubmitError::OrgInTrouble => SinkError::InTrouble,
        SubmitError::Unavailable => SinkError::Unavailable,
    }
}

impl FrameSink for Sink {
    fn stream(&self, from: GatewayIdentity, acks: Arc<dyn ingest::AckSink>) -> Box<dyn FrameStream> {
        Box::new(Stream { engine: Arc::clone(&self.engine), from, acks: Arc::new(Acks(acks)) })
    }

    fn durable_sequence(&self, from: GatewayIdentity, spool: SpoolId) -> FrameSequence {
        self.engine.durable_sequence(from.org, from.gateway, spool)
    }
}

/// One stream's frames into the engine.
struct Stream {
    engine: Arc<Engine>,
    from: GatewayIdentity,
    /// One for all frames: by it the engine sees that they are of one stream, and answers several at once.
    acks: Arc<Acks>,
}

impl Stream {
    fn submission(&self, received: Millis, frame: Frame) -> Submission {
        let acks = Arc::<Acks>::clone(&self.acks);
        Submission { org: self.from.org, gateway: self.from.gateway, received, frame, acks }
    }
}

impl FrameStream for Stream {
    fn try_submit(&self, received: Millis, frame: Frame) -> std::result::Result<(), SinkError> {
        self.engine.try_submit(self.submission(received, frame)).map_err(sink_error)
    }

    fn submit(&self, received: Millis, frame: Frame) -> BoxFuture<'_, std::result::Result<(), SinkError>> {
        let submission = self.submission(received, frame);
        Box::pin(async move { self.engine.submit(submission).await.map_err(sink_error) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Duration;

    use engine::{
        Clock as _, EngineConfig, EngineParts, LocalDurable, MasterKey, RealFiles, SystemClock, SystemRandom,
    };
    use storage_format::encryption::SecretKey;
    use storage_format::{ChannelCode, FrameBuilder, GatewayId, LoggerId, OrgId};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Tells each answer, and holds the appender's thread up until it may go on.
    struct Held {
        told: SyncSender<FrameSequence>,
        go_on: Mutex<Receiver<()>>,
    }

    impl ingest::AckSink for Held {
        fn durable(&self, up_to: FrameSequence) {
            self.told.send(up_to).expect("the test listens");
            let _ = self.go_on.lock().expect("no panic").recv_timeout(LONG);
        }

        fn failed(&self, sequence: FrameSequence, code: Option<RefusalCode>) {
            panic!("frame {sequence} failed: {code:?}");
        }

        fn has_failed(&self) -> bool {
            false
        }
    }

    async fn engine(dir: &std::path::Path, org: OrgId) -> Arc<Engine> {
        let parts = EngineParts {
            files: Arc::new(RealFiles),
            store: Arc::new(LocalDurable::open(dir.join("store"), dir.join("tmp")).expect("a store")),
            keys: Arc::new(MasterKey::new(SecretKey::from_bytes([7; 32]), SystemRandom)),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
        };
        let engine = Engine::open(EngineConfig::new(dir), parts).await.expect("it opens");
        engine.ensure_org(org).await.expect("made");
        engine
    }

    fn frame(number: u64) -> Frame {
        let mut builder = FrameBuilder::new();
        let (logger, channel) = (LoggerId::new(1).expect("not zero"), ChannelCode::new(1).expect("temperature"));
        let time = Millis::new(1_700_000_000_000 + i64::try_from(number).expect("small")).expect("a time");
        builder.push(logger, time, &[(channel, 4.5)]).expect("a reading");
        let spool = SpoolId::new(1).expect("not zero");
        Frame::decode(builder.encode(spool, FrameSequence::new(number))).expect("a frame")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_of_one_stream_that_wait_together_are_answered_at_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let from =
            GatewayIdentity { org: OrgId::new(1).expect("not zero"), gateway: GatewayId::new(2).expect("not zero") };
        let engine = engine(dir.path(), from.org).await;
        let ((told, answers), (go_on, wait)) = (sync_channel(16), sync_channel(1));
        let stream = Sink::new(Arc::clone(&engine)).stream(from, Arc::new(Held { told, go_on: Mutex::new(wait) }));
        let received = SystemClock::new().now();
        stream.try_submit(received, frame(1)).expect("room");
        assert_eq!(answers.recv_timeout(LONG), Ok(FrameSequence::new(1)));
        // The appender is held up in that answer: these make one group, whichever way they are submitted.
        for number in 2..=5 {
            stream.try_submit(received, frame(number)).expect("room");
        }
        for number in 6..=9 {
            stream.submit(received, frame(number)).await.expect("taken");
        }
        drop(go_on);
        assert_eq!(answers.recv_timeout(LONG), Ok(FrameSequence::new(9)));
        assert!(answers.try_recv().is_err());
        engine.close().await.expect("closed");
    }
}
