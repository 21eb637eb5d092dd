//! The server's process: the engine's steps as tasks, and a conversation with each gateway by the real protocol.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::{AckSink, Appended, Engine, EngineParts, MasterKey, Stepped, Submission, SubmitFailure};
use futures::future::{Either, select};
use ingest::TimePolicy;
use ingest::protocol::{Message, ProtocolVersion, ServerEvent, ServerSession, Welcome, check_frame};
use kit::Reading;
use storage_format::encryption::SecretKey;
use storage_format::{Frame, FrameSequence, GatewayId, OrgId, SpoolId};
use tokio::sync::{Notify, watch};

use crate::exec::Group;
use crate::gateway::identity;
use crate::network::{Broken, End};
use crate::oracle::{Taken, Ticket};
use crate::world::World;

/// The largest frame that the simulated server takes.
pub(crate) const FRAME_BYTES_MAX: u32 = 64 << 10;

/// Opens the engine and runs it until the process dies. What becomes of it is told to the world.
pub(crate) async fn run(world: Rc<World>) {
    let store = match world.open_store() {
        Ok(store) => store,
        Err(error) => return world.no_store(&error),
    };
    let parts = EngineParts {
        files: Arc::new(world.files.of_this_process()),
        store,
        keys: Arc::new(MasterKey::new(SecretKey::from_bytes([7; 32]), Arc::clone(&world.random))),
        clock: Arc::clone(&world.clock) as _,
        random: Arc::clone(&world.random) as _,
    };
    let opened = Stepped::open(world.plan.config.clone(), parts, world.door.for_group(Group::Server)).await;
    let stepped = match opened {
        Ok(stepped) => stepped,
        Err(error) => return world.refused_start(&error),
    };
    if world.files.is_crashed() {
        return;
    }
    let report = stepped.engine().recovery().clone();
    let engine = Arc::clone(stepped.engine());
    world.started(&engine, &report);
    let stepped = Rc::new(RefCell::new(stepped));
    let (stop, stopped) = watch::channel(false);
    let maintenance = stepped.borrow().maintenance(stopped);
    world.door.spawn(Group::Server, maintenance);
    world.door.spawn(Group::Server, prepare(Rc::clone(&world), Rc::clone(&stepped)));
    world.door.spawn(Group::Server, accept(Rc::clone(&world), Arc::clone(&engine)));
    crate::reader::spawn(&world, &engine);
    append(&world, &engine, &stepped, &stop).await;
}

async fn append(world: &World, engine: &Engine, stepped: &RefCell<Stepped>, stop: &watch::Sender<bool>) {
    let mut failed = engine.failed();
    let mut idle = 0;
    loop {
        let appended = stepped.borrow_mut().append();
        world.check(world.oracle().stepped(stepped.borrow_mut().take_order()));
        if world.files.is_crashed() {
            // Whatever the step says, nobody hears it any more.
            return std::future::pending().await;
        }
        world.check(world.oracle().visible(engine.status().lsn_applied.get()));
        world.check(world.oracle().settled());
        if let Some(error) = failed.borrow_and_update().as_ref() {
            return world.ended(error);
        }
        // Nobody wakes it: the longer nothing has come, the longer it looks away.
        idle = if matches!(appended, Ok(Appended::Frames(_))) { 0 } else { (idle + 1).min(20) };
        let pause = match appended {
            Ok(Appended::Frames(_)) => Duration::from_micros(world.below(200)),
            Ok(Appended::Idle | Appended::Waiting) => Duration::from_micros(100 + world.below(3000 * idle)),
            Ok(Appended::Closed) => {
                stop.send_replace(true);
                return world.closed();
            }
            Err(error) => return world.ended(&error),
        };
        if world.closing() {
            stepped.borrow().begin_close();
        }
        world.time.sleep(pause).await;
    }
}

async fn prepare(world: Rc<World>, stepped: Rc<RefCell<Stepped>>) {
    loop {
        world.time.sleep(Duration::from_micros(100 + world.below(300_000))).await;
        // A failure costs nothing: the appender makes the file itself.
        let _made = stepped.borrow().prepare();
    }
}

async fn accept(world: Rc<World>, engine: Arc<Engine>) {
    loop {
        let (who, end) = world.network.accept().await;
        let (world_of, engine) = (Rc::clone(&world), Arc::clone(&engine));
        world.door.spawn(Group::Server, async move {
            // Broken or at its end: the gateway comes again.
            let _ended = converse(&world_of, &engine, who, &end).await;
            end.close();
        });
    }
}

