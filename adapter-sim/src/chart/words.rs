//! What things are called, in few words.

use protocol_core::effects::{Cut, DeviceState, Event, TransferKey};
use protocol_core::faults::code;
use protocol_core::ids::DeviceId;
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::StreamKind;

use super::Lane;
use crate::trace::What;

/// What a thing is, for filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Message,
    Link,
    Store,
    Files,
    Event,
    Fault,
}

impl Kind {
    /// All, with what a reader calls them.
    pub(super) const ALL: [(Self, &'static str); 6] = [
        (Self::Message, "messages"),
        (Self::Link, "connections"),
        (Self::Event, "events"),
        (Self::Store, "store"),
        (Self::Files, "files"),
        (Self::Fault, "crashes and faults"),
    ];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Link => "link",
            Self::Store => "store",
            Self::Files => "files",
            Self::Event => "event",
            Self::Fault => "world",
        }
    }
}

/// How a thing wants to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// One of many: repeats are folded together with what stands between them.
    Minor,
    Plain,
    Good,
    Bad,
    /// Never folded, never left out.
    Loud,
}

/// A thing in words. Things whose `name` is the same are the same kind of thing: they may be folded, and `detail` tells them
/// apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) kind: Kind,
    pub(super) tone: Tone,
    pub(super) name: String,
    pub(super) detail: String,
}

fn words(kind: Kind, tone: Tone, name: impl Into<String>, detail: impl Into<String>) -> Words {
    Words { kind, tone, name: name.into(), detail: detail.into() }
}

/// The longest name that is shown whole.
const NAME: usize = 14;
/// Bytes of header and Ack; a Refuse has one more, its status (PROTOCOL.md, section 9.2).
const HEADER_AND_ACK: usize = 57;
/// Bytes of a fin, the only record without a plaintext.
const FIN: usize = 21;

/// The name of the message at a place of a stream.
pub(super) fn message(name: Option<StreamName>, by_opener: bool, frame: u32, len: usize) -> &'static str {
    let record = if len == FIN { "fin" } else { "record" };
    match (name, by_opener, frame) {
        (None, ..) => "bytes",
        (Some(StreamName::Pair), true, 0) => "preamble kin-pair/1",
        (Some(StreamName::Link), true, 0) => "preamble kin-link/1",
        (Some(StreamName::Data(_)), true, 0) => "preamble kin-data/1",
        (Some(StreamName::Pair), true, 1) => "PairingRequest",
        (Some(StreamName::Pair), false, 1) => "Challenge",
        (Some(StreamName::Pair), true, 2) => "Response",
        (Some(StreamName::Pair), false, 2) => "Complete",
        (Some(StreamName::Pair), true, 3) => {
            if len > HEADER_AND_ACK {
                "header + Refuse"
            } else {
                "header + Ack"
            }
        }
        (Some(StreamName::Link), true, 1) => "Hello",
        (Some(StreamName::Link), false, 1) => "Accept",
        (Some(StreamName::Link), true, 2) => "Finish + header + Ack",
        (Some(StreamName::Pair), false, 3) | (Some(StreamName::Link), false, 2) | (Some(StreamName::Data(_)), false, 1) => "reply",
        (Some(StreamName::Data(_)), true, 1) => "header + opening",
        (Some(StreamName::Pair | StreamName::Link | StreamName::Data(StreamKind::Control)), ..) => record,
        (Some(StreamName::Data(StreamKind::Manifest)), ..) => {
            if len == FIN {
                "fin"
            } else {
                "manifest pages"
            }
        }
        (Some(StreamName::Data(StreamKind::Bulk)), ..) => "chunk",
        (Some(StreamName::Data(StreamKind::Custom)), ..) => "bytes",
    }
}

/// The words for an entry; `None` for what is seen in another's.
pub(super) fn of(what: &What, lanes: &[Lane]) -> Option<Words> {
    use Kind::{Fault, Files, Link, Message, Store};
    use Tone::{Bad, Good, Loud, Minor, Plain};
    Some(match what {
        What::Starts => words(Fault, Good, "starts", ""),
        What::Crashes => words(Fault, Loud, "crashes", ""),
        What::Dials { to } => words(Link, Plain, format!("dials {}", clean(to)), ""),
        What::Connection { conn, .. } => words(Link, Plain, "connection", format!(" {conn}")),
        What::HangsUp { conn, code } => words(Link, Plain, "hangs up connection", format!(" {conn}{}", reason(*code))),
        What::Sends { name, frame, by_opener, len, .. } => {
            let message = message(*name, *by_opener, *frame, *len);
            let many = matches!(message, "record" | "chunk" | "manifest pages" | "bytes");
            words(Message, if many { Minor } else { Plain }, message, "")
        }
        What::Gets { .. } => return None,
        What::Resets { stream, code } => {
            words(Link, if *code == code::DONE { Plain } else { Bad }, "resets stream", format!(" {stream}{}", reason(*code)))
        }
        What::Down { stream, how } => match how {
            Cut::Finished => words(Link, Minor, "stream ended", format!(": {stream}")),
            Cut::Broken => words(Link, Bad, "stream broke off", format!(": {stream}")),
            Cut::Malformed => words(Link, Bad, "stream malformed", format!(": {stream}")),
        },
        What::Malformed { stream, error } => words(Fault, Loud, "malformed", format!(", stream {stream}: {}", clean(error))),
        What::Persists { number } => words(Store, Minor, "write", format!(" {number}")),
        What::Durable => words(Store, Minor, "durable", ""),
        What::Files { op, entries: (from, to) } => {
            words(Files, Minor, format!("files: {}", format!("{op:?}").to_lowercase()), format!(" {from}..{to}"))
        }
        What::Told(event) => told(event, lanes),
        What::Step(step) => words(Fault, Loud, clean(step), ""),
    })
}

