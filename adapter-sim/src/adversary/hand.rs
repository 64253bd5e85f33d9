//! The two handshakes by hand, from public steps of transcript and keys: so any part of them can be a lie.

use std::sync::{Arc, LazyLock};

use protocol_core::crypto::aead::{open_once, pad, seal_once, unpad};
use protocol_core::crypto::exchange::ExchangeSecret;
use protocol_core::crypto::kdf::{mac, put_lp};
use protocol_core::crypto::kem::{KemSecret, encapsulate};
use protocol_core::crypto::labels::strings;
use protocol_core::crypto::secret::Secret;
use protocol_core::handshake::{BOX_BLOCK, Traffic, handshake_secret};
use protocol_core::identity::NetworkIdentity;
use protocol_core::ids::{PeerKey, SessionId, SessionRef};
use protocol_core::info::{Binding, BindingKind, DeviceInfo, TransportKind};
use protocol_core::pairing::code::CodeKeys;
use protocol_core::pairing::handshake::schedule as pair;
use protocol_core::session::handshake::schedule as link;
use protocol_core::wire::handshake::{Accept, Challenge, Complete, Finish, Hello, PairingRequest, Params, Response, frame};

use super::lie::Lie;
use crate::random::Random;
use crate::{Dev, World};

/// Who tells it: an identity, and what it says about itself.
pub(super) struct Me {
    pub(super) identity: NetworkIdentity,
    pub(super) info: Vec<u8>,
    /// The same, with another id on every transport.
    pub(super) unlisted: Vec<u8>,
    /// A third device.
    pub(super) third: PeerKey,
    /// The peer's own identity.
    pub(super) mirror: NetworkIdentity,
}

/// What the two share before they speak.
pub(super) enum Shared {
    Code(CodeKeys),
    Root { root: Secret, dialer: PeerKey, listener: PeerKey },
}

impl Shared {
    pub(super) const fn is_code(&self) -> bool {
        matches!(self, Self::Code(_))
    }

    fn pair(&self) -> link::Pair {
        match self {
            Self::Code(_) => link::Pair { dialer: PeerKey([0; 32]), listener: PeerKey([0; 32]) },
            Self::Root { dialer, listener, .. } => link::Pair { dialer: *dialer, listener: *listener },
        }
    }

    fn early(&self) -> Secret {
        match self {
            Self::Code(code) => code.early.duplicate(),
            Self::Root { root, .. } => self.pair().early(root),
        }
    }

    fn tag(&self, th1: &[u8; 32]) -> [u8; 32] {
        match self {
            Self::Code(code) => mac(&code.request_mac, th1),
            Self::Root { root, .. } => mac(&self.pair().hello_key(root), th1),
        }
    }
}

/// A first message, taken apart.
struct First {
    session: SessionId,
    commit: [u8; 32],
    exchange: [u8; 32],
    kem: Box<[u8; 1184]>,
    tag: [u8; 32],
}

impl First {
    fn request(&self) -> PairingRequest {
        PairingRequest { session_id: self.session, commit: self.commit, exchange: self.exchange, kem: self.kem.clone(), tag: self.tag }
    }

    fn hello(&self) -> Hello {
        Hello { exchange: self.exchange, kem: self.kem.clone(), tag: self.tag }
    }

    fn th1(&self, shared: &Shared, binding: &Binding, opener: bool) -> [u8; 32] {
        match shared {
            Shared::Code(_) => {
                let role = if opener { pair::Role::Joiner } else { pair::Role::Initiator };
                pair::after_request(&pair::prologue(&self.session, binding, role), &self.request())
            }
            Shared::Root { .. } => {
                let role = if opener { link::Role::Dialer } else { link::Role::Listener };
                link::after_hello(&link::prologue(binding, role), &self.hello())
            }
        }
    }

    fn encode(&self, shared: &Shared) -> Vec<u8> {
        if shared.is_code() { self.request().encode() } else { self.hello().encode() }
    }
}

