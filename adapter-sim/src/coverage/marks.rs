//! "Sometimes" marks: rare situations in which much has gone wrong before, and which a search must therefore have reached.
//!
//! A mark says that something happened, not that it is right: that is the oracle's.

use std::collections::BTreeSet;

use protocol_core::effects::{DeviceState, Event, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason, Failure, FileFault, LinkFailure, TransferFailure};
use protocol_core::ids::DeviceId;
use protocol_core::node::probe::{Machine, Standing};
use protocol_core::transfer::receipt::Outcome;

use super::watch::Change;

/// Every mark, and within how many seeds over all profiles a search must have reached it.
pub const MARKS: &[(&str, u64)] = &[
    // Of whole runs.
    ("patient", 500),
    ("glare", 500),
    ("paired in the end", 500),
    ("no room for another device", 5_000),
    // Pairing.
    ("asked about a pairing", 500),
    ("paired", 500),
    ("paired again", 500),
    ("a pairing was confirmed", 500),
    ("a pairing failed", 500),
    ("a joiner refused after Complete", 5_000),
    ("a joiner's last message was lost", 2_000),
    ("a joiner was confirmed by a reconnect", 5_000),
    ("a reconnect overtook a joiner's Complete", 20_000),
    ("two pairings crossed", 2_000),
    ("a device held three roots of another", 2_000),
    ("a confirmed root stepped back beside a newer one", 5_000),
    ("a code burned", 5_000),
    ("a code expired while a handshake ran", 20_000),
    ("a device met its own code", 500),
    ("a device was full when another proved itself", 20_000),
    // Links and sessions.
    ("a connection attempt failed", 500),
    ("a dialler gave way", 500),
    ("a newer session took over", 500),
    ("a newer session took over while a transfer ran", 5_000),
    ("a renewal came to nothing", 20_000),
    ("a session moved to another address", 500),
    ("a session fell silent", 500),
    ("a session was ended for a violation", 2_000),
    ("a Hello had to wait", 2_000),
    ("a flood was turned away", 2_000),
    ("a device was removed", 2_000),
    ("a device was forgotten while a transfer ran", 20_000),
    ("a row could not be written", 5_000),
    ("three devices were in sessions with one another", 500),
    // Transfers.
    ("an offer was shown", 500),
    ("a transfer was done", 500),
    ("a transfer failed", 500),
    ("data went over tcp for a session that did not", 500),
    ("a stream overtook its session", 2_000),
    ("a stream overtook its offer", 500),
    ("an offer was made again on a newer session", 5_000),
    ("an offer was declined for want of space", 20_000),
    ("an offer was declined as busy", 5_000),
    ("missing chunks were named again", 2_000),
    ("a disk was full in the middle", 5_000),
    ("a source changed while it was sent", 5_000),
    ("a name was taken and another was found", 5_000),
    ("a receipt was lost", 5_000),
    ("two went on with one device at once", 2_000),
    ("files went both ways at once", 2_000),
    ("a crash came between rename and directory sync", 20_000),
];

/// What one input of a device shows.
pub(super) fn of_change(change: &Change<'_>, marks: &mut BTreeSet<&'static str>) {
    of_pairing(change, marks);
    of_sessions(change, marks);
    of_transfers(change, marks);
    for event in &change.told {
        of_event(change, event, marks);
    }
}

const PENDING: [&str; 2] = ["Provisional", "Agreed"];

fn of_pairing(change: &Change<'_>, marks: &mut BTreeSet<&'static str>) {
    for (root, from, to) in change.of(Machine::Root) {
        let confirms = |joiner: &&Standing| {
            let writes = matches!(joiner.state, "Confirming" | "ConfirmingCut" | "AwaitUser" | "ResponseSent");
            joiner.machine == Machine::Joiner && joiner.device == root.device && writes
        };
        match (from, to) {
            (Some("Agreed"), Some("Confirmed")) if !change.before.iter().any(|joiner| confirms(&joiner)) => {
                marks.insert("a joiner was confirmed by a reconnect");
            }
            (Some("Confirmed"), Some("Unconfirmed")) => drop(marks.insert("a confirmed root stepped back beside a newer one")),
            _ => {}
        }
        let roots: Vec<&str> =
            change.after.iter().filter(|at| at.machine == Machine::Root && at.device == root.device).map(|at| at.state).collect();
        if roots.contains(&"Unconfirmed") && roots.iter().any(|state| PENDING.contains(state)) {
            marks.insert("two pairings crossed");
        }
        if roots.len() >= 3 {
            marks.insert("a device held three roots of another");
        }
    }
    for (_, from, to) in change.of(Machine::Joiner) {
        if (from, to) == (Some("ResponseSent"), None) && change.told.iter().any(|event| matches!(event, Event::Paired { .. })) {
            marks.insert("a reconnect overtook a joiner's Complete");
        }
    }
    for (_, from, to) in change.of(Machine::Code) {
        if (from, to) == (Some("Live"), Some("Expired")) {
            marks.insert("a code expired while a handshake ran");
        }
    }
    if change.of(Machine::Row).next().is_some() {
        marks.insert("a row could not be written");
    }
}

/// Whether bytes of files are on their way between this device and that one.
fn transfers(all: &[Standing], machine: Machine, device: u128) -> usize {
    let runs = |at: &&Standing| {
        at.machine == machine && at.device == device && (at.state.starts_with("Sending") || at.state.starts_with("Receiving"))
    };
    all.iter().filter(runs).count()
}

