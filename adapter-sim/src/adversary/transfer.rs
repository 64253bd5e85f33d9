//! Transfers in which one side lies: it sends or receives as an honest device does, but for one thing.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol_core::bulk::cipher::Aead;
use protocol_core::bulk::sealer::{CHUNK_HEAD, ChunkKey};
use protocol_core::crypto::aead::TAG;
use protocol_core::crypto::kdf::put_lp;
use protocol_core::crypto::labels::strings;
use protocol_core::effects::{Direction, Event, TransferKey};
use protocol_core::ids::TransferId;
use protocol_core::limits;
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordSealer, RecordType};
use protocol_core::session::stream::Opening;
use protocol_core::transfer::manifest::{EntryKind, Manifest};
use protocol_core::transfer::ranges::Ranges;
use protocol_core::transfer::receipt::{Outcome, ReceiptDigest};
use protocol_core::wire::control::{CancelReason, ControlMessage, DeclineReason, Offer};
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::StreamKind;
use serde::{Deserialize, Serialize};

use super::{Expect, Session};
use crate::disk::{Item, Tree, manifest_of};
use crate::link::Wire;
use crate::raw::Raw;
use crate::script::{CHUNK, tree};
use crate::{Dev, World};

/// The one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Trick {
    #[default]
    None,
    // Of a sender.
    WrongDigest,
    NoDigests,
    DotDot,
    // Names that no manifest may have.
    Slash,
    Nul,
    Duplicate,
    Unsorted,
    Orphan,
    /// A name, a depth and a length of one too many.
    LongName,
    DeepPath,
    LongPath,
    /// Pages of another manifest, with as many entries and bytes.
    OtherPages,
    NoFin,
    /// Every chunk on two streams.
    Twice,
    /// A chunk that does not open, on three streams.
    Forged,
    /// Chunks under each other's numbers.
    Moved,
    Short,
    /// Nine streams.
    Many,
    /// A stream that carries nothing.
    Idle,
    Changed,
    Cancel,
    /// The same offer twenty times more, and no chunk.
    Repeat,
    /// Digests, and no chunk.
    Withhold,
    /// Another offer under the same id.
    Other,
    // Of a receiver.
    WrongReceipt,
    /// The right receipt, before anything came.
    EarlyReceipt,
    /// Every chunk is asked for again when the first came.
    Again,
    Beyond,
    FalseStored,
    DeclineLate,
    Mute,
    /// One chunk of several is asked for.
    Part,
    /// Something comes back on every stream where it has to be silent.
    Chatter,
    /// Every chunk is asked for twenty times when the first came, and nothing is ever stored.
    Insist,
    /// What was stored is said several times.
    Repeated,
}

impl Trick {
    /// Those of a sender.
    pub(super) const SENDER: &'static [Self] = &[
        Self::None,
        Self::WrongDigest,
        Self::NoDigests,
        Self::DotDot,
        Self::Slash,
        Self::Nul,
        Self::Duplicate,
        Self::Unsorted,
        Self::Orphan,
        Self::OtherPages,
        Self::NoFin,
        Self::Twice,
        Self::Forged,
        Self::Moved,
        Self::Short,
        Self::Many,
        Self::Idle,
        Self::Changed,
        Self::Cancel,
        Self::Repeat,
        Self::Other,
        Self::Withhold,
    ];
    /// Paths beyond their limits.
    pub(crate) const BEYOND: &'static [Self] = &[Self::LongName, Self::DeepPath, Self::LongPath];
    /// Those of a receiver.
    pub(super) const RECEIVER: &'static [Self] = &[
        Self::None,
        Self::WrongReceipt,
        Self::EarlyReceipt,
        Self::Again,
        Self::Beyond,
        Self::FalseStored,
        Self::DeclineLate,
        Self::Mute,
        Self::Part,
        Self::Chatter,
        Self::Insist,
        Self::Repeated,
    ];
}

/// A transfer that a liar takes part in.
pub(super) struct Deal {
    pub(super) session: usize,
    pub(super) id: TransferId,
    pub(super) digest: [u8; 32],
    outgoing: bool,
    trick: Trick,
    manifest: Arc<Manifest>,
    tree: Tree,
    pages: Vec<Vec<u8>>,
    seen: BTreeSet<u64>,
    /// The other side's wish was met once.
    begun: bool,
}

impl Deal {
    fn all(&self) -> Ranges {
        Ranges::from(0..self.manifest.layout().chunks())
    }

