//! S10 and S34: no secret is seen by who looks at the wire, or into a log.
//!
//! A real run has real keys, so this can be looked for and need not be believed: every key that sealed or opened anything, every
//! master seed and every root in a store is a string of random bytes, and none of its parts may turn up where anybody can look. Names
//! and the contents of files travel sealed.

use std::collections::BTreeSet;

use minicbor::Decoder;

use crate::oracle::Recorder;
use crate::{Dev, Tapped, World};

/// So many bytes in a row are no accident.
const PART: usize = 8;

impl World {
    /// What of a secret can be seen, if anything can. Everything that was on the wire is looked at, and what a log would hold.
    pub(crate) fn leaked(&self) -> Option<(&'static str, String)> {
        let mut secrets: BTreeSet<[u8; PART]> = BTreeSet::new();
        for dev in (0..self.honest).map(Dev) {
            secrets.extend(part(&self.seed(dev)));
            secrets.extend(self.store(dev).values().flat_map(|row| roots(row)).filter_map(|root| part(&root)));
        }
        Recorder::each_key(|key| secrets.extend(part(key)));
        let sought: BTreeSet<[u8; PART]> = secrets.iter().copied().chain(clear()).collect();
        let sieve = Sieve::of(&sought);
        // Who sees what is published learns neither who that is nor where.
        let keys: BTreeSet<[u8; PART]> = (0..self.honest).filter_map(|dev| part(&self.key(Dev(dev)).0)).collect();
        for (dev, notice) in self.published() {
            let seen = notice.id.windows(PART).chain(notice.record.windows(PART)).filter_map(part);
            if let Some(part) = { seen }.find(|part| sought.contains(part) || keys.contains(part)) {
                return Some(("DISC-2", format!("device {} publishes {part:?} of a key, a name or a file", dev.0)));
            }
        }
        let honest = |tapped: &&Tapped| tapped.from.0 < self.honest;
        for tapped in self.tap().iter().filter(honest) {
            let mut parts = tapped.bytes.windows(PART).filter_map(part).filter(|part| sieve.may_hold(part));
            if let Some(part) = parts.find(|part| sought.contains(part)) {
                let what = if secrets.contains(&part) { "a key" } else { "a name or a file in clear" };
                return Some(("S10", format!("device {} sent {what}", tapped.from.0)));
            }
        }
        self.logged(&secrets).map(|what| ("S34", what))
    }

    /// Whether a log would show a secret, or a name that nobody escaped.
    fn logged(&self, secrets: &BTreeSet<[u8; PART]>) -> Option<String> {
        let nodes = (0..self.honest).filter_map(|dev| Some(format!("{:?}", self.node_of(Dev(dev))?)));
        let told = self.events().iter().map(|(_, event)| format!("{event:?}"));
        let lines = self.trace().lines().into_iter();
        let texts: Vec<String> = nodes.chain(told).chain(lines).collect();
        if let Some(text) = texts.iter().find(|text| text.contains(|c: char| c.is_control() && c != '\n')) {
            return Some(format!("a control character is shown as it came: {text:?}"));
        }
        let holds = |text: &&String| shown(text).any(|part| secrets.contains(&part));
        texts.iter().find(holds).map(|text| format!("a secret is shown in {text:.80}"))
    }
}

/// All that may be a part of something secret in a text: in hexadecimal digits, or as numbers with commas.
fn shown(text: &str) -> impl Iterator<Item = [u8; PART]> {
    let digits = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b',' | b' ');
    // What is shown in full has that many digits in a row, and few texts have.
    let rows = text.as_bytes().split(move |byte| !digits(byte)).filter(|row| row.len() >= 2 * PART);
    rows.filter_map(|row| std::str::from_utf8(row).ok()).flat_map(|row| {
        let in_hex = row.as_bytes().windows(2 * PART).filter_map(|row| {
            let digits = std::str::from_utf8(row).ok().filter(|row| !row.contains([',', ' ']))?;
            u64::from_str_radix(digits, 16).ok().map(u64::to_be_bytes)
        });
        let numbers: Vec<Option<u8>> = row.split(", ").map(|number| number.parse().ok()).collect();
        let in_numbers: Vec<_> = numbers.windows(PART).filter_map(|row| row.iter().copied().collect::<Option<Vec<u8>>>()).collect();
        in_hex.chain(in_numbers.into_iter().filter_map(|bytes| part(&bytes)))
    })
}

