use super::schedule::{Pair, Role};
use super::*;
use crate::crypto::secret::Secret;
use crate::entropy::{Entropy, NoEntropy};
use crate::handshake::Refusal;
use crate::identity::DeviceKey;
use crate::info::{Binding, BindingKind, DeviceInfo, TransportInfo, TransportKind};
use crate::wire::handshake::{BadFrame, Hello};
use std::borrow::ToOwned as _;
use std::vec;

/// Key generation is slow without optimisation.
const STEP: usize = if cfg!(debug_assertions) { 101 } else { 1 };

/// Different bytes at every draw, the same in every run.
struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = self.0.to_be_bytes()[0];
        }
        Ok(())
    }
}

fn info(name: &str, id: &[u8]) -> Vec<u8> {
    let transports = vec![TransportInfo { kind: TransportKind::Sim, id: id.to_vec(), addresses: Vec::new(), relay: None }];
    DeviceInfo { name: name.to_owned(), os: "linux".to_owned(), app: "kin/1".to_owned(), caps: 1, transports }.encode()
}

struct Stage {
    root: Secret,
    dialer: DeviceKey,
    listener: DeviceKey,
    info_d: Vec<u8>,
    info_l: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        Self {
            root: Secret::new([3; 32]),
            dialer: DeviceKey::from_seed(&Secret::new([1; 32])),
            listener: DeviceKey::from_seed(&Secret::new([2; 32])),
            info_d: info("dialer", b"transport d"),
            info_l: info("listener", b"transport l"),
        }
    }

    fn pair(&self) -> Pair {
        Pair { dialer: self.dialer.public(), listener: self.listener.public() }
    }

    fn binding(role: Role) -> Binding {
        let (own, remote) = match role {
            Role::Dialer => (b"transport d", b"transport l"),
            Role::Listener => (b"transport l", b"transport d"),
        };
        Binding { kind: BindingKind::Sim, own: own.to_vec(), remote: remote.to_vec(), exporter: Vec::new() }
    }

    fn hello(&self) -> (DialerWaiting, Vec<u8>) {
        self.hello_under(&self.root)
    }

    fn hello_under(&self, root: &Secret) -> (DialerWaiting, Vec<u8>) {
        let pair = self.pair();
        DialerWaiting::hello(root, pair.dialer, pair.listener, Self::binding(Role::Dialer), &mut Counting(2)).unwrap()
    }

    fn received(&self, hello: &[u8]) -> Result<ReceivedHello, Refusal> {
        ReceivedHello::decode(hello, Self::binding(Role::Listener))
    }

    fn accept(&self, hello: &[u8]) -> Result<(ListenerWaiting, Vec<u8>), Refusal> {
        self.received(hello)?.accept(&self.root, &self.listener, &self.info_l, self.dialer.public(), &mut Counting(3))
    }

    fn on_accept(&self, accept: &[u8]) -> Result<DialerDone, Refusal> {
        self.hello().0.on_accept(accept, &self.dialer, &self.info_d)
    }
}

/// Invariant K1: both sides have the same keys, the two directions differ, and each knows the other's newest info.
#[test]
fn an_honest_run_agrees_on_everything() {
    let stage = Stage::new();
    let (dialer, hello) = stage.hello();
    let (listener, accept) = stage.accept(&hello[4..]).unwrap();
    let dialer = dialer.on_accept(&accept[4..], &stage.dialer, &stage.info_d).unwrap();
    let listener = listener.on_finish(&dialer.finish[4..]).unwrap();
    assert_eq!((hello.len(), accept.len(), dialer.finish.len()), (1263, 1662, 537));
    assert_eq!((dialer.peer.key, &dialer.peer.info_bytes), (stage.listener.public(), &stage.info_l));
    assert_eq!((listener.peer.key, &listener.peer.info_bytes), (stage.dialer.public(), &stage.info_d));
    let (d, l) = (&dialer.keys, &listener.keys);
    assert_eq!(d.traffic.from_opener.bytes(), l.traffic.from_opener.bytes());
    assert_eq!(d.traffic.from_answerer.bytes(), l.traffic.from_answerer.bytes());
    assert_ne!(d.traffic.from_opener.bytes(), d.traffic.from_answerer.bytes());
    assert_eq!(d.session_ref, l.session_ref);
}

/// Invariant K3: no altered bit of a Hello gets past the tag.
#[test]
fn every_bit_of_the_hello_counts() {
    let stage = Stage::new();
    let body = &stage.hello().1[4..];
    let key = stage.pair().hello_key(&stage.root);
    assert!(stage.received(body).unwrap().matches(&key));
    for bit in 0..body.len() * 8 {
        let mut altered = body.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        match stage.received(&altered) {
            Ok(hello) => assert!(!hello.matches(&key), "bit {bit}"),
            Err(refusal) => assert!(refusal.before_tag(), "bit {bit}: {refusal:?}"),
        }
    }
}

