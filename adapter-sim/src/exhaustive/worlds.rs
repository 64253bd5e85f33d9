//! The small worlds that are enumerated.

use std::time::Duration;

use protocol_core::node::Confirm;
use protocol_core::wire::deframer::StreamName;

use super::{Begin, Kind, Rows, Small};
use crate::rules::{At, Damage, Rule, Side, StoreFault};
use crate::{Dev, Wire, World};

const I: Dev = Dev(0);
const J: Dev = Dev(1);

impl Small {
    fn pairing(name: &str, faults: &'static [Kind]) -> Self {
        let begin = Begin::Pair { joiners: 1, connections: 1, confirm: Confirm::Ask, age: Duration::ZERO };
        Self {
            name: name.into(),
            wire: Wire::Sim,
            rows: Vec::new(),
            begin,
            faults,
            at_once: 1,
            patience: Duration::ZERO,
            one_sided: false,
            misheard: false,
        }
    }

    fn reconnect(name: &str, past: &Past, dials: &[(Dev, Dev)], faults: &'static [Kind]) -> Self {
        let begin = Begin::Connect(dials.to_vec());
        Self { begin, rows: past.rows.clone(), one_sided: past.one_sided, ..Self::pairing(name, faults) }
    }
}

/// What two devices have stored.
struct Past {
    rows: Vec<Rows>,
    one_sided: bool,
}

/// How the pairing before went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Whole,
    /// I's record is durable; Complete is lost.
    CompleteLost,
    /// J has confirmed; its Ack is lost.
    AckLost,
    /// J holds a pending root, and I crashed before its record was durable.
    InitiatorLost,
}

fn past(ending: Ending) -> Past {
    let mut world = World::quiet(0);
    let (i, j) = (world.add_device("I"), world.add_device("J"));
    // Behind this frame nothing arrives.
    let lost = |side, frame| Rule { name: StreamName::Pair, side, at: At::Frame(frame), damage: Damage::Vanish };
    match ending {
        Ending::Whole => {}
        Ending::CompleteLost => world.rule(lost(Side::Answerer, 1)),
        Ending::AckLost => world.rule(lost(Side::Opener, 2)),
        Ending::InitiatorLost => world.fault_store(i, 1, StoreFault::CrashBefore),
    }
    if let Ok(invite) = world.invite(i, Confirm::Ask) {
        let at = world.address(i);
        let _session = world.join(j, &invite.code, &[at], Confirm::Ask);
        world.run_for(Duration::from_secs(5));
    }
    Past { rows: [i, j].map(|dev| world.store(dev).clone()).to_vec(), one_sided: ending == Ending::InitiatorLost }
}

/// Every small world.
pub fn worlds() -> Vec<Small> {
    let mut all = pairings();
    all.extend(races());
    all.extend(reconnects());
    all.extend(pairs_of_faults());
    all
}

/// One initiator, one joiner, one fault.
fn pairings() -> Vec<Small> {
    let late = Begin::Pair { joiners: 1, connections: 1, confirm: Confirm::Ask, age: Duration::from_secs(595) };
    let policy = Begin::Pair { joiners: 1, connections: 1, confirm: Confirm::Automatic, age: Duration::ZERO };
    let tcp = |small: Small| Small { wire: Wire::Tcp, name: format!("{}, tcp", small.name), ..small };
    let again = |ending, name: &str, faults| {
        let Past { rows, one_sided } = past(ending);
        Small { rows, one_sided, ..Small::pairing(name, faults) }
    };
    vec![
        Small::pairing("pairing", &[]),
        Small::pairing("pairing, crash", &[Kind::Crash]),
        Small::pairing("pairing, cut", &[Kind::Cut]),
        Small { patience: Duration::from_secs(320), ..Small::pairing("pairing, silent loss", &[Kind::Vanish]) },
        Small::pairing("pairing, failing write", &[Kind::Fail]),
        Small { patience: Duration::from_secs(150), ..Small::pairing("pairing, people", &[Kind::User]) },
        Small { begin: late, ..Small::pairing("pairing, late", &[Kind::Late]) },
        Small { begin: policy, ..Small::pairing("pairing by policy, crash, cut, failing write", &[Kind::Crash, Kind::Cut, Kind::Fail]) },
        tcp(Small::pairing("pairing", &[])),
        tcp(Small::pairing("pairing, crash", &[Kind::Crash])),
        tcp(Small::pairing("pairing, cut, failing write", &[Kind::Cut, Kind::Fail])),
        again(Ending::Whole, "pairing again, crash", &[Kind::Crash]),
        again(Ending::Whole, "pairing again, cut, failing write", &[Kind::Cut, Kind::Fail]),
        again(Ending::InitiatorLost, "pairing again after a crash of I, crash", &[Kind::Crash]),
    ]
}

