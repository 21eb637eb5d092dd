//! A gateway: makes frames, keeps them in its spool, sends them over whatever connection there is, and takes answers;
//! by the real client's spool and protocol.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use ingest::client::Spool;
use ingest::protocol::{ClientEvent, ClientSession, Message, frame_head};
use storage_format::{ChannelCode, FrameBuilder, FrameSequence, GatewayId, LoggerId, Millis, OrgId, SpoolId};
use tokio::sync::Notify;

use crate::draw::Draw;
use crate::exec::Group;
use crate::network::{Broken, End};
use crate::parts::START_MS;
use crate::plan::Fleet;
use crate::world::World;

/// Memory of a gateway for what is not acknowledged.
const SPOOL_BYTES: usize = 16 << 10;

/// Whose gateway number `who` is, and which.
///
/// # Panics
/// Never: numbers are small, and not zero.
#[must_use]
pub(crate) fn identity(fleet: &Fleet, who: u64) -> (OrgId, GatewayId) {
    let org = OrgId::new(0xA0 + who / fleet.gateways).expect("not zero");
    (org, GatewayId::new(0x6000 + who).expect("not zero"))
}

/// All organisations of a fleet.
///
/// # Panics
/// Never.
#[must_use]
pub(crate) fn orgs(fleet: &Fleet) -> Vec<OrgId> {
    (0..fleet.orgs).map(|org| OrgId::new(0xA0 + org).expect("not zero")).collect()
}

/// A spool that a gateway had before it lost its memory: what was acknowledged of it must still be there.
#[derive(Debug)]
pub(crate) struct Past {
    /// Its id.
    pub(crate) spool: SpoolId,
    /// What the gateway took for acknowledged.
    pub(crate) done: BTreeSet<FrameSequence>,
}

/// What a gateway has.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Its number in the fleet.
    pub(crate) who: u64,
    spool: Spool,
    /// What was made and acknowledged, to be sent again by whoever does such things.
    sent: Vec<(FrameSequence, Bytes)>,
    made: u64,
    past: Vec<Past>,
    work: Rc<Notify>,
}

impl Gateway {
    fn new(who: u64, draw: &mut Draw) -> Self {
        let spool = Spool::new(fresh_spool(draw), SPOOL_BYTES);
        Self { who, spool, sent: Vec::new(), made: 0, past: Vec::new(), work: Rc::default() }
    }

    /// Everything made, and everything answered?
    #[must_use]
    pub(crate) fn is_done(&self, fleet: &Fleet) -> bool {
        self.made >= fleet.frames && self.spool.is_empty()
    }

    /// Its spools so far, with what it takes for acknowledged.
    #[must_use]
    pub(crate) fn spools(&self) -> Vec<Past> {
        let mut all: Vec<Past> =
            self.past.iter().map(|past| Past { spool: past.spool, done: past.done.clone() }).collect();
        all.push(self.now());
        all
    }

    fn now(&self) -> Past {
        let open: BTreeSet<FrameSequence> = self.spool.waiting().collect();
        let refused: BTreeSet<FrameSequence> = self.spool.fate().refused.iter().map(|frame| frame.sequence).collect();
        let done = (1..=self.spool.last().get()).map(FrameSequence::new);
        let done = done.filter(|sequence| !open.contains(sequence) && !refused.contains(sequence)).collect();
        Past { spool: self.spool.id(), done }
    }

    /// Loses its memory: what was not acknowledged is gone, and a new spool begins.
    fn forget(&mut self, draw: &mut Draw) {
        let past = self.now();
        self.past.push(past);
        self.sent.clear();
        self.spool = Spool::new(fresh_spool(draw), SPOOL_BYTES);
    }
}

fn fresh_spool(draw: &mut Draw) -> SpoolId {
    loop {
        let mut id = [0; 8];
        draw.fill(&mut id);
        if let Ok(id) = SpoolId::new(u64::from_le_bytes(id)) {
            return id;
        }
    }
}

