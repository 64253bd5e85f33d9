//! What stories in virtual time have in common.

use std::time::Duration;

use adapter_sim::random::Random;
use adapter_sim::{Answer, Dev, Item, Tree, Wire, World};
use protocol_core::effects::Event;
use protocol_core::faults::{LinkFailure, PairFailure};
use protocol_core::ids::SessionId;
use protocol_core::node::{Confirm, PairingInvite};
use protocol_core::pairing::PairingCode;

/// Long enough for every timer of a pairing.
pub const LONG: Duration = Duration::from_secs(700);

/// Two devices and what they are doing.
#[derive(Debug)]
pub struct Duo {
    /// Where they are.
    pub world: World,
    /// Shows codes.
    pub i: Dev,
    /// Types them.
    pub j: Dev,
}

impl Duo {
    /// Two devices that have not met.
    pub fn new(seed: u64, wire: Wire) -> Self {
        Self::of(World::new(seed), wire)
    }

    /// The same, without trace and tap.
    pub fn quiet(seed: u64, wire: Wire) -> Self {
        Self::of(World::quiet(seed), wire)
    }

    /// Two devices in a world of the test's own.
    pub fn of(mut world: World, wire: Wire) -> Self {
        let (i, j) = (world.add_device_on("Alices Schreibtisch", wire), world.add_device_on("Bobs Laptop", wire));
        Self { world, i, j }
    }

    /// Two devices that are paired and connected; what happened so far is forgotten.
    pub fn paired(seed: u64, wire: Wire) -> Self {
        let mut duo = Self::new(seed, wire);
        duo.world.pair(duo.i, duo.j);
        duo.world.run_for(Duration::from_secs(1));
        duo.world.clear_events();
        duo
    }

    /// A code on one side, typed at the other; users answer as the world was told.
    pub fn start(&mut self, confirm: Confirm) -> PairingInvite {
        let invite = self.world.invite(self.i, confirm).expect("no other pairing runs");
        let at = self.world.address(self.i);
        self.world.join(self.j, &invite.code, &[at], confirm).expect("no other attempt runs");
        invite
    }

    /// What the users say.
    pub fn answers(&mut self, initiator: Answer, joiner: Answer) {
        self.world.set_pairings(self.i, initiator);
        self.world.set_pairings(self.j, joiner);
    }

    /// Both sides know of each other and each knows that the other does.
    pub fn both_confirmed(&self) -> bool {
        self.world.confirmed(self.i, self.j) && self.world.confirmed(self.j, self.i)
    }

    /// Both are connected to each other.
    pub fn both_connected(&self) -> bool {
        self.world.connected(self.i, self.j) && self.world.connected(self.j, self.i)
    }

    /// No row is stored anywhere.
    pub fn nothing_stored(&self) -> bool {
        self.world.store(self.i).is_empty() && self.world.store(self.j).is_empty()
    }

    /// Starts the devices that are down, and lets `from` connect to the other. Whether both are connected then.
    pub fn reconnect(&mut self, from: Dev) -> bool {
        self.world.clear_rules();
        for dev in [self.i, self.j] {
            if !self.world.is_up(dev) {
                self.world.restart(dev);
            }
        }
        let to = if from == self.i { self.j } else { self.i };
        self.world.connect(from, to);
        let (i, j) = (self.i, self.j);
        let connected = self.world.run_until(Duration::from_secs(70), |world| world.connected(i, j) && world.connected(j, i));
        self.world.run_for(Duration::from_secs(1));
        connected
    }

    /// The connection of both is reset and both know it.
    pub fn disconnect(&mut self) {
        let id = self.world.id(self.j);
        self.world.call(self.i, |node, env| node.disconnect(env, id));
        self.world.run_for(Duration::from_secs(90));
        assert!(!self.world.connected(self.i, self.j) && !self.world.connected(self.j, self.i), "{:#?}", self.world.events());
    }

    /// What must hold whatever happened, once everything is quiet (PAIR-38, PAIR-47): confirmed records are matched, nobody
    /// trusts without both users' yes, and a reconnect from either side leaves both paired or neither.
    pub fn check_agreement(&mut self, yes: bool) {
        for dev in [self.i, self.j] {
            if !self.world.is_up(dev) {
                self.world.restart(dev);
            }
        }
        let (i_knows, j_knows) = (self.world.confirmed(self.i, self.j), self.world.confirmed(self.j, self.i));
        assert!(yes || !(i_knows || j_knows), "confirmed without both users' yes\n{}", self.story());
        // I confirmed ⇒ J confirmed.
        assert!(!i_knows || j_knows, "I is sure and J is not\n{}", self.story());
        let was_sure = j_knows;
        let first = self.reconnect(self.j);
        assert!(!was_sure || first, "J is sure, and I does not know it\n{}", self.story());
        if first {
            assert!(yes, "a session without both users' yes\n{}", self.story());
            assert!(self.both_confirmed(), "connected and not confirmed\n{}", self.story());
            self.disconnect();
            assert!(self.reconnect(self.i), "I cannot reach J\n{}", self.story());
            assert_eq!((self.world.devices(self.i).len(), self.world.devices(self.j).len()), (1, 1));
        } else {
            assert!(!self.reconnect(self.i), "one direction works and the other does not\n{}", self.story());
            assert!(!self.world.confirmed(self.i, self.j) && !self.world.confirmed(self.j, self.i), "{}", self.story());
        }
    }

    /// Every line so far, for a test that fails.
    pub fn story(&self) -> String {
        self.world.trace().lines().join("\n")
    }

    /// Why the pairing failed on a device, if it did.
    pub fn pair_failure(&self, dev: Dev) -> Option<PairFailure> {
        pair_failure(&self.world, dev)
    }

    /// How the connection attempts of a device failed.
    pub fn connect_failures(&self, dev: Dev) -> Vec<LinkFailure> {
        let failures = self.world.events_of(dev).filter_map(|event| match event {
            Event::ConnectFailed { reason, .. } => Some(*reason),
            _ => None,
        });
        failures.collect()
    }
}

/// Why the pairing failed on a device, if it did: the last time.
pub fn pair_failure(world: &World, dev: Dev) -> Option<PairFailure> {
    let failures = world.events_of(dev).filter_map(|event| match event {
        Event::PairFailed { reason, .. } => Some(*reason),
        _ => None,
    });
    failures.last()
}

/// A code that nobody has shown.
pub fn other_code(seed: u64) -> PairingCode {
    PairingCode::generate(&mut Random::new(seed)).expect("never fails")
}

/// Whether a device was asked about a pairing.
pub fn asked(world: &World, dev: Dev, session: SessionId) -> bool {
    world.saw(dev, |event| matches!(event, Event::PairRequest { session: of, .. } if *of == session))
}

/// Files of several sizes, an empty one, a directory without files, and names that are not ASCII.
pub fn sample_tree() -> Tree {
    let path = |text: &str| text.split('/').map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>();
    let content = |len: usize| Item::File((0..len).map(|at| (at * 7 % 251) as u8).collect());
    Tree::from([
        (path("Ordner"), Item::Directory),
        (path("Ordner/leer"), content(0)),
        (path("Ordner/übergroß"), content(300_000)),
        (path("Ordner/klein"), content(1)),
        (path("Ordner/tief"), Item::Directory),
        (path("Ordner/tief/tiefer"), Item::Directory),
        (path("a file"), content(70_000)),
        (path("b"), content(65_536)),
        (path("c"), content(131_072)),
    ])
}
