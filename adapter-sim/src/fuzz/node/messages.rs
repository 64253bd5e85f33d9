//! Control messages: those that an honest peer would send now, and those that nobody should.

use protocol_core::transfer::ranges::Ranges;
use protocol_core::transfer::receipt::Outcome;
use protocol_core::wire::control::{CancelReason, ControlMessage, DeclineReason};

use super::super::tape::Tape;
use super::files;
use super::world::World;

/// A message, encoded: what it is, which transfer it is about, which files it means; then what it needs.
pub(super) fn any(world: &World, tape: &mut Tape<'_>) -> Vec<u8> {
    let (kind, about, choice) = (tape.byte() % 20, tape.byte(), tape.byte());
    let manifest = files::manifest(choice);
    let transfer = world.named(about);
    match kind {
        0 => ControlMessage::Offer(files::offer(&manifest, transfer)),
        1 => ControlMessage::Accept { transfer, chunks: all(manifest.layout().chunks()), digests: all(manifest.len().into()) },
        2 => ControlMessage::FileDigests { transfer, first_entry: 0, digests: files::digests(&manifest) },
        3 => ControlMessage::Stored { transfer, chunks: all(manifest.layout().chunks()) },
        4 => ControlMessage::Receipt { transfer, digest: files::receipt(&manifest, transfer), others: Vec::new(), more: false },
        5 => ControlMessage::OpenBulk { transfer, count: 1 + choice % 8 },
        6 => ControlMessage::Accept { transfer, chunks: some(tape), digests: some(tape) },
        7 => ControlMessage::Stored { transfer, chunks: some(tape) },
        8 => ControlMessage::SourceChanged { transfer, entry: choice.into() },
        9 => ControlMessage::Decline { transfer, reason: DeclineReason::of(choice.into()) },
        10 => ControlMessage::Cancel { transfer, reason: CancelReason::of(choice.into()) },
        11 => ControlMessage::Pause { transfer },
        12 => ControlMessage::Resume { transfer },
        13 => ControlMessage::FileDigests { transfer, first_entry: tape.byte().into(), digests: vec![[choice; 32]; 1 + tape.below(9)] },
        14 => {
            let others = (0..u32::from(tape.byte() % 6)).map(|entry| (entry * 2, Outcome::of(1 + tape.byte() % 5))).collect();
            ControlMessage::Receipt { transfer, digest: [choice; 32], others, more: tape.byte().is_multiple_of(2) }
        }
        15 => {
            let mut offer = files::offer(&manifest, transfer);
            (offer.entries, offer.bytes) = (1 + u32::from(tape.u16()), tape.number());
            ControlMessage::Offer(offer)
        }
        16 => ControlMessage::Message {
            seq: 1 + tape.number() / 2,
            id: [about; 16],
            content_type: "text/plain".into(),
            body: tape.counted().to_vec(),
        },
        17 => ControlMessage::Ping { nonce: tape.number() },
        18 => ControlMessage::Unpair,
        _ => return tape.counted().to_vec(),
    }
    .encode()
}

fn all(count: u64) -> Ranges {
    Ranges::from(0..count)
}

fn some(tape: &mut Tape<'_>) -> Ranges {
    let range = |tape: &mut Tape<'_>| {
        let start = tape.number();
        start..start.saturating_add(u64::from(tape.byte()))
    };
    (0..tape.byte() % 4).map(|_| range(tape)).collect()
}
