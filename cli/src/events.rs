//! What `--json` prints: one object a line, each with its `event`. The JSON Schema in `schema/` is made from these types.

use data_encoding::BASE64;
use schemars::JsonSchema;
use serde::Serialize;

/// The version of this set of events: the `schema` of `hello`. It grows when a field changes its meaning or goes away.
pub(crate) const SCHEMA: u32 = 1;

/// One line of `--json` output.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "one is made, printed and dropped at a time")]
pub(crate) enum Event {
    /// The first line of every run.
    Hello {
        /// The version of the event set.
        schema: u32,
        /// The version of the program.
        version: String,
    },
    /// This device.
    Identity {
        /// Its id, a UUID.
        device_id: String,
        /// Its name.
        name: String,
        /// Six words, the same on every device that knows it.
        fingerprint: String,
        /// Where it listens, if it does.
        addresses: Vec<String>,
    },
    /// A fresh one-time code (`pair` only).
    Code {
        /// Its twelve words, in order.
        words: Vec<String>,
        /// Seconds until it expires.
        expires_in_s: u64,
    },
    /// The addresses that others reach this process at.
    Listening {
        /// As `--address` takes them.
        addresses: Vec<String>,
    },
    /// A device proved that it knows the code.
    PairRequest {
        /// The pairing, a UUID.
        session_id: String,
        /// Who.
        device: Stranger,
        /// The check number, six digits: the same on both screens.
        check: String,
    },
    /// The pairing is done.
    Paired {
        /// The pairing, a UUID.
        session_id: String,
        /// Who.
        device: PairedDevice,
    },
    /// A row of the registry, or a change of state.
    Device(Device),
    /// Files are offered: to the peer (`send`) or by it (`recv`).
    Offer {
        /// The transfer, a UUID.
        id: String,
        /// The other device.
        device_id: String,
        /// Files in it.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Entries in whose place something stands already; 0 at the sender, who cannot know.
        conflicts: u64,
        /// Entries that are hidden or that programs act on by themselves: `.bashrc`, `.ssh`, `autorun.inf`. What is below such a
        /// directory does not count again.
        flagged: u64,
        /// The first ten of them, escaped as they may be shown.
        flagged_paths: Vec<String>,
    },
    /// The device was not reached, and what is to be sent waits for it here (`send --queue`).
    Queued {
        /// The transfer, a UUID: see `kin transfers`.
        id: String,
        /// The other device.
        device_id: String,
        /// Files in it.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Until when it waits, in seconds since 1970; `null`: it was begun before, and waits as such transfers do.
        expires_at: Option<u64>,
    },
    /// The offer was taken.
    Accepted {
        /// The transfer.
        id: String,
    },
    /// A transfer rests, or goes on.
    Paused {
        /// The transfer.
        id: String,
        /// This side has it rest.
        here: bool,
        /// The other side does.
        there: bool,
    },
    /// The offer was not taken.
    Refused {
        /// The transfer.
        id: String,
        /// Why.
        reason: String,
    },
    /// How the bytes travel.
    Route {
        /// The transport: `tcp`, …
        transport: String,
        /// The kind of path.
        kind: RouteKind,
        /// The round trip in milliseconds, once it was measured.
        rtt_ms: Option<f64>,
    },
    /// How far a transfer is.
    Progress {
        /// The transfer.
        id: String,
        /// Bytes that left the sender (`send`), or were written here (`recv`).
        bytes_sent: u64,
        /// Bytes that are durable at the receiver. Never decreases.
        bytes_durable: u64,
        /// Bytes in all.
        bytes_total: u64,
        /// Files that are finished.
        files_done: u64,
        /// Files in all.
        files_total: u64,
        /// Durable bytes a second, a sliding average.
        rate: u64,
        /// Seconds left at that rate; null while there is none.
        eta_s: Option<u64>,
    },
    /// A file is finished, one way or another.
    File(File),
    /// Something that the user should know and that ends nothing.
    Warning {
        /// A word for programs.
        code: WarningCode,
        /// A sentence for people.
        message: String,
    },
    /// A transfer is finished, and its receipt exchanged.
    Done {
        /// The transfer.
        id: String,
        /// Files stored.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// From the answer to the receipt.
        seconds: f64,
        /// Bytes that an earlier attempt had brought.
        bytes_resumed: u64,
    },
    /// A transfer that was begun and is not finished (`transfers`).
    Unfinished(Unfinished),
    /// A message that came (`msg tail`, `msg list`).
    Message {
        /// The message, a UUID.
        message_id: String,
        /// Who sent it.
        device_id: String,
        /// What the body is, as the sender says.
        content_type: String,
        /// The body; what is not UTF-8 shows as U+FFFD.
        body: String,
        /// Its bytes in base64, where they are not UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        body_base64: Option<String>,
        /// When it came: seconds since 1970.
        received_at: u64,
    },
    /// What became of a message that was sent.
    Receipt {
        /// The message, a UUID.
        message_id: String,
        /// What became of it.
        state: ReceiptState,
    },
    /// The answer to a question for a sign of life (`ping`).
    Pong {
        /// Whose.
        device_id: String,
        /// How long the question and its answer took together, in milliseconds.
        rtt_ms: f64,
    },
    /// Something that `doctor` looked at.
    Finding {
        /// What.
        about: Topic,
        /// How it is.
        verdict: Verdict,
        /// A sentence for people.
        message: String,
        /// The command to try, if something is wrong.
        next_command: Option<String>,
    },
    /// The last line of a run that did not do what was asked.
    Error {
        /// The exit code.
        code: u8,
        /// What happened, whose fault it is, what to do.
        message: String,
        /// The same command may succeed later.
        retryable: bool,
        /// The command to try next, if there is one.
        next_command: Option<String>,
    },
}