/// An answer to it, taken apart.
struct Answer {
    challenge: [u8; 32],
    exchange: [u8; 32],
    ciphertext: Box<[u8; 1088]>,
    sealed: Vec<u8>,
}

impl Answer {
    fn challenge(&self) -> Challenge {
        Challenge { challenge: self.challenge, exchange: self.exchange, ciphertext: self.ciphertext.clone(), sealed: self.sealed.clone() }
    }

    fn accept(&self) -> Accept {
        Accept { exchange: self.exchange, ciphertext: self.ciphertext.clone(), sealed: self.sealed.clone() }
    }

    fn decode(shared: &Shared, body: &[u8]) -> Option<Self> {
        Some(match shared {
            Shared::Code(_) => {
                let Challenge { challenge, exchange, ciphertext, sealed } = Challenge::decode(body).ok()?;
                Self { challenge, exchange, ciphertext, sealed }
            }
            Shared::Root { .. } => {
                let Accept { exchange, ciphertext, sealed } = Accept::decode(body).ok()?;
                Self { challenge: [0; 32], exchange, ciphertext, sealed }
            }
        })
    }

    fn th2(&self, shared: &Shared, th1: &[u8; 32], tag: &[u8; 32]) -> [u8; 32] {
        match shared {
            Shared::Code(_) => pair::after_challenge(th1, tag, &self.challenge()),
            Shared::Root { .. } => link::after_accept(th1, &shared.pair(), tag, &self.accept()),
        }
    }

    fn encode(&self, shared: &Shared) -> Vec<u8> {
        if shared.is_code() { self.challenge().encode() } else { self.accept().encode() }
    }
}

/// Keys of both boxes and what the others come from.
struct Keys {
    answer: Secret,
    third: Secret,
    main: Secret,
}

impl Keys {
    fn of(shared: &Shared, hs: Secret, th2: &[u8; 32]) -> Self {
        match shared {
            Shared::Code(_) => {
                let pair::HandshakeKeys { initiator, joiner, main } = pair::HandshakeKeys::derive(hs, th2);
                Self { answer: initiator, third: joiner, main }
            }
            Shared::Root { .. } => {
                let link::HandshakeKeys { listener, dialer, main } = link::HandshakeKeys::derive(hs, th2);
                Self { answer: listener, third: dialer, main }
            }
        }
    }
}

fn after_answer_box(shared: &Shared, th2: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    if shared.is_code() { pair::after_challenge_box(th2, sealed) } else { link::after_accept_box(th2, sealed) }
}

/// What both sides have in the end.
pub(super) struct Done {
    pub(super) session_ref: SessionRef,
    pub(super) traffic: Traffic,
    /// A new root, after pairing.
    pub(super) root: Option<Secret>,
    /// Key and associated data of the Complete.
    pub(super) complete: Option<(Secret, [u8; 32])>,
}

impl Done {
    fn of(shared: &Shared, main: Secret, th3: &[u8; 32], sealed: &[u8], nonce: &[u8; 32]) -> Self {
        match shared {
            Shared::Code(_) => {
                let th4 = pair::after_response_box(th3, sealed);
                let (keys, complete) = pair::finish(main, th3, &th4, nonce);
                let (root, complete) = (Some(keys.root), Some((complete, th4)));
                Self { session_ref: keys.session_ref, traffic: keys.traffic, root, complete }
            }
            Shared::Root { .. } => {
                let keys = link::finish(main, &link::after_finish_box(th3, sealed));
                Self { session_ref: keys.session_ref, traffic: keys.traffic, root: None, complete: None }
            }
        }
    }

    /// The initiator's last word, with this status.
    pub(super) fn complete(&self, status: u8) -> Vec<u8> {
        let Some((key, th4)) = &self.complete else { return Vec::new() };
        frame(&Complete { sealed: seal_once(key, &pad(vec![status], 64), th4) }.encode())
    }