    fn content(&self, entry: u32) -> Option<&[u8]> {
        match self.tree.values().nth(entry as usize)? {
            Item::File(content) => Some(content),
            Item::Directory | Item::Link(_) => None,
        }
    }

    fn digest_of(&self, entry: u32) -> Option<[u8; 32]> {
        self.content(entry).map(|content| *blake3::hash(content).as_bytes())
    }

    fn offer(&self) -> Offer {
        let (entries, bytes) = (self.manifest.len(), self.manifest.bytes());
        Offer { transfer: self.id, entries, bytes, chunk_size: CHUNK, manifest_digest: self.digest, label: None }
    }

    fn receipt(&self, wrong: bool) -> ControlMessage {
        let mut digest = ReceiptDigest::new(self.id, &self.digest);
        for (number, entry) in (0..).zip(self.manifest.entries()) {
            let content = self.digest_of(number);
            digest.entry(entry.kind, entry.size, Outcome::Stored, content.as_ref().filter(|_| entry.kind == EntryKind::File));
        }
        let mut digest = digest.finish();
        digest[0] ^= u8::from(wrong);
        ControlMessage::Receipt { transfer: self.id, digest, others: Vec::new(), more: false }
    }
}

/// A tree in which a name is to be replaced by another of its length, and that other name.
fn misnamed(trick: Trick) -> Option<(Tree, &'static [u8; 2])> {
    let file = |path: &[&[u8]]| (path.iter().map(|part| part.to_vec()).collect::<Vec<_>>(), Item::File(vec![5; 100]));
    let one = || Tree::from([file(&[b"zq"])]);
    let two = || Tree::from([file(&[b"zp"]), file(&[b"zq"])]);
    Some(match trick {
        Trick::DotDot => (one(), b".."),
        Trick::Slash => (one(), b"a/"),
        Trick::Nul => (one(), b"a\0"),
        Trick::OtherPages => (one(), b"zr"),
        Trick::Duplicate => (two(), b"zp"),
        Trick::Unsorted => (two(), b"aa"),
        Trick::Orphan => (Tree::from([(vec![b"zq".to_vec()], Item::Directory), file(&[b"zq", b"x"])]), b"zp"),
        _ => return None,
    })
}

/// A tree at a limit of paths, and what of its last entry, as it is encoded, is to be replaced by what beyond it.
fn overlong(trick: Trick) -> Option<(Tree, [Vec<Vec<u8>>; 2])> {
    let name = |len: usize| [&[0x58, len as u8][..], &vec![b'z'; len]].concat();
    let nested = |part: &[u8], depth: usize| {
        let below = |depth: usize| vec![part.to_vec(); depth];
        let tree: Tree = (1..=depth).map(|depth| (below(depth), Item::Directory)).collect();
        (tree, below(depth))
    };
    let file = || Item::File(vec![5; 100]);
    let under = |parent: &[Vec<u8>], name: &[u8]| [parent, &[name.to_vec()]].concat();
    Some(match trick {
        Trick::LongName => {
            let longest = limits::PATH_COMPONENT;
            let longer = [&[0x59][..], &(longest as u16 + 1).to_be_bytes(), &vec![b'z'; longest + 1]].concat();
            (Tree::from([(vec![vec![b'z'; longest]], file())]), [vec![name(longest)], vec![longer]])
        }
        Trick::LongPath => {
            let (mut tree, parent) = nested(&[b'd'; 200], 20);
            let rest = limits::PATH_BYTES - 20 * 201;
            tree.insert(under(&parent, &vec![b'z'; rest]), file());
            (tree, [vec![name(rest)], vec![name(rest + 1)]])
        }
        Trick::DeepPath => {
            let (mut tree, parent) = nested(b"d", limits::PATH_DEPTH - 1);
            tree.insert(under(&parent, b"zq"), Item::Directory);
            tree.insert(under(&parent, b"zr"), file());
            let depth = limits::PATH_DEPTH as u8;
            (tree, [vec![vec![0x98, depth], b"\x42zr".to_vec()], vec![vec![0x98, depth + 1], b"\x42zq\x42zr".to_vec()]])
        }
        _ => return None,
    })
}

/// Replaces the last of each in the last page.
fn lengthened(pages: &mut [Vec<u8>], [before, after]: &[Vec<Vec<u8>>; 2]) {
    let Some(page) = pages.last_mut() else { return };
    for (before, after) in before.iter().zip(after) {
        if let Some(at) = page.windows(before.len()).rposition(|bytes| bytes == before) {
            page.splice(at..at + before.len(), after.iter().copied());
        }
    }
}

