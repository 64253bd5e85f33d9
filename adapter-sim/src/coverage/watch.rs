//! What a Node's machines did between two inputs.

use std::collections::BTreeSet;

use protocol_core::effects::{DeviceState, Event, TransferKey};
use protocol_core::faults::{PairFailure, TransferFailure};
use protocol_core::node::probe::{Machine, Standing, number, number_of_transfer};

use super::{Counts, Edge, Legal, Shown};
use crate::{Dev, World};

/// Sees every machine of every device.
#[derive(Debug)]
pub(crate) struct Watch {
    counts: Counts,
    marks: BTreeSet<&'static str>,
    devices: Vec<Seen>,
    /// Offers that an owner took.
    taken: BTreeSet<(Dev, TransferKey)>,
    /// How often a device was ticked at one moment, and how many events there were before.
    ticks: (u64, Dev, u32, usize),
}

/// A device's machines as they were.
#[derive(Debug, Default)]
struct Seen {
    standing: Vec<Standing>,
    /// The life in which that was; none before the first.
    life: Option<u32>,
    /// Roots that are gone: a write that failed may bring them back.
    gone: BTreeSet<u128>,
}

/// What one input did: a device's machines before and after, and what its owner was told.
pub(super) struct Change<'a> {
    pub(super) world: &'a World,
    pub(super) dev: Dev,
    pub(super) before: &'a [Standing],
    pub(super) after: &'a [Standing],
    /// Those that differ, in the order of both.
    moved: Vec<Moved>,
    pub(super) told: Vec<&'a Event>,
}

/// A machine before and after, with its state in each: none if it was not there.
type Moved = (Standing, Option<&'static str>, Option<&'static str>);

impl Default for Watch {
    fn default() -> Self {
        let (counts, marks, devices, taken) = (Counts::default(), BTreeSet::new(), Vec::new(), BTreeSet::new());
        Self { counts, marks, devices, taken, ticks: (0, Dev(0), 0, 0) }
    }
}

impl World {
    /// S29: what a device's machines have just done is allowed.
    pub(crate) fn look(&mut self, dev: Dev, several: bool) {
        let Some(mut watch) = self.watch.take() else { return };
        let (made, wrong) = watch.look(self, dev, several);
        self.watch = Some(watch);
        for edge in made {
            self.with_oracle(|oracle, world| oracle.check_told_of(world, dev, edge));
        }
        if let Some(wrong) = wrong {
            self.with_oracle(|oracle, _| oracle.broken("S29", || wrong));
        }
    }

    /// An owner answers an offer.
    pub(crate) fn takes(&mut self, dev: Dev, key: TransferKey, yes: bool) {
        if let (true, Some(watch)) = (yes, &mut self.watch) {
            watch.taken.insert((dev, key));
        }
    }
}

impl Watch {
    /// Whether an owner has taken an offer.
    pub(crate) fn has_taken(&self, dev: Dev, key: TransferKey) -> bool {
        self.taken.contains(&(dev, key))
    }

    /// A device was ticked, and so many events were there before. How often that was at this moment, and how many came since.
    pub(crate) fn ticked(&mut self, at: u64, dev: Dev, events: usize) -> (u32, usize) {
        if (self.ticks.0, self.ticks.1) != (at, dev) {
            self.ticks = (at, dev, 0, events);
        }
        self.ticks.2 += 1;
        (self.ticks.2, events.saturating_sub(self.ticks.3))
    }

    /// What was counted, and the marks that were reached.
    pub(crate) fn take(&mut self) -> (Counts, BTreeSet<&'static str>) {
        (std::mem::take(&mut self.counts), std::mem::take(&mut self.marks))
    }

    /// Something was reached that a search must reach.
    pub(crate) fn mark(&mut self, mark: &'static str) {
        self.marks.insert(mark);
    }