/// Who wants to pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Stranger {
    /// Its id, computed from the key that it proved.
    pub(crate) device_id: String,
    /// Its name, as it says.
    pub(crate) name: String,
    /// Its operating system, as it says.
    pub(crate) platform: String,
}

/// Who is paired now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct PairedDevice {
    /// Its id.
    pub(crate) device_id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its operating system.
    pub(crate) platform: String,
    /// Six words of its key.
    pub(crate) fingerprint: String,
    /// The other side is known to hold the pairing as well.
    pub(crate) confirmed: bool,
}

/// A device of the registry.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Device {
    /// Its id.
    pub(crate) device_id: String,
    /// Its name here.
    pub(crate) name: String,
    /// What it is to this device at the moment.
    pub(crate) state: State,
    /// Six words of its key.
    pub(crate) fingerprint: String,
    /// Its operating system.
    pub(crate) platform: String,
    /// When it was paired: seconds since 1970.
    pub(crate) paired_at: u64,
    /// When it was last heard of: seconds since 1970.
    pub(crate) last_seen: Option<u64>,
    /// The address of the last contact.
    pub(crate) last_route: Option<String>,
    /// Its addresses, as far as they are known.
    pub(crate) addresses: Vec<String>,
    /// The other side is known to hold the pairing as well.
    pub(crate) confirmed: bool,
    /// When the other side told that it removed the pairing: seconds since 1970.
    pub(crate) removed_there: Option<u64>,
    /// Since when it is blocked here: seconds since 1970.
    pub(crate) blocked_since: Option<u64>,
    /// What it may do here.
    pub(crate) policy: Policy,
    /// Why the last session, or the last attempt to have one, ended.
    pub(crate) last_end: Option<String>,
    /// When that was: seconds since 1970.
    pub(crate) last_end_at: Option<u64>,
    /// How the session that stands travels.
    pub(crate) route: Option<String>,
    /// Whether that session was asked for here, or by the device.
    pub(crate) dialled_here: Option<bool>,
    /// The last round trip on it, in milliseconds.
    pub(crate) rtt_ms: Option<f64>,
    /// Times that it was connected again since the process began; renewals of a session do not count.
    pub(crate) reconnects: u64,
    /// Bytes of files that left for it since the process began.
    pub(crate) bytes_sent: u64,
    /// Bytes of files that came from it.
    pub(crate) bytes_received: u64,
    /// Bytes of files a second, lately.
    pub(crate) goodput: u64,
}

