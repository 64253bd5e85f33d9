//! What a node of the DHT keeps for others.
//!
//! Values cannot be judged: they are sealed. So a value of another network stands beside what is there, and takes nothing away: each
//! network has one place under a key, those that came first keep theirs, and whoever asks is given one after the other. Somebody on the
//! publisher's own network can displace its value, and sixteen networks that know a key before its publisher can keep it out.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

/// Bytes of a key, and of a value at most.
const KEY: usize = 32;
const VALUE: usize = super::RECORD;
/// Values under one key, of one network, and at all: 64 MiB and what they cost beside.
const PER_KEY: usize = 16;
const PER_SOURCE: usize = 1024;
const ALL: usize = 65_536;

/// Values, by key and by the network that they came from.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    rows: HashMap<RecordKey, Row>,
    /// What each network has here, the oldest first.
    sources: HashMap<String, BTreeMap<u64, RecordKey>>,
    held: usize,
    numbers: u64,
}

#[derive(Debug, Default)]
struct Row {
    values: Vec<Value>,
    /// Which one the next asker gets.
    turn: Cell<usize>,
}

#[derive(Debug)]
struct Value {
    source: String,
    number: u64,
    record: Record,
}

impl Shelf {
    /// Keeps a value that came from a network, if there is room.
    pub(super) fn keep(&mut self, source: &str, record: Record, now: Instant) -> bool {
        if record.key.as_ref().len() != KEY || record.value.len() > VALUE || record.is_expired(now) {
            return false;
        }
        self.expire(&record.key, now);
        let row = self.rows.entry(record.key.clone()).or_default();
        // The same from elsewhere is the same: who moves between networks fills no places with it, and who repeats it shortens no life.
        if let Some(same) = row.values.iter_mut().find(|value| value.record.value == record.value) {
            same.record.expires = same.record.expires.max(record.expires);
            return true;
        }
        if let Some(own) = row.values.iter_mut().find(|value| value.source == source) {
            own.record = record;
            return true;
        }
        if row.values.len() >= PER_KEY {
            return false;
        }
        let number = self.numbers;
        self.numbers += 1;
        let key = record.key.clone();
        row.values.push(Value { source: source.to_owned(), number, record });
        self.held += 1;
        let of_source = self.sources.entry(source.to_owned()).or_default();
        of_source.insert(number, key);
        if of_source.len() > PER_SOURCE {
            self.drop_oldest(source);
        } else if self.held > ALL
            && let Some(most) = self.sources.iter().max_by_key(|(_, values)| values.len()).map(|(source, _)| source.clone())
        {
            self.drop_oldest(&most);
        }
        true
    }

    /// Drops what has expired, everywhere.
    pub(super) fn sweep(&mut self, now: Instant) {
        let keys: Vec<RecordKey> = self.rows.keys().cloned().collect();
        keys.iter().for_each(|key| self.expire(key, now));
    }

    /// All that is here.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Record> {
        self.rows.values().flat_map(|row| &row.values).map(|value| &value.record)
    }

    fn expire(&mut self, key: &RecordKey, now: Instant) {
        self.drop_where(key, |value| value.record.is_expired(now));
    }

    fn drop_oldest(&mut self, source: &str) {
        if let Some((number, key)) =
            self.sources.get(source).and_then(BTreeMap::first_key_value).map(|(number, key)| (*number, key.clone()))
        {
            self.drop_where(&key, |value| value.number == number);
        }
    }

    fn drop_where(&mut self, key: &RecordKey, which: impl Fn(&Value) -> bool) {
        let Some(row) = self.rows.get_mut(key) else { return };
        for value in row.values.extract_if(.., |value| which(value)) {
            self.held -= 1;
            if let Some(of_source) = self.sources.get_mut(&value.source) {
                of_source.remove(&value.number);
                if of_source.is_empty() {
                    self.sources.remove(&value.source);
                }
            }
        }
        if row.values.is_empty() {
            self.rows.remove(key);
        }
    }
}

