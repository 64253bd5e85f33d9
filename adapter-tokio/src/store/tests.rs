use super::*;
use crate::testing::TempDir;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

fn key(byte: u8) -> Secret {
    Secret::new([byte; 32])
}

fn put(table: u8, key: &[u8], value: &[u8]) -> Change {
    Change { table, key: key.to_vec(), value: Some(value.to_vec()) }
}

fn remove(table: u8, key: &[u8]) -> Change {
    Change { table, key: key.to_vec(), value: None }
}

#[test]
// HOST-3.
fn batches_survive_reopening_in_order() {
    let dir = TempDir::new();
    let path = dir.join("records.redb");
    let store = Store::open(&path, &key(1)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(store.all(), Ok(vec![]));
    store.commit(&[put(3, b"b", b"1"), put(3, b"a", b""), put(255, b"", b"z"), put(0, b"x", &[7; 70_000])]).unwrap();
    store.commit_all(&[vec![remove(0, b"x"), put(3, b"b", b"2")], vec![], vec![put(3, b"b", b"3"), remove(9, b"never")]]).unwrap();
    drop(store);
    let store = Store::open(&path, &key(1)).unwrap();
    let expected = vec![(3, b"a".to_vec(), vec![]), (3, b"b".to_vec(), b"3".to_vec()), (255, vec![], b"z".to_vec())];
    assert_eq!(store.all(), Ok(expected));
}

#[test]
// HOST-2.
fn values_are_sealed_and_bound_to_their_place() {
    let dir = TempDir::new();
    let path = dir.join("records.redb");
    let store = Store::open(&path, &key(1)).unwrap();
    let value = b"a secret that must not stand in the file";
    store.commit(&[put(1, b"k", value)]).unwrap();
    assert!(!fs::read(&path).unwrap().windows(value.len()).any(|window| window == value));
    let sealed = store.seal(1, b"k", value).unwrap();
    assert_ne!(sealed, store.seal(1, b"k", value).unwrap(), "nonces are fresh");
    assert_eq!(store.unseal(1, b"k", &sealed).as_deref(), Ok(&value[..]));
    assert_eq!(store.unseal(2, b"k", &sealed), Err(StoreError::Forged));
    assert_eq!(store.unseal(1, b"l", &sealed), Err(StoreError::Forged));
    for at in 0..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1;
        let expected = if at == 0 { StoreError::UnknownSchema(0) } else { StoreError::Forged };
        assert_eq!(store.unseal(1, b"k", &flipped), Err(expected));
        assert!(store.unseal(1, b"k", &sealed[..at]).is_err());
    }
    drop(store);
    let other = Store::open(&path, &key(2)).unwrap();
    assert_eq!(other.all(), Err(StoreError::Forged), "another device's file");
    let own = Store::open(&path, &key(1)).map(drop);
    assert_eq!(own, Ok(()), "a failed read closed the file");
}

#[test]
fn a_second_opening_is_refused_until_the_first_ends() {
    let dir = TempDir::new();
    let path = dir.join("records.redb");
    let store = Store::open(&path, &key(1)).unwrap();
    assert_eq!(Store::open(&path, &key(1)).map(drop), Err(StoreError::Busy));
    drop(store);
    assert_eq!(Store::open(&path, &key(1)).map(drop), Ok(()));
}

#[test]
fn links_and_files_open_to_others_are_refused() {
    let dir = TempDir::new();
    let path = dir.join("records.redb");
    drop(Store::open(&path, &key(1)).unwrap());
    symlink(&path, dir.join("link")).unwrap();
    assert_eq!(Store::open(&dir.join("link"), &key(1)).map(drop), Err(StoreError::Unsafe));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(Store::open(&path, &key(1)).map(drop), Err(StoreError::Unsafe));
    assert_eq!(Store::open(&dir.join("missing/records"), &key(1)).map(drop), Err(StoreError::File(FileFault::NotFound)));
}

/// Hostile persisted state: truncated, empty, zero-filled, foreign, bit-flipped. Never a panic, never a fresh start.
#[test]
fn damage_is_an_error_and_evidence_is_kept() {
    let dir = TempDir::new();
    let path = dir.join("records.redb");
    let store = Store::open(&path, &key(1)).unwrap();
    let records: Vec<Change> = (0..200_u8).map(|i| put(i % 3, &[i], &[i; 100])).collect();
    store.commit(&records).unwrap();
    let all = store.all().unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    let damaged = |bytes: &[u8]| {
        private::write(&path, bytes, Replace::Yes).unwrap();
        Store::open(&path, &key(1)).and_then(|store| store.all())
    };
    assert_eq!(damaged(&[]), Err(StoreError::Damaged));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "an empty file is not made new");
    assert_eq!(damaged(&vec![0; good.len()]), Err(StoreError::Damaged));
    assert_eq!(damaged(b"hello"), Err(StoreError::Damaged));
    for length in [1, 9, 100, 320, 4096, good.len() / 2] {
        assert!(damaged(&good[..length]).is_err(), "cut to {length}");
        assert!(fs::metadata(&path).unwrap().len() > 0);
    }
    // Whatever is flipped: the right records or an error, never other ones.
    for at in (0..good.len()).step_by(good.len() / 48).chain((0..128).step_by(3)) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        if let Ok(read) = damaged(&bytes) {
            assert_eq!(read, all, "byte {at}");
        }
    }
    assert_eq!(damaged(&good), Ok(all));
}

#[test]
fn a_database_that_a_crash_left_half_made_is_made_again() {
    let dir = TempDir::new();
    fs::write(dir.join("records.new"), b"half").unwrap();
    let store = Store::open(&dir.join("records.redb"), &key(1)).unwrap();
    assert_eq!(store.all(), Ok(vec![]));
    assert!(!dir.join("records.new").exists());
}

#[test]
fn after_an_error_the_next_commit_opens_the_file_again() {
    let dir = TempDir::new();
    let path = dir.join("records.redb");
    let store = Store::open(&path, &key(1)).unwrap();
    store.commit(&[put(1, b"a", b"1")]).unwrap();
    let failed: Result<(), StoreError> = store.with(|_| Err(StoreError::Damaged));
    assert_eq!(failed, Err(StoreError::Damaged));
    let panicked: Result<(), StoreError> = store.with(|_| panic!("as a database on a bad disk may"));
    assert_eq!(panicked, Err(StoreError::Damaged));
    store.commit(&[put(1, b"b", b"2")]).unwrap();
    assert_eq!(store.all().map(|records| records.len()), Ok(2));
}

#[test]
fn debug_shows_no_value() {
    assert!(!format!("{:?}", put(1, b"k", b"\x63\x63\x63")).contains("99"));
}
