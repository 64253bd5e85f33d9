//! What a paired liar says on its control stream, in any state.

use protocol_core::crypto::secret::Secret;
use protocol_core::ids::TransferId;
use protocol_core::limits;
use protocol_core::transfer::ranges::Ranges;
use protocol_core::wire::control::{CancelReason, ControlMessage, DeclineReason, MessageState, Offer};
use serde::{Deserialize, Serialize};

use super::hand::Shared;
use super::lie::Lie;
use super::{Due, Expect};
use crate::script::CHUNK;
use crate::world::Act;
use crate::{Dev, World};

/// Something that is said out of place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Speech {
    /// Nothing, to no Ping, from now on.
    #[default]
    Nothing,
    Ping,
    Pong,
    Unpair,
    OpenBulk,
    Accept,
    Decline,
    Digests,
    Stored,
    Changed,
    Cancel,
    Pause,
    Resume,
    Receipt,
    Message,
    MessageReceipt,
    /// A message of 100 MiB begins.
    Endless,
    /// A type that is not known.
    Unknown,
    /// A type that is known, and not its body.
    Malformed,
    /// A record that does not verify.
    Noise,
    /// A half-close without a last record.
    HalfClose,
    /// An offer whose numbers do not fit.
    Absurd,
    /// An offer of one entry too many, and one of a byte too many.
    OverEntries,
    OverBytes,
    /// An offer in chunks of no size that there is.
    OddChunks,
    // Messages that break their row.
    NoEntries,
    ZeroRange,
    TouchingRanges,
    FallingRanges,
    NoBulk,
    NineBulk,
    ShortDigest,
    LongPing,
    ShortId,
    /// More ranges than a message may have.
    ManyRanges,
    /// A record of 1 MiB begins.
    LongRecord,
}

impl Speech {
    /// All.
    pub(super) const ALL: &'static [Self] = &[
        Self::Nothing,
        Self::Ping,
        Self::Pong,
        Self::Unpair,
        Self::OpenBulk,
        Self::Accept,
        Self::Decline,
        Self::Digests,
        Self::Stored,
        Self::Changed,
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::Receipt,
        Self::Message,
        Self::MessageReceipt,
        Self::Endless,
        Self::Unknown,
        Self::Malformed,
        Self::Noise,
        Self::HalfClose,
        Self::Absurd,
        Self::OverEntries,
        Self::OverBytes,
    ];

    /// Those beyond a limit that no other has.
    pub(crate) const BEYOND: &'static [Self] = &[Self::ManyRanges, Self::LongRecord];

    /// Those that must be refused.
    pub(super) const REFUSED: &'static [Self] =
        &[Self::Endless, Self::Malformed, Self::Noise, Self::Absurd, Self::OverEntries, Self::OverBytes, Self::OddChunks, Self::LongRecord];

    /// Messages that break their row.
    pub(super) const CROOKED: &'static [Self] = &[
        Self::NoEntries,
        Self::ZeroRange,
        Self::TouchingRanges,
        Self::FallingRanges,
        Self::NoBulk,
        Self::NineBulk,
        Self::ShortDigest,
        Self::LongPing,
        Self::ShortId,
    ];

    /// The body of a message that breaks its row.
    fn crooked(self, transfer: TransferId) -> Option<Vec<u8>> {
        let id = [&[0x50][..], &transfer.0].concat();
        let of = |head: &[u8], rest: &[u8]| Some([head, &id, rest].concat());
        // Of an offer: bytes, chunk size, digest, no label.
        let offer = [&[0x05, 0x1a, 0, 1, 0, 0, 0x58, 0x20][..], &[1; 32], &[0xf6]].concat();
        match self {
            Self::NoEntries => of(&[0x87, 0x10], &[&[0][..], &offer].concat()),
            Self::ZeroRange => of(&[0x84, 0x11], &[0x82, 0, 0, 0x80]),
            Self::TouchingRanges => of(&[0x84, 0x11], &[0x84, 0, 1, 1, 1, 0x80]),
            Self::FallingRanges => of(&[0x83, 0x14], &[0x84, 2, 1, 0, 1]),
            Self::NoBulk => of(&[0x83, 0x04], &[0]),
            Self::NineBulk => of(&[0x83, 0x04], &[9]),
            Self::ShortDigest => of(&[0x84, 0x13], &[0, 0x41, 1]),
            Self::LongPing => Some(vec![0x83, 0x01, 0x07, 0x07]),
            Self::ShortId => Some(vec![0x82, 0x17, 0x41, 7]),
            Self::ManyRanges => {
                let count = limits::RANGE_PAIRS as u16 + 1;
                let mut ranges = [&[0x99][..], &(2 * count).to_be_bytes()].concat();
                for start in (0..count).map(|number| 2 * number) {
                    ranges.extend(minicbor::to_vec(start).unwrap_or_default());
                    ranges.push(1);
                }
                of(&[0x83, 0x14], &ranges)
            }
            _ => None,
        }
    }

    /// Whether it is an offer of its own, and about nothing that there is.
    const fn is_offer(self) -> bool {
        matches!(self, Self::Absurd | Self::OverEntries | Self::OverBytes | Self::OddChunks)
    }

    /// What is counted and ignored, or answered, whoever says it.
    const fn is_harmless(self) -> bool {
        matches!(self, Self::Ping | Self::Pong | Self::Unknown | Self::Message | Self::MessageReceipt)
    }

    /// The message, if it is one.
    fn message(self, transfer: TransferId) -> Option<ControlMessage> {
        let chunks = Ranges::from(0..1);
        Some(match self {
            Self::Ping => ControlMessage::Ping { nonce: 7 },
            Self::Pong => ControlMessage::Pong { nonce: 7 },
            Self::Unpair => ControlMessage::Unpair,
            Self::OpenBulk => ControlMessage::OpenBulk { transfer, count: 8 },
            Self::Accept => ControlMessage::Accept { transfer, chunks, digests: Ranges::from(0..1) },
            Self::Decline => ControlMessage::Decline { transfer, reason: DeclineReason::Busy },
            Self::Digests => ControlMessage::FileDigests { transfer, first_entry: 0, digests: vec![[1; 32]] },
            Self::Stored => ControlMessage::Stored { transfer, chunks },
            Self::Changed => ControlMessage::SourceChanged { transfer, entry: 0 },
            Self::Cancel => ControlMessage::Cancel { transfer, reason: CancelReason::Io },
            Self::Pause => ControlMessage::Pause { transfer },
            Self::Resume => ControlMessage::Resume { transfer },
            Self::Receipt => ControlMessage::Receipt { transfer, digest: [1; 32], others: Vec::new(), more: false },
            Self::Message => ControlMessage::Message { seq: 1, id: [1; 16], content_type: "x".into(), body: vec![1; 70_000] },
            Self::MessageReceipt => ControlMessage::MessageReceipt { seq: 1, id: [1; 16], state: MessageState::Delivered },
            Self::Absurd | Self::OverEntries | Self::OverBytes | Self::OddChunks => {
                let (entries, bytes, chunk_size) = match self {
                    Self::OverEntries => (limits::MANIFEST_ENTRIES + 1, 5, CHUNK),
                    Self::OverBytes => (1, limits::TRANSFER_BYTES, CHUNK),
                    Self::OddChunks => (1, 5, CHUNK + 1),
                    _ => (u32::MAX, u64::MAX >> 1, CHUNK),
                };
                ControlMessage::Offer(Offer { transfer, entries, bytes, chunk_size, manifest_digest: [1; 32], label: None })
            }
            _ => return None,
        })
    }
}