impl Device {
    /// A device of which no more is known.
    pub(crate) fn named(device_id: String, name: String, state: State) -> Self {
        Self {
            device_id,
            name,
            state,
            fingerprint: String::new(),
            platform: String::new(),
            paired_at: 0,
            last_seen: None,
            last_route: None,
            addresses: Vec::new(),
            confirmed: false,
            removed_there: None,
            blocked_since: None,
            policy: Policy { messages: true, files: Files::Ask, max_bytes: None, max_entries: None, folder: None, protocols: Vec::new() },
            last_end: None,
            last_end_at: None,
            route: None,
            dialled_here: None,
            rtt_ms: None,
            reconnects: 0,
            bytes_sent: 0,
            bytes_received: 0,
            goodput: 0,
        }
    }
}

/// What a device may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Policy {
    /// Its messages are taken.
    pub(crate) messages: bool,
    /// What happens to its files.
    pub(crate) files: Files,
    /// Bytes that one offer may have.
    pub(crate) max_bytes: Option<u64>,
    /// Files, directories and links that one offer may have.
    pub(crate) max_entries: Option<u32>,
    /// Where its files go under `kin up`.
    pub(crate) folder: Option<String>,
    /// Protocols of applications that ask for a permission, and that it may speak.
    pub(crate) protocols: Vec<String>,
}

/// What happens to the files of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Files {
    /// Somebody is asked: whoever runs `kin recv`.
    Ask,
    /// They are taken.
    Auto,
    /// They are declined.
    Refuse,
}

/// The states of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// An address is known for a code, nothing is proved.
    Discovered,
    /// A handshake is running.
    Pairing,
    /// Paired, and no session was up in this run.
    Paired,
    /// A session is up.
    Connected,
    /// A session was up and is not now.
    Disconnected,
    /// Its record was removed by this command.
    Forgotten,
    /// It is not paired any more, and blocked.
    Blocked,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReceiptState {
    /// It waits here, durably.
    Queued,
    /// It is in the other device's store.
    Delivered,
    /// The other device's application has it.
    HandedOver,
    /// The other device did not take it.
    Refused,
    /// The two devices do not agree on which message this is.
    Conflict,
    /// Its time was over before a receipt came.
    Expired,
}

/// The kinds of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RouteKind {
    /// Within this machine or a private network.
    Lan,
    /// Straight through the internet.
    Direct,
    /// Through a relay.
    Relayed,
}

/// A file of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct File {
    /// The transfer; `dry-run` where there is none.
    pub(crate) id: String,
    /// Its path in the transfer; what is not UTF-8 shows as U+FFFD.
    pub(crate) path: String,
    /// The path's bytes in base64, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_base64: Option<String>,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// The plain BLAKE3 of its content, in hex, if it is stored.
    pub(crate) blake3: Option<String>,
    /// How it ended.
    pub(crate) status: FileStatus,
    /// The path that it has at the receiver, if not its own.
    pub(crate) renamed_to: Option<String>,
    /// That path's bytes in base64, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) renamed_to_base64: Option<String>,
}

/// How a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileStatus {
    /// It stands under its own name.
    Stored,
    /// It stands under another name.
    Renamed,
    /// It was left out.
    Skipped,
    /// It failed.
    Failed,
    /// It would be sent (`send --dry-run`).
    Planned,
}

impl File {
    /// A file that a dry run lists. There is no transfer that it could be of.
    pub(crate) fn planned(path: &[u8], bytes: u64) -> Self {
        let (path, path_base64) = path_text(path);
        let (status, id) = (FileStatus::Planned, "dry-run".to_owned());
        Self { id, path, path_base64, bytes, blake3: None, status, renamed_to: None, renamed_to_base64: None }
    }
}

/// What `doctor` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Topic {
    /// The home: identity, registry, lock.
    Home,
    /// The disk that it is on.
    Disk,
    /// The clock.
    Clock,
    /// Where this device listens.
    Network,
    /// What else the machine lets through.
    Firewall,
    /// Over what devices find each other.
    Lookup,
    /// A device.
    Device,
    /// The versions of the two programs.
    Version,
}

