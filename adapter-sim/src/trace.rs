//! What happened, line by line, and every byte that was on the wire.

use std::fmt::Arguments;

use protocol_core::wire::deframer::StreamName;

use crate::Dev;

/// A log of one run: a hash over all lines, and the lines themselves if they are kept.
#[derive(Debug)]
pub struct Trace {
    hash: blake3::Hasher,
    on: bool,
    lines: Vec<String>,
}

impl Trace {
    pub(crate) fn new(on: bool) -> Self {
        Self { hash: blake3::Hasher::new(), on, lines: Vec::new() }
    }

    pub(crate) fn line(&mut self, at: u64, text: Arguments<'_>) {
        if self.on {
            let line = format!("{:>12} {text}", at);
            self.hash.update(line.as_bytes()).update(b"\n");
            self.lines.push(line);
        }
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> [u8; 32] {
        self.hash.finalize().into()
    }

    /// The lines so far: virtual microseconds, then what happened.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// Bytes that one device gave to a stream in one piece, as they went out (damage included).
#[derive(Clone, Debug)]
pub struct Tapped {
    /// The sender.
    pub from: Dev,
    /// The other end.
    pub to: Dev,
    /// What the stream was opened for; `None` before the opener said so.
    pub name: Option<StreamName>,
    /// Whether the sender is the stream's opener.
    pub by_opener: bool,
    /// The stream's number in this world.
    pub stream: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}