/// Starts a gateway.
pub(crate) fn start(world: &Rc<World>, who: u64, draw: &Draw) -> Rc<RefCell<Gateway>> {
    let mut draw = draw.split(&format!("gateway {who}"));
    let gateway = Rc::new(RefCell::new(Gateway::new(who, &mut draw)));
    let make = make(Rc::clone(world), Rc::clone(&gateway), draw.split("make"));
    world.door.spawn(Group::Fleet, make);
    world.door.spawn(Group::Fleet, connect(Rc::clone(world), Rc::clone(&gateway), draw.split("connect")));
    gateway
}

/// Makes frames until there are enough.
async fn make(world: Rc<World>, gateway: Rc<RefCell<Gateway>>, mut draw: Draw) {
    let fleet = world.plan.fleet;
    while gateway.borrow().made < fleet.frames {
        world.time.sleep(Duration::from_millis(draw.spread(1, fleet.pause_max))).await;
        let mut gateway = gateway.borrow_mut();
        if !gateway.spool.has_room() {
            continue;
        }
        if draw.chance(fleet.forgets) {
            gateway.forget(&mut draw);
        }
        let sequence = FrameSequence::new(gateway.spool.last().get() + 1);
        let mut builder = FrameBuilder::new();
        for _ in 0..draw.between(1, fleet.readings_max) {
            // A reading that the frame has already is refused by the builder; another is drawn next time.
            let (logger, time, samples) = reading(&fleet, &mut draw);
            let _twice = builder.push(logger, time, &samples);
        }
        let readings = builder.len() as u64;
        let frame = builder.encode(gateway.spool.id(), sequence);
        gateway.sent.push((sequence, frame.clone()));
        gateway.spool.push(sequence, frame, readings);
        gateway.made += 1;
        gateway.work.notify_one();
    }
}

fn reading(fleet: &Fleet, draw: &mut Draw) -> (LoggerId, Millis, Vec<(ChannelCode, f64)>) {
    let logger = 1 + draw.below(fleet.loggers);
    let slot = draw.below(fleet.times);
    // The slots straddle the end of a month, and a few are of years before.
    let time = if slot % fleet.old_every == fleet.old_every - 1 {
        START_MS - 40_000_000_000 * i64::try_from(1 + slot % 5).unwrap_or(1)
    } else {
        START_MS + (i64::try_from(slot).unwrap_or(0) - 100) * 37_001
    };
    let mut samples = Vec::new();
    for code in 1..=fleet.channels {
        if samples.is_empty() && code == fleet.channels || draw.chance(700) {
            let other = if draw.chance(fleet.other_value) { draw.between(1, 3) } else { 0 };
            let value = (logger * 1000 + slot * 10 + code) as f64 / 16.0 + other as f64;
            samples.push((ChannelCode::new(u16::try_from(code).unwrap_or(1)).expect("not zero"), value));
        }
    }
    (LoggerId::new(logger).expect("not zero"), Millis::EPOCH.saturating_add(time), samples)
}

/// Connects, again and again.
async fn connect(world: Rc<World>, gateway: Rc<RefCell<Gateway>>, mut draw: Draw) {
    loop {
        let who = gateway.borrow().who;
        if let Some(end) = world.network.connect(who) {
            if draw.chance(world.network_faults().twice) {
                let again = send_again(Rc::clone(&world), Rc::clone(&gateway), draw.split("again"));
                world.door.spawn(Group::Fleet, again);
            }
            // It ends only by breaking.
            let _broken = converse(&world, &gateway, &end).await;
            end.close();
        }
        world.time.sleep(Duration::from_millis(draw.spread(1, 2000))).await;
    }
}

async fn converse(world: &World, gateway: &RefCell<Gateway>, end: &End) -> Result<(), Broken> {
    let spool = gateway.borrow().spool.id();
    let mut session = ClientSession::new();
    let mut input = Bytes::new();
    end.send(Message::Open { spool }.to_bytes()).await?;
    let ClientEvent::Opened { durable } = next(world, end, &mut session, &mut input, || FrameSequence::ZERO).await?
    else {
        return Err(Broken);
    };
    {
        let mut gateway = gateway.borrow_mut();
        if gateway.spool.id() != spool {
            return Err(Broken);
        }
        let welcome = crate::server::welcome(world);
        gateway.spool.resume(durable, &welcome);
    }
    let sending = Box::pin(send_frames(gateway, end, spool));
    let answers = Box::pin(take_answers(world, gateway, end, &mut session, &mut input, spool));
    match select(sending, answers).await {
        Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
    }
}