/// One initiator, one joiner, two faults.
fn pairs_of_faults() -> Vec<Small> {
    let two = |name: &str, faults| Small { at_once: 2, ..Small::pairing(name, faults) };
    vec![
        two("pairing, two crashes", &[Kind::Crash]),
        two("pairing, two of crash and failing write", &[Kind::Crash, Kind::Fail]),
        two("pairing, two of crash and cut", &[Kind::Crash, Kind::Cut]),
    ]
}

/// Several connections under one code.
fn races() -> Vec<Small> {
    let race = |joiners, connections, confirm, name: &str, faults| {
        let begin = Begin::Pair { joiners, connections, confirm, age: Duration::ZERO };
        Small { begin, ..Small::pairing(name, faults) }
    };
    vec![
        race(1, 2, Confirm::Automatic, "two connections, by policy", &[]),
        race(1, 2, Confirm::Ask, "two connections", &[]),
        race(2, 1, Confirm::Automatic, "two joiners, by policy", &[]),
        race(2, 1, Confirm::Ask, "two joiners", &[]),
    ]
}

/// Two paired devices, one fault.
fn reconnects() -> Vec<Small> {
    let (from_j, from_i, glare) = ([(J, I)], [(I, J)], [(I, J), (J, I)]);
    let pasts = [
        (Ending::Whole, "both sure"),
        (Ending::CompleteLost, "Complete lost"),
        (Ending::AckLost, "Ack lost"),
        (Ending::InitiatorLost, "I has nothing"),
    ];
    let mut all = Vec::new();
    for (ending, told) in pasts {
        let past = past(ending);
        let mut add = |dials: &[(Dev, Dev)], who: &str, what: &str, faults: &'static [Kind], patience: u64| {
            let small = Small::reconnect(&format!("{who}, {told}{what}"), &past, dials, faults);
            all.push(Small { patience: Duration::from_secs(patience), ..small });
        };
        for (dials, who) in [(&from_j, "J reconnects"), (&from_i, "I reconnects")] {
            add(dials, who, ", crash", &[Kind::Crash], 0);
            add(dials, who, ", cut, failing write", &[Kind::Cut, Kind::Fail], 0);
            add(dials, who, ", silent loss, late", &[Kind::Vanish, Kind::Late], 70);
        }
        add(&glare, "both dial", "", &[], 12);
        add(&glare, "both dial", ", crash", &[Kind::Crash], 12);
        add(&glare, "both dial", ", cut, failing write", &[Kind::Cut, Kind::Fail], 12);
    }
    all
}

/// A part of the small worlds that takes seconds also in a debug build.
pub fn bounded() -> Vec<Small> {
    const NAMES: [&str; 8] = [
        "pairing",
        "pairing, crash",
        "pairing, silent loss",
        "pairing, failing write",
        "J reconnects, Complete lost, crash",
        "J reconnects, Complete lost, cut, failing write",
        "J reconnects, I has nothing, crash",
        "both dial, I has nothing",
    ];
    worlds().into_iter().filter(|small| NAMES.contains(&small.name.as_str())).collect()
}
