//! Every state and every message: what comes of it.

use super::*;
use crate::wire::control::{self, MessageState, Offer};
use std::fmt::Write as _;
use std::string::String;

/// Every control message, about the transfer `id` with this manifest.
fn messages(id: TransferId, manifest: &Manifest) -> Vec<(&'static str, ControlMessage)> {
    let same = Offer {
        transfer: id,
        entries: manifest.len(),
        bytes: manifest.bytes(),
        chunk_size: manifest.chunk_size(),
        manifest_digest: *manifest.digest(),
        label: None,
    };
    let other = Offer { manifest_digest: [9; 32], ..same.clone() };
    let chunks = || Ranges::from(0..1);
    vec![
        ("Ping", ControlMessage::Ping { nonce: 1 }),
        ("Pong", ControlMessage::Pong { nonce: 1 }),
        ("Unpair", ControlMessage::Unpair),
        ("OpenBulk", ControlMessage::OpenBulk { transfer: id, count: 1 }),
        ("Offer, the same", ControlMessage::Offer(same)),
        ("Offer, another", ControlMessage::Offer(other)),
        ("Accept", ControlMessage::Accept { transfer: id, chunks: chunks(), digests: Ranges::new() }),
        ("Decline", ControlMessage::Decline { transfer: id, reason: control::DeclineReason::User }),
        ("FileDigests", ControlMessage::FileDigests { transfer: id, first_entry: 2, digests: vec![[0; 32]] }),
        ("FileDigests, beyond", ControlMessage::FileDigests { transfer: id, first_entry: 12, digests: vec![[0; 32]] }),
        ("Stored", ControlMessage::Stored { transfer: id, chunks: chunks() }),
        ("SourceChanged", ControlMessage::SourceChanged { transfer: id, entry: 5 }),
        ("SourceChanged, beyond", ControlMessage::SourceChanged { transfer: id, entry: 12 }),
        ("Cancel", ControlMessage::Cancel { transfer: id, reason: control::CancelReason::User }),
        ("Pause", ControlMessage::Pause { transfer: id }),
        ("Resume", ControlMessage::Resume { transfer: id }),
        ("Receipt", ControlMessage::Receipt { transfer: id, digest: [0; 32], others: vec![], more: false }),
        ("Message", ControlMessage::Message { seq: 1, id: [0; 16], content_type: String::new(), body: vec![] }),
        ("MessageReceipt", ControlMessage::MessageReceipt { seq: 1, id: [0; 16], state: MessageState::Delivered }),
    ]
}

/// A transfer in which `who` is in `state`.
fn at(who: harness::Who, state: &str) -> World {
    let mut world = World::new(tree());
    if state != "Waiting" {
        world.connect();
    }
    world.offer();
    if state != "Waiting" {
        world.step_until(who, if state == "Discarding" { "Receiving" } else { state });
    }
    if state == "Discarding" {
        let key = world.key(R).unwrap();
        world.call(R, |transfers, cx| transfers.cancel(cx, key, CancelReason::User)).unwrap();
    }
    world
}

#[test]
fn every_state_and_every_message() {
    let mut matrix = String::new();
    let states = [
        (S, &["Waiting", "Offered", "Sending"][..]),
        (R, &["Reading", "Inspecting", "Asking", "Preparing", "Receiving", "Clearing", "Discarding"][..]),
    ];
    for (who, states) in states {
        for state in states {
            writeln!(matrix, "{who:?} {state}").unwrap();
            let first = at(who, state);
            let id = first.key(who).unwrap().id;
            for (name, message) in messages(id, &first.manifest) {
                let mut world = at(who, state);
                let (told, events) = (world.told.len(), world.sides[&who].events.len());
                let result = world.call(who, |transfers, cx| transfers.on_control(cx, who.other().device(), message));
                let verdict = if result.is_err() { " violation" } else { "" };
                write!(matrix, "  {name:22} -> {}{verdict}", world.state(who)).unwrap();
                for (_, message) in &world.told[told..] {
                    let text = std::format!("{message:?}");
                    write!(matrix, "  tells {}", text.split([' ', '(']).next().unwrap()).unwrap();
                }
                for event in &world.sides[&who].events[events..] {
                    match event {
                        Event::Failed { reason, .. } => write!(matrix, "  event Failed({reason:?})").unwrap(),
                        event => write!(matrix, "  event {}", std::format!("{event:?}").split(' ').next().unwrap()).unwrap(),
                    }
                }
                writeln!(matrix).unwrap();
                // Whatever was said: it ends, once.
                world.lose_session();
                if state == &"Waiting" {
                    let key = world.key(S);
                    key.into_iter().for_each(|key| world.call(S, |transfers, cx| transfers.cancel(cx, key, CancelReason::User)).unwrap());
                }
                world.run();
                world.check_ended();
            }
        }
    }
    insta::assert_snapshot!(matrix);
}