/// What `doctor` thinks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// It may be in the way.
    Hint,
    /// It is in the way.
    Wrong,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WarningCode {
    /// A code was given as arguments: the shell may have remembered it.
    WordsInArguments,
    /// The other side has not shown yet that it holds the pairing.
    NotUsedYet,
    /// The last message of a pairing was lost; the next contact finishes it.
    Unfinished,
    /// A question would be needed and nobody can be asked.
    CannotAsk,
    /// An item of the source was left out.
    SourceSkipped,
    /// An item failed.
    ItemFailed,
    /// The connection was lost in the middle of a transfer, and is awaited.
    Suspended,
    /// A transfer came to nothing, and the next one is awaited.
    TransferFailed,
    /// No device is paired.
    NoDevices,
    /// Temporary files of an earlier run remain.
    NotSwept,
    /// A port that was used before is taken; another one is used.
    PortChanged,
    /// The other device has removed the pairing.
    RemovedThere,
    /// An offer came that the policy of its device leaves to a person, and nobody is there.
    NobodyToAsk,
    /// A big transfer goes through a relay.
    Relayed,
}

/// A transfer that was begun and is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Unfinished {
    /// The transfer.
    pub(crate) id: String,
    /// Which way it goes.
    pub(crate) direction: Way,
    /// The other device.
    pub(crate) device_id: String,
    /// Its name here; `null` where it is not known any more.
    pub(crate) name: Option<String>,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Of these, what is here already; `null` where only the receiver knows.
    pub(crate) bytes_durable: Option<u64>,
    /// Files, directories and links.
    pub(crate) entries: u64,
    /// When the last try began, or the wish was made, in seconds since 1970.
    pub(crate) begun_at: u64,
    /// For what was queued: when it is too late for it, in seconds since 1970.
    pub(crate) expires_at: Option<u64>,
    /// Its owner has it rest (`kin transfers pause`): nothing goes on with it by itself.
    pub(crate) paused: bool,
    /// What is sent, or where it goes.
    pub(crate) paths: Vec<String>,
}

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// To the other device.
    Out,
    /// From it.
    In,
}

