//! Streams that a test writes and reads itself, byte by byte.

use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::StreamKind;

use crate::link::Wire;
use crate::world::{Dev, World};

/// An end of a stream for which a test speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    pub(crate) stream: usize,
    pub(crate) end: usize,
}

impl World {
    /// The streams that chunks go over, for rules.
    pub const BULK: StreamName = StreamName::Data(StreamKind::Bulk);
    /// The streams that a manifest goes over, for rules.
    pub const MANIFEST: StreamName = StreamName::Data(StreamKind::Manifest);

    /// A stream from a stranger to a device, on a connection of its own. Its preamble has left.
    pub fn raw_open(&mut self, stranger: Dev, to: Dev, name: StreamName) -> Raw {
        let tcp = self.devices[to.0].wire == Wire::Tcp;
        self.connect_ends(stranger, to, tcp);
        let conn = self.conns.len() - 1;
        self.accept_conn(conn);
        self.raw_open_on(conn, 0, name)
    }

    /// One more stream on the connection of another.
    pub fn raw_open_beside(&mut self, raw: Raw, name: StreamName) -> Raw {
        self.raw_open_on(self.streams[raw.stream].conn, 0, name)
    }

    /// A stream that an end of a connection opens.
    pub(crate) fn raw_open_on(&mut self, conn: usize, opener: usize, name: StreamName) -> Raw {
        let stream = match self.conns[conn].streams.first().copied().filter(|_| self.conns[conn].wire == Wire::Tcp) {
            Some(stream) => {
                self.streams[stream].name = Some(name);
                stream
            }
            None => {
                let stream = self.new_stream(conn, opener, Some(name));
                self.opened(stream, 1, None);
                stream
            }
        };
        self.streams[stream].ends[0].up = true;
        self.push_bytes(stream, 0, name.preamble());
        Raw { stream, end: 0 }
    }

    /// The other device's side of the newest stream that was opened towards a stranger.
    pub fn raw_newest(&self, stranger: Dev) -> Option<Raw> {
        (0..self.streams.len()).rev().map(|stream| Raw { stream, end: 1 }).find(|raw| self.device_of(raw.stream, 1) == stranger)
    }

    /// Sends bytes.
    pub fn raw_send(&mut self, raw: Raw, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.send(raw.stream, raw.end, bytes.to_vec());
        }
    }

    /// Half-closes.
    pub fn raw_finish(&mut self, raw: Raw) {
        self.finish(raw.stream, raw.end);
    }

    /// What came so far.
    pub fn raw_received(&self, raw: Raw) -> &[u8] {
        self.raw.get(&(raw.stream, raw.end)).map_or(&[], Vec::as_slice)
    }

    /// Whether the other side has ended the stream.
    pub fn raw_is_down(&self, raw: Raw) -> bool {
        self.streams[raw.stream].ends[raw.end].down
    }
}