/// The digest over pages that no manifest would have.
fn digest_of_pages(pages: &[Vec<u8>]) -> [u8; 32] {
    let mut text = Vec::new();
    put_lp(&mut text, strings::MANIFEST);
    text.extend(CHUNK.to_be_bytes());
    pages.iter().for_each(|page| put_lp(&mut text, page));
    *blake3::hash(&text).as_bytes()
}

/// The pages with one name of two letters for another.
fn renamed(pages: &mut [Vec<u8>], to: &[u8; 2]) {
    for page in pages {
        if let Some(at) = page.windows(2).position(|name| name == b"zq") {
            page[at..at + 2].copy_from_slice(to);
        }
    }
}

impl World {
    /// Whether a liar may open data streams in this session.
    fn can_open(&self, session: usize) -> bool {
        let session = &self.foe.sessions[session];
        session.we_opened || self.conns[session.conn].wire != Wire::Tcp
    }

    /// A liar offers a tree.
    pub(super) fn deal(&mut self, session: usize, number: usize, trick: Trick) {
        let (wrong, long) = (misnamed(trick), overlong(trick));
        let other = wrong.as_ref().map(|(tree, _)| tree).or(long.as_ref().map(|(tree, _)| tree));
        let tree = other.map_or_else(|| tree(number), Clone::clone);
        let manifest = manifest_of(&tree, CHUNK);
        let mut pages: Vec<Vec<u8>> = manifest.pages().map(<[u8]>::to_vec).collect();
        if let Some((_, to)) = wrong {
            renamed(&mut pages, to);
        }
        if let Some((_, parts)) = &long {
            lengthened(&mut pages, parts);
        }
        let unlawful = wrong.is_some() || long.is_some();
        let digest = if unlawful && trick != Trick::OtherPages { digest_of_pages(&pages) } else { *manifest.digest() };
        let id = TransferId(self.keys.bytes());
        let (seen, begun) = (BTreeSet::new(), false);
        self.foe.deals.push(Deal { session, id, digest, outgoing: true, trick, manifest, tree, pages, seen, begun });
        let deal = self.foe.deals.len() - 1;
        let offer = self.foe.deals[deal].offer();
        if unlawful {
            self.with_oracle(|oracle, _| oracle.on_unlawful(id));
        }
        let other = Offer { manifest_digest: [8; 32], ..offer.clone() };
        self.utter_in(session, &[ControlMessage::Offer(offer)]);
        if trick == Trick::Other {
            self.utter_in(session, &[ControlMessage::Offer(other)]);
            self.expect(Expect::Declined { session, transfer: id }, 7_000, "XFER-19");
        }
        if self.can_open(session)
            && let Some((raw, sealer, ..)) = self.open_data(session, &Opening::Manifest { transfer: id, manifest_digest: digest })
        {
            self.send_pages(raw, sealer, deal);
        }
    }

    fn send_pages(&mut self, raw: Raw, mut sealer: RecordSealer, deal: usize) {
        let Deal { pages, trick, .. } = &self.foe.deals[deal];
        let mut records: Vec<_> = pages.iter().filter_map(|page| sealer.seal(RecordType::Data, page).ok()).collect();
        if *trick != Trick::NoFin {
            records.extend(sealer.seal(RecordType::Fin, &[]).ok());
        }
        self.raw_send(raw, &records.concat());
        self.raw_finish(raw);
    }

    /// The peer opened a data stream for one of our transfers: pages or chunks go back.
    pub(super) fn serve_data(&mut self, raw: Raw, kind: StreamKind, id: TransferId, key: impl FnOnce(&[u8; 16]) -> StreamKey) {
        let Some(deal) = self.foe.deals.iter().position(|deal| deal.outgoing && deal.id == id) else { return };
        let reply = self.keys.bytes();
        let key = key(&reply);
        self.raw_send(raw, &reply);
        if kind == StreamKind::Bulk {
            let all = self.foe.deals[deal].all();
            self.send_chunks(raw, &key, deal, &all, 0);
        } else {
            self.send_pages(raw, RecordSealer::new(&key), deal);
        }
    }