impl World {
    /// Says it in a session, about its newest transfer.
    pub(super) fn say_out_of_place(&mut self, session: usize, speech: Speech) {
        let Some(raw) = self.control_of(session) else { return };
        if speech.is_harmless() {
            let (moves, events) = (self.foe.moves, self.events().len());
            let clean = self.foe.moves_of.get(&session).copied().unwrap_or(0) == 0;
            if clean && self.foe.deals.iter().all(|deal| deal.session != session) {
                self.expect(Expect::Tolerated { session, moves, events }, 1_000, "DATA-16");
            }
        } else {
            *self.foe.moves_of.entry(session).or_default() += 1;
        }
        let deals = self.foe.deals.iter().rev();
        let known = deals.filter(|deal| deal.session == session).map(|deal| deal.id).next().filter(|_| !speech.is_offer());
        let transfer = known.unwrap_or(TransferId([6; 16]));
        if let Some(message) = speech.message(transfer) {
            if speech == Speech::Digests {
                // It is said, so it is what was said.
                self.with_oracle(|oracle, _| oracle.on_named(transfer, 0, [1; 32]));
            }
            self.utter_in(session, &[message]);
            match speech {
                Speech::OddChunks => self.watch_control(session, "XFER-9"),
                _ if speech.is_offer() => self.expect(Expect::Declined { session, transfer }, 7_000, "XFER-6"),
                _ => {}
            }
            return;
        }
        if let Some(body) = speech.crooked(transfer) {
            let len = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
            self.utter_bytes(session, &[&len[..], &body].concat());
            return self.watch_control(session, "DATA-17");
        }
        match speech {
            Speech::Nothing => {
                self.foe.sessions[session].deaf = true;
                // What it said before may have waited for five seconds, until the session before was heard out.
                self.watch(raw, 36_000, "L7");
            }
            Speech::Endless => {
                self.utter_bytes(session, &(100_u32 << 20).to_be_bytes());
                self.watch_control(session, "S23");
            }
            Speech::Unknown => self.utter_bytes(session, &[0, 0, 0, 4, 0x82, 0x18, 99, 7]),
            Speech::Malformed => {
                self.utter_bytes(session, &[0, 0, 0, 2, 0x81, 0x01]);
                self.watch_control(session, "S12");
            }
            Speech::Noise => {
                self.raw_send(raw, &[&[0, 0, 0, 20, 0][..], &[9; 20]].concat());
                self.watch_control(session, "S12");
            }
            Speech::LongRecord => {
                self.raw_send(raw, &[0, 0x10, 0, 0, 0]);
                self.watch_control(session, "S23");
            }
            Speech::HalfClose => self.raw_finish(raw),
            _ => {}
        }
    }

    /// A stranger's Hellos by the hundred, few at a time, and one of a liar's behind them: which has to be answered.
    pub(super) fn flood(&mut self, to: Dev, count: usize) {
        let (stranger, liar) = (self.stranger(), self.liar(0));
        let once = count.min(limits::UNPROVED_STREAMS_PER_REMOTE - 4);
        for _ in 0..once {
            if self.is_up(to) {
                let (dialer, listener) = (self.key(stranger), self.key(to));
                let shared = Shared::Root { root: Secret::new([8; 32]), dialer, listener };
                self.open_handshake(stranger, to, shared, Lie::Tag, 0);
            }
        }
        if count > once {
            // More at once would push one another out before they are read.
            let later = 25_000 + 2 * (self.latency.0 + self.latency.1);
            return self.after(later, Act::Enemy(Due::Hellos { to, count: count - once }));
        }
        if let Some(raw) = self.call_as_liar(liar, to, Lie::None, 0)
            && self.foe.steady
        {
            self.expect(Expect::Answered(raw), 2_000, "L12");
        }
    }
}