/// A path of bytes as JSON has it: the text, and the bytes in base64 where they are not UTF-8.
pub(crate) fn path_text(path: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(path) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(path).into_owned(), Some(BASE64.encode(path))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn unfinished(direction: Way, name: Option<&str>) -> Event {
        Event::Unfinished(Unfinished {
            id: "5a8c2b56-0ed3-8a35-9f5c-0123456789ab".into(),
            direction,
            device_id: "5a8c2b56-0ed3-8a35-9f5c-0123456789ab".into(),
            name: name.map(str::to_owned),
            bytes: 9,
            bytes_durable: name.map(|_| 4),
            entries: 3,
            begun_at: 1_790_000_000,
            expires_at: Some(1_800_600_000),
            paused: false,
            paths: vec!["/srv/album".into()],
        })
    }

    /// A device in this state; with a time it has every optional field.
    fn device(state: State, seen: Option<u64>) -> Event {
        Event::Device(Device {
            device_id: "5a8c2b56-0ed3-8a35-9f5c-0123456789ab".into(),
            name: "laptop-b".into(),
            state,
            fingerprint: "one two three four five six".into(),
            platform: "linux".into(),
            paired_at: 1_790_000_000,
            last_seen: seen,
            last_route: seen.map(|_| "tcp:127.0.0.1:4711".into()),
            addresses: vec!["tcp:127.0.0.1:4711".into()],
            confirmed: true,
            removed_there: seen,
            blocked_since: seen,
            policy: Policy {
                messages: true,
                files: if seen.is_some() { Files::Auto } else { Files::Ask },
                max_bytes: seen,
                max_entries: seen.map(|_| 20),
                folder: seen.map(|_| "/srv/in".into()),
                protocols: vec!["clipboard".into()],
            },
            last_end: seen.map(|_| "the connection was cut".into()),
            last_end_at: seen,
            route: seen.map(|_| "tcp:127.0.0.1:4711".into()),
            dialled_here: seen.map(|_| true),
            rtt_ms: seen.map(|_| 0.25),
            reconnects: 1,
            bytes_sent: 2,
            bytes_received: 3,
            goodput: 4,
        })
    }

    /// What `doctor` finds.
    fn findings() -> impl Iterator<Item = Event> {
        let topics =
            [Topic::Home, Topic::Disk, Topic::Clock, Topic::Network, Topic::Firewall, Topic::Lookup, Topic::Device, Topic::Version];
        let verdicts = [Verdict::Ok, Verdict::Hint, Verdict::Wrong];
        topics.into_iter().zip(verdicts.into_iter().cycle()).map(|(about, verdict)| Event::Finding {
            about,
            verdict,
            message: "m".into(),
            next_command: (verdict != Verdict::Ok).then(|| "kin id".into()),
        })
    }

    /// One of every kind, with every optional field in both forms.
    pub(super) fn samples() -> Vec<Event> {
        let id = || "5a8c2b56-0ed3-8a35-9f5c-0123456789ab".to_owned();
        let file = |status, path: &[u8], renamed: Option<&[u8]>| {
            let (path, path_base64) = path_text(path);
            let (renamed_to, renamed_to_base64) = renamed.map(path_text).map_or((None, None), |(text, raw)| (Some(text), raw));
            let blake3 = matches!(status, FileStatus::Stored | FileStatus::Renamed).then(|| "00".repeat(32));
            Event::File(File { id: id(), path, path_base64, bytes: 7, blake3, status, renamed_to, renamed_to_base64 })
        };
        let stranger = Stranger { device_id: id(), name: "laptop-b".into(), platform: "linux".into() };
        let paired = PairedDevice {
            device_id: id(),
            name: "laptop-b".into(),
            platform: "linux".into(),
            fingerprint: "a b c d e f".into(),
            confirmed: false,
        };
        let mut all = vec![
            Event::File(File::planned(b"a\xff", 7)),
            Event::Hello { schema: SCHEMA, version: "0.1.0".into() },
            Event::Identity { device_id: id(), name: "a".into(), fingerprint: "a b c d e f".into(), addresses: vec![] },
            Event::Code { words: vec!["abandon".into(); 12], expires_in_s: 600 },
            Event::Listening { addresses: vec!["tcp:127.0.0.1:4711".into()] },
            Event::PairRequest { session_id: id(), device: stranger, check: "012345".into() },
            Event::Paired { session_id: id(), device: paired },
            Event::Offer { id: id(), device_id: id(), files: 3, bytes: 9, conflicts: 0, flagged: 1, flagged_paths: vec![".git".into()] },
            Event::Queued { id: "id".into(), device_id: "id".into(), files: 1, bytes: 2, expires_at: Some(1_800_600_000) },
            Event::Accepted { id: id() },
            Event::Paused { id: id(), here: true, there: false },
            Event::Refused { id: id(), reason: "declined by the user".into() },
            Event::Route { transport: "tcp".into(), kind: RouteKind::Lan, rtt_ms: None },
            Event::Route { transport: "tcp".into(), kind: RouteKind::Direct, rtt_ms: Some(1.25) },
            Event::Progress {
                id: id(),
                bytes_sent: 5,
                bytes_durable: 4,
                bytes_total: 9,
                files_done: 1,
                files_total: 2,
                rate: 100,
                eta_s: Some(1),
            },
            file(FileStatus::Stored, "Ä/b c".as_bytes(), None),
            file(FileStatus::Renamed, b"a\xff", Some(b"a\xff (1)")),
            file(FileStatus::Skipped, b"s", None),
            file(FileStatus::Failed, b"f", None),
            Event::Done { id: id(), files: 3, bytes: 9, seconds: 0.5, bytes_resumed: 0 },
            unfinished(Way::Out, None),
            unfinished(Way::In, Some("laptop-b")),
            Event::Message {
                message_id: id(),
                device_id: id(),
                content_type: "text/plain; charset=utf-8".into(),
                body: "hello".into(),
                body_base64: None,
                received_at: 1_790_000_000,
            },
            Event::Message {
                message_id: id(),
                device_id: id(),
                content_type: String::new(),
                body: "\u{fffd}".into(),
                body_base64: Some("/w==".into()),
                received_at: 0,
            },
            Event::Receipt { message_id: id(), state: ReceiptState::Delivered },
            Event::Error { code: 7, message: "m".into(), retryable: false, next_command: None },
            Event::Error { code: 4, message: "m".into(), retryable: true, next_command: Some("kin id".into()) },
        ];
        let states =
            [State::Discovered, State::Pairing, State::Paired, State::Connected, State::Disconnected, State::Forgotten, State::Blocked];
        all.extend(states.into_iter().map(|state| device(state, Some(1_790_000_001))));
        all.push(device(State::Paired, None));
        let warnings = [
            WarningCode::WordsInArguments,
            WarningCode::NotUsedYet,
            WarningCode::Unfinished,
            WarningCode::CannotAsk,
            WarningCode::SourceSkipped,
            WarningCode::ItemFailed,
            WarningCode::TransferFailed,
            WarningCode::NoDevices,
            WarningCode::NotSwept,
            WarningCode::PortChanged,
            WarningCode::RemovedThere,
            WarningCode::NobodyToAsk,
            WarningCode::Relayed,
        ];
        all.extend(findings());
        all.push(Event::Pong { device_id: id(), rtt_ms: 0.5 });
        all.extend(warnings.into_iter().map(|code| Event::Warning { code, message: "m".into() }));
        all
    }

    fn schema() -> Value {
        let mut schema = schemars::schema_for!(Event);
        schema.insert("title".into(), "One line of `kin --json`".into());
        schema.to_value()
    }

    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/events.schema.json");
        let fresh = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("KIN_UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &fresh).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap();
        assert!(kept == fresh, "the events changed: run the tests with KIN_UPDATE_SCHEMA=1 and commit {path}");
    }

    #[test]
    fn every_event_satisfies_the_schema_and_strangers_do_not() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        for event in samples() {
            let value = serde_json::to_value(&event).unwrap();
            assert!(validator.is_valid(&value), "{value}");
        }
        for bad in [r#"{"event":"hullo"}"#, r#"{"event":"accepted"}"#, r#"{"event":"accepted","id":7}"#, "[]"] {
            assert!(!validator.is_valid(&serde_json::from_str(bad).unwrap()), "{bad}");
        }
    }

    #[test]
    fn fields_are_those_of_the_contract() {
        let table: &[(&str, &str)] = &[
            ("hello", "schema version"),
            ("identity", "device_id name fingerprint addresses"),
            ("code", "words expires_in_s"),
            ("listening", "addresses"),
            ("pair_request", "session_id device check"),
            ("paired", "session_id device"),
            ("offer", "id device_id files bytes conflicts flagged flagged_paths"),
            ("queued", "id device_id files bytes expires_at"),
            ("accepted", "id"),
            ("paused", "id here there"),
            ("refused", "id reason"),
            ("route", "transport kind rtt_ms"),
            ("progress", "id bytes_sent bytes_durable bytes_total files_done files_total rate eta_s"),
            ("warning", "code message"),
            ("done", "id files bytes seconds bytes_resumed"),
            ("unfinished", "id direction device_id name bytes bytes_durable entries begun_at expires_at paused paths"),
            ("receipt", "message_id state"),
            ("pong", "device_id rtt_ms"),
            ("finding", "about verdict message next_command"),
            ("error", "code message retryable next_command"),
        ];
        for event in samples() {
            let value = serde_json::to_value(&event).unwrap();
            let object = value.as_object().unwrap();
            let name = object["event"].as_str().unwrap();
            let Some((_, fields)) = table.iter().find(|(kind, _)| *kind == name) else {
                assert!(matches!(name, "device" | "file" | "message"), "{name} is not in the table");
                continue;
            };
            let mut expected: Vec<&str> = fields.split(' ').chain(["event"]).collect();
            expected.sort_unstable();
            let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn paths_that_are_not_utf8_keep_their_bytes() {
        assert_eq!(path_text("ä".as_bytes()), ("ä".to_owned(), None));
        let (text, raw) = path_text(b"a\xffb");
        assert_eq!(text, "a\u{fffd}b");
        assert_eq!(BASE64.decode(raw.unwrap().as_bytes()).unwrap(), b"a\xffb");
    }
}
