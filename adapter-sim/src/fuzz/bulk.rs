//! The data plane: chunk frames, claims, digests out of pieces.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol_core::bulk::chunks::{Chunks, Claim, Lane};
use protocol_core::bulk::cipher::{Aead, RustCrypto};
use protocol_core::bulk::digest::{FileDigest, value};
use protocol_core::bulk::opener::Opener;
use protocol_core::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD, ChunkKey};
use protocol_core::crypto::aead::TAG;
use protocol_core::crypto::secret::Secret;
use protocol_core::ids::TransferId;
use protocol_core::transfer::layout::{Layout, Piece};
use protocol_core::transfer::ranges::Ranges;

use super::tape::Tape;

fn chunk_key(aead: Aead) -> ChunkKey {
    ChunkKey::with_key(Secret::new([5; 32]), aead, TransferId([6; 16]), Arc::new(RustCrypto))
}

/// Chunk frames. The first byte chooses the AEAD and whether frames come as they are, or sealed rightly and then altered in one
/// place.
pub fn frames(data: &[u8]) {
    const CHUNK: u32 = 64 << 10;
    let mut tape = Tape::new(data);
    let choice = tape.byte();
    let aead = if choice & 1 == 0 { Aead::ChaCha20Poly1305 } else { Aead::Aes256Gcm };
    let opener = Opener::new(chunk_key(aead), CHUNK);
    if choice & 2 == 0 {
        while let Some(head) = tape.take(CHUNK_HEAD).first_chunk() {
            let Ok((index, body)) = opener.head(head) else { return };
            assert!((TAG + 1..=CHUNK as usize + TAG).contains(&(body as usize)), "room for one chunk is enough");
            let mut body = tape.take(body as usize).to_vec();
            assert!(opener.open(index, &mut body).is_err(), "nobody guesses a tag");
        }
        return;
    }
    while !tape.ended() {
        let (index, at, bit) = (tape.number(), usize::from(tape.u16()), tape.byte() % 9);
        let text = tape.counted();
        let mut frame = vec![0; text.len() + CHUNK_OVERHEAD];
        frame[CHUNK_HEAD..CHUNK_HEAD + text.len()].copy_from_slice(text);
        chunk_key(aead).seal(index, &mut frame).expect("there is room");
        if bit < 8 {
            let at = at % frame.len();
            frame[at] ^= 1 << bit;
        }
        let (head, body) = frame.split_first_chunk_mut::<CHUNK_HEAD>().expect("a frame has a head");
        match opener.head(head) {
            Ok((number, len)) if len as usize == body.len() => {
                let opened = opener.open(number, body);
                assert_eq!(opened.is_ok(), bit == 8, "every bit counts");
                assert!(opened.is_err() || (number == index && &body[..text.len()] == text));
            }
            Ok(_) => assert!(bit < 8, "the length was altered"),
            Err(_) => assert!(bit < 8 || text.is_empty(), "an honest frame is refused"),
        }
    }
}

/// Claims of a sender's lanes or of a receiver, in one thread: nothing is handed out twice, nothing is lost.
pub fn chunks(data: &[u8]) {
    let mut tape = Tape::new(data);
    let sending = tape.byte().is_multiple_of(2);
    let total = u64::from(tape.byte()) % 100;
    let sizes = (0..total).map(|at| (64 << 10) + at);
    let layout = Arc::new(Layout::new(sizes, 128 << 10).expect("small"));
    assert_eq!(layout.chunks(), total);
    let mut claims = Claims {
        set: Chunks::new(TransferId([1; 16]), layout).expect("there is memory"),
        allowed: BTreeSet::new(),
        held: Vec::new(),
        lanes: Vec::new(),
        finished: 0,
        claimed: BTreeSet::new(),
        again: false,
        idle: (false, false),
    };
    while !tape.ended() {
        claims.step(&mut tape, sending);
        claims.check();
    }
}

struct Claims {
    set: Arc<Chunks>,
    /// What may be claimed, and is not held.
    allowed: BTreeSet<u64>,
    /// Each with the number of its lane (0 at a receiver).
    held: Vec<(Claim, usize)>,
    /// Each with the chunks that were sealed through it.
    lanes: Vec<(Lane, BTreeSet<u64>)>,
    finished: u64,
    /// Every chunk that a lane ever claimed, and whether one was allowed again after that.
    claimed: BTreeSet<u64>,
    again: bool,
    /// Paused, stopped.
    idle: (bool, bool),
}