    /// The status in it.
    pub(super) fn status(&self, body: &[u8]) -> Option<u8> {
        let (key, th4) = self.complete.as_ref()?;
        let text = open_once(key, &Complete::decode(body).ok()?.sealed, th4).ok()?;
        unpad(&text, 64)?.first().copied()
    }
}

/// A message and whether a device that checks everything refuses it.
pub(super) struct Said {
    pub(super) bytes: Vec<u8>,
    pub(super) refused: bool,
}

/// One or two bytes more, with the length put right.
fn trailing(mut body: Vec<u8>, lie: Lie) -> Vec<u8> {
    if lie == Lie::Trailing {
        body.push(0);
    }
    frame(&body)
}

/// A box with one's identity, and whether it is one that must be refused.
#[allow(clippy::too_many_arguments, reason = "this is what a box is made of")]
fn sealed(shared: &Shared, key: &Secret, th: &[u8; 32], me: &Me, lie: Lie, nonce: Option<&[u8; 32]>, tcp: bool) -> (Vec<u8>, bool) {
    let info = match lie {
        Lie::Unlisted => &me.unlisted,
        _ => &me.info,
    };
    let info = if lie == Lie::BadInfo { &info[..info.len() - 1] } else { &info[..] };
    let (own, mirror) = (me.identity.device_key(), me.mirror.device_key());
    let (shown, signer) = match lie {
        Lie::Foreign => (me.third, own),
        Lie::Mirror if shared.is_code() => (mirror.public(), mirror),
        _ => (own.public(), own),
    };
    // The point of order 1, under which R = identity and S = 0 sign everything.
    let mut identity = [0; 32];
    identity[0] = 1;
    let shown = if lie == Lie::Weak { PeerKey(identity) } else { shown };
    let other = [7; 32];
    let nonce = nonce.map(|nonce| if lie == Lie::Commit { &other } else { nonce });
    let params = Params { info }.encode();
    let (label, statement) = match (shared, nonce) {
        (Shared::Code(_), None) => (strings::SIGN_INITIATOR, pair::initiator_statement(th, &shown, info)),
        (Shared::Code(_), Some(nonce)) => (strings::SIGN_JOINER, pair::joiner_statement(th, &shown, info, nonce)),
        (Shared::Root { .. }, None) => (strings::SIGN_LISTENER, link::statement(th, &params)),
        (Shared::Root { .. }, Some(_)) => (strings::SIGN_DIALER, link::statement(th, &params)),
    };
    let mut signature = signer.sign_lie(label, &statement);
    match lie {
        Lie::Weak => {
            signature = [0; 64];
            signature[0] = 1;
        }
        Lie::Forged => signature[40] ^= 1,
        // The key of a reconnect is known: only its signature can be another's.
        Lie::Foreign if !shared.is_code() => signature = mirror.sign_lie(label, &statement),
        _ => {}
    }
    let fields: Vec<&[u8]> = match (shared, nonce) {
        (Shared::Code(_), None) => vec![&shown.0, &signature, info],
        (Shared::Code(_), Some(nonce)) => vec![&shown.0, &signature, info, nonce],
        (Shared::Root { .. }, _) => vec![&signature, &params],
    };
    let mut text = Vec::new();
    fields.iter().for_each(|field| put_lp(&mut text, field));
    if lie == Lie::Tail {
        put_lp(&mut text, b"more");
    }
    let text = if lie == Lie::Padding { vec![0; BOX_BLOCK] } else { pad(text, BOX_BLOCK) };
    let mut sealed = seal_once(key, &text, th);
    if lie == Lie::BadBox {
        sealed[9] ^= 0x10;
    }
    let said = match lie {
        Lie::Unlisted => !tcp,
        Lie::Commit => shared.is_code() && nonce.is_some(),
        Lie::Mirror => shared.is_code(),
        lie => lie.in_box(),
    };
    (sealed, said)
}