    /// A device has taken something in; `several` timers may have been due. What it did that is not allowed, if it did.
    pub(crate) fn look(&mut self, world: &World, dev: Dev, several: bool) -> (Vec<Edge>, Option<String>) {
        let Some(node) = world.node_of(dev) else { return (Vec::new(), None) };
        let mut made = Vec::new();
        if self.devices.len() <= dev.0 {
            self.devices.resize_with(dev.0 + 1, Seen::default);
        }
        let seen = std::mem::take(&mut self.devices[dev.0]);
        let after = node.probe_states();
        let fresh = seen.life != Some(world.life(dev));
        let (before, mut gone) = if fresh { (Vec::new(), BTreeSet::new()) } else { (seen.standing, seen.gone) };
        let mut wrong = None;
        let moved = moved(&before, &after);
        if !moved.is_empty() {
            let told = node.probe_told().collect();
            let change = Change { world, dev, before: &before, after: &after, moved, told };
            let several = several || change.released();
            // A liar may put several messages into one record; honest devices do not.
            let lied_to = |machine| matches!(machine, Machine::Sender | Machine::Receiver) && world.devices_len() > world.honest;
            for (edge, id) in change.edges(fresh, several, &gone) {
                match edge {
                    (Machine::Root, _, "gone") => drop(gone.insert(id)),
                    (Machine::Root, "back", _) => drop(gone.remove(&id)),
                    _ => {}
                }
                self.counts.add(edge);
                made.push(edge);
                if wrong.is_none() && !Legal::get().allows(edge, several || lied_to(edge.0)) {
                    wrong = Some(format!("device {}: {}", dev.0, Shown(edge)));
                }
            }
            super::marks::of_change(&change, &mut self.marks);
        }
        self.devices[dev.0] = Seen { standing: after, life: Some(world.life(dev)), gone };
        (made, wrong)
    }

    /// A device falls, and everything that it was about.
    pub(crate) fn fall(&mut self, dev: Dev) {
        let Some(seen) = self.devices.get_mut(dev.0) else { return };
        for standing in std::mem::take(&mut seen.standing) {
            self.counts.add((standing.machine, standing.state, "crash"));
        }
        seen.life = None;
    }
}

/// What differs between these two, which are sorted by machine and number.
fn moved(before: &[Standing], after: &[Standing]) -> Vec<Moved> {
    let mut moved = Vec::new();
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let key = |standing: &&Standing| (standing.machine, standing.id);
        let (one, other) = (old.peek().map(key), new.peek().map(key));
        let Some(first) = one.into_iter().chain(other).min() else { return moved };
        let from = old.next_if(|standing| key(standing) == first);
        let to = new.next_if(|standing| key(standing) == first);
        let (from_state, to_state) = (from.map(|from| from.state), to.map(|to| to.state));
        if let Some(standing) = from.or(to)
            && from_state != to_state
        {
            moved.push((*standing, from_state, to_state));
        }
    }
}

