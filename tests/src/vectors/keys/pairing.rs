//! `pairing`, and the requests, challenges, responses and completes under `refused`.

use protocol_core::crypto::aead::open_once;
use protocol_core::crypto::exchange::ExchangeSecret;
use protocol_core::crypto::kdf::mac;
use protocol_core::crypto::kem::{KemSecret, encapsulate};
use protocol_core::crypto::secret::Secret;
use protocol_core::handshake::{Refusal, handshake_secret};
use protocol_core::identity::{DeviceKey, device_id};
use protocol_core::info::{Binding, BindingKind};
use protocol_core::pairing::code::CodeKeys;
use protocol_core::pairing::handshake::schedule::{self, HandshakeKeys, Role};
use protocol_core::pairing::handshake::{
    AwaitedComplete, InitiatorVerified, InitiatorWaiting, JoinerFinal, JoinerWaiting, PairingKeys, ReceivedRequest, Status,
};
use protocol_core::wire::cbor::Malformed;
use protocol_core::wire::handshake::{BadFrame, Challenge, PairingRequest, Response};

use super::{Context, Script, body, check_refused, field, info, kem_seed, later_body, transport_public};

/// The inputs of the pairing; every call of a step runs it anew, so that each frame meets a fresh state.
struct Pairing<'k> {
    keys: &'k CodeKeys,
    initiator: DeviceKey,
    joiner: DeviceKey,
    info_i: Vec<u8>,
    info_j: Vec<u8>,
    seen_by_initiator: Binding,
    seen_by_joiner: Binding,
    joiner_draws: Vec<u8>,
    initiator_draws: Vec<u8>,
}

impl Pairing<'_> {
    fn start(&self) -> Result<(JoinerWaiting, Vec<u8>), Refusal> {
        let mut script = Script(self.joiner_draws.clone());
        Ok(JoinerWaiting::start(self.keys, self.seen_by_joiner.clone(), &mut script)?)
    }

    fn challenge(&self, request: &[u8]) -> Result<(InitiatorWaiting, Vec<u8>), Refusal> {
        let body = body(request).map_err(|malformed| Refusal::First(BadFrame::Malformed(malformed)))?;
        let request = ReceivedRequest::decode(body, self.keys)?.verify(self.keys, self.seen_by_initiator.clone())?;
        request.challenge(self.keys, &self.initiator, &self.info_i, &mut Script(self.initiator_draws.clone()))
    }

    fn respond(&self, challenge: &[u8]) -> Result<(JoinerFinal, Vec<u8>), Refusal> {
        let (waiting, _) = self.start()?;
        let verified = waiting.on_challenge(later_body(challenge)?, self.keys, &self.joiner)?;
        Ok(verified.respond(&self.joiner, &self.info_j))
    }

    fn verify(&self, request: &[u8], response: &[u8]) -> Result<InitiatorVerified, Refusal> {
        let (waiting, _) = self.challenge(request)?;
        waiting.on_response(later_body(response)?, &self.initiator)
    }
}

fn read_complete(awaited: AwaitedComplete, frame: &[u8]) -> Result<Status, Refusal> {
    awaited.on_complete(later_body(frame)?)
}

pub(super) fn check(ctx: &mut Context<'_>, keys: &CodeKeys) {
    let [initiator, joiner] = [2, 3].map(|n| DeviceKey::from_seed(&Secret::new(ctx.input(n))));
    let [transport_i, transport_j] = [4, 5].map(|n| transport_public(ctx.input(n)));
    let exporter = ctx.input(13);
    let binding = |own: [u8; 32], remote: [u8; 32]| Binding {
        kind: BindingKind::IrohX,
        own: own.to_vec(),
        remote: remote.to_vec(),
        exporter: exporter.to_vec(),
    };
    let pairing = Pairing {
        keys,
        info_i: info(ctx, "pairing.info_i"),
        info_j: info(ctx, "pairing.info_j"),
        seen_by_initiator: binding(transport_i, transport_j),
        seen_by_joiner: binding(transport_j, transport_i),
        joiner_draws: [6, 7, 8, 9].map(|n| ctx.input(n)).concat(),
        initiator_draws: [10, 11, 12].map(|n| ctx.input(n)).concat(),
        initiator,
        joiner,
    };
    ctx.equal("pairing.identity_i", &pairing.initiator.public().0);
    ctx.equal("pairing.identity_j", &pairing.joiner.public().0);
    ctx.equal("pairing.transport_i", &transport_i);
    ctx.equal("pairing.transport_j", &transport_j);
    ctx.equal("pairing.exporter", &exporter);
    if let Err(refusal) = check_run(ctx, &pairing) {
        ctx.complain("pairing", &format!("the honest run ends: {refusal}"));
        return;
    }
    check_refusals(ctx, &pairing);
}