/// Invariant K3: every bit in an optimised build, else a sample that meets every position in a byte.
#[test]
fn every_bit_of_accept_and_finish_counts() {
    let stage = Stage::new();
    let hello = stage.hello().1;
    let accept = stage.accept(&hello[4..]).unwrap().1;
    let finish = stage.on_accept(&accept[4..]).unwrap().finish;
    let altered = |body: &[u8], bit: usize| {
        let mut altered = body.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        altered
    };
    for bit in (0..(accept.len() - 4) * 8).step_by(STEP) {
        let refusal = stage.on_accept(&altered(&accept[4..], bit)).expect_err("an altered accept");
        assert!(matches!(refusal, Refusal::Frame(_) | Refusal::Box), "bit {bit}: {refusal:?}");
    }
    for bit in (0..(finish.len() - 4) * 8).step_by(STEP) {
        let (waiting, _) = stage.accept(&hello[4..]).unwrap();
        let refusal = waiting.on_finish(&altered(&finish[4..], bit)).expect_err("an altered finish");
        assert!(matches!(refusal, Refusal::Frame(_) | Refusal::Box), "bit {bit}: {refusal:?}");
    }
}

/// Invariant R2: the root without the identity key, or the other way round, opens nothing.
#[test]
// LINK-6.
fn root_and_identity_are_both_needed() {
    let stage = Stage::new();
    let (_, hello) = stage.hello_under(&Secret::new([4; 32]));
    assert_eq!(stage.accept(&hello[4..]).map(drop), Err(Refusal::Tag), "the identity without the root");

    let thief = DeviceKey::from_seed(&Secret::new([66; 32]));
    let (waiting, hello) = stage.hello();
    let (listener, accept) = stage.accept(&hello[4..]).unwrap();
    let finish = waiting.on_accept(&accept[4..], &thief, &stage.info_d).unwrap().finish;
    assert_eq!(listener.on_finish(&finish[4..]).map(drop), Err(Refusal::Signature), "the dialer's root without its identity");

    let false_listener =
        stage.received(&hello[4..]).unwrap().accept(&stage.root, &thief, &stage.info_l, stage.dialer.public(), &mut Counting(3));
    assert_eq!(false_listener.map(drop), Err(Refusal::Tag), "identities are part of the keys");
}

/// Invariant K3: either side's view of kind, ids or exporter; and what each says about itself.
#[test]
fn both_must_see_the_same_connection() {
    let stage = Stage::new();
    let (_, hello) = stage.hello();
    let key = stage.pair().hello_key(&stage.root);
    let tamper: [fn(&mut Binding); 4] = [
        |binding| binding.kind = BindingKind::Libp2p,
        |binding| binding.own[0] ^= 1,
        |binding| binding.remote[0] ^= 1,
        |binding| binding.exporter.push(0),
    ];
    for change in tamper {
        let mut binding = Stage::binding(Role::Listener);
        change(&mut binding);
        assert!(!ReceivedHello::decode(&hello[4..], binding).unwrap().matches(&key));
    }
    let mut liar = Stage::new();
    liar.info_l = info("listener", b"transport x");
    let (_, accept) = liar.accept(&hello[4..]).unwrap();
    assert_eq!(stage.on_accept(&accept[4..]).map(drop), Err(Refusal::TransportNotListed));
}

/// A tag names a direction: the same pair and root with the roles exchanged is another key.
#[test]
fn a_hello_is_not_its_own_answer() {
    let stage = Stage::new();
    let (_, hello) = stage.hello();
    let reversed = Pair { dialer: stage.listener.public(), listener: stage.dialer.public() };
    assert!(!stage.received(&hello[4..]).unwrap().matches(&reversed.hello_key(&stage.root)));
    assert_eq!(stage.on_accept(&hello[4..]).map(drop), Err(Refusal::Frame(BadFrame::Kind)));
}

/// Invariant U1: a notice is believed for the Hello it was made for, from the peer it concerns, and not otherwise.
#[test]
fn a_notice_is_for_one_hello() {
    let stage = Stage::new();
    let (dialer, hello) = stage.hello();
    let th1 = *stage.received(&hello[4..]).unwrap().th1();
    let (d, l) = (stage.dialer.public(), stage.listener.public());
    let frame = notice::notice_frame(&notice::key(&stage.root, &l, &d), &th1);
    assert_eq!(frame.len(), 40);
    assert!(dialer.is_notice(&frame[4..]));
    for bit in 0..(frame.len() - 4) * 8 {
        let mut altered = frame[4..].to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(!dialer.is_notice(&altered), "bit {bit}");
    }
    assert!(!dialer.is_notice(&notice::notice_frame(&notice::key(&stage.root, &d, &l), &th1)[4..]), "our own key reflected");
    let (pair, binding) = (stage.pair(), Stage::binding(Role::Dialer));
    let (later, _) = DialerWaiting::hello(&stage.root, pair.dialer, pair.listener, binding, &mut Counting(50)).unwrap();
    assert!(!later.is_notice(&frame[4..]), "played back to a later Hello");
}

/// Invariant K6, from someone who has the root.
#[test]
fn bad_keys_are_refused() {
    let stage = Stage::new();
    let forged = |change: &dyn Fn(&mut Hello)| {
        let mut hello = Hello::decode(&stage.hello().1[4..]).unwrap();
        change(&mut hello);
        let th1 = schedule::after_hello(&schedule::prologue(&Stage::binding(Role::Listener), Role::Listener), &hello);
        hello.tag = crate::crypto::kdf::mac(&stage.pair().hello_key(&stage.root), &th1);
        stage.accept(&hello.encode()).map(drop)
    };
    assert_eq!(forged(&|_| {}), Ok(()));
    assert_eq!(forged(&|hello| hello.exchange = [0; 32]), Err(Refusal::LowOrder));
    assert_eq!(forged(&|hello| hello.kem[..2].fill(0xff)), Err(Refusal::KemKey));
}
