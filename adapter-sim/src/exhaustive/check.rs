//! What must hold after every step, and once everything is well again (PROTOCOL.md 6.5 and 12; A1 to A8, R3).

use std::fmt::{self, Write as _};
use std::time::Duration;

use minicbor::Decoder;
use protocol_core::effects::{DeviceState, Event};
use protocol_core::records::DEVICES;

use super::play::Play;
use super::step::NAMES;
use super::{Begin, Rows};
use crate::Dev;
use crate::link::Stream;

/// How far a stored root is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Confirmed,
    Unconfirmed,
    /// Pending, and the user has not said yes.
    Pending,
    /// Pending, with the user's yes.
    Agreed,
}

/// A stored root: its secret and its public name, which two devices have in common if they have it from one pairing.
pub(crate) type StoredRoot = (Vec<u8>, Trust);

/// The roots that a store holds for the device with this key.
pub(crate) fn roots(rows: &Rows, peer: &[u8]) -> Vec<StoredRoot> {
    let decode = |row: &[u8]| -> Result<Vec<StoredRoot>, minicbor::decode::Error> {
        let mut from = Decoder::new(row);
        from.array()?;
        for _ in 0..7 {
            from.skip()?;
        }
        let count = from.array()?.unwrap_or(0);
        (0..count)
            .map(|_| {
                from.array()?;
                let mut root = from.bytes()?.to_vec();
                root.extend_from_slice(from.bytes()?);
                let trust = match from.u8()? {
                    0 => Trust::Confirmed,
                    1 => Trust::Unconfirmed,
                    2 => Trust::Pending,
                    _ => Trust::Agreed,
                };
                from.u64()?;
                Ok((root, trust))
            })
            .collect()
    };
    rows.get(&(DEVICES, peer.to_vec())).and_then(|row| decode(row).ok()).unwrap_or_default()
}