/// The welcome of the simulated server; the client knows it without being told.
#[must_use]
pub(crate) fn welcome(world: &World) -> Welcome {
    let policy = TimePolicy::default();
    Welcome {
        version: ProtocolVersion::CURRENT,
        channel_code_max: storage_format::channels().len().try_into().unwrap_or(u16::MAX),
        frame_bytes_max: FRAME_BYTES_MAX,
        streams_max: 1,
        idle_timeout_ms: 30_000,
        message_timeout_ms: 30_000,
        server_time: engine::Clock::now(&*world.clock),
        time_min: policy.time_min,
        ahead_ms_max: u64::try_from(policy.ahead_max.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Answers of the engine to one connection.
struct Answers {
    world: Arc<Mutex<crate::oracle::Oracle>>,
    files: engine::FaultyFiles,
    state: Mutex<AnswerState>,
    wake: Notify,
}

#[derive(Default)]
struct AnswerState {
    /// Submitted frames, by number, with the truth's ticket for each.
    submitted: Vec<(FrameSequence, Ticket)>,
    durable: FrameSequence,
    failed: bool,
}

impl Answers {
    fn state(&self) -> std::sync::MutexGuard<'_, AnswerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AckSink for Answers {
    fn durable(&self, up_to: FrameSequence) {
        if self.files.is_crashed() {
            return;
        }
        let mut state = self.state();
        let mut oracle = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, ticket) in state.submitted.extract_if(.., |(sequence, _)| *sequence <= up_to) {
            oracle.acknowledged(ticket);
        }
        state.durable = state.durable.max(up_to);
        drop(state);
        self.wake.notify_one();
    }

    fn failed(&self, failed: FrameSequence, failure: SubmitFailure) {
        let mut state = self.state();
        state.failed = true;
        if failure == SubmitFailure::OrgInTrouble {
            let mut oracle = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, ticket) in state.submitted.extract_if(.., |(sequence, _)| *sequence == failed) {
                oracle.refused(ticket);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    fn has_failed(&self) -> bool {
        self.state().failed
    }
}

async fn converse(world: &Rc<World>, engine: &Arc<Engine>, who: u64, end: &End) -> Result<(), Broken> {
    let (org, gateway) = identity(&world.plan.fleet, who);
    let answers = Arc::new(Answers {
        world: world.oracle_handle(),
        files: world.files.clone(),
        state: Mutex::default(),
        wake: Notify::new(),
    });
    let reading = Box::pin(read_frames(world, engine, org, gateway, end, &answers));
    let writing = Box::pin(write_answers(end, &answers));
    match select(reading, writing).await {
        // The client has said all it wanted to: what is left is to answer.
        Either::Left((Ok(()), writing)) => writing.await,
        Either::Left((Err(broken), _)) | Either::Right((Err(broken), _)) => Err(broken),
        Either::Right((Ok(()), _)) => Ok(()),
    }
}

async fn write_answers(end: &End, answers: &Answers) -> Result<(), Broken> {
    let mut told = FrameSequence::ZERO;
    loop {
        let (durable, failed) = {
            let state = answers.state();
            (state.durable, state.failed)
        };
        if durable > told {
            told = durable;
            end.send(Message::Ack { up_to: durable }.to_bytes()).await?;
        } else if failed {
            return Err(Broken);
        } else {
            answers.wake.notified().await;
        }
    }
}

async fn read_frames(
    world: &Rc<World>,
    engine: &Arc<Engine>,
    org: OrgId,
    gateway: GatewayId,
    end: &End,
    answers: &Arc<Answers>,
) -> Result<(), Broken> {
    let timeout = Duration::from_secs(30);
    let mut session = ServerSession::new(Duration::ZERO, FRAME_BYTES_MAX, timeout, timeout);
    while let Some(chunk) = end.receive().await? {
        let mut input = &chunk[..];
        while let Some(event) = session.receive(Duration::ZERO, &mut input).map_err(|error| {
            world.violate(format!("the server does not understand a gateway: {error}"));
            Broken
        })? {
            match event {
                ServerEvent::Open { spool } => {
                    engine.ensure_org(org).await.map_err(|_| Broken)?;
                    let durable = engine.durable_sequence(org, gateway, spool);
                    end.send(Message::Opened { durable }.to_bytes()).await?;
                }
                ServerEvent::TooLarge { .. } => world.violate("a frame was too large".to_owned()),
                ServerEvent::Frame { sequence, frame } => {
                    let Some(spool) = session.spool() else { return Err(Broken) };
                    let now = engine::Clock::now(&*world.clock);
                    match check_frame(frame, spool, sequence, &TimePolicy::default(), now) {
                        Ok(frame) => submit(world, engine, (org, gateway, spool), frame, answers).await?,
                        Err(refusal) => {
                            world.refused(&refusal.detail);
                            let mut out = BytesMut::new();
                            Message::Refused { sequence, code: refusal.code, detail: refusal.detail }.encode(&mut out);
                            end.send(Bytes::from(out)).await?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

async fn submit(
    world: &Rc<World>,
    engine: &Arc<Engine>,
    (org, gateway, spool): (OrgId, GatewayId, SpoolId),
    frame: Frame,
    answers: &Arc<Answers>,
) -> Result<(), Broken> {
    let (sequence, received) = (frame.sequence(), engine::Clock::now(&*world.clock).whole_seconds());
    let readings = Arc::new(readings(&frame));
    let acks = Arc::clone(answers) as Arc<dyn AckSink>;
    // Ready at once when it has taken the frame: the truth has it before the next step.
    engine.submit(Submission { org, gateway, received, frame, acks }).await.map_err(|_| Broken)?;
    let ticket = world.oracle().take(Taken { org, gateway, spool, sequence, received, readings });
    answers.state().submitted.push((sequence, ticket));
    Ok(())
}

/// What a decoded frame says.
fn readings(frame: &Frame) -> Vec<Reading> {
    let mut all = Vec::with_capacity(frame.len());
    for run in frame.runs() {
        for row in run.range() {
            let columns = frame.channels().iter().enumerate();
            let samples = columns.map(|(index, code)| (*code, frame.column(index)[row]));
            all.push(Reading {
                logger: run.logger,
                time: storage_format::Millis::new(frame.times()[row]).expect("a decoded time is a time"),
                samples: samples.filter(|(_, value)| !value.is_nan()).collect(),
            });
        }
    }
    all
}
