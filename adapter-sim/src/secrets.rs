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
        // Nearly every place on the wire is ruled out by the two bytes that stand there.
        let begins = |text: &[u8]| usize::from(u16::from_be_bytes([text[0], text[1]]));
        let mut first = [0_u64; 1 << 10];
        let all = secrets.iter().map(<[u8; PART]>::as_slice).chain(CLEAR);
        all.map(begins).for_each(|pair| first[pair / 64] |= 1 << (pair % 64));
        let honest = |tapped: &&Tapped| tapped.from.0 < self.honest;
        for tapped in self.tap().iter().filter(honest) {
            let met = |at: &usize| {
                let pair = begins(&tapped.bytes[*at..]);
                first[pair / 64] >> (pair % 64) & 1 == 1
            };
            for at in (0..tapped.bytes.len().saturating_sub(1)).filter(met) {
                let rest = &tapped.bytes[at..];
                if part(rest).is_some_and(|part| secrets.contains(&part)) {
                    return Some(("S10", format!("device {} sent a key", tapped.from.0)));
                }
                if CLEAR.iter().any(|clear| rest.starts_with(clear)) {
                    return Some(("S10", format!("device {} sent a name or a file in clear", tapped.from.0)));
                }
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
        let shown: Vec<String> = secrets.iter().flat_map(|secret| [in_hex(secret), in_numbers(secret)]).collect();
        if let Some(text) = texts.iter().find(|text| text.contains(|c: char| c.is_control() && c != '\n')) {
            return Some(format!("a control character is shown as it came: {text:?}"));
        }
        // A secret would be shown in full, and few texts hold that many digits.
        let digits =
            |text: &&String| text.as_bytes().windows(2 * PART).any(|window| window.iter().all(|c| b"0123456789abcdef, ".contains(c)));
        let holds = |text: &&String| shown.iter().any(|secret| text.contains(secret.as_str()));
        texts.iter().filter(digits).find(holds).map(|text| format!("a secret is shown in {text:.80}"))
    }
}

/// Of names, and of files: never seen on the wire.
const CLEAR: [&[u8]; 2] = [b"device ", &PLAIN];

/// What files of the catalogue hold, somewhere: see `script::tree`.
const PLAIN: [u8; 12] = {
    let mut bytes = [0; 12];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at * 31 % 251 + 1) as u8;
        at += 1;
    }
    bytes
};

fn part(secret: &[u8]) -> Option<[u8; PART]> {
    secret.first_chunk().copied()
}

fn in_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn in_numbers(bytes: &[u8]) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
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
        Recorder::stop();
    }
}
