//! Records, transfers and chunks of a vector file, computed by the shipped code and read as the other side would.

mod bulk;
mod records;
mod refused;
mod transfer;

use data_encoding::HEXLOWER;
use protocol_core::crypto::kdf::sha256;
use protocol_core::crypto::secret::Secret;
use protocol_core::ids::{PeerKey, SessionRef};
use protocol_core::session::keys::seq_ref;
use protocol_core::wire::deframer::{Content, Deframer, Frame, FrameError};
use serde_json::{Value, json};

/// Compares every leaf of the sections records, transfer, bulk, messages, blake3 and of refused records, headers, manifest
/// pages and messages; calls `equal` with the name of each leaf, and whether it is right. A leaf that is an input is right if it
/// reads back as it stands.
pub fn check(json: &Value, equal: &mut dyn FnMut(&str, bool)) {
    let context = Context::new(json);
    let ours = context.as_ref().map(Context::compute);
    let parts = ["records", "transfer", "bulk", "messages", "blake3"].map(|name| (name.to_owned(), &json[name]));
    let refused = ["records", "headers", "manifest_pages", "messages"].map(|name| (format!("refused.{name}"), &json["refused"][name]));
    for (name, theirs) in parts.into_iter().chain(refused) {
        let pointer = format!("/{}", name.replace('.', "/"));
        compare(&name, ours.as_ref().and_then(|ours| ours.pointer(&pointer)).unwrap_or(&Value::Null), theirs, equal);
    }
}

/// Walks the leaves of `theirs`; what is ours and missing there counts as different too.
fn compare(name: &str, ours: &Value, theirs: &Value, equal: &mut dyn FnMut(&str, bool)) {
    match theirs {
        Value::Object(fields) => {
            for (key, theirs) in fields {
                compare(&format!("{name}.{key}"), &ours[key], theirs, equal);
            }
            for key in ours.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| !fields.contains_key(*key)) {
                equal(&format!("{name}.{key}"), false);
            }
        }
        Value::Array(items) => {
            for (at, theirs) in items.iter().enumerate() {
                compare(&format!("{name}.{at}"), &ours[at], theirs, equal);
            }
            if ours.as_array().map(Vec::len) != Some(items.len()) {
                equal(name, false);
            }
        }
        // A value that was taken away is not equal to anything.
        _ => equal(name, ours == theirs && !theirs.is_null()),
    }
}

/// What the sections are computed from: inputs by their numbers, and the secrets of the reconnect.
struct Context<'j> {
    json: &'j Value,
    salt: Vec<u8>,
    traffic_d2l: Secret,
    traffic_l2d: Secret,
    session: SessionRef,
    root: Secret,
    d: PeerKey,
    l: PeerKey,
}

impl<'j> Context<'j> {
    /// `None` if the file is not of the form.
    fn new(json: &'j Value) -> Option<Self> {
        let link = &json["link"];
        Some(Self {
            json,
            salt: bytes(&json["salt"])?,
            traffic_d2l: Secret::new(array(&link["traffic_d2l"])?),
            traffic_l2d: Secret::new(array(&link["traffic_l2d"])?),
            session: SessionRef(array(&link["session_ref"])?),
            root: Secret::new(array(&link["root"])?),
            d: PeerKey(array(&link["identity_d"])?),
            l: PeerKey(array(&link["identity_l"])?),
        })
    }

    /// Input number `n` of reconnect and data, cut to `N` bytes.
    fn input<const N: usize>(&self, n: u8) -> [u8; N] {
        let input = sha256(&[&[n, 0x64], &self.salt]);
        input[..N].try_into().expect("no input is longer than a hash")
    }

    fn compute(&self) -> Value {
        let (records, transfer) = (self.records(), self.transfer());
        let bulk = transfer.as_ref().and_then(|transfer| self.bulk(transfer));
        json!({
            "records": records,
            "transfer": transfer.as_ref().map(|transfer| transfer.section(self)),
            "bulk": bulk,
            "messages": {
                "seq_ref_d2l": hex(seq_ref(&self.root, self.d, self.l)),
                "seq_ref_l2d": hex(seq_ref(&self.root, self.l, self.d)),
            },
            "blake3": self.blake3(),
            "refused": self.refused(),
        })
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> Value {
    HEXLOWER.encode(bytes.as_ref()).into()
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    HEXLOWER.decode(value.as_str()?.as_bytes()).ok()
}

fn array<const N: usize>(value: &Value) -> Option<[u8; N]> {
    bytes(value)?.try_into().ok()
}

/// `ours`, unless the other side would not take what the file says.
fn proved(ours: impl AsRef<[u8]>, opens: bool) -> Value {
    if opens { hex(ours) } else { Value::Null }
}

/// Every frame in `stream`, and the bytes behind the last.
fn deframe(mut deframer: Deframer, mut stream: &[u8]) -> Result<(Vec<Content>, Vec<u8>), FrameError> {
    let mut frames = vec![];
    loop {
        let space = deframer.space();
        let count = space.len().min(stream.len());
        if count == 0 {
            break;
        }
        space[..count].copy_from_slice(&stream[..count]);
        stream = &stream[count..];
        deframer.filled(count);
        for frame in deframer.by_ref() {
            frames.push(frame.map(Frame::into_content)?);
        }
    }
    let mut rest = deframer.into_rest();
    rest.extend_from_slice(stream);
    Ok((frames, rest))
}
