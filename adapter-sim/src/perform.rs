//! What Nodes say is done here, and what comes of it is told to them.

use protocol_core::devices::policy::FilePolicy;
use std::sync::Arc;

use protocol_core::effects::{Cut, DeviceState, Event, Input, Output, Reply, TransferKey};
use protocol_core::faults::{DeclineReason, Failure};
use protocol_core::ids::{DeviceId, TransferId};
use protocol_core::node::ShareError;

use crate::choice::Site;
use crate::disk::{Tree, manifest_of};
use crate::link::ConnEnd;
use crate::script::CHUNK;
use crate::storage::DISK;
use crate::trace::What;
use crate::world::{Act, Answer, Dev, World};

/// A person's time, in microseconds.
const PERSON: u64 = 700_000;

impl World {
    /// Does what a Node says, until it says nothing more.
    pub(crate) fn perform(&mut self, dev: Dev) {
        while let Some(output) = self.devices[dev.0].node.as_mut().and_then(protocol_core::node::Node::poll) {
            self.output(dev, output);
        }
    }

    fn output(&mut self, dev: Dev, output: Output) {
        let life = self.devices[dev.0].life;
        match output {
            Output::Dial { ticket, to } => {
                self.note(dev, What::Dials { to: to.to_string() });
                self.with_oracle(|oracle, _| oracle.on_dial(dev, &to.text));
                let delay = self.one_way() + self.slow_dial(dev);
                self.after(delay, Act::Dial { dev, life, ticket, to });
            }
            Output::Open { ticket, conn, name } => self.open(dev, ticket, conn, name),
            Output::Hangup { conn, code } => {
                if let Some(&(number, _)) = self.conn_ends.get(&conn) {
                    self.note(dev, What::HangsUp { conn: number, code });
                }
                self.hang_up(conn);
            }
            Output::Send { stream, bytes } => {
                if let Some(&(stream, end)) = self.stream_ends.get(&stream) {
                    let (name, frame) = (self.streams[stream].name, self.streams[stream].pipes[end].frames + 1);
                    if frame <= 2 && self.oracle.is_some() {
                        let peer = self.device_of(stream, 1 - end);
                        let (got, said) = (self.streams[stream].pipes[0].delivered, bytes.len() as u64);
                        self.with_oracle(|oracle, world| {
                            oracle.on_sent(world, (dev, peer), name, (end == 0, frame), &bytes);
                            oracle.check_response(world, dev, name, (end == 0, frame));
                            if (end, frame) == (1, 1) {
                                oracle.check_first_word(dev, got, said);
                            }
                        });
                        self.await_answer(stream, end, frame);
                    }
                    self.send(stream, end, bytes);
                    self.after(10, Act::Drained { stream, end });
                }
            }
            Output::Finish { stream } => {
                if let Some(&(stream, end)) = self.stream_ends.get(&stream) {
                    self.finish(stream, end);
                }
            }
            Output::Reset { stream, code } => {
                if let Some(&(stream, end)) = self.stream_ends.get(&stream) {
                    self.note(dev, What::Resets { stream, code });
                    self.on_refused(stream, end, code);
                    self.reset(stream, end);
                }
            }
            Output::Bulk { stream, half } => self.bulk(stream, half),
            Output::Protocol { stream, device, name, opened, sealer, opener } => {
                self.protocol(dev, stream, (device, name, opened), (sealer, opener));
            }
            Output::NotOpened { opened, error } => self.not_opened(dev, opened, error),
            Output::Persist { ticket, batch } => self.persist(dev, ticket, batch),
            Output::Files { ticket, transfer, entries, op } => {
                self.note(dev, What::Files { op, entries: (entries.start, entries.end) });
                if let Some(taken) = self.watch.as_ref().map(|watch| watch.has_taken(dev, transfer)) {
                    self.with_oracle(|oracle, _| oracle.check_consent(dev, transfer, op, taken));
                }
                let at = self.devices[dev.0].disk_busy.max(self.now) + DISK + self.devices[dev.0].slow_disk;
                self.devices[dev.0].disk_busy = at;
                self.at(at, Act::Files { dev, life, ticket, key: transfer, entries, op });
            }
            Output::Notify(event) => self.notify(dev, life, event),
        }
    }

    /// Offers a tree.
    ///
    /// # Errors
    /// The Node's.
    pub fn share(&mut self, dev: Dev, peer: Dev, tree: &Tree, chunk_size: u32) -> Result<TransferKey, ShareError> {
        self.share_as(dev, peer, (tree, chunk_size), None)
    }

    /// Offers again what a device was about to send to another in an earlier life, as the transfer that it was.
    fn share_unsent(&mut self, dev: Dev, device: DeviceId) {
        let Some(peer) = self.dev_of_id(device) else { return };
        for (id, tree) in self.devices[dev.0].disk.take_unsent(device) {
            if let Ok(key) = self.share_as(dev, peer, (&tree, CHUNK), Some(id)) {
                self.with_oracle(|oracle, world| oracle.on_share(world, dev, key, &tree));
            }
        }
    }

    fn share_as(
        &mut self,
        dev: Dev,
        peer: Dev,
        (tree, chunk_size): (&Tree, u32),
        again: Option<TransferId>,
    ) -> Result<TransferKey, ShareError> {
        let manifest = manifest_of(tree, chunk_size);
        let id = self.id(peer);
        let shared = self.ask(dev, |node, env| match again {
            Some(transfer) => node.share_again(env, id, Arc::clone(&manifest), None, transfer),
            None => node.share_with_device(env, id, Arc::clone(&manifest), None),
        });
        if let Ok(key) = shared {
            self.devices[dev.0].disk.offer(key, manifest, tree.clone());
        }
        self.perform(dev);
        shared
    }

