//! `link`, and the accepts under `refused`.

use protocol_core::crypto::aead::open_once;
use protocol_core::crypto::exchange::ExchangeSecret;
use protocol_core::crypto::kdf::mac;
use protocol_core::crypto::kem::{KemSecret, encapsulate};
use protocol_core::crypto::secret::Secret;
use protocol_core::handshake::{Refusal, handshake_secret};
use protocol_core::identity::DeviceKey;
use protocol_core::info::{Binding, BindingKind, DeviceInfo};
use protocol_core::session::handshake::schedule::{self, HandshakeKeys, Pair, Role};
use protocol_core::session::handshake::{DialerDone, DialerWaiting, LinkKeys, ListenerWaiting, ReceivedHello, notice};
use protocol_core::wire::cbor::Malformed;
use protocol_core::wire::handshake::{Accept, BadFrame, Finish, Hello, Params};

use super::{Context, Script, body, check_refused, field, kem_seed, later_body, peer_id};

/// The inputs of the reconnect; every call of a step runs it anew.
struct Link {
    root: Secret,
    dialer: DeviceKey,
    listener: DeviceKey,
    info_d: Vec<u8>,
    info_l: Vec<u8>,
    seen_by_dialer: Binding,
    seen_by_listener: Binding,
    dialer_draws: Vec<u8>,
    listener_draws: Vec<u8>,
}

impl Link {
    fn pair(&self) -> Pair {
        Pair { dialer: self.dialer.public(), listener: self.listener.public() }
    }

    fn hello(&self) -> Result<(DialerWaiting, Vec<u8>), Refusal> {
        let (pair, mut script) = (self.pair(), Script(self.dialer_draws.clone()));
        Ok(DialerWaiting::hello(&self.root, pair.dialer, pair.listener, self.seen_by_dialer.clone(), &mut script)?)
    }

    fn accept(&self, hello: &[u8]) -> Result<(ListenerWaiting, Vec<u8>), Refusal> {
        let body = body(hello).map_err(|malformed| Refusal::First(BadFrame::Malformed(malformed)))?;
        let hello = ReceivedHello::decode(body, self.seen_by_listener.clone())?;
        let mut script = Script(self.listener_draws.clone());
        hello.accept(&self.root, &self.listener, &self.info_l, self.dialer.public(), &mut script)
    }

    fn finish(&self, accept: &[u8]) -> Result<DialerDone, Refusal> {
        let (waiting, _) = self.hello()?;
        waiting.on_accept(later_body(accept)?, &self.dialer, &self.info_d)
    }
}

/// The DeviceInfo in parameters of the file: an input that must read back as it is.
fn params_info(ctx: &mut Context<'_>, path: &str) -> Vec<u8> {
    let bytes = ctx.hex(path);
    match Params::decode(&bytes).and_then(|params| DeviceInfo::decode(params.info)) {
        Ok(info) => {
            let info = info.encode();
            ctx.equal(path, &Params { info: &info }.encode());
            info
        }
        Err(malformed) => {
            ctx.holds(path, false, &malformed.to_string());
            Vec::new()
        }
    }
}

pub(super) fn check(ctx: &mut Context<'_>) {
    let [dialer, listener] = [2, 3].map(|n| DeviceKey::from_seed(&Secret::new(ctx.data_input(n))));
    let [transport_d, transport_l] = [4, 5].map(|n| peer_id(ctx.data_input(n)));
    let binding =
        |own: &[u8], remote: &[u8]| Binding { kind: BindingKind::Libp2p, own: own.to_vec(), remote: remote.to_vec(), exporter: Vec::new() };
    let link = Link {
        root: Secret::new(ctx.data_input(1)),
        info_d: params_info(ctx, "link.params_d"),
        info_l: params_info(ctx, "link.params_l"),
        seen_by_dialer: binding(&transport_d, &transport_l),
        seen_by_listener: binding(&transport_l, &transport_d),
        dialer_draws: [6, 8, 9].map(|n| ctx.data_input(n)).concat(),
        listener_draws: [10, 12].map(|n| ctx.data_input(n)).concat(),
        dialer,
        listener,
    };
    ctx.equal("link.root", link.root.bytes());
    ctx.equal("link.identity_d", &link.dialer.public().0);
    ctx.equal("link.identity_l", &link.listener.public().0);
    ctx.equal("link.transport_d", &transport_d);
    ctx.equal("link.transport_l", &transport_l);
    ctx.equal("link.k_hello", link.pair().hello_key(&link.root).bytes());
    ctx.equal("link.early", link.pair().early(&link.root).bytes());
    if let Err(refusal) = check_run(ctx, &link) {
        ctx.complain("link", &format!("the honest run ends: {refusal}"));
        return;
    }
    check_refused(ctx, "refused.link_accepts", accept_refusal, |frame| link.finish(frame).map(drop));
}

fn check_run(ctx: &mut Context<'_>, link: &Link) -> Result<(), Refusal> {
    let (dialer, frame1) = link.hello()?;
    ctx.equal("link.frame1", &frame1);
    let (listener, frame2) = link.accept(&frame1)?;
    ctx.equal("link.frame2", &frame2);
    let done = link.finish(&frame2)?;
    ctx.equal("link.frame3", &done.finish);
    let heard = listener.on_finish(later_body(&done.finish)?)?;
    check_final(ctx, &done.keys);
    check_final(ctx, &heard.keys);
    ctx.equal("link.identity_l", &done.peer.key.0);
    ctx.equal("link.params_l", &Params { info: &done.peer.info_bytes }.encode());
    ctx.equal("link.identity_d", &heard.peer.key.0);
    ctx.equal("link.params_d", &Params { info: &heard.peer.info_bytes }.encode());
    check_hello(ctx, link, &dialer, &frame1)?;
    check_boxes(ctx, link, [&frame1, &frame2, &done.finish])
}