    /// The receiver wants chunks.
    pub(super) fn deliver(&mut self, id: TransferId, wanted: &Ranges) -> Vec<ControlMessage> {
        let Some(deal) = self.foe.deals.iter().position(|deal| deal.outgoing && deal.id == id) else { return Vec::new() };
        let Deal { session, trick, digest, begun, .. } = self.foe.deals[deal];
        self.foe.deals[deal].begun = true;
        let mut messages = Vec::new();
        if !begun {
            messages.extend(self.first_words(deal, trick));
        }
        if trick == Trick::Repeat {
            // One that says nothing any more does not repeat itself.
            if !begun && !self.foe.sessions[session].deaf {
                self.watch_transfer(session, Direction::Incoming, id);
            }
            return messages;
        }
        if matches!(trick, Trick::Withhold | Trick::NoDigests | Trick::Short | Trick::Idle) && !begun {
            // Four times 15 s, or 16 where a stream has to be given up first; eight at a time have one.
            let turns = (1 + self.crowd(session, deal)).div_ceil(limits::BULK_STREAMS);
            self.expect_end(session, Direction::Incoming, id, 80_000 * turns as u64);
        }
        let (raws, opening) = (
            match trick {
                Trick::Twice => 2,
                Trick::Forged => 3,
                Trick::Many => 9,
                _ => 1,
            },
            Opening::Bulk { transfer: id, manifest_digest: digest },
        );
        if wanted.is_empty() || matches!(trick, Trick::Cancel | Trick::Withhold) {
            return messages;
        }
        if !self.can_open(session) {
            messages.push(ControlMessage::OpenBulk { transfer: id, count: raws.min(8) });
            return messages;
        }
        let mut all = Vec::new();
        for number in 0..raws {
            if let Some((raw, _, key, _)) = self.open_data(session, &opening) {
                all.push(raw);
                self.send_chunks(raw, &key, deal, wanted, number);
            }
        }
        if trick == Trick::Many && all.len() == 9 {
            self.expect(Expect::Closed { streams: all, most: 8, under: Some(session) }, 2_000, "S23");
        } else if trick == Trick::Forged && all.len() == 3 && !self.is_crowded(session) {
            self.watch_control(session, "S12");
        }
        messages
    }

    /// Whether streams that carry nothing stand in the way of more in a session.
    fn is_crowded(&self, session: usize) -> bool {
        self.crowd(session, usize::MAX) > 0
    }

    /// How many other deals of a session have streams that carry nothing.
    fn crowd(&self, session: usize, but: usize) -> usize {
        let idle =
            |(number, deal): &(usize, &Deal)| *number != but && deal.session == session && matches!(deal.trick, Trick::Many | Trick::Idle);
        self.foe.deals.iter().enumerate().filter(idle).count()
    }

    /// What a sender says when its offer was taken.
    fn first_words(&mut self, deal: usize, trick: Trick) -> Vec<ControlMessage> {
        let deal = &self.foe.deals[deal];
        let (transfer, entries) = (deal.id, deal.manifest.len());
        let mut digests: Vec<[u8; 32]> = (0..entries).map(|entry| deal.digest_of(entry).unwrap_or([0; 32])).collect();
        match trick {
            Trick::WrongDigest => digests.iter_mut().filter(|digest| **digest != [0; 32]).for_each(|digest| digest[3] ^= 1),
            Trick::NoDigests => return Vec::new(),
            Trick::Repeat => return vec![ControlMessage::Offer(deal.offer()); 20],
            Trick::Changed => return (0..entries).map(|entry| ControlMessage::SourceChanged { transfer, entry }).collect(),
            Trick::Cancel => return vec![ControlMessage::Cancel { transfer, reason: CancelReason::Source }],
            _ => {}
        }
        self.with_oracle(|oracle, _| (0..entries).zip(&digests).for_each(|(entry, digest)| oracle.on_named(transfer, entry, *digest)));
        vec![ControlMessage::FileDigests { transfer, first_entry: 0, digests }]
    }