fn of_sessions(change: &Change<'_>, marks: &mut BTreeSet<&'static str>) {
    for (session, from, to) in change.of(Machine::Session) {
        let others = |all: &[Standing]| {
            all.iter().any(|at| at.machine == Machine::Session && at.device == session.device && at.id != session.id && at.state == "Live")
        };
        if from.is_none() && others(change.before) {
            marks.insert("a newer session took over");
            let runs = |machine| transfers(change.before, machine, session.device) > 0;
            if runs(Machine::Sender) || runs(Machine::Receiver) {
                marks.insert("a newer session took over while a transfer ran");
            }
        }
        if from == Some("Replaced") && matches!(to, Some("Live" | "Unanswered")) {
            marks.insert("a renewal came to nothing");
        }
        if from.is_none() && change.world.honest == 3 && all_met(change) {
            marks.insert("three devices were in sessions with one another");
        }
    }
    for (_, from, to) in change.of(Machine::Dialler) {
        if (from, to) == (Some("HelloSent"), Some("Waiting")) {
            marks.insert("a dialler gave way");
        }
    }
    for (_, from, to) in change.of(Machine::Stream) {
        match (from, to) {
            (_, Some("AwaitHello, waits")) => drop(marks.insert("a Hello had to wait")),
            (_, Some("Early, unproved")) => drop(marks.insert("a stream overtook its session")),
            (_, Some("Early, proved")) => drop(marks.insert("a stream overtook its offer")),
            _ => {}
        }
    }
    let crowded = change.world.node_of(change.dev).is_some_and(|node| node.stats().crowded_out > 0);
    if crowded {
        marks.insert("a flood was turned away");
    }
}

/// Whether each of three devices has a session with both others.
fn all_met(change: &Change<'_>) -> bool {
    let devices = (0..3).map(crate::Dev);
    let mut pairs = devices.clone().flat_map(|one| devices.clone().map(move |other| (one, other))).filter(|(one, other)| one != other);
    pairs.all(|(one, other)| change.world.has_session(one, other))
}

fn of_transfers(change: &Change<'_>, marks: &mut BTreeSet<&'static str>) {
    for (sender, from, to) in change.of(Machine::Sender) {
        let told = matches!(from, Some("Offered, pages flow" | "Offered, pages told"));
        if told && to == Some("Offered") && change.of(Machine::Session).any(|(session, ..)| session.device == sender.device) {
            marks.insert("an offer was made again on a newer session");
        }
        both_ways(change, sender.device, marks);
    }
    for (receiver, from, to) in change.of(Machine::Receiver) {
        if to == Some("Receiving, named again") {
            marks.insert("missing chunks were named again");
        }
        let ran = from.is_some_and(|state| state.starts_with("Receiving"));
        let known = change.after.iter().any(|at| at.machine == Machine::Device && at.id == receiver.device);
        if ran && to != from && !known {
            marks.insert("a device was forgotten while a transfer ran");
        }
        both_ways(change, receiver.device, marks);
    }
}

fn both_ways(change: &Change<'_>, device: u128, marks: &mut BTreeSet<&'static str>) {
    let count = |machine| transfers(change.after, machine, device);
    let (out, input) = (count(Machine::Sender), count(Machine::Receiver));
    if out >= 1 && input >= 1 {
        marks.insert("files went both ways at once");
    }
    if out >= 2 || input >= 2 {
        marks.insert("two went on with one device at once");
    }
}

fn of_event(change: &Change<'_>, event: &Event, marks: &mut BTreeSet<&'static str>) {
    use protocol_core::faults::PairFailure;
    let mark = match event {
        Event::PairFailed { reason: PairFailure::Burned, .. } => "a code burned",
        Event::PairFailed { reason: PairFailure::SelfPairing, .. } => "a device met its own code",
        Event::PairFailed { reason: PairFailure::TooManyDevices, .. } => "a device was full when another proved itself",
        Event::Device { device, state: DeviceState::Connected, route: Some(route), .. } if has_moved(change, *device, &route.address) => {
            "a session moved to another address"
        }
        Event::Device { reason: Some(LinkFailure::Silent), .. } => "a session fell silent",
        Event::Device { reason: Some(LinkFailure::Violation), .. } => "a session was ended for a violation",
        Event::OfferDeclined { failure: Failure::Disk(FileFault::DiskFull), .. } => "an offer was declined for want of space",
        Event::Failed { reason: TransferFailure::Declined(DeclineReason::Busy), .. } => "an offer was declined as busy",
        Event::Failed { reason: TransferFailure::CancelledHere(CancelReason::DiskFull), .. } => "a disk was full in the middle",
        Event::Failed { transfer, reason: TransferFailure::Lost } if was_received(change, transfer) => "a receipt was lost",
        Event::Entry { outcome: Outcome::SourceChanged, .. } => "a source changed while it was sent",
        Event::Entry { outcome: Outcome::Renamed, .. } => "a name was taken and another was found",
        _ => return,
    };
    marks.insert(mark);
}

/// Whether the last session with a device went to another address.
fn has_moved(change: &Change<'_>, with: DeviceId, to: &str) -> bool {
    let connected = |(dev, event): &(crate::Dev, Event)| match event {
        Event::Device { device, state: DeviceState::Connected, route: Some(route), .. } if *dev == change.dev && *device == with => {
            Some(route.address != to)
        }
        _ => None,
    };
    change.world.events().iter().rev().find_map(connected) == Some(true)
}

/// Whether the other side of a transfer has told its owner that it is done.
fn was_received(change: &Change<'_>, transfer: &TransferKey) -> bool {
    let done = |(dev, event): &(crate::Dev, Event)| {
        *dev != change.dev && matches!(event, Event::Done { transfer: theirs, .. } if theirs.id == transfer.id)
    };
    change.world.events().iter().any(done)
}