impl Change<'_> {
    /// Machines of this kind that changed.
    pub(super) fn of(&self, machine: Machine) -> impl Iterator<Item = Moved> + '_ {
        self.moved.iter().filter(move |(standing, ..)| standing.machine == machine).copied()
    }

    /// Records that waited are handled all at once.
    fn released(&self) -> bool {
        self.moved.iter().any(|(standing, from, _)| {
            matches!(
                (standing.machine, from),
                (Machine::Session, Some("Succeeding" | "Replaced, waits" | "Ending, waits"))
                    | (Machine::Stream, Some("AwaitOpening, storing" | "AwaitData, header" | "Early, unproved"))
            )
        })
    }

    fn edges(&self, fresh: bool, several: bool, gone: &BTreeSet<u128>) -> Vec<(Edge, u128)> {
        let edges = |&(Standing { machine, id, .. }, from, to): &Moved| {
            let lasts = matches!(machine, Machine::Root | Machine::Device);
            let from = match from {
                Some(from) => from,
                None if fresh && lasts => "stored",
                None if machine == Machine::Root && gone.contains(&id) => "back",
                None => "new",
            };
            let end = self.end(machine, id);
            // Who types a code again when the attempt with it was due to end begins another of that name.
            let again = several && machine == Machine::Joiner && end != "gone";
            match to {
                Some(to) if again && from != "new" => vec![((machine, from, end), id), ((machine, "new", to), id)],
                _ => vec![((machine, from, to.unwrap_or(end)), id)],
            }
        };
        self.moved.iter().flat_map(edges).collect()
    }

    /// The state of a stream behind the change.
    fn stream(&self, id: u128) -> Option<&'static str> {
        let at = self.after.binary_search_by_key(&(Machine::Stream, id), |standing| (standing.machine, standing.id)).ok()?;
        Some(self.after[at].state)
    }

    /// How a machine ended that is gone, as its owner was told or its stream shows.
    fn end(&self, machine: Machine, id: u128) -> &'static str {
        let told = |end: &dyn Fn(&Event) -> Option<&'static str>| self.told.iter().find_map(|event| end(event));
        match machine {
            Machine::Code => told(&|event| code_end(event, id)).unwrap_or("=Consumed"),
            Machine::Initiator => match self.stream(id) {
                Some("AwaitOpening" | "AwaitOpening, storing" | "Control") => "=Done",
                Some("Closing") => "=Refused",
                _ => "gone",
            },
            Machine::Joiner => told(&|event| joiner_end(event, id)).unwrap_or("gone"),
            Machine::Dialler => told(&|event| dialler_end(event, id)).unwrap_or("gone"),
            Machine::Sender | Machine::Receiver => told(&|event| transfer_end(event, id)).unwrap_or("gone"),
            Machine::Connection | Machine::Stream | Machine::Session | Machine::Root | Machine::Device | Machine::Row | Machine::Ticket => {
                "gone"
            }
        }
    }
}

fn code_end(event: &Event, id: u128) -> Option<&'static str> {
    let Event::PairFailed { session, reason } = event else { return None };
    let end = match reason {
        PairFailure::Burned => "=Burned",
        PairFailure::Cancelled => "=Cancelled",
        PairFailure::Expired => "=Dead",
        PairFailure::SelfPairing => "=Itself",
        _ => return None,
    };
    (number(&session.0) == id).then_some(end)
}

fn joiner_end(event: &Event, id: u128) -> Option<&'static str> {
    let (session, end) = match event {
        Event::Paired { session, confirmed: true, .. } => (session, "=Paired"),
        Event::PairUnfinished { session, .. } => (session, "=Unfinished"),
        Event::PairFailed { session, .. } => (session, "=Failed"),
        _ => return None,
    };
    (number(&session.0) == id).then_some(end)
}

fn dialler_end(event: &Event, id: u128) -> Option<&'static str> {
    let (device, end) = match event {
        Event::Device { device, state: DeviceState::Connected, .. } => (device, "=Connected"),
        Event::ConnectFailed { device, .. } => (device, "=Failed"),
        _ => return None,
    };
    (number(&device.0) == id).then_some(end)
}

fn transfer_end(event: &Event, id: u128) -> Option<&'static str> {
    let end = |reason: &TransferFailure| match reason {
        TransferFailure::Declined(_) => "=Declined",
        TransferFailure::CancelledThere(_) => "=CancelledThere",
        TransferFailure::CancelledHere(_) => "=CancelledHere",
        TransferFailure::Lost => "=Lost",
        TransferFailure::Violation => "=Violation",
        // Ours, and not of this crate.
        _ => "=?",
    };
    let (key, end): (&TransferKey, _) = match event {
        Event::Done { transfer, .. } => (transfer, "=Done"),
        Event::Failed { transfer, reason } => (transfer, end(reason)),
        Event::OfferDeclined { transfer, .. } => (transfer, "=NoRoom"),
        _ => return None,
    };
    (number_of_transfer(key) == id).then_some(end)
}
