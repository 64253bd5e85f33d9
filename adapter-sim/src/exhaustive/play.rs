//! One run of a small world: what can happen next, and what happens then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol_core::effects::{Event, Input};
use protocol_core::faults::Failure;
use protocol_core::identity::NetworkIdentity;
use protocol_core::ids::{ConnId, DeviceId, SessionId, StreamId};

use super::step::{Channel, Happens, NAMES, NOBODY, Step, bit};
use super::{Begin, Kind, Small};
use crate::random::Random;
use crate::trace::What;
use crate::world::{Act, Source};
use crate::{Answer, Dev, World};

/// Something that can happen now, and where it waits in the world's queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) step: Step,
    key: Option<(u64, u64)>,
}

/// Who is who in small worlds: the same in every run.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) ids: Vec<DeviceId>,
    pub(crate) keys: Vec<Vec<u8>>,
}

/// What people said and were told in a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Who said yes to whom.
    pub(crate) yes: BTreeSet<(Dev, DeviceId)>,
    /// About whom a person was asked last.
    pub(crate) asked: BTreeMap<Dev, DeviceId>,
    /// How the pairing ended for a device, as it was told last.
    pub(crate) told: BTreeMap<Dev, String>,
    /// When the code's time is over, on I's clock in microseconds.
    pub(crate) code_until: u64,
    /// I's yes was taken when the code's time was over, and that of every handshake begun before.
    pub(crate) late: bool,
}

/// A run of a small world.
pub(crate) struct Play<'s> {
    pub(crate) small: &'s Small,
    pub(crate) who: &'s Who,
    pub(crate) world: World,
    pub(crate) facts: Facts,
    session: Option<SessionId>,
    /// Ends of connections to which nothing comes.
    deaf: BTreeSet<ConnId>,
    /// How many faults may still happen.
    faults_left: u8,
    began: u64,
    heard: usize,
}