/// What is in a box, as far as it concerns us: its fields.
fn opened(key: &Secret, sealed: &[u8], th: &[u8; 32]) -> Option<Vec<Vec<u8>>> {
    let text = open_once(key, sealed, th).ok()?;
    let mut rest = unpad(&text, BOX_BLOCK)?;
    let mut fields = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (field, behind) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        fields.push(field.to_vec());
        rest = behind;
    }
    Some(fields)
}

/// The side that opens, while it waits for its answer.
pub(super) struct Opener {
    shared: Shared,
    binding: Binding,
    exchange: ExchangeSecret,
    kem: Arc<KemSecret>,
    nonce: [u8; 32],
    th1: [u8; 32],
    tag: [u8; 32],
}

/// The key of all whose tag is wrong: nobody gets as far as to use it, and floods of them would make a fresh one each.
static IDLE: LazyLock<Arc<KemSecret>> = LazyLock::new(|| Arc::new(KemSecret::new(&Secret::new([7; 64]))));

impl Opener {
    /// The first message.
    pub(super) fn first(shared: Shared, binding: Binding, lie: Lie, random: &mut Random) -> (Self, Said) {
        let (exchange, nonce) = (ExchangeSecret::new(&Secret::new(random.bytes())), random.bytes());
        let fresh = Secret::new(random.bytes());
        let kem = if lie == Lie::Tag { IDLE.clone() } else { Arc::new(KemSecret::new(&fresh)) };
        let session = match &shared {
            Shared::Code(code) if lie != Lie::OtherCode => code.session_id,
            _ => SessionId([9; 16]),
        };
        let mut first = First {
            session,
            commit: pair::commitment(&Secret::new(nonce)),
            exchange: if lie == Lie::LowOrder { [0; 32] } else { exchange.public() },
            kem: Box::new(if lie == Lie::BadKem { [0xff; 1184] } else { kem.public() }),
            tag: [0; 32],
        };
        let th1 = first.th1(&shared, &binding, true);
        first.tag = shared.tag(&th1);
        if lie == Lie::Tag {
            first.tag[31] ^= 1;
        }
        let mut body = first.encode(&shared);
        if lie == Lie::Version {
            // An array's head, the kind, the version.
            body[2] = 2;
        }
        let mut bytes = trailing(body, lie);
        if lie == Lie::Huge {
            bytes = (64_u32 << 10).to_be_bytes().to_vec();
        }
        let refused = lie.in_first() && (lie != Lie::OtherCode || shared.is_code());
        (Self { shared, binding, exchange, kem, nonce, th1, tag: first.tag }, Said { bytes, refused })
    }

    /// What is answered to the answer.
    pub(super) fn third(self, body: &[u8], me: &Me, lie: Lie) -> Option<(Done, Said)> {
        let answer = Answer::decode(&self.shared, body)?;
        let dh = self.exchange.agree(&answer.exchange)?;
        let hs = handshake_secret(&self.shared.early(), &dh, &self.kem.decapsulate(&answer.ciphertext));
        let th2 = answer.th2(&self.shared, &self.th1, &self.tag);
        let keys = Keys::of(&self.shared, hs, &th2);
        opened(&keys.answer, &answer.sealed, &th2)?;
        let th3 = after_answer_box(&self.shared, &th2, &answer.sealed);
        let tcp = self.binding.kind == BindingKind::Tcp;
        let (sealed, refused) = sealed(&self.shared, &keys.third, &th3, me, lie, Some(&self.nonce), tcp);
        let done = Done::of(&self.shared, keys.main, &th3, &sealed, &self.nonce);
        let body = if self.shared.is_code() { Response { sealed }.encode() } else { Finish { sealed }.encode() };
        Some((done, Said { bytes: frame(&body), refused }))
    }
}

/// The side that answers, while it waits for the third message.
pub(super) struct Answerer {
    shared: Shared,
    opens: Secret,
    main: Secret,
    th3: [u8; 32],
}