impl Play<'_> {
    fn stored(&self, dev: Dev, peer: Dev) -> Vec<StoredRoot> {
        roots(self.world.store(dev), &self.who.keys[peer.0])
    }

    fn joiners(&self) -> impl Iterator<Item = Dev> + use<> {
        (1..self.small.devices()).map(Dev)
    }

    /// After a step: what devices were told.
    pub(crate) fn check_events(&mut self) -> Result<(), String> {
        // A4. A write that is under way by then may take as long as it takes.
        if self.facts.late {
            return Err("I accepted somebody long after its code was over".into());
        }
        for (dev, event) in self.hear() {
            let peer = match &event {
                Event::Paired { peer, confirmed: true, .. } => peer.device,
                Event::PairConfirmed { device } | Event::Device { device, state: DeviceState::Connected, .. } => *device,
                _ => continue,
            };
            let Some(peer) = self.who.ids.iter().position(|id| *id == peer).map(Dev) else { continue };
            // A3, PAIR-24, PAIR-38.
            if !self.both_said_yes(dev, peer) {
                return Err(format!("{} was told {event:?} without both users' yes", NAMES[dev.0]));
            }
        }
        Ok(())
    }

    /// After a step that may have changed what is durable.
    pub(crate) fn check_stores(&self) -> Result<(), String> {
        let i = Dev(0);
        let mut admitted = 0;
        for j in self.joiners() {
            let (at_i, at_j) = (self.stored(i, j), self.stored(j, i));
            admitted += usize::from(!at_i.is_empty());
            let confirmed = |roots: &[StoredRoot]| roots.iter().find(|(_, trust)| *trust == Trust::Confirmed).cloned();
            let name = NAMES[j.0];
            if let Some((root, _)) = confirmed(&at_j) {
                // A2: in a reconnect too, whoever dials.
                if !at_i.iter().any(|(held, _)| *held == root) && !self.small.one_sided {
                    return Err(format!("{name} has confirmed a root that I does not hold"));
                }
                if !self.both_said_yes(i, j) {
                    return Err(format!("{name} has confirmed a root without both users' yes"));
                }
            }
            if let Some((root, _)) = confirmed(&at_i) {
                // A3. Where the two were paired before, the old root stays confirmed at I until J is known to hold the new one.
                let held = confirmed(&at_j).is_some_and(|(held, _)| held == root || self.agreed_before());
                if !held && !self.small.one_sided {
                    return Err(format!("I has confirmed a root and {name} has not"));
                }
            }
        }
        // A1.
        if admitted > 1 { Err("a code has admitted two devices".into()) } else { Ok(()) }
    }

    /// Everything that the rest of a run depends on, but for the values of secrets: rows, Nodes, people, and what is under way.
    ///
    /// Secrets matter only by being the same on two sides or not; and where both sides hold a key they know it by the same public
    /// name, or the bytes that carry it to the other side are still under way and stand here.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = Digest(blake3::Hasher::new());
        for device in &self.world.devices {
            digest.take(&format_args!("{:?} {} {:?} {:?}", device.node, device.ahead, device.random, device.store));
        }
        let under_way = self.under_way().into_iter().map(|(channel, act)| format!("{channel:?} {act}"));
        let mut under_way: Vec<String> = under_way.chain(self.world.streams.iter().filter_map(|stream| self.live(stream))).collect();
        // What is in one channel keeps its order.
        under_way.sort_by(|one, other| one.split(' ').next().cmp(&other.split(' ').next()));
        digest.take(&format_args!("{under_way:?} {} {:?} {:?}", self.world.now, self.facts, self.rest()));
        *digest.0.finalize().as_bytes()
    }

    /// A stream of which something may still come to somebody.
    fn live(&self, stream: &Stream) -> Option<String> {
        let ends = [0, 1].map(|end| &self.world.conns[stream.conn].ends[stream.conn_end(end)]);
        let hears = |end: usize| ends[end].up && self.world.is_life(ends[end].dev, ends[end].life) && !stream.ends[end].down;
        let lost = [0, 1].map(|from| stream.pipes[from].dead || stream.pipes[from].vanish);
        (hears(0) || hears(1)).then(|| format!("{}: {:?} {lost:?} {:?}", stream.ends[0].id.0, ends.map(|end| end.up), stream.ends))
    }

    /// How the run ended, in words: what is stored and what was told.
    pub(crate) fn ending(&self) -> String {
        let mut text = String::new();
        for dev in (0..self.small.devices()).map(Dev) {
            let peers = (0..self.small.devices()).map(Dev).filter(|&peer| peer != dev);
            let roots: Vec<Trust> = peers.flat_map(|peer| self.stored(dev, peer)).map(|(_, trust)| trust).collect();
            let told = self.facts.told.get(&dev).map_or("nothing", String::as_str);
            text.push_str(&format!("{}: {roots:?}, told {told}; ", NAMES[dev.0]));
        }
        text.push_str(if self.connected(Dev(0), Dev(1)) { "connected" } else { "not connected" });
        text
    }

    /// Whatever happened: once everything is well again both are paired or neither is, but for an unconfirmed record of I whose
    /// partner holds no key. Says which.
    pub(crate) fn heal(&mut self) -> Result<&'static str, String> {
        if self.untroubled() && self.small.devices() == 2 && !self.small.one_sided && !self.connected(Dev(0), Dev(1)) {
            return Err("nothing went wrong, and they are not connected".into());
        }
        self.glare_is_settled()?;
        self.calm(LONG);
        self.check_events()?;
        let mut outcome = "neither";
        for j in self.joiners() {
            outcome = match self.agree(Dev(0), j)? {
                "neither" => outcome,
                told => told,
            };
        }
        self.check_events()?;
        self.check_stores()?;
        Ok(outcome)
    }

    /// R3: where both dialled, both have the same one session.
    fn glare_is_settled(&mut self) -> Result<(), String> {
        let Begin::Connect(pairs) = &self.small.begin else { return Ok(()) };
        let (i, j) = (Dev(0), Dev(1));
        if pairs.len() < 2 || !self.connected(i, j) {
            return Ok(());
        }
        // A session that the other side does not have too is dead after 30 s of silence.
        let before = self.world.events().len();
        self.calm(Duration::from_secs(45));
        let lost = |(_, event): &(Dev, Event)| matches!(event, Event::Device { state: DeviceState::Disconnected, .. });
        let live = self.world.streams.iter().filter(|stream| stream.ends.iter().all(|end| end.up && !end.down)).count();
        if self.world.events()[before..].iter().any(lost) || !self.connected(i, j) || live != 1 {
            return Err(format!("after both dialled they do not have the same one session: {live} streams are left"));
        }
        Ok(())
    }

    fn agree(&mut self, i: Dev, j: Dev) -> Result<&'static str, String> {
        let yes = self.both_said_yes(i, j);
        let (i_sure, j_sure) = (self.sure(i, j), self.sure(j, i));
        if !yes && (i_sure || j_sure) {
            return Err("confirmed without both users' yes".into());
        }
        if i_sure && !j_sure && !self.small.one_sided {
            return Err("I is sure and J is not".into());
        }
        let first = self.reconnect(j, i);
        if j_sure && !first && !self.small.one_sided {
            return Err("J is sure, and I does not know it".into());
        }
        if !first {
            if self.reconnect(i, j) {
                return Err("one direction works and the other does not".into());
            }
            if (self.sure(i, j) || self.sure(j, i)) && !self.small.one_sided {
                return Err("one side is sure, and nobody can connect".into());
            }
            return Ok(if self.stored(i, j).is_empty() { "neither" } else { "leftover" });
        }
        if !yes {
            return Err("a session without both users' yes".into());
        }
        let id = self.who.ids[j.0];
        self.world.call(i, |node, env| node.disconnect(env, id));
        self.calm(Duration::from_secs(90));
        if self.connected(i, j) || !self.reconnect(i, j) {
            return Err("I cannot reach J".into());
        }
        // A7: one root that both are sure of, and none beside it unless the two were paired before.
        let (at_i, at_j) = (self.stored(i, j), self.stored(j, i));
        let sure_of = |roots: &[StoredRoot]| roots.iter().filter(|(_, trust)| *trust == Trust::Confirmed).cloned().collect::<Vec<_>>();
        let one = sure_of(&at_i).len() == 1 && sure_of(&at_i) == sure_of(&at_j);
        if !one || (at_i.len() > 1 || at_j.len() > 1) && self.small.rows.is_empty() {
            return Err(format!("connected, with {} and {} roots, and not agreed", at_i.len(), at_j.len()));
        }
        Ok("both paired")
    }

    fn sure(&self, dev: Dev, peer: Dev) -> bool {
        self.world.devices(dev).iter().any(|view| view.id == self.who.ids[peer.0] && view.confirmed)
    }

    fn reconnect(&mut self, from: Dev, to: Dev) -> bool {
        let (id, at) = (self.who.ids[to.0], self.world.address(to));
        let _unknown = self.world.call(from, |node, env| node.connect(env, id, &[at]));
        self.calm(Duration::from_secs(70));
        self.connected(from, to)
    }
}

/// Longer than every timer of a pairing.
const LONG: Duration = Duration::from_secs(700);

/// A hash that takes in text.
struct Digest(blake3::Hasher);

impl Digest {
    fn take(&mut self, text: &fmt::Arguments<'_>) {
        // Taking in text cannot fail.
        let _: fmt::Result = self.write_fmt(*text);
    }
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}