fn check_run(ctx: &mut Context<'_>, pairing: &Pairing<'_>) -> Result<(), Refusal> {
    let (_, frame1) = pairing.start()?;
    ctx.equal("pairing.frame1", &frame1);
    let (_, frame2) = pairing.challenge(&frame1)?;
    ctx.equal("pairing.frame2", &frame2);
    let (joiner, frame3) = pairing.respond(&frame2)?;
    ctx.equal("pairing.frame3", &frame3);
    let initiator = pairing.verify(&frame1, &frame3)?;
    ctx.equal("pairing.device_id_i", &device_id(&joiner.peer.key).0);
    ctx.equal("pairing.device_id_j", &device_id(&initiator.peer.key).0);
    check_final(ctx, &joiner.keys);
    check_final(ctx, &initiator.keys);
    for (path, status, awaited, completion) in [
        ("pairing.frame4", Status::Accepted, joiner.complete, initiator.completion),
        ("pairing.frame4_refused", Status::Refused, pairing.respond(&frame2)?.0.complete, pairing.verify(&frame1, &frame3)?.completion),
    ] {
        ctx.equal(path, &completion.seal(status));
        let received = ctx.hex(path);
        ctx.holds(path, read_complete(awaited, &received) == Ok(status), "is not read as what it says");
    }
    check_request(ctx, pairing, &frame1)?;
    check_boxes(ctx, pairing, &frame1, &frame2, &frame3)
}

fn check_final(ctx: &mut Context<'_>, keys: &PairingKeys) {
    ctx.equal("pairing.root", keys.root.bytes());
    ctx.equal("pairing.traffic_j2i", keys.traffic.from_opener.bytes());
    ctx.equal("pairing.traffic_i2j", keys.traffic.from_answerer.bytes());
    ctx.equal("pairing.session_ref", &keys.session_ref.0);
    ctx.equal_text("pairing.sas", &format!("{:06}", keys.check.value()));
}

fn check_request(ctx: &mut Context<'_>, pairing: &Pairing<'_>, frame1: &[u8]) -> Result<(), Refusal> {
    let request = PairingRequest::decode(later_body(frame1)?).map_err(Refusal::First)?;
    ctx.equal("pairing.commit", &request.commit);
    ctx.equal("pairing.e_j", &request.exchange);
    ctx.equal("pairing.ek_j", &request.kem[..]);
    ctx.equal("pairing.tag", &request.tag);
    let session_id = &pairing.keys.session_id;
    let prologue = schedule::prologue(session_id, &pairing.seen_by_joiner, Role::Joiner);
    ctx.equal("pairing.th_pro", &prologue);
    ctx.equal("pairing.th_pro", &schedule::prologue(session_id, &pairing.seen_by_initiator, Role::Initiator));
    ctx.equal("pairing.th1", &schedule::after_request(&prologue, &request));

    let exporter = ctx.input(16);
    ctx.equal("pairing.tcp_exporter", &exporter);
    let tcp = Binding { kind: BindingKind::Tcp, own: Vec::new(), remote: Vec::new(), exporter: exporter.to_vec() };
    let prologue = schedule::prologue(session_id, &tcp, Role::Joiner);
    ctx.equal("pairing.tcp_th_pro", &prologue);
    ctx.equal("pairing.tcp_tag", &mac(&pairing.keys.request_mac, &schedule::after_request(&prologue, &request)));
    Ok(())
}

/// What is inside the frames, and every value between: computed with the parts that the steps are made of.
fn check_boxes(ctx: &mut Context<'_>, pairing: &Pairing<'_>, frame1: &[u8], frame2: &[u8], frame3: &[u8]) -> Result<(), Refusal> {
    let request = PairingRequest::decode(later_body(frame1)?).map_err(Refusal::First)?;
    let challenge = Challenge::decode(later_body(frame2)?).map_err(Refusal::Frame)?;
    let response = Response::decode(later_body(frame3)?).map_err(Refusal::Frame)?;
    ctx.equal("pairing.e_i", &challenge.exchange);
    ctx.equal("pairing.challenge", &challenge.challenge);
    ctx.equal("pairing.kem_ciphertext", &challenge.ciphertext[..]);

    let exchange = ExchangeSecret::new(&Secret::new(ctx.input(6)));
    let dh = exchange.agree(&challenge.exchange).ok_or(Refusal::LowOrder)?;
    let kss = KemSecret::new(&kem_seed(ctx.input(8), ctx.input(9))).decapsulate(&challenge.ciphertext);
    ctx.equal("pairing.dh", dh.bytes());
    let other = ExchangeSecret::new(&Secret::new(ctx.input(10)));
    ctx.equal("pairing.dh", other.agree(&request.exchange).ok_or(Refusal::LowOrder)?.bytes());
    ctx.equal("pairing.kem_shared", kss.bytes());
    ctx.equal("pairing.kem_shared", encapsulate(&request.kem, &Secret::new(ctx.input(12)))?.1.bytes());
    let hs = handshake_secret(&pairing.keys.early, &dh, &kss);
    ctx.equal("pairing.hs", hs.bytes());

    let prologue = schedule::prologue(&pairing.keys.session_id, &pairing.seen_by_joiner, Role::Joiner);
    let th2 = schedule::after_challenge(&schedule::after_request(&prologue, &request), &request.tag, &challenge);
    let th3 = schedule::after_challenge_box(&th2, &challenge.sealed);
    let th4 = schedule::after_response_box(&th3, &response.sealed);
    ctx.equal("pairing.th2", &th2);
    ctx.equal("pairing.th3", &th3);
    ctx.equal("pairing.th4", &th4);
    let handshake = HandshakeKeys::derive(hs, &th2);
    ctx.equal("pairing.k_i", handshake.initiator.bytes());
    ctx.equal("pairing.k_j", handshake.joiner.bytes());
    ctx.equal("pairing.main", handshake.main.bytes());
    let box_i = open_once(&handshake.initiator, &challenge.sealed, &th2)?;
    let box_j = open_once(&handshake.joiner, &response.sealed, &th3)?;
    ctx.equal("pairing.sig_i", field(&box_i, 1).ok_or(Refusal::Structure)?);
    ctx.equal("pairing.sig_j", field(&box_j, 1).ok_or(Refusal::Structure)?);
    let (keys, complete) = schedule::finish(handshake.main, &th3, &th4, &ctx.input(7));
    ctx.equal("pairing.k_fin", complete.bytes());
    check_final(ctx, &keys);
    Ok(())
}