impl Answerer {
    /// The answer to a first message that is about this.
    pub(super) fn answer(shared: Shared, binding: &Binding, body: &[u8], me: &Me, lie: Lie, random: &mut Random) -> Option<(Self, Said)> {
        let first = match &shared {
            Shared::Code(_) => {
                let PairingRequest { session_id: session, commit, exchange, kem, tag } = PairingRequest::decode(body).ok()?;
                First { session, commit, exchange, kem, tag }
            }
            Shared::Root { .. } => {
                let Hello { exchange, kem, tag } = Hello::decode(body).ok()?;
                First { session: SessionId([0; 16]), commit: [0; 32], exchange, kem, tag }
            }
        };
        let th1 = first.th1(&shared, binding, false);
        if shared.tag(&th1) != first.tag {
            return None;
        }
        let exchange = ExchangeSecret::new(&Secret::new(random.bytes()));
        let challenge = random.bytes();
        let (ciphertext, kss) = encapsulate(&first.kem, &Secret::new(random.bytes())).ok()?;
        let hs = handshake_secret(&shared.early(), &exchange.agree(&first.exchange)?, &kss);
        let public = if lie == Lie::LowOrder { [0; 32] } else { exchange.public() };
        let mut answer = Answer { challenge, exchange: public, ciphertext: Box::new(ciphertext), sealed: Vec::new() };
        let th2 = answer.th2(&shared, &th1, &first.tag);
        let keys = Keys::of(&shared, hs, &th2);
        let (sealed, refused) = sealed(&shared, &keys.answer, &th2, me, lie, None, binding.kind == BindingKind::Tcp);
        answer.sealed = sealed;
        let th3 = after_answer_box(&shared, &th2, &answer.sealed);
        let bytes = trailing(answer.encode(&shared), lie);
        let refused = refused || matches!(lie, Lie::LowOrder | Lie::Trailing);
        Some((Self { shared, opens: keys.third, main: keys.main, th3 }, Said { bytes, refused }))
    }

    /// The third message is there.
    pub(super) fn on_third(self, body: &[u8]) -> Option<Done> {
        let sealed = match &self.shared {
            Shared::Code(_) => Response::decode(body).ok()?.sealed,
            Shared::Root { .. } => Finish::decode(body).ok()?.sealed,
        };
        let fields = opened(&self.opens, &sealed, &self.th3)?;
        let nonce = match &self.shared {
            Shared::Code(_) => fields.get(3)?.as_slice().try_into().ok()?,
            Shared::Root { .. } => [0; 32],
        };
        Some(Done::of(&self.shared, self.main, &self.th3, &sealed, &nonce))
    }
}

impl World {
    /// The connection as the device at an end of a stream sees it.
    pub(super) fn binding(&self, stream: usize, end: usize) -> Binding {
        let slot = &self.streams[stream];
        let remote = self.remote(slot.conn, slot.conn_end(end));
        if remote.kind == TransportKind::Tcp {
            return Binding { kind: BindingKind::Tcp, own: Vec::new(), remote: Vec::new(), exporter: remote.exporter };
        }
        let own = self.transport_id(self.device_of(stream, end), &TransportKind::Sim);
        Binding { kind: BindingKind::Sim, own, remote: remote.id, exporter: Vec::new() }
    }

    pub(super) fn me(&self, who: Dev, peer: Dev) -> Me {
        let transports = self.transports(who);
        let info = DeviceInfo { name: "liar".into(), os: "sim".into(), app: "kin-sim".into(), caps: 1, transports };
        let mut other = info.clone();
        other.transports.iter_mut().for_each(|transport| transport.id = b"somebody else".to_vec());
        let third = (0..self.devices.len()).map(Dev).find(|dev| *dev != who && *dev != peer).unwrap_or(peer);
        Me {
            identity: NetworkIdentity::from_seed(Secret::new(self.seed(who))),
            info: info.encode(),
            unlisted: other.encode(),
            third: self.key(third),
            mirror: NetworkIdentity::from_seed(Secret::new(self.seed(peer))),
        }
    }
}