fn check_final(ctx: &mut Context<'_>, keys: &LinkKeys) {
    ctx.equal("link.traffic_d2l", keys.traffic.from_opener.bytes());
    ctx.equal("link.traffic_l2d", keys.traffic.from_answerer.bytes());
    ctx.equal("link.session_ref", &keys.session_ref.0);
}

fn check_hello(ctx: &mut Context<'_>, link: &Link, dialer: &DialerWaiting, frame1: &[u8]) -> Result<(), Refusal> {
    let hello = Hello::decode(later_body(frame1)?).map_err(Refusal::First)?;
    ctx.equal("link.e_d", &hello.exchange);
    ctx.equal("link.ek_d", &hello.kem[..]);
    ctx.equal("link.tag", &hello.tag);
    let prologue = schedule::prologue(&link.seen_by_dialer, Role::Dialer);
    ctx.equal("link.th_pro", &prologue);
    ctx.equal("link.th_pro", &schedule::prologue(&link.seen_by_listener, Role::Listener));
    let th1 = schedule::after_hello(&prologue, &hello);
    ctx.equal("link.th1", &th1);

    let received = ReceivedHello::decode(later_body(frame1)?, link.seen_by_listener.clone())?;
    let key = notice::key(&link.root, &link.listener.public(), &link.dialer.public());
    ctx.equal("link.k_notice_of_l", key.bytes());
    ctx.equal("link.notice_frame", &notice::notice_frame(&key, received.th1()));
    let frame = ctx.hex("link.notice_frame");
    ctx.holds("link.notice_frame", body(&frame).is_ok_and(|body| dialer.is_notice(body)), "the dialer does not believe it");

    let exporter = ctx.input(17);
    ctx.equal("link.tcp_exporter", &exporter);
    let tcp = Binding { kind: BindingKind::Tcp, own: Vec::new(), remote: Vec::new(), exporter: exporter.to_vec() };
    let prologue = schedule::prologue(&tcp, Role::Dialer);
    ctx.equal("link.tcp_th_pro", &prologue);
    ctx.equal("link.tcp_tag", &mac(&link.pair().hello_key(&link.root), &schedule::after_hello(&prologue, &hello)));
    Ok(())
}

/// What is inside the frames, and every value between: computed with the parts that the steps are made of.
fn check_boxes(ctx: &mut Context<'_>, link: &Link, [frame1, frame2, frame3]: [&[u8]; 3]) -> Result<(), Refusal> {
    let hello = Hello::decode(later_body(frame1)?).map_err(Refusal::First)?;
    let accept = Accept::decode(later_body(frame2)?).map_err(Refusal::Frame)?;
    let finish = Finish::decode(later_body(frame3)?).map_err(Refusal::Frame)?;
    ctx.equal("link.e_l", &accept.exchange);
    ctx.equal("link.kem_ciphertext", &accept.ciphertext[..]);

    let exchange = ExchangeSecret::new(&Secret::new(ctx.data_input(6)));
    let dh = exchange.agree(&accept.exchange).ok_or(Refusal::LowOrder)?;
    let kss = KemSecret::new(&kem_seed(ctx.data_input(8), ctx.data_input(9))).decapsulate(&accept.ciphertext);
    ctx.equal("link.dh", dh.bytes());
    let other = ExchangeSecret::new(&Secret::new(ctx.data_input(10)));
    ctx.equal("link.dh", other.agree(&hello.exchange).ok_or(Refusal::LowOrder)?.bytes());
    ctx.equal("link.kem_shared", kss.bytes());
    ctx.equal("link.kem_shared", encapsulate(&hello.kem, &Secret::new(ctx.data_input(12)))?.1.bytes());
    let hs = handshake_secret(&link.pair().early(&link.root), &dh, &kss);
    ctx.equal("link.hs", hs.bytes());

    let th1 = schedule::after_hello(&schedule::prologue(&link.seen_by_dialer, Role::Dialer), &hello);
    let th2 = schedule::after_accept(&th1, &link.pair(), &hello.tag, &accept);
    let th3 = schedule::after_accept_box(&th2, &accept.sealed);
    let th4 = schedule::after_finish_box(&th3, &finish.sealed);
    ctx.equal("link.th2", &th2);
    ctx.equal("link.th3", &th3);
    ctx.equal("link.th4", &th4);
    let handshake = HandshakeKeys::derive(hs, &th2);
    ctx.equal("link.k_l", handshake.listener.bytes());
    ctx.equal("link.k_d", handshake.dialer.bytes());
    ctx.equal("link.main", handshake.main.bytes());
    let box_l = open_once(&handshake.listener, &accept.sealed, &th2)?;
    let box_d = open_once(&handshake.dialer, &finish.sealed, &th3)?;
    ctx.equal("link.sig_l", field(&box_l, 0).ok_or(Refusal::Structure)?);
    ctx.equal("link.sig_d", field(&box_d, 0).ok_or(Refusal::Structure)?);
    check_final(ctx, &schedule::finish(handshake.main, &th4));
    Ok(())
}

fn accept_refusal(name: &str) -> Option<&'static [Refusal]> {
    Some(match name {
        "padding_without_80" => &[Refusal::Padding],
        "bytes_after_the_fields" => &[Refusal::Structure],
        "signature_of_the_dialer" | "label_of_the_dialer" | "params_not_signed" => &[Refusal::Signature],
        "params_version_2" => &[Refusal::Params(Malformed::Bounds)],
        _ => return None,
    })
}