fn reason(code: u32) -> String {
    match code {
        code::DONE => String::new(),
        code::REFUSED => " (refused)".into(),
        code => format!(" (code {code})"),
    }
}

fn told(event: &Event, lanes: &[Lane]) -> Words {
    use Tone::{Bad, Good, Minor, Plain};
    let who = |id: &DeviceId| device(id, lanes);
    let say = |tone, name: String| words(Kind::Event, tone, name, "");
    match event {
        Event::PairRequest { peer, check, .. } => say(Plain, format!("pair with {}? check {check:06}", who(&peer.device))),
        Event::Paired { peer, confirmed, repaired, .. } => {
            let again = if *repaired { " again" } else { "" };
            let open = if *confirmed { "" } else { ", not confirmed yet" };
            say(Good, format!("paired{again} with {}{open}", who(&peer.device)))
        }
        Event::PairConfirmed { device } => say(Good, format!("pair with {} confirmed", who(device))),
        Event::PairRefused { device, reason } => say(Bad, format!("pair refused by {}: {reason}", who(device))),
        Event::PairUnfinished { device, .. } => say(Bad, format!("pairing with {} unfinished", who(device))),
        Event::PairFailed { reason, .. } => say(Bad, format!("pairing failed: {reason}")),
        Event::Device { device, state, reason, .. } => {
            let tone = match state {
                DeviceState::Connected => Good,
                DeviceState::Disconnected => Bad,
                DeviceState::Discovered | DeviceState::Pairing | DeviceState::Paired => Plain,
            };
            let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            say(tone, format!("{}: {state}{why}", who(device)))
        }
        Event::DataRoute { transfer, route } => say(Plain, format!("data goes over {}{}", route.transport, id(transfer))),
        Event::Rerouted { device, route } => say(Plain, format!("{} is reached by {}:{} now", who(device), route.transport, route.address)),
        Event::Answered { device } => say(Plain, format!("{} answered", who(device))),
        Event::ConnectFailed { device, reason } => say(Bad, format!("no connection to {}: {reason}", who(device))),
        Event::Removed { device } => say(Bad, format!("{} is no longer paired", who(device))),
        Event::NotStored { device } => say(Bad, format!("what is known of {} could not be stored", who(device))),
        Event::Offered { transfer, manifest, .. } => {
            let (entries, bytes) = (count(u64::from(manifest.len()), "entry", "entries"), size(manifest.bytes()));
            say(Plain, format!("offer from {}: {entries}, {bytes}{}", who(&transfer.device), id(transfer)))
        }
        Event::Accepted { transfer } => say(Plain, format!("offer accepted by {}{}", who(&transfer.device), id(transfer))),
        Event::Progress { moved, durable, total, .. } => {
            words(Kind::Event, Minor, "progress", format!(" {}/{}, {} durable", size(*moved), size(*total), size(*durable)))
        }
        Event::Entry { entry, outcome, fault, .. } => {
            let (tone, why) = fault.map_or((Minor, String::new()), |fault| (Bad, format!(": {fault}")));
            words(Kind::Event, tone, format!("entry {}", format!("{outcome:?}").to_lowercase()), format!(" {entry}{why}"))
        }
        Event::Done { transfer, summary } => {
            let failed = if summary.failed > 0 { format!(", {} failed", summary.failed) } else { String::new() };
            let tone = if summary.failed > 0 { Bad } else { Good };
            say(tone, format!("transfer done: {}, {}{failed}{}", count(summary.files, "file", "files"), size(summary.bytes), id(transfer)))
        }
        Event::Failed { transfer, reason } => say(Bad, format!("transfer failed: {reason}{}", id(transfer))),
        Event::BadRecord { table } => say(Bad, format!("bad record in table {table}")),
        // Events may grow.
        other => say(Plain, clean(&format!("{other:?}"))),
    }
}

/// The name of a device: its lane's, and not the one it gives itself.
fn device(id: &DeviceId, lanes: &[Lane]) -> String {
    let lane = lanes.iter().find(|lane| lane.id == *id);
    lane.map_or_else(|| id.to_string().chars().take(8).collect(), |lane| short(&lane.name))
}

/// A name that leaves room for what is said about it.
pub(super) fn short(name: &str) -> String {
    let name = clean(name);
    if name.chars().count() <= NAME { name } else { name.chars().take(NAME - 1).chain(['…']).collect() }
}

/// Enough of a transfer's id to tell it from another.
fn id(transfer: &TransferKey) -> String {
    format!(" ({:02x}{:02x})", transfer.id.0[0], transfer.id.0[1])
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A number of bytes.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", tenths(bytes / 100)),
        1_000_000..1_000_000_000 => format!("{} MB", tenths(bytes / 100_000)),
        _ => format!("{} GB", tenths(bytes / 100_000_000)),
    }
}

fn tenths(number: u64) -> String {
    match number % 10 {
        0 => (number / 10).to_string(),
        tenth => format!("{}.{tenth}", number / 10),
    }
}

/// A time of the world, in seconds.
pub(super) fn clock(micros: u64) -> String {
    format!("{}.{:03}", micros / 1_000_000, micros / 1_000 % 1_000)
}

/// A length of time. The page's script says it in the same way.
pub(super) fn span(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    match seconds {
        0 => format!("{} ms", micros / 1_000),
        1..60 => format!("{seconds}.{} s", micros / 100_000 % 10),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// A text without what could move a terminal's cursor or turn a line around.
pub(super) fn clean(text: &str) -> String {
    const fn turns(c: char) -> bool {
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    }
    text.chars().map(|c| if c.is_control() || turns(c) { '·' } else { c }).collect()
}