    fn send_chunks(&mut self, raw: Raw, key: &StreamKey, deal: usize, wanted: &Ranges, number: u8) {
        let Deal { id, digest, trick, manifest, .. } = &self.foe.deals[deal];
        let (trick, layout) = (*trick, Arc::clone(manifest.layout()));
        let key = ChunkKey::new(key, Aead::ChaCha20Poly1305, *id, digest, Arc::clone(&self.cipher));
        let mut frames = Vec::new();
        for index in wanted.iter().flatten().filter(|index| *index < layout.chunks()) {
            let mut frame = vec![0; CHUNK_HEAD];
            for piece in layout.pieces(index) {
                let content = self.foe.deals[deal].content(piece.entry).unwrap_or_default();
                let from = usize::try_from(piece.offset).unwrap_or(usize::MAX);
                frame.extend_from_slice(content.get(from..from + piece.len as usize).unwrap_or_default());
            }
            if trick == Trick::Short {
                frame.pop();
            }
            frame.extend([0; TAG]);
            if key.seal(index, &mut frame).is_err() {
                continue;
            }
            match trick {
                Trick::Moved => frame[11] ^= 1,
                Trick::Forged => frame[CHUNK_HEAD] ^= 0x40,
                _ => {}
            }
            frames.push(frame);
        }
        if matches!(trick, Trick::Idle | Trick::Many) {
            return self.watch(raw, 20_000, "L3");
        }
        frames.iter().for_each(|frame| self.raw_send(raw, frame));
        if number == 0 || trick != Trick::Twice {
            self.raw_finish(raw);
        }
    }

    /// A device offers something to a liar.
    pub(super) fn take(&mut self, session: usize, offer: &Offer) -> Vec<ControlMessage> {
        let Session { who, peer, deaf, .. } = self.foe.sessions[session];
        if deaf {
            return Vec::new();
        }
        let key = TransferKey { device: self.id(who), direction: Direction::Outgoing, id: offer.transfer };
        // What is offered is known before its pages are read: all of it is the world's.
        let Some(tree) = self.oracle.as_ref().and_then(|oracle| oracle.offered_tree(peer, key)).cloned() else { return Vec::new() };
        let manifest = manifest_of(&tree, CHUNK);
        let (id, digest, trick) = (offer.transfer, offer.manifest_digest, self.foe.takes);
        let (seen, begun, pages) = (BTreeSet::new(), false, Vec::new());
        let again = self.incoming_deal(id).is_some();
        if again {
            self.with_oracle(|oracle, _| oracle.on_taken_again(id));
        }
        self.foe.deals.push(Deal { session, id, digest, outgoing: false, trick, manifest, tree, pages, seen, begun });
        let deal = self.foe.deals.len() - 1;
        let deal = &self.foe.deals[deal];
        let (chunks, entries) = (deal.all(), deal.manifest.len());
        let accept = |chunks| ControlMessage::Accept { transfer: id, chunks, digests: Ranges::from(0..u64::from(entries)) };
        let stored = ControlMessage::Stored { transfer: id, chunks: chunks.clone() };
        let nothing = chunks.is_empty();
        let mut messages = vec![accept(chunks.clone())];
        match trick {
            Trick::Beyond => {
                let behind = deal.manifest.layout().chunks();
                messages = vec![accept(Ranges::from(behind..behind + 1))];
                // An offer that was made again is answered again, and the first answer has ended it.
                if self.foe.deals.iter().filter(|deal| deal.id == id).count() == 1 {
                    self.watch_control(session, "S12");
                }
            }
            Trick::FalseStored => messages.push(stored),
            Trick::Part => messages = vec![accept(Ranges::from(0..chunks.count().min(1)))],
            Trick::EarlyReceipt => {
                messages.push(deal.receipt(false));
                // Nothing has to come where there is nothing, or where it may have come before.
                if !nothing && !again {
                    self.with_oracle(|oracle, _| oracle.on_false_receipt(id));
                }
            }
            Trick::DeclineLate => messages.push(ControlMessage::Decline { transfer: id, reason: DeclineReason::User }),
            Trick::Mute => messages.clear(),
            _ if nothing => messages.extend(self.settle(self.foe.deals.len() - 1)),
            _ => {}
        }
        if self.foe.sessions[session].we_opened && self.conns[self.foe.sessions[session].conn].wire == Wire::Tcp {
            // Only we can open: the pages have to be asked for.
            self.open_data(session, &Opening::Manifest { transfer: id, manifest_digest: digest });
        }
        messages
    }

    /// What a receiver says when everything came.
    fn settle(&mut self, deal: usize) -> Vec<ControlMessage> {
        let deal = &self.foe.deals[deal];
        let (id, wrong) = (deal.id, deal.trick == Trick::WrongReceipt);
        let times = if deal.trick == Trick::Repeated { 3 } else { 1 };
        let mut messages = vec![ControlMessage::Stored { transfer: id, chunks: deal.all() }; times];
        messages.push(deal.receipt(wrong));
        if wrong {
            self.with_oracle(|oracle, _| oracle.on_false_receipt(id));
        }
        messages
    }

