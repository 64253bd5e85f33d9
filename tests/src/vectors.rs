//! Checks the shipped code against a file of test vectors (PROTOCOL.md, section 17).
//!
//! Every leaf of the file is accounted for: it is computed from the inputs and compared, or it is an input and must read back as
//! what it says, or it must be refused, or accepted. A leaf that nobody looked at counts as differing.

use std::collections::BTreeSet;

use protocol_core::crypto::kdf;
use serde_json::Value;

pub mod data;
pub mod keys;

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// Leaves of the file, without `note` and `salt`.
    pub checked: usize,
    /// The names of those that differ, are missing, were not looked at, or should have been refused; with what is wrong.
    pub differing: Vec<String>,
}

/// Checks every leaf of a vectors file.
// LIM-8.
pub fn check_all(json: &Value) -> Report {
    let mut ctx = Context::new(json);
    keys::check(&mut ctx);
    data::check(json, &mut |name, equal| ctx.holds(name, equal, "differs"));
    ctx.report()
}

/// The file, the inputs that its salt gives, and what was found so far.
///
/// A leaf is named by its keys and indices with dots between: `pairing.th1`, `transfer.layout.0.1.2`.
#[derive(Debug)]
pub struct Context<'v> {
    json: &'v Value,
    salt: Vec<u8>,
    seen: BTreeSet<String>,
    differing: Vec<String>,
}

impl<'v> Context<'v> {
    fn new(json: &'v Value) -> Self {
        let mut ctx = Self { json, salt: Vec::new(), seen: BTreeSet::new(), differing: Vec::new() };
        ctx.salt = ctx.hex("salt");
        ctx
    }

    /// Random input `n` of identities and pairing: SHA-256 of the byte `n` and the salt.
    pub fn input(&self, n: u8) -> [u8; 32] {
        kdf::sha256(&[&[n], &self.salt])
    }

    /// Random input `n` of reconnect and data: SHA-256 of the bytes `n` and 0x64 and the salt.
    pub fn data_input(&self, n: u8) -> [u8; 32] {
        kdf::sha256(&[&[n, 0x64], &self.salt])
    }

    /// The value at `path`.
    pub fn value(&self, path: &str) -> Option<&'v Value> {
        path.split('.').try_fold(self.json, |value, key| match value {
            Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            _ => value.get(key),
        })
    }

    /// The text at `path`, to be used as an input; the empty text, and a complaint, if there is none.
    pub fn text(&mut self, path: &str) -> String {
        if let Some(Value::String(text)) = self.value(path) {
            return text.clone();
        }
        self.complain(path, "a text is missing");
        String::new()
    }

    /// The bytes that the text at `path` is the hex form of, to be used as an input; no bytes, and a complaint, if it is none.
    pub fn hex(&mut self, path: &str) -> Vec<u8> {
        let text = self.text(path);
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap_or_else(|_| {
            self.complain(path, "not hex");
            Vec::new()
        })
    }

    /// [`Context::hex`] of exactly `N` bytes; zeros, and a complaint, for any other number.
    pub fn hex_exactly<const N: usize>(&mut self, path: &str) -> [u8; N] {
        self.hex(path).try_into().unwrap_or_else(|_| {
            self.complain(path, "wrong length");
            [0; N]
        })
    }

    /// The number at `path`, to be used as an input; 0, and a complaint, if there is none.
    pub fn number(&mut self, path: &str) -> u64 {
        self.value(path).and_then(Value::as_u64).unwrap_or_else(|| {
            self.complain(path, "a number is missing");
            0
        })
    }

    /// The keys of the object at `path`; a complaint if there is none.
    pub fn keys(&mut self, path: &str) -> Vec<String> {
        if let Some(Value::Object(map)) = self.value(path) {
            return map.keys().cloned().collect();
        }
        self.complain(path, "a group is missing");
        Vec::new()
    }

    /// Compares the hex leaf at `path` with what the shipped code computed.
    pub fn equal(&mut self, path: &str, computed: &[u8]) {
        self.equal_text(path, &data_encoding::HEXLOWER.encode(computed));
    }

    /// Compares the text leaf at `path` with what the shipped code computed.
    pub fn equal_text(&mut self, path: &str, computed: &str) {
        let equal = self.value(path).and_then(Value::as_str) == Some(computed);
        self.holds(path, equal, "differs");
    }

    /// Compares the number leaf at `path` with what the shipped code computed.
    pub fn equal_number(&mut self, path: &str, computed: u64) {
        let equal = self.value(path).and_then(Value::as_u64) == Some(computed);
        self.holds(path, equal, "differs");
    }

    /// Notes that the leaf at `path` was looked at, and complains unless it is as it should be.
    pub fn holds(&mut self, path: &str, as_it_should_be: bool, complaint: &str) {
        self.seen.insert(path.to_owned());
        if !as_it_should_be {
            self.complain(path, complaint);
        }
    }

    /// Notes that something is wrong with `path`.
    pub fn complain(&mut self, path: &str, what: &str) {
        self.differing.push(format!("{path}: {what}"));
    }

    fn report(mut self) -> Report {
        let mut leaves = Vec::new();
        collect_leaves(self.json, "", &mut leaves);
        leaves.retain(|path| path != "note" && path != "salt");
        for path in &leaves {
            if !self.seen.contains(path) {
                self.complain(path, "not checked");
            }
        }
        self.differing.dedup();
        Report { checked: leaves.len(), differing: self.differing }
    }
}

/// The names of all leaves below `value`.
pub fn collect_leaves(value: &Value, path: &str, leaves: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| collect_leaves(value, &below(key), leaves)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| collect_leaves(value, &below(&at.to_string()), leaves)),
        _ => leaves.push(path.to_owned()),
    }
}