    fn notify(&mut self, dev: Dev, life: u32, event: Event) {
        self.note(dev, What::Told(Box::new(event.clone())));
        match &event {
            Event::PairRequest { session, .. } if self.devices[dev.0].pairings != Answer::Silent => {
                let yes = self.devices[dev.0].pairings == Answer::Yes;
                let delay = PERSON + self.choices.below(Site::Person, PERSON);
                self.after(delay, Act::AnswerPairing { dev, life, session: *session, yes });
            }
            Event::Offered { transfer, .. } if self.devices[dev.0].offers != Answer::Silent => {
                let yes = self.devices[dev.0].offers == Answer::Yes;
                let policy = self.node_of(dev).and_then(|node| node.policy(transfer.device));
                let asks = policy.is_none_or(|policy| policy.files != FilePolicy::Automatic);
                let delay = if asks { PERSON + self.choices.below(Site::Person, PERSON) } else { 0 };
                self.after(delay, Act::AnswerOffer { dev, life, key: *transfer, yes });
            }
            Event::Device { device, state: DeviceState::Connected, .. } if self.devices[dev.0].disk.has_unsent(*device) => {
                self.after(DISK, Act::GoOn { dev, life, device: *device });
            }
            Event::Done { transfer, .. } | Event::Failed { transfer, .. } => self.devices[dev.0].disk.forget(*transfer),
            _ => {}
        }
        self.with_oracle(|oracle, world| oracle.on_event(world, dev, &event));
        self.events.push((dev, event));
        self.lookup_soon(dev);
    }

    /// What was to happen happens.
    pub(crate) fn act(&mut self, act: Act) {
        match act {
            Act::Tell { dev, life, input } => {
                if self.is_life(dev, life) {
                    self.handle(dev, input);
                }
            }
            Act::Dial { dev, life, ticket, to } => self.dial(dev, life, ticket, &to),
            Act::Up { conn, ticket, remote } => {
                let ConnEnd { id, dev, life, up } = self.conns[conn].ends[0];
                if self.is_life(dev, life) {
                    // It may be gone again before its dialler heard of it.
                    let input = if up {
                        Input::ConnUp { conn: id, dialed: Some(ticket), remote }
                    } else {
                        Input::Done { ticket, result: Err(Failure::Refused) }
                    };
                    self.handle(dev, input);
                }
            }
            Act::Opened { stream } => self.opened(stream, 1, None),
            Act::Bytes { stream, from, frame, bytes } => self.arrive(stream, from, frame, &bytes),
            Act::End { stream, from } => self.arrived_end(stream, from),
            Act::Broken { stream, end } => {
                if !self.silent_between(self.streams[stream].conn) {
                    self.down(stream, end, Cut::Broken);
                }
            }
            Act::Cut { stream } => self.cut(stream),
            Act::Tainted { stream, end } => self.check_tainted(stream, end),
            Act::Overdue { stream } => self.check_overdue(stream),
            Act::Gone { conn, end } => self.gone(conn, end),
            Act::Durable { dev, life, ticket, batch } => self.durable(dev, life, ticket, batch),
            Act::Files { dev, life, ticket, key, entries, op } => {
                if !self.is_life(dev, life) {
                    return;
                }
                let result = self.files(dev, key, entries, op);
                if let Some(result) = result {
                    self.handle(dev, Input::Done { ticket, result: result.map(Reply::Files).map_err(Failure::Disk) });
                }
            }
            Act::GoOn { dev, life, device } => {
                if self.is_life(dev, life) {
                    self.share_unsent(dev, device);
                }
            }
            Act::Seal { stream, end } => self.seal(stream, end),
            Act::Talk { stream, end } => self.talk_on(stream, end),
            Act::Drained { stream, end } => {
                let slot = &self.streams[stream].ends[end];
                if let (true, Some(dev)) = (slot.up && !slot.down, self.owner(stream, end)) {
                    let stream = slot.id;
                    self.handle(dev, Input::Drained { stream });
                }
            }
            Act::AnswerPairing { dev, life, session, yes } => {
                if self.is_life(dev, life) {
                    if yes {
                        self.with_oracle(|oracle, _| oracle.on_yes(dev, session));
                    }
                    // It may be too late: then nothing happens.
                    let _late = self.call(dev, |node, env| node.answer_pairing(env, session, yes));
                }
            }
            Act::AnswerOffer { dev, life, key, yes } => {
                if self.is_life(dev, life) {
                    self.takes(dev, key, yes);
                    let _late =
                        self.call(dev, |node, env| if yes { node.accept(env, key) } else { node.decline(env, key, DeclineReason::User) });
                }
            }
            Act::Crash { dev, life } => {
                if self.is_life(dev, life) {
                    self.crash(dev);
                }
            }
            Act::Step { number } => self.take_step(number),
            Act::Wake { dev } => self.wake(dev),
            Act::Lookup { dev, life } => self.lookup_now(dev, life),
            Act::Found { dev, life, medium, id, record } => self.find((dev, life), medium, &id, &record),
            Act::Enemy(due) => self.enemy_due(due),
        }
    }

    /// A fault of this kind has fired.
    pub(crate) fn fire(&mut self, kind: &'static str) {
        self.fired.push(kind);
        self.trace.push(self.now, None, What::Step(format!("fault {kind}")));
    }
}
