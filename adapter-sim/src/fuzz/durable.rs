//! What comes back from a store, which may be damaged.

use std::sync::Arc;

use protocol_core::bulk::cipher::RustCrypto;
use protocol_core::crypto::secret::{Secret, SecretBytes};
use protocol_core::effects::{Env, Event, Output};
use protocol_core::identity::NetworkIdentity;
use protocol_core::node::{Config, Node};
use protocol_core::records::{Change, DEVICES, Record};
use protocol_core::time::Timestamp;

use super::tape::{Counter, Tape};

const NOW: Timestamp = Timestamp::from_micros(1);

/// A row of any table: the first byte says of which, and how long its key is. A row that is taken is written and read the same.
pub fn restore(data: &[u8]) {
    let mut tape = Tape::new(data);
    let (table, key_len) = match tape.byte() % 8 {
        0 => (2, 32),
        1 => (DEVICES, 31),
        _ => (DEVICES, 32),
    };
    let (key, value) = (tape.take(key_len), tape.rest());
    let mut node = restored(table, key, value);
    let told: Vec<_> = std::iter::from_fn(|| node.poll()).collect();
    match &told[..] {
        [] => {}
        [Output::Notify(Event::BadRecord { table: named })] => assert!(*named == table && node.devices().is_empty()),
        // Pending roots that are over are taken out of the store.
        [Output::Persist { batch, .. }] => assert!(batch.len() == 1 && batch[0].value.is_some() != node.devices().is_empty()),
        other => panic!("a row is taken, cleaned or reported: {other:?}"),
    }
    // A pending root's end is all that a row can make a Node wait for.
    if let Some(deadline) = node.deadline() {
        assert!(deadline.at > NOW && !node.devices().is_empty(), "{deadline:?}");
    }
    let Some(device) = node.devices().first().map(|view| view.id) else { return };
    node.rename_device(&mut env(&mut Counter(1)), device, "another name").expect("the device is known");
    let Some(Output::Persist { batch, .. }) = node.poll() else { panic!("a new name is written") };
    let [Change { table, key, value: Some(value) }] = &batch[..] else { panic!("one row is written: {batch:?}") };
    let again = restored(*table, key, value.bytes());
    assert_eq!(again.devices(), node.devices(), "what is written is what is known");
}

fn restored(table: u8, key: &[u8], value: &[u8]) -> Node {
    let config = Config { name: "here".into(), os: "linux".into(), app: "kin".into(), bulk_aes: false, cipher: Arc::new(RustCrypto) };
    let identity = NetworkIdentity::from_seed(Secret::new([1; 32]));
    let record = Record { table, key: key.to_vec(), value: SecretBytes::new(value.to_vec()) };
    Node::restore(config, identity, &mut env(&mut Counter(0)), [record]).expect("this source never fails")
}

const fn env(entropy: &mut Counter) -> Env<'_> {
    Env { now: NOW, unix_s: 1_800_000_000, entropy }
}