impl<'s> Play<'s> {
    /// A run that has begun.
    pub(crate) fn new(small: &'s Small, who: &'s Who, recorded: bool) -> Self {
        let mut world = small.empty_world(recorded);
        for (number, rows) in small.rows.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let dev = Dev(number);
            world.crash(dev);
            world.store_mut(dev).clone_from(rows);
            world.devices[number].random = Source::new(Random::new(1_000 + number as u64));
            world.restart(dev);
        }
        let began = world.now;
        let facts = Facts::default();
        let mut play = Self { small, who, world, facts, session: None, deaf: BTreeSet::new(), faults_left: small.at_once, began, heard: 0 };
        play.begin();
        play
    }

    fn begin(&mut self) {
        match &self.small.begin {
            Begin::Pair { joiners, connections, confirm, age } => {
                let i = Dev(0);
                // Fresh devices take these calls: nothing else runs.
                let Ok(invite) = self.world.invite(i, *confirm) else { return };
                self.session = Some(invite.session);
                self.facts.code_until = self.world.clock(i).as_micros() + 600_000_000;
                self.world.devices[0].ahead += age.as_micros() as u64;
                let at = vec![self.world.address(i); *connections];
                for joiner in 1..=*joiners {
                    let _session = self.world.join(Dev(joiner), &invite.code, &at, *confirm);
                }
            }
            Begin::Connect(pairs) => {
                for &(from, to) in pairs {
                    self.world.connect(from, to);
                }
            }
        }
    }

    /// Whether what is paired here was paired before, or by policies that always say yes.
    pub(crate) fn agreed_before(&self) -> bool {
        use protocol_core::node::Confirm;
        !matches!(&self.small.begin, Begin::Pair { confirm: Confirm::Ask, .. }) || self.small.rows.iter().any(|rows| !rows.is_empty())
    }

    /// Whether the users of both said yes to each other.
    pub(crate) fn both_said_yes(&self, dev: Dev, peer: Dev) -> bool {
        let said = |one: Dev, other: Dev| self.facts.yes.contains(&(one, self.who.ids[other.0]));
        self.agreed_before() || said(dev, peer) && said(peer, dev)
    }

    /// Whether no fault has happened.
    pub(crate) const fn untroubled(&self) -> bool {
        self.faults_left == self.small.at_once
    }

    /// Whether a pairing of this device has not come to an end that its owner was told.
    fn pairs(&self, dev: Dev) -> bool {
        self.session.is_some() && !self.facts.told.contains_key(&dev)
    }

    /// The conditions under which an act means something, and where it belongs. What means nothing any more never will.
    fn place(&self, act: &Act) -> Option<(Channel, u8)> {
        let world = &self.world;
        let towards = |stream: usize, end: usize| {
            let dev = world.owner(stream, end)?;
            let slot = &world.streams[stream];
            let heard = !self.deaf.contains(&world.conns[slot.conn].ends[slot.conn_end(end)].id);
            heard.then_some((Channel::Stream(slot.ends[end].id), bit(dev)))
        };
        match act {
            Act::Tell { dev, life, input } => {
                let channel = match input {
                    Input::ConnDown { conn } => Channel::Own(*conn),
                    Input::StreamDown { stream, .. } => Channel::Own(self.conn_of(*stream)?),
                    Input::Done { ticket, result: Err(failure) } if !matches!(failure, Failure::Disk(_)) => Channel::Failed(*dev, *ticket),
                    _ => Channel::Store(*dev),
                };
                world.is_life(*dev, *life).then_some((channel, bit(*dev)))
            }
            Act::Dial { dev, life, ticket, to } => {
                let peer = world.device_at(to).map_or(0, bit);
                world.is_life(*dev, *life).then_some((Channel::Dial(*dev, *ticket), bit(*dev) | peer))
            }
            Act::Up { conn, .. } => {
                let own = &world.conns[*conn].ends[0];
                world.is_life(own.dev, own.life).then_some((Channel::Up(own.id), bit(own.dev)))
            }
            Act::Opened { stream } => towards(*stream, 1),
            Act::Bytes { stream, from, .. } => {
                let slot = &world.streams[*stream];
                (!slot.pipes[*from].dead && !slot.ends[1 - *from].down).then(|| towards(*stream, 1 - *from))?
            }
            Act::End { stream, from } => (!world.streams[*stream].pipes[*from].dead).then(|| towards(*stream, 1 - *from))?,
            Act::Broken { stream, end } => (!world.streams[*stream].ends[*end].down).then(|| towards(*stream, *end))?,
            Act::Gone { conn, end } => {
                let own = &world.conns[*conn].ends[*end];
                let hears = own.up && world.is_life(own.dev, own.life) && !self.deaf.contains(&own.id);
                hears.then_some((Channel::Gone(own.id), bit(own.dev)))
            }
            Act::Durable { dev, life, .. } => world.is_life(*dev, *life).then_some((Channel::Store(*dev), bit(*dev))),
            Act::AnswerPairing { dev, life, .. } => world.is_life(*dev, *life).then_some((Channel::User(*dev), bit(*dev))),
            // Only transfers look at queues and files, and there are neither transfers, rules nor scripts here.
            Act::Drained { .. }
            | Act::Files { .. }
            | Act::GoOn { .. }
            | Act::Talk { .. }
            | Act::Seal { .. }
            | Act::AnswerOffer { .. }
            | Act::Cut { .. }
            | Act::Tainted { .. }
            | Act::Overdue { .. }
            | Act::Step { .. }
            | Act::Wake { .. }
            | Act::Lookup { .. }
            | Act::Found { .. }
            | Act::Enemy(_)
            | Act::Crash { .. } => None,
        }
    }

    /// What is under way, each with its channel and in its order there.
    pub(crate) fn under_way(&self) -> Vec<(Channel, String)> {
        let text = |act: &Act| match act {
            Act::Tell { input, .. } => format!("{input:?}"),
            Act::Dial { to, .. } => format!("dial {to}"),
            Act::Bytes { bytes, .. } => format!("{bytes:?}"),
            Act::Durable { batch, ticket, .. } => {
                let rows = batch.iter().map(|change| (change.table, &change.key, change.value.as_ref().map(|value| value.bytes())));
                format!("{ticket:?} {:?}", rows.collect::<Vec<_>>())
            }
            Act::Up { ticket, .. } => format!("up {ticket:?}"),
            Act::Opened { .. } => "opened".into(),
            Act::End { .. } => "end".into(),
            Act::Broken { .. } => "reset".into(),
            Act::AnswerPairing { session, .. } => format!("{session}"),
            _ => String::new(),
        };
        self.world.queue.values().filter_map(|act| Some((self.place(act)?.0, text(act)))).collect()
    }

    /// What else the rest of a run depends on.
    pub(crate) const fn rest(&self) -> (&BTreeSet<ConnId>, u8, Option<SessionId>) {
        (&self.deaf, self.faults_left, self.session)
    }

    fn conn_of(&self, stream: StreamId) -> Option<ConnId> {
        let &(stream, end) = self.world.stream_ends.get(&stream)?;
        let slot = &self.world.streams[stream];
        Some(self.world.conns[slot.conn].ends[slot.conn_end(end)].id)
    }

    /// Everything that can happen now. First what is no fault; a fault only if there was none.
    pub(crate) fn moves(&mut self) -> Vec<Move> {
        let placed: Vec<_> = self.world.queue.iter().map(|(&key, act)| (key, self.place(act))).collect();
        let gone: Vec<_> = placed.iter().filter(|(_, place)| place.is_none()).map(|&(key, _)| key).collect();
        for key in gone {
            self.world.queue.remove(&key);
        }
        let mut waiting: Vec<Channel> = Vec::new();
        let mut moves = Vec::new();
        // Nothing comes over a connection before its dialler knows of it.
        let young: Vec<ConnId> =
            placed.iter().filter_map(|(_, place)| if let Some((Channel::Up(conn), _)) = place { Some(*conn) } else { None }).collect();
        for (key, channel, devs) in placed.into_iter().filter_map(|(key, place)| place.map(|(channel, devs)| (key, channel, devs))) {
            let over = match channel {
                Channel::Stream(stream) => self.conn_of(stream),
                Channel::Gone(conn) => Some(conn),
                _ => None,
            };
            if over.is_some_and(|conn| young.contains(&conn)) {
                continue;
            }
            if !waiting.contains(&channel) {
                moves.push(Move { step: Step { what: Happens::Next(channel), devs }, key: Some(key) });
            } else if let (Channel::Stream(id), Act::Broken { stream, end }) = (channel, &*self.world.queue[&key])
                && self.world.streams[*stream].ends[*end].up
            {
                moves.push(Move { step: Step { what: Happens::Lost(id), devs }, key: Some(key) });
            }
            waiting.push(channel);
        }
        for dev in (0..self.world.devices.len()).map(Dev) {
            let due = |node: &protocol_core::node::Node| node.deadline().is_some_and(|deadline| deadline.at <= self.world.clock(dev));
            match &self.world.devices[dev.0].node {
                None => moves.push(Move::new(Happens::Restart(dev), bit(dev))),
                Some(node) if due(node) => moves.push(Move::new(Happens::Tick(dev), bit(dev))),
                Some(_) => {}
            }
        }
        if moves.is_empty() {
            let soon = self.world.next_tick().is_some_and(|(at, _)| at <= self.began + self.small.patience.as_micros() as u64);
            let what = if soon && !self.connected(Dev(0), Dev(1)) { Happens::Time } else { Happens::End };
            moves.push(Move::new(what, NOBODY));
        }
        if self.faults_left > 0 {
            self.faults(&young, &mut moves);
        }
        moves
    }

    /// Every fault that can happen now.
    fn faults(&self, young: &[ConnId], moves: &mut Vec<Move>) {
        let all = self.small.faults;
        let mut push = |kind: Kind, what: Happens, dev: Dev| {
            if all.contains(&kind) {
                moves.push(Move::new(what, bit(dev)));
            }
        };
        for dev in (0..self.world.devices.len()).map(Dev).filter(|&dev| self.world.is_up(dev)) {
            let writes = self.writes(dev).len();
            for kept in 0..=writes {
                push(Kind::Crash, Happens::Crash(dev, kept), dev);
            }
            if writes > 0 {
                push(Kind::Fail, Happens::Fail(dev), dev);
            }
            if self.question(dev).is_some() {
                push(Kind::User, Happens::No(dev), dev);
                push(Kind::User, Happens::Silent(dev), dev);
            }
            if self.pairs(dev) {
                push(Kind::User, Happens::Cancel(dev), dev);
            }
            for by in [6, 40, 130, 610] {
                push(Kind::Late, Happens::Late(dev, by), dev);
            }
        }
        for end in self.world.conns.iter().flat_map(|conn| &conn.ends) {
            if end.up && self.world.is_life(end.dev, end.life) && !young.contains(&end.id) {
                push(Kind::Cut, Happens::Cut(end.id), end.dev);
                push(Kind::Vanish, Happens::Vanish(end.id), end.dev);
            }
        }
    }

    /// The writes of a device that are under way, oldest first.
    fn writes(&self, dev: Dev) -> Vec<(u64, u64)> {
        let of_dev = |act: &Act| matches!(act, Act::Durable { dev: of, life, .. } if *of == dev && self.world.is_life(dev, *life));
        self.world.queue.iter().filter(|(_, act)| of_dev(act)).map(|(&key, _)| key).collect()
    }

    /// The question that a person has before it.
    fn question(&self, dev: Dev) -> Option<((u64, u64), SessionId)> {
        self.world.queue.iter().find_map(|(&key, act)| match **act {
            Act::AnswerPairing { dev: of, session, .. } if of == dev => Some((key, session)),
            _ => None,
        })
    }

    /// Whether both have a session with each other.
    pub(crate) fn connected(&self, a: Dev, b: Dev) -> bool {
        use protocol_core::effects::DeviceState;
        let sees = |dev: Dev, peer: Dev| {
            self.world.is_up(dev)
                && self.world.devices(dev).iter().any(|view| view.id == self.who.ids[peer.0] && view.state == DeviceState::Connected)
        };
        sees(a, b) && sees(b, a)
    }

    /// Something that can happen happens. True if what is durable may have changed.
    pub(crate) fn perform(&mut self, Move { step, key }: Move) -> bool {
        self.faults_left -= u8::from(step.is_fault());
        if self.world.recording {
            let now = self.world.now;
            self.world.trace.push(now, None, What::Step(step.to_string()));
        }
        let world = &mut self.world;
        match step.what {
            Happens::Next(Channel::User(dev)) => self.answer(dev, (true, true)),
            Happens::No(dev) => self.answer(dev, (false, self.small.misheard)),
            Happens::Next(_) | Happens::Lost(_) => {
                if let Some(act) = key.and_then(|key| world.queue.remove(&key)) {
                    world.act(*act);
                }
            }
            Happens::Tick(dev) => world.handle(dev, Input::Tick),
            Happens::Restart(dev) => world.restart(dev),
            Happens::Time => {
                if let Some((at, _)) = world.next_tick() {
                    world.now = world.now.max(at);
                }
            }
            Happens::End => {}
            Happens::Crash(dev, kept) => {
                for key in self.writes(dev).into_iter().take(kept) {
                    self.keep(dev, key);
                }
                self.world.crash(dev);
            }
            Happens::Cut(id) => {
                if let Some(&(conn, end)) = world.conn_ends.get(&id) {
                    world.gone(conn, end);
                    world.after(0, Act::Gone { conn, end: 1 - end });
                }
            }
            Happens::Vanish(id) => {
                self.deaf.insert(id);
                if let Some(&(conn, end)) = world.conn_ends.get(&id) {
                    for stream in world.conns[conn].streams.clone() {
                        let own = world.streams[stream].opener ^ end;
                        world.streams[stream].pipes[1 - own].dead = true;
                    }
                }
            }
            Happens::Fail(dev) => self.fail(dev),
            Happens::Silent(dev) => {
                if let Some((key, _)) = self.question(dev) {
                    self.world.queue.remove(&key);
                }
            }
            Happens::Cancel(dev) => {
                if let Some(session) = self.session {
                    world.call(dev, |node, env| node.cancel_pairing(env, session));
                }
            }
            Happens::Late(dev, by) => world.devices[dev.0].ahead += by * 1_000_000,
        }
        matches!(step.what, Happens::Next(Channel::Store(_)) | Happens::Crash(..))
    }

    /// A person says something, and the Node hears something.
    fn answer(&mut self, dev: Dev, (said, heard): (bool, bool)) {
        let Some((key, session)) = self.question(dev) else { return };
        self.world.queue.remove(&key);
        let clock = self.world.clock(dev).as_micros();
        let taken = self.world.call(dev, |node, env| node.answer_pairing(env, session, heard)).is_ok();
        if let (true, true, Some(&peer)) = (taken, said, self.facts.asked.get(&dev)) {
            self.facts.yes.insert((dev, peer));
            self.facts.late |= dev == Dev(0) && clock > self.facts.code_until + 300_000_000;
        }
    }

    /// A write is durable, and its Node never hears of it.
    fn keep(&mut self, dev: Dev, key: (u64, u64)) {
        let Some(Act::Durable { batch, .. }) = self.world.queue.remove(&key).map(|act| *act) else { return };
        for change in batch {
            let (row, store) = ((change.table, change.key), &mut self.world.devices[dev.0].store);
            match change.value {
                Some(value) => store.insert(row, value.bytes().to_vec()),
                None => store.remove(&row),
            };
        }
    }

    fn fail(&mut self, dev: Dev) {
        let Some(&key) = self.writes(dev).first() else { return };
        if let Some(Act::Durable { ticket, .. }) = self.world.queue.remove(&key).map(|act| *act) {
            let result = Err(Failure::Disk(protocol_core::faults::FileFault::DiskFull));
            self.world.handle(dev, Input::Done { ticket, result });
        }
    }

    /// The events that devices were told since this was last asked; who was asked about whom, and how pairings ended, is kept.
    pub(crate) fn hear(&mut self) -> Vec<(Dev, Event)> {
        let new = self.world.events()[self.heard..].to_vec();
        self.heard += new.len();
        for (dev, event) in &new {
            match event {
                Event::PairRequest { peer, .. } => {
                    self.facts.asked.insert(*dev, peer.device);
                }
                Event::Paired { .. } => {
                    self.facts.told.insert(*dev, "Paired".into());
                }
                Event::PairUnfinished { .. } => {
                    self.facts.told.insert(*dev, "PairUnfinished".into());
                }
                Event::PairFailed { reason, .. } | Event::PairRefused { reason, .. } => {
                    self.facts.told.insert(*dev, format!("{reason:?}"));
                }
                _ => {}
            }
        }
        new
    }

    /// The network is as it should be again, and people answer nothing more; what was lost stays lost.
    pub(crate) fn calm(&mut self, time: Duration) {
        for dev in 0..self.world.devices.len() {
            self.world.set_pairings(Dev(dev), Answer::Silent);
        }
        self.deaf.clear();
        self.world.run_for(time);
    }
}

impl Move {
    const fn new(what: Happens, devs: u8) -> Self {
        Self { step: Step { what, devs }, key: None }
    }
}

impl Small {
    /// The devices of this world, running, and nothing else.
    fn empty_world(&self, recorded: bool) -> World {
        let mut world = if recorded { World::new(0) } else { World::quiet(0) };
        world.commuting = true;
        world.set_latency(Duration::ZERO, Duration::ZERO);
        for name in NAMES.into_iter().take(self.devices()) {
            world.add_device_on(name, self.wire);
        }
        world
    }

    pub(crate) fn devices(&self) -> usize {
        match self.begin {
            Begin::Pair { joiners, .. } => 1 + joiners,
            Begin::Connect(_) => 2,
        }
    }

    pub(crate) fn who(&self) -> Who {
        let world = self.empty_world(false);
        let identity = |dev: usize| NetworkIdentity::from_seed(protocol_core::crypto::secret::Secret::new(world.devices[dev].seed));
        let identities: Vec<_> = (0..self.devices()).map(identity).collect();
        Who {
            ids: identities.iter().map(NetworkIdentity::device_id).collect(),
            keys: identities.iter().map(|identity| identity.public().0.to_vec()).collect(),
        }
    }
}
