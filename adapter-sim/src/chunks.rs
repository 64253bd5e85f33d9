//! Streams that a Node gave away: what a bulk pipeline does with chunks.

use protocol_core::bulk::digest::{Values, value};
use protocol_core::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD};
use protocol_core::crypto::aead::TAG;
use protocol_core::effects::{BulkHalf, BulkReport, ChunkDone, Cut, Input};
use protocol_core::ids::StreamId;
use protocol_core::wire::deframer::Deframer;

use crate::link::Bulk;
use crate::oracle::Recorder;
use crate::trace::What;
use crate::world::{Act, World};

/// Chunks that are claimed at once, and how long a claim takes, in microseconds.
const RUN: u32 = 4;
const RUN_TIME: u64 = 500;

impl World {
    pub(crate) fn bulk(&mut self, id: StreamId, half: BulkHalf) {
        let Some(&(stream, end)) = self.stream_ends.get(&id) else { return };
        match half {
            BulkHalf::Seal { transfer, sealer, chunks: _ } => {
                self.streams[stream].ends[end].bulk = Bulk::Seal { key: transfer, sealer };
                self.after(RUN_TIME, Act::Seal { stream, end });
            }
            BulkHalf::Open { transfer, opener, chunks } => {
                // This direction carries nothing.
                self.finish(stream, end);
                let slot = &mut self.streams[stream].ends[end];
                slot.bulk = Bulk::Open { key: transfer, opener, chunks, buffer: Vec::new() };
                let mut before = std::mem::replace(&mut slot.deframer, Deframer::accepting()).into_rest();
                before.append(&mut slot.held);
                self.open_chunks(stream, end, &before);
                if self.streams[stream].ends[end].ended.take().is_some() {
                    self.arrived_end(stream, 1 - end);
                }
            }
        }
    }

    /// Seals the next run of chunks.
    pub(crate) fn seal(&mut self, stream: usize, end: usize) {
        let Some(dev) = self.owner(stream, end) else { return };
        Recorder::set_device(dev);
        let slot = &mut self.streams[stream].ends[end];
        let Bulk::Seal { key, sealer } = std::mem::replace(&mut slot.bulk, Bulk::No) else { return };
        let id = slot.id;
        // A slow disk gives one chunk at a time.
        let slow = self.devices[dev.0].slow_disk;
        let Some(run) = sealer.next(if slow > 0 { 1 } else { RUN }) else {
            self.finish(stream, end);
            if let Some(how) = self.streams[stream].ends[end].ended.take() {
                self.down(stream, end, how);
            }
            return;
        };
        let mut report = BulkReport::default();
        let mut frames = Vec::new();
        for claim in run {
            let index = claim.index();
            let mut frame = vec![0; CHUNK_HEAD];
            let mut values = Values::new();
            for piece in claim.pieces() {
                let text = self.devices[dev.0].disk.read(key, &piece).unwrap_or_else(|fault| {
                    report.failed.push((piece.entry, fault));
                    vec![0; usize::try_from(piece.len).unwrap_or(0)]
                });
                values.push(value(&piece, &text).expect("a piece of the layout"));
                frame.extend(text);
            }
            frame.extend([0; TAG]);
            if sealer.seal(claim, &mut frame).is_ok() {
                frames.push(frame);
                report.chunks.push(ChunkDone { index, values });
            }
        }
        self.streams[stream].ends[end].bulk = Bulk::Seal { key, sealer };
        for frame in frames {
            self.send(stream, end, frame);
        }
        let left = self.leaves(dev, 0);
        self.at(left.max(self.now + RUN_TIME + slow), Act::Seal { stream, end });
        self.handle(dev, Input::Bulk { stream: id, report });
    }

    /// Opens and writes the chunks that are whole.
    pub(crate) fn open_chunks(&mut self, stream: usize, end: usize, bytes: &[u8]) {
        let Some(dev) = self.owner(stream, end) else { return };
        Recorder::set_device(dev);
        let slot = &mut self.streams[stream].ends[end];
        let id = slot.id;
        let Bulk::Open { key, opener, chunks, mut buffer } = std::mem::replace(&mut slot.bulk, Bulk::No) else { return };
        buffer.extend_from_slice(bytes);
        let mut report = BulkReport::default();
        let mut broken = false;
        while let Some((head, rest)) = buffer.split_first_chunk::<CHUNK_HEAD>() {
            let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if rest.len() + 8 < len && len < (8 << 20) {
                break;
            }
            let Ok((index, len)) = opener.head(head) else {
                broken = true;
                break;
            };
            let len = len as usize;
            let mut body = rest[..len].to_vec();
            buffer.drain(..CHUNK_HEAD + len);
            let Some(claim) = chunks.take(index, u32::try_from(len + CHUNK_HEAD - CHUNK_OVERHEAD).unwrap_or(0)) else {
                report.unwanted += 1;
                continue;
            };
            let len = body.len().saturating_sub(TAG);
            let right = claim.pieces().map(|piece| piece.len as usize).sum::<usize>() == len;
            self.with_oracle(|oracle, _| oracle.on_claim(dev, index, right));
            if !right {
                broken = true;
                break;
            }
            if opener.open(index, &mut body).is_err() {
                report.forged += 1;
                broken = true;
                break;
            }
            let (mut values, mut at) = (Values::new(), 0);
            for piece in claim.pieces() {
                let text = &body[at..at + piece.len as usize];
                at += text.len();
                values.push(value(&piece, text).expect("a piece of the layout"));
                if let Err(fault) = self.devices[dev.0].disk.write(key, &piece, text) {
                    report.failed.push((piece.entry, fault));
                }
            }
            claim.finish();
            self.with_oracle(|oracle, world| oracle.on_chunk(world, dev, key, index));
            report.chunks.push(ChunkDone { index, values });
        }
        self.streams[stream].ends[end].bulk = Bulk::Open { key, opener, chunks, buffer };
        if !report.chunks.is_empty() || report.forged + report.unwanted > 0 {
            self.handle(dev, Input::Bulk { stream: id, report });
        }
        if broken && !self.streams[stream].ends[end].down {
            self.note(dev, What::Malformed { stream, error: "no chunk".into() });
            self.reset(stream, end);
            self.handle(dev, Input::StreamDown { stream: id, how: Cut::Malformed });
        }
    }
}
