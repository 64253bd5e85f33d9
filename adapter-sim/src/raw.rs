//! Streams that a test writes and reads itself, byte by byte.

use protocol_core::effects::{Cut, Remote};
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::StreamKind;

use crate::link::Wire;
use crate::world::{Act, Dev, World};

/// An end of a stream for which a test speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    pub(crate) stream: usize,
    pub(crate) end: usize,
}

/// An end of a connection between two strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawConn {
    conn: usize,
    end: usize,
}

impl RawConn {
    /// The other end of it.
    #[must_use]
    pub const fn other(self) -> Self {
        Self { end: 1 - self.end, ..self }
    }
}

impl World {
    /// The streams that chunks go over, for rules.
    pub const BULK: StreamName = StreamName::Data(StreamKind::Bulk);
    /// The streams that a manifest goes over, for rules.
    pub const MANIFEST: StreamName = StreamName::Data(StreamKind::Manifest);
    /// Streams of application protocols.
    pub const CUSTOM: StreamName = StreamName::Data(StreamKind::Custom);

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

    // Both ends are a test's: connections and streams as they are, without a Node.

    /// Connects a stranger to another.
    pub fn raw_connect(&mut self, from: Dev, to: Dev) -> RawConn {
        let tcp = self.devices[to.0].wire == Wire::Tcp;
        self.connect_ends(from, to, tcp);
        let conn = self.conns.len() - 1;
        self.accept_conn(conn);
        RawConn { conn, end: 0 }
    }

    /// Who is at the other end.
    pub fn raw_remote(&self, of: RawConn) -> Remote {
        self.remote(of.conn, of.end)
    }

    /// Opens a stream; on tcp the dialling side takes the one that there is. `None`: the connection is down, or has no stream left.
    pub fn raw_stream(&mut self, on: RawConn) -> Option<Raw> {
        let RawConn { conn, end } = on;
        if !self.raw_is_up(on) {
            return None;
        }
        let stream = match (self.conns[conn].wire, self.conns[conn].streams.first().copied()) {
            (Wire::Tcp, Some(stream)) if end == 0 && !self.streams[stream].ends[0].up => stream,
            (Wire::Tcp, _) => return None,
            (Wire::Sim | Wire::Both, _) => {
                let stream = self.new_stream(conn, end, None);
                let at = self.now + self.one_way();
                self.streams[stream].pipes[0].last = at;
                self.at(at, Act::Opened { stream });
                stream
            }
        };
        self.opened(stream, 0, None);
        Some(Raw { stream, end: 0 })
    }

    /// The streams that the other side has opened and that are there, the oldest first.
    pub fn raw_streams(&self, on: RawConn) -> Vec<Raw> {
        let opened = |stream: &&usize| self.streams[**stream].opener != on.end && self.streams[**stream].ends[1].up;
        self.conns[on.conn].streams.iter().filter(opened).map(|&stream| Raw { stream, end: 1 }).collect()
    }

    /// Takes what came so far, up to `most` bytes.
    pub fn raw_take(&mut self, raw: Raw, most: usize) -> Vec<u8> {
        let Some(came) = self.raw.get_mut(&(raw.stream, raw.end)) else { return Vec::new() };
        let rest = came.split_off(most.min(came.len()));
        std::mem::replace(came, rest)
    }

    /// How what comes has ended, if it has.
    pub fn raw_end(&self, raw: Raw) -> Option<Cut> {
        let told = self.raw_ends.get(&(raw.stream, raw.end)).copied();
        self.raw_is_down(raw).then(|| told.unwrap_or(Cut::Broken))
    }

    /// Whether bytes that are sent here still go anywhere.
    pub fn raw_takes_bytes(&self, raw: Raw) -> bool {
        self.owner(raw.stream, raw.end).is_some() && !self.streams[raw.stream].ends[raw.end].finished
    }

    /// Cuts a stream, in both directions.
    pub fn raw_reset(&mut self, raw: Raw) {
        self.reset(raw.stream, raw.end);
    }

    /// Closes a connection.
    pub fn raw_hang_up(&mut self, on: RawConn) {
        self.hang_up(self.conns[on.conn].ends[on.end].id);
    }

    /// Whether a connection stands, as this end sees it.
    pub fn raw_is_up(&self, on: RawConn) -> bool {
        self.conns[on.conn].ends[on.end].up
    }
}
