//! N1 and S12: every key and nonce seals one thing, and what opens was sealed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use protocol_core::bulk::cipher::{Aead, BulkCipher, RustCrypto};
use protocol_core::crypto::aead::{Forged, TAG};
use protocol_core::probe::{AeadUse, watch};

use crate::Dev;
use crate::trace::Rolling;

/// Every use of an AEAD on this thread, since [`Recorder::start`].
#[derive(Debug, Default)]
pub struct Recorder {
    /// Key and nonce, and what was sealed under them.
    sealed: HashMap<([u8; 32], u64), u64>,
    /// What was opened, by which device.
    opened: HashSet<([u8; 32], u64, usize)>,
    /// Fin records that each device has opened.
    fins: BTreeMap<usize, u64>,
    uses: u64,
    violation: Option<(&'static str, String)>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    static DEVICE: Cell<usize> = const { Cell::new(usize::MAX) };
}

impl Recorder {
    /// From now on all uses on this thread are recorded, and those before are forgotten.
    pub fn start() {
        watch(Some(hear));
        RECORDER.set(Some(Self::default()));
    }

    /// Whether uses on this thread are recorded.
    pub fn is_on() -> bool {
        RECORDER.try_with(|recorder| recorder.try_borrow().map_or(true, |recorder| recorder.is_some())).unwrap_or(false)
    }

    /// Nothing is recorded any more. How many uses there were.
    pub fn stop() -> u64 {
        watch(None);
        RECORDER.take().map_or(0, |recorder| recorder.uses)
    }

    /// Every key that sealed something.
    pub(crate) fn each_key(mut each: impl FnMut(&[u8; 32])) {
        RECORDER.with_borrow(|recorder| {
            let keys = recorder.iter().flat_map(|recorder| recorder.sealed.keys());
            keys.for_each(|(key, _)| each(key));
        });
    }

    /// Uses from now on are this device's.
    pub(crate) fn set_device(dev: Dev) {
        DEVICE.set(dev.0);
    }

    /// Fin records that a device has opened.
    pub(crate) fn fins_opened(dev: Dev) -> u64 {
        RECORDER.with_borrow(|recorder| recorder.as_ref().and_then(|recorder| recorder.fins.get(&dev.0).copied()).unwrap_or(0))
    }

    /// What was broken, once.
    pub(crate) fn take_violation() -> Option<(&'static str, String)> {
        RECORDER.with_borrow_mut(|recorder| recorder.as_mut()?.violation.take())
    }

    fn hear(&mut self, used: &AeadUse<'_>) {
        self.uses += 1;
        let mut hash = Rolling::default();
        hash.bytes(used.aad);
        hash.bytes(used.text);
        let hash = hash.value();
        // Nonces of this protocol are four zeros and a counter or index.
        let nonce = u64::from_be_bytes(std::array::from_fn(|at| used.nonce[at + 4]));
        let key = (*used.key, nonce);
        if used.opened {
            // Of all that is sealed only a fin is empty.
            if used.text.is_empty() {
                *self.fins.entry(DEVICE.get()).or_default() += 1;
            }
            match self.sealed.get(&key) {
                Some(&sealed) if sealed == hash => {}
                _ => self.violation = Some(("S9", format!("something opened that nobody sealed (nonce {nonce})"))),
            }
            // An opening record may verify again, before the window says that its stream was there before (DATA-8).
            let opening = used.aad.len().checked_sub(5).is_some_and(|at| used.aad[at] == 2) && nonce == 0 && used.aad.len() > 60;
            if !opening && !self.opened.insert((key.0, key.1, DEVICE.get())) {
                self.violation = Some(("S12", format!("something was opened twice (nonce {nonce})")));
            }
        } else if self.sealed.insert(key, hash).is_some() {
            self.violation = Some(("N1", format!("something was sealed twice under one key and nonce (nonce {nonce})")));
        }
    }
}

fn hear(used: &AeadUse<'_>) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            recorder.hear(used);
        }
    });
}

/// The core's own cipher for chunks, recorded.
#[derive(Debug)]
struct Recording(RustCrypto);

/// A cipher for chunks that tells the recorder of this thread.
pub fn recording_cipher() -> Arc<dyn BulkCipher> {
    Arc::new(Recording(RustCrypto))
}

impl BulkCipher for Recording {
    fn seal(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
        hear(&AeadUse { opened: false, key, nonce, aad, text: buffer });
        self.0.seal(aead, key, nonce, aad, buffer)
    }

    fn open(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged> {
        self.0.open(aead, key, nonce, aad, buffer, tag)?;
        hear(&AeadUse { opened: true, key, nonce, aad, text: buffer });
        Ok(())
    }
}