fn check_refusals(ctx: &mut Context<'_>, pairing: &Pairing<'_>) {
    let Ok((_, frame1)) = pairing.start() else { return };
    let Ok((_, frame2)) = pairing.challenge(&frame1) else { return };
    check_refused(ctx, "refused.pairing_requests", request_refusal, |frame| pairing.challenge(frame).map(drop));
    check_refused(ctx, "refused.challenges", challenge_refusal, |frame| pairing.respond(frame).map(drop));
    check_refused(ctx, "refused.responses", response_refusal, |frame| pairing.verify(&frame1, frame).map(drop));
    check_refused(ctx, "refused.completes", complete_refusal, |frame| read_complete(pairing.respond(&frame2)?.0.complete, frame).map(drop));
}

fn request_refusal(name: &str) -> Option<&'static [Refusal]> {
    Some(match name {
        "trailing_byte" => &[Refusal::First(BadFrame::Malformed(Malformed::Trailing))],
        "truncated" | "empty" => &[Refusal::First(BadFrame::Malformed(Malformed::Truncated))],
        "indefinite_array" | "long_version" | "long_head" => &[Refusal::First(BadFrame::Malformed(Malformed::NotShortest))],
        "one_more" | "one_less" => &[Refusal::First(BadFrame::Malformed(Malformed::Count))],
        "version_2" => &[Refusal::First(BadFrame::Version)],
        "suite_1" => &[Refusal::First(BadFrame::Suite)],
        "short_e_j" | "too_long" => &[Refusal::First(BadFrame::Malformed(Malformed::Bounds))],
        "text_for_bytes" => &[Refusal::First(BadFrame::Malformed(Malformed::Type))],
        "tagged" | "float_version" => &[Refusal::First(BadFrame::Malformed(Malformed::Foreign))],
        "low_order_e_j" => &[Refusal::LowOrder],
        "unreduced_ek" => &[Refusal::KemKey],
        "wrong_tag" => &[Refusal::Tag],
        _ => return None,
    })
}

fn challenge_refusal(name: &str) -> Option<&'static [Refusal]> {
    Some(match name {
        "padding_without_80" | "padding_a_block_too_long" => &[Refusal::Padding],
        "bytes_after_the_fields" => &[Refusal::Structure],
        "signature_of_another_info" => &[Refusal::Signature],
        // Where the other is the joiner, it knows itself before it looks at the signature.
        "identity_of_another" => &[Refusal::Signature, Refusal::SelfPairing],
        "own_identity" => &[Refusal::SelfPairing],
        "sealed_with_the_joiners_key" | "altered_ct" => &[Refusal::Box],
        "name_65_bytes" | "info_version_2" | "five_transports" | "seventeen_addresses" => &[Refusal::Info(Malformed::Bounds)],
        "live_id_not_listed" | "live_id_under_another_kind" => &[Refusal::TransportNotListed],
        "zero_e_i" => &[Refusal::LowOrder],
        "short_ct" => &[Refusal::Frame(BadFrame::Malformed(Malformed::Bounds))],
        "response_instead" => &[Refusal::Frame(BadFrame::Kind)],
        _ => return None,
    })
}

fn response_refusal(name: &str) -> Option<&'static [Refusal]> {
    Some(match name {
        "padding_without_80" => &[Refusal::Padding],
        "bytes_after_the_fields" => &[Refusal::Structure],
        "another_nonce_than_committed" => &[Refusal::Commit],
        "initiators_identity" => &[Refusal::SelfPairing],
        "signature_by_another" => &[Refusal::Signature],
        "wrong_aad" => &[Refusal::Box],
        "challenge_instead" => &[Refusal::Frame(BadFrame::Kind)],
        _ => return None,
    })
}

fn complete_refusal(name: &str) -> Option<&'static [Refusal]> {
    Some(match name {
        "status_4" => &[Refusal::Status],
        "two_bytes" => &[Refusal::Structure],
        "unpadded" => &[Refusal::Padding],
        "joiners_key" => &[Refusal::Box],
        _ => return None,
    })
}