impl RecordStore for Shelf {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    /// One of the values, each time the next one.
    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let row = self.rows.get(key)?;
        let turn = row.turn.get();
        row.turn.set(turn.wrapping_add(1));
        row.values.get(turn % row.values.len()).map(|value| Cow::Borrowed(&value.record))
    }

    /// A node stores nothing of its own, and what others store comes by [`Shelf::keep`].
    fn put(&mut self, _: Record) -> Result<(), Error> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, key: &RecordKey) {
        self.expire(key, Instant::now());
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, _: ProviderRecord) -> Result<(), Error> {
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(key: u32, value: &[u8], expires: Instant) -> Record {
        let mut bytes = [0; KEY];
        bytes[..4].copy_from_slice(&key.to_be_bytes());
        Record { key: RecordKey::new(&bytes), value: value.to_vec(), publisher: None, expires: Some(expires) }
    }

    /// All that is given out under a key, in turn.
    fn given(shelf: &Shelf, key: u32, times: usize) -> Vec<Vec<u8>> {
        let key = record(key, b"", Instant::now()).key;
        (0..times).filter_map(|_| shelf.get(&key).map(|found| found.value.clone())).collect()
    }

    #[test]
    fn nobody_takes_anothers_place() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let until = now + Duration::from_secs(60);
        assert!(shelf.keep("honest", record(1, b"true", until), now));
        for liar in 0..100 {
            let kept = shelf.keep(&format!("liar {liar}"), record(1, &[liar], until), now);
            assert_eq!(kept, usize::from(liar) < PER_KEY - 1);
        }
        assert!(given(&shelf, 1, PER_KEY).contains(&b"true".to_vec()));
        // What is there already takes no place, wherever it comes from.
        assert!(shelf.keep("honest elsewhere", record(1, b"true", now + Duration::from_secs(1)), now));
        shelf.sweep(now + Duration::from_secs(2));
        assert_eq!(shelf.held, PER_KEY, "whoever repeats it does not end it");
        // Its own it may change, as often as it likes.
        assert!(shelf.keep("honest", record(1, b"moved", until), now));
        let given = given(&shelf, 1, PER_KEY);
        assert!(given.contains(&b"moved".to_vec()) && !given.contains(&b"true".to_vec()));
        assert_eq!((shelf.held, shelf.sources.len()), (PER_KEY, PER_KEY));
    }

    #[test]
    fn what_is_no_record_of_ours_is_not_kept() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let until = now + Duration::from_secs(60);
        assert!(!shelf.keep("a", record(1, &[0; VALUE + 1], until), now));
        assert!(!shelf.keep("a", record(1, b"old", now), now));
        let short = Record { key: RecordKey::new(b"short"), ..record(1, b"", until) };
        assert!(!shelf.keep("a", short, now));
        assert!(shelf.rows.is_empty() && shelf.sources.is_empty());
    }

    #[test]
    fn what_has_expired_makes_room() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        for source in 0..PER_KEY {
            assert!(shelf.keep(&source.to_string(), record(1, b"x", now + Duration::from_secs(10)), now));
        }
        let later = now + Duration::from_secs(10);
        assert!(shelf.keep("late", record(1, b"y", later + Duration::from_secs(1)), later));
        assert_eq!((shelf.held, given(&shelf, 1, 1)), (1, vec![b"y".to_vec()]));
        shelf.sweep(later + Duration::from_secs(1));
        assert!(shelf.rows.is_empty() && shelf.sources.is_empty() && shelf.held == 0);
    }

    #[test]
    fn whoever_floods_pushes_out_its_own() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let until = now + Duration::from_secs(60);
        assert!(shelf.keep("honest", record(0, b"true", until), now));
        for key in 0..10 * u32::try_from(PER_SOURCE).unwrap() {
            assert!(shelf.keep("flood", record(key, b"flood", until), now));
        }
        assert_eq!(shelf.held, 1 + PER_SOURCE);
        assert_eq!(given(&shelf, 0, 1), [b"true"]);
        // Many networks: the bound of all of them holds, and those with the most lose.
        for source in 0..70 {
            for key in 0..u32::try_from(PER_SOURCE).unwrap() {
                shelf.keep(&format!("flood {source}"), record(1_000_000 + source * 10_000 + key, b"flood", until), now);
            }
        }
        assert_eq!(shelf.held, ALL);
        assert_eq!(given(&shelf, 0, 1), [b"true"]);
        assert_eq!(shelf.sources.values().map(BTreeMap::len).sum::<usize>(), ALL);
        assert_eq!(shelf.rows.values().map(|row| row.values.len()).sum::<usize>(), ALL);
    }
}