async fn send_frames(gateway: &RefCell<Gateway>, end: &End, spool: SpoolId) -> Result<(), Broken> {
    let work = Rc::clone(&gateway.borrow().work);
    loop {
        let next = {
            let mut gateway = gateway.borrow_mut();
            if gateway.spool.id() != spool {
                return Err(Broken);
            }
            gateway.spool.next_to_send()
        };
        match next {
            Some((sequence, frame)) => {
                end.send(Bytes::copy_from_slice(&frame_head(sequence, frame.len()))).await?;
                end.send(frame).await?;
            }
            None => work.notified().await,
        }
    }
}

async fn take_answers(
    world: &World,
    gateway: &RefCell<Gateway>,
    end: &End,
    session: &mut ClientSession,
    input: &mut Bytes,
    spool: SpoolId,
) -> Result<(), Broken> {
    loop {
        let sent = || {
            let gateway = gateway.borrow();
            // After the gateway has lost its memory it listens no more.
            if gateway.spool.id() == spool { gateway.spool.sent_up_to() } else { FrameSequence::new(u64::MAX) }
        };
        let event = next(world, end, session, input, sent).await?;
        let mut gateway = gateway.borrow_mut();
        if gateway.spool.id() != spool {
            return Err(Broken);
        }
        match event {
            ClientEvent::Acknowledged { up_to } => gateway.spool.acknowledge(up_to),
            ClientEvent::Refused { sequence, code, detail } => gateway.spool.refuse(sequence, code, detail),
            ClientEvent::Opened { .. } => {}
        }
    }
}

async fn next(
    world: &World,
    end: &End,
    session: &mut ClientSession,
    input: &mut Bytes,
    sent: impl Fn() -> FrameSequence,
) -> Result<ClientEvent, Broken> {
    loop {
        let mut rest = &input[..];
        let event = session.receive(sent(), &mut rest);
        let taken = input.len() - rest.len();
        let _taken = input.split_to(taken);
        match event {
            Ok(Some(event)) => return Ok(event),
            Ok(None) => match end.receive().await? {
                Some(chunk) => *input = chunk,
                None => return Err(Broken),
            },
            Err(error) => {
                world.violate(format!("a gateway does not understand the server: {error}"));
                return Err(Broken);
            }
        }
    }
}

/// Sends frames again that are acknowledged, over a connection of their own, and hears no answer.
async fn send_again(world: Rc<World>, gateway: Rc<RefCell<Gateway>>, draw: Draw) {
    world.again.set(world.again.get() + 1);
    send_some_again(&world, &gateway, draw).await;
    world.again.set(world.again.get() - 1);
}

async fn send_some_again(world: &World, gateway: &RefCell<Gateway>, mut draw: Draw) {
    world.time.sleep(Duration::from_millis(draw.spread(1, 5000))).await;
    let who = gateway.borrow().who;
    let Some(end) = world.network.connect(who) else { return };
    let (spool, mut frames) = {
        let gateway = gateway.borrow();
        let open: BTreeSet<FrameSequence> = gateway.spool.waiting().collect();
        let done = gateway.sent.iter().filter(|(sequence, _)| open.first().is_none_or(|first| sequence < first));
        (gateway.spool.id(), done.cloned().collect::<Vec<_>>())
    };
    frames.retain(|_| draw.chance(300));
    let send = async {
        end.send(Message::Open { spool }.to_bytes()).await?;
        for (sequence, frame) in frames {
            end.send(Bytes::copy_from_slice(&frame_head(sequence, frame.len()))).await?;
            end.send(frame).await?;
        }
        world.time.sleep(Duration::from_secs(5)).await;
        Ok::<(), Broken>(())
    };
    let _broken = send.await;
    end.close();
}