/// Rules out nearly every part that is in no set: a bit for each hash of one that is.
struct Sieve(Vec<u64>);

impl Sieve {
    const BITS: u32 = 20;

    fn of(parts: &BTreeSet<[u8; PART]>) -> Self {
        let mut words = vec![0; 1 << (Self::BITS - 6)];
        for at in parts.iter().map(Self::at) {
            words[at / 64] |= 1 << (at % 64);
        }
        Self(words)
    }

    fn may_hold(&self, part: &[u8; PART]) -> bool {
        let at = Self::at(part);
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn at(part: &[u8; PART]) -> usize {
        // The odd number is 2^64 over the golden ratio: neighbours fall far apart.
        (u64::from_le_bytes(*part).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::BITS)) as usize
    }
}

/// Of names, and of files of the catalogue (see `script::tree`): never seen on the wire.
fn clear() -> impl Iterator<Item = [u8; PART]> {
    let names = (b'0'..=b'9').map(|number| [b'd', b'e', b'v', b'i', b'c', b'e', b' ', number]);
    names.chain([std::array::from_fn(|at| (at * 31 % 251 + 1) as u8)])
}

fn part(secret: &[u8]) -> Option<[u8; PART]> {
    secret.first_chunk().copied()
}

/// The roots in a row of the table of devices: the 32 bytes that open each of the eighth field's elements.
fn roots(row: &[u8]) -> Vec<[u8; 32]> {
    let read = || {
        let mut from = Decoder::new(row);
        from.array().ok()??;
        for _ in 0..7 {
            from.skip().ok()?;
        }
        let count = from.array().ok()??;
        let mut roots = Vec::new();
        for _ in 0..count {
            let start = from.position();
            from.array().ok()?;
            roots.push(from.bytes().ok()?.try_into().ok()?);
            from.set_position(start);
            from.skip().ok()?;
        }
        Some(roots)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    /// What is looked for is found: keys, roots and names that somebody sends or shows.
    #[test]
    fn what_leaks_is_noticed() {
        let text = "{\"chance\":1,\"wires\":[\"sim\",\"sim\"],\"pieces\":\"whole\",\"latency\":[0,0],\"aes\":0,\"patient\":false}\n\
            {\"at\":0,\"step\":{\"invite\":{\"dev\":0,\"ask\":false}}}\n\
            {\"at\":0,\"step\":{\"join\":{\"dev\":1,\"of\":0,\"words\":\"right\",\"ask\":false}}}\n";
        let script = Script::from_text(text).expect("a script");
        Recorder::start();
        let mut world = World::of_script(&script, false);
        world.run_for(std::time::Duration::from_secs(10));
        assert_eq!(world.leaked(), None);
        let rows: Vec<Vec<u8>> = world.store(Dev(0)).values().cloned().collect();
        let root = roots(&rows[0]).pop().expect("paired");
        let mut key = [0; 32];
        Recorder::each_key(|of| key = *of);
        for (bytes, rule) in [(&root[..], "S10"), (&key[..], "S10"), (b"..device 1.", "S10"), (&world.seed(Dev(1))[..], "S10")] {
            let mut tapped = world.tap()[0].clone();
            tapped.bytes = bytes.to_vec();
            world.tap.push(tapped);
            assert_eq!(world.leaked().map(|(rule, _)| rule), Some(rule));
            world.tap.pop();
        }
        let parts = BTreeSet::from([*key.first_chunk().expect("32 bytes")]);
        assert_eq!(world.logged(&parts), None);
        for shows in [
            format!("key {:?}", &key[..]),
            format!("[1, 2, {:?}", &key[..8]),
            format!("x{:016x}", u64::from_be_bytes(parts.first().copied().expect("one"))),
        ] {
            assert!(shown(&shows).any(|part| parts.contains(&part)), "{shows}");
        }
        Recorder::stop();
    }
}