    /// The sender asks for streams that only we can open.
    pub(super) fn open_bulk(&mut self, session: usize, id: TransferId, count: u8) -> Option<()> {
        let deal = self.incoming_deal(id)?;
        let opening = Opening::Bulk { transfer: id, manifest_digest: self.foe.deals[deal].digest };
        for _ in 0..count {
            let (raw, ..) = self.open_data(session, &opening)?;
            self.receive(raw, deal, 16);
        }
        Some(())
    }

    /// The number of a transfer that a device sends to a liar.
    pub(super) fn incoming_deal(&self, id: TransferId) -> Option<usize> {
        // The last one: an offer that was made again is taken in another way.
        self.foe.deals.iter().rposition(|deal| !deal.outgoing && deal.id == id)
    }

    /// Chunks came; the messages that they are answered with, and their session.
    pub(super) fn chunks_came(&mut self, deal: usize, indices: &[u64]) -> Option<(usize, Vec<ControlMessage>)> {
        let bulk = Some(StreamName::Data(StreamKind::Bulk));
        let flipped = self.streams.iter().any(|stream| stream.name == bulk && stream.pipes.iter().any(|pipe| pipe.flipped.is_some()));
        let of = &mut self.foe.deals[deal];
        let first = of.seen.is_empty() && !indices.is_empty();
        of.seen.extend(indices);
        if first && of.trick == Trick::Again {
            // While the stream is still there.
            let digests = Ranges::from(0..u64::from(of.manifest.len()));
            return Some((of.session, vec![ControlMessage::Accept { transfer: of.id, chunks: of.all(), digests }]));
        }
        if of.trick == Trick::Insist && first {
            let accept = ControlMessage::Accept { transfer: of.id, chunks: of.all(), digests: Ranges::new() };
            let (session, id) = (of.session, of.id);
            self.watch_transfer(session, Direction::Outgoing, id);
            return Some((session, vec![accept; 20]));
        }
        // A changed bit may have named another chunk.
        if of.trick == Trick::Part && !flipped && indices.iter().any(|index| *index > 0) {
            let peer = self.foe.sessions[of.session].peer;
            self.with_oracle(|oracle, _| oracle.broken("XFER-10", || format!("device {} sends what was not asked for", peer.0)));
            return None;
        }
        let whole = of.seen.len() as u64 == of.manifest.layout().chunks();
        let honest = matches!(of.trick, Trick::None | Trick::WrongReceipt | Trick::Again | Trick::Repeated);
        if !whole || !honest || std::mem::replace(&mut of.begun, true) {
            return None;
        }
        let session = of.session;
        Some((session, self.settle(deal)))
    }

    /// The liar's peer must give a transfer up soon.
    fn watch_transfer(&mut self, session: usize, direction: Direction, id: TransferId) {
        self.expect_end(session, direction, id, 7_000);
    }

    /// The liar's peer must give a transfer up within so many milliseconds.
    fn expect_end(&mut self, session: usize, direction: Direction, id: TransferId, millis: u64) {
        let Session { who, peer, .. } = self.foe.sessions[session];
        let key = TransferKey { device: self.id(who), direction, id };
        self.expect(Expect::Ended(peer, key), millis, "S23");
    }

    /// Whether an offer was made again after a liar had taken it: what the liar said before that is not heard.
    pub(super) fn was_dealt_again(&self, key: &TransferKey) -> bool {
        self.foe.deals.iter().filter(|deal| !deal.outgoing && deal.id == key.id).count() > 1
    }

    /// Whether none of the files that a device sends to a liar is what it was: nothing is left that could be asked for in vain.
    pub(super) fn gave_all_up(&self, dev: Dev, key: &TransferKey) -> bool {
        let Some(deal) = self.incoming_deal(key.id).map(|deal| &self.foe.deals[deal]) else { return false };
        let gone = |number: u32| {
            self.events().iter().any(|(of, event)| {
                let Event::Entry { transfer, entry, outcome, .. } = event else { return false };
                (*of, transfer, *entry) == (dev, key, number) && matches!(outcome, Outcome::SourceChanged | Outcome::Failed)
            })
        };
        (0..).zip(deal.manifest.entries()).all(|(number, entry)| entry.size == 0 || gone(number))
    }

    /// A liar's session must be closed soon, by this rule: what is said in a new one waits for the end of the one before.
    pub(super) fn watch_control(&mut self, session: usize, rule: &'static str) {
        if let Some(raw) = self.control_of(session) {
            self.watch(raw, 7_000, rule);
        }
    }
}
