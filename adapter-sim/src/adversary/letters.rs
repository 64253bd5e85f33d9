//! Messages of a paired liar: numbers that were used, more than may be under way, receipts of what it never got.

use std::collections::BTreeMap;

use protocol_core::limits;
use protocol_core::wire::control::{ControlMessage, MessageState};
use serde::{Deserialize, Serialize};

use crate::choice::Tape;
use crate::{Dev, World};

/// What a liar says of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Tale {
    /// One message, as it should be.
    #[default]
    Message,
    /// A number twice, for two messages, and that of one that has its receipt for a third.
    Used,
    /// More at once than may be under way.
    Flood,
    /// What came is there.
    Receipts,
    /// Receipts of what came that name another message, or another number, and of what was never told.
    FalseReceipts,
}

impl Tale {
    /// Any.
    pub(crate) fn draw(tape: &mut Tape<'_>) -> Self {
        tape.one_of(&[Self::Message, Self::Used, Self::Flood, Self::Receipts, Self::FalseReceipts, Self::Used, Self::FalseReceipts])
    }
}

/// Messages as a liar knows them. Their numbers are of a root.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// The last number that was given.
    given: BTreeMap<[u8; 32], u64>,
    /// The last that came back in a receipt: it is durable at its receiver.
    answered: BTreeMap<[u8; 32], u64>,
    /// What came: under which root, number and id.
    came: Vec<([u8; 32], u64, [u8; 16])>,
}

impl World {
    /// A liar's peer has sent it a message, or a receipt.
    pub(super) fn letter_came(&mut self, session: usize, message: &ControlMessage) {
        let Some(root) = self.foe.sessions[session].root else { return };
        let letters = &mut self.foe.letters;
        match message {
            ControlMessage::Message { seq, id, .. } => letters.came.push((root, *seq, *id)),
            ControlMessage::MessageReceipt { seq, .. } => {
                let last = letters.answered.entry(root).or_default();
                *last = (*last).max(*seq);
            }
            _ => {}
        }
    }

    /// A liar says something about messages in its session.
    pub(super) fn tell(&mut self, session: usize, tale: Tale) {
        let Some(root) = self.foe.sessions[session].root else { return };
        let messages = match tale {
            Tale::Message => vec![self.letter(root, None).0],
            Tale::Used => self.used_numbers(root),
            Tale::Flood => {
                // What follows may be heard behind the end of the session.
                *self.foe.moves_of.entry(session).or_default() += 1;
                let most = limits::MESSAGES_HELD * limits::MESSAGES_UNDER_WAY;
                let told: Vec<_> = (0..most + 8).map(|_| self.letter(root, None)).collect();
                // All come in one record, so nothing of them is on the disk when the last is there.
                for (_, id) in &told[most..] {
                    self.with_oracle(|oracle, _| oracle.on_unlawful_message(*id, "S17"));
                }
                told.into_iter().map(|(message, _)| message).collect()
            }
            Tale::Receipts | Tale::FalseReceipts => self.letter_receipts(root, tale == Tale::Receipts),
        };
        self.utter_in(session, &messages);
    }

    /// A message with a number, or with the next.
    fn letter(&mut self, root: [u8; 32], number: Option<u64>) -> (ControlMessage, [u8; 16]) {
        let id = self.keys.bytes::<16>();
        let seq = number.unwrap_or_else(|| {
            let last = self.foe.letters.given.entry(root).or_default();
            *last += 1;
            *last
        });
        (ControlMessage::Message { seq, id, content_type: "x".into(), body: vec![7] }, id)
    }

    /// The number of a message that came before, first: what is above it would say that it was used. Then a number twice.
    fn used_numbers(&mut self, root: [u8; 32]) -> Vec<ControlMessage> {
        let answered = self.foe.letters.answered.get(&root).copied();
        let answered = answered.map(|number| self.letter(root, Some(number)));
        let (first, _) = self.letter(root, None);
        let last = self.foe.letters.given.get(&root).copied();
        let (again, id) = self.letter(root, last);
        for id in answered.iter().map(|(_, id)| *id).chain([id]) {
            self.with_oracle(|oracle, _| oracle.on_unlawful_message(id, "S15"));
        }
        answered.into_iter().map(|(message, _)| message).chain([first, again]).collect()
    }

    fn letter_receipts(&mut self, root: [u8; 32], honest: bool) -> Vec<ControlMessage> {
        let came: Vec<_> = self.foe.letters.came.iter().filter(|(of, ..)| *of == root).map(|(_, seq, id)| (*seq, *id)).collect();
        let mut all = Vec::new();
        for (seq, id) in came {
            if honest {
                self.with_oracle(|oracle, _| oracle.on_said_receipt(id));
                all.push((seq, id));
            } else {
                all.extend([(seq, self.keys.bytes()), (seq + 1_000, id)]);
            }
        }
        if !honest {
            all.extend([(1, self.keys.bytes()), (77, self.keys.bytes())]);
        }
        let receipt = |(seq, id)| ControlMessage::MessageReceipt { seq, id, state: MessageState::Delivered };
        all.into_iter().map(receipt).collect()
    }

    /// An owner sends the liar messages.
    pub(super) fn write_to_liar(&mut self, dev: Dev, count: usize) {
        let liar = self.liar(0);
        self.write_to((dev, liar), count % 256, 600, false);
    }
}