impl Claims {
    fn step(&mut self, tape: &mut Tape<'_>, sending: bool) {
        match tape.byte() % 9 {
            0 | 1 => {
                let (start, count) = (u64::from(tape.byte()), u64::from(tape.byte()));
                self.set.allow(&Ranges::from(start..start + count));
                let range = start..(start + count).min(self.set.layout().chunks());
                self.again |= range.clone().any(|chunk| self.claimed.contains(&chunk));
                self.allowed.extend(range);
            }
            2 => {
                let (start, count) = (u64::from(tape.byte()), u64::from(tape.byte()));
                self.set.withdraw(&Ranges::from(start..start + count));
                self.allowed.retain(|chunk| !(start..start + count).contains(chunk));
            }
            3 => {
                self.idle.0 = tape.byte().is_multiple_of(2);
                self.set.pause(self.idle.0);
            }
            4 if tape.byte() == 255 => {
                self.idle.1 = true;
                self.set.stop();
            }
            5 => self.lanes.push((self.set.lane(), BTreeSet::new())),
            6 if !self.held.is_empty() => {
                let (claim, lane) = self.held.swap_remove(tape.below(self.held.len()));
                if let Some((_, sealed)) = self.lanes.get_mut(lane) {
                    sealed.insert(claim.index());
                }
                claim.finish();
                self.finished += 1;
            }
            7 if !self.held.is_empty() => {
                let (claim, _) = self.held.swap_remove(tape.below(self.held.len()));
                let (index, before) = (claim.index(), self.set.open());
                drop(claim);
                // What was allowed again meanwhile may be a newer lane's by now.
                let back = !sending || !self.again || self.set.open() > before;
                if back {
                    self.allowed.insert(index);
                }
            }
            _ if sending => self.claim_run(tape),
            _ => self.take(tape),
        }
    }

    fn claim_run(&mut self, tape: &mut Tape<'_>) {
        if self.lanes.is_empty() {
            return;
        }
        let at = tape.below(self.lanes.len());
        let most = u32::from(tape.byte()) % 40;
        let (lane, sealed) = &self.lanes[at];
        let Some(mut run) = lane.next(most) else { return };
        assert!(self.idle == (false, false) && run.indices().end - run.indices().start <= u64::from(most.min(32)));
        self.claimed.extend(run.indices());
        let keep = tape.below(34);
        for claim in run.by_ref().take(keep) {
            assert!(self.allowed.remove(&claim.index()), "claimed without leave, or twice");
            assert!(!sealed.contains(&claim.index()), "one key would seal an index twice");
            assert_eq!(Some(claim.len()), self.set.layout().chunk_len(claim.index()));
            self.held.push((claim, at));
        }
    }

    fn take(&mut self, tape: &mut Tape<'_>) {
        let index = u64::from(tape.byte());
        let right = self.set.layout().chunk_len(index);
        let len = if tape.byte() == 0 { 7 } else { right.unwrap_or(1) };
        let wanted = self.idle == (false, false) && right == Some(len) && self.allowed.contains(&index);
        let claim = self.set.take(index, len);
        assert_eq!(claim.is_some(), wanted, "chunk {index}");
        if let Some(claim) = claim {
            self.allowed.remove(&index);
            self.held.push((claim, 0));
        }
    }

    fn check(&self) {
        assert_eq!(self.set.open(), self.allowed.len() as u64);
        assert_eq!(self.set.held(), self.held.len() as u64);
        assert_eq!(self.set.finished(), self.finished);
        assert_eq!(self.set.exhausted(), self.allowed.is_empty() && self.held.is_empty());
    }
}

/// A file's digest out of the values of its pieces: in any order, with pieces told twice or wrongly placed, it is the digest of the
/// content.
pub fn digest(data: &[u8]) {
    const CHUNK: u32 = 1024;
    let mut tape = Tape::new(data);
    let size = u64::from(tape.u16()) % (20 << 10);
    let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    let mut digest = FileDigest::new(size, CHUNK);
    let count = size.div_ceil(CHUNK.into());
    let mut missing: BTreeSet<u64> = (0..count).collect();
    let mut add = |digest: &mut FileDigest, number: u64| {
        let bytes = &content[number as usize * CHUNK as usize..size.min((number + 1) * u64::from(CHUNK)) as usize];
        let len = u32::try_from(bytes.len()).expect("a piece is short");
        let piece = Piece { entry: 0, offset: number * u64::from(CHUNK), len, whole: u64::from(len) == size };
        digest.add(piece.offset, value(&piece, bytes).expect("a piece of the layout"));
        missing.remove(&number);
        assert_eq!(digest.digest().is_some(), missing.is_empty());
    };
    while !tape.ended() {
        let number = u64::from(tape.byte());
        if number < count {
            add(&mut digest, number);
        } else {
            let kept = digest.kept();
            digest.add(number * u64::from(CHUNK), protocol_core::bulk::digest::Value([1; 32]));
            digest.add(number * u64::from(CHUNK) + 1, protocol_core::bulk::digest::Value([1; 32]));
            assert_eq!(digest.kept(), kept, "what is no piece changes nothing");
        }
        assert!(digest.kept() as u64 <= count);
    }
    (0..count).for_each(|number| add(&mut digest, number));
    assert_eq!(digest.digest(), Some(blake3::hash(&content).into()));
}
