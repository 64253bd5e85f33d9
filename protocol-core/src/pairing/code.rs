//! The code: twelve (or twenty-four) words that carry all the secrecy of a pairing, and what is derived from them (PROTOCOL.md,
//! section 5).

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bip39::{Language, Mnemonic};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::kdf::{expand, extract};
use crate::crypto::labels::{self, strings};
use crate::crypto::secret::Secret;
use crate::entropy::{Entropy, NoEntropy};
use crate::handshake::random_secret;
use crate::identity::stamp_v8;
use crate::ids::SessionId;

mod repair;

pub use repair::{Repair, repairs};

/// Words of an ordinary code (128 bits).
const SHORT: usize = 12;
/// Words of a long code (256 bits).
const LONG: usize = 24;
/// The letters that suffice to know a word of the list.
const ENOUGH: usize = 4;
/// Bytes of the longest word of the list, and a separator.
const WORD_BYTES: usize = 9;

/// A one-time code. Wiped when dropped, never cloned or printed; [`PairingCode::words`] shows it on purpose.
#[derive(Debug)]
pub struct PairingCode(Bits);

#[derive(Debug)]
enum Bits {
    Short(Secret<16>),
    Long(Secret<32>),
}

impl PairingCode {
    /// A fresh code of twelve words. One draw of 16 bytes.
    ///
    /// # Errors
    /// [`NoEntropy`].
    pub fn generate(entropy: &mut dyn Entropy) -> Result<Self, NoEntropy> {
        Ok(Self(Bits::Short(random_secret(entropy)?)))
    }

    /// Reads a code as people type it: any case, words separated by whitespace, `-` or `,`, each whole or its first four letters.
    ///
    /// # Errors
    /// [`CodeError`], which names the word. Nothing of it needs the network.
    // ID-17.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let typed = Typed::new(text);
        let mut indices = Zeroizing::new(Vec::with_capacity(LONG));
        for (at, word) in typed.words().enumerate().take(LONG) {
            let index = find(word).ok_or_else(|| CodeError::UnknownWord {
                position: at + 1,
                word: word.to_owned(),
                suggestion: repair::nearest(word),
            })?;
            indices.push(index);
        }
        match typed.words().count() {
            SHORT | LONG => Self::from_indices(&indices).ok_or(CodeError::Checksum),
            other => Err(CodeError::WordCount(other)),
        }
    }

    /// The code of these words of the list; `None` if their checksum is wrong.
    fn from_indices(indices: &[usize]) -> Option<Self> {
        let mut phrase = Zeroizing::new(String::with_capacity(indices.len() * WORD_BYTES));
        for &index in indices {
            if !phrase.is_empty() {
                phrase.push(' ');
            }
            phrase.push_str(Language::English.word_list()[index]);
        }
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &phrase).ok()?;
        let (mut entropy, len) = mnemonic.to_entropy_array();
        let bits = match len {
            16 => entropy.first_chunk().map(|bytes| Bits::Short(Secret::new(*bytes))),
            32 => entropy.first_chunk().map(|bytes| Bits::Long(Secret::new(*bytes))),
            _ => None,
        };
        entropy.zeroize();
        bits.map(Self)
    }

    /// The words, for the owner's eyes.
    pub fn words(&self) -> Vec<&'static str> {
        let mnemonic = Mnemonic::from_entropy_in(Language::English, self.bytes()).expect("invariant: BIP39 takes 16 and 32 bytes");
        mnemonic.words().collect()
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bits::Short(bits) => bits.bytes(),
            Bits::Long(bits) => bits.bytes(),
        }
    }
}

/// The words of the list that begin with `prefix` (lower case), for completion.
pub fn complete(prefix: &str) -> impl Iterator<Item = &'static str> + '_ {
    Language::English.words_by_prefix_iter(prefix)
}

/// What was typed, in compatibility decomposition and lower case; wiped when dropped.
struct Typed(Zeroizing<String>);

impl Typed {
    fn new(text: &str) -> Self {
        // Room for the ordinary case, so that no copy is left behind by growing.
        let mut normal = Zeroizing::new(String::with_capacity(text.len() * 4));
        normal.extend(text.nfkd().flat_map(char::to_lowercase));
        Self(normal)
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(|c: char| c.is_whitespace() || matches!(c, '-' | ',')).filter(|word| !word.is_empty())
    }
}

/// The index of a word of the list, given whole or by exactly its first four letters.
fn find(word: &str) -> Option<usize> {
    let list = Language::English.word_list();
    let at = list.partition_point(|&listed| listed < word);
    let listed = list.get(at)?;
    (*listed == word || word.len() == ENOUGH && listed.starts_with(word)).then_some(at)
}

/// What is wrong with a typed code. The typist's fault; nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
// ID-18.
pub enum CodeError {
    /// Neither 12 nor 24 words, but so many.
    WordCount(usize),
    /// A word that is not in the list.
    UnknownWord {
        /// Which, from 1.
        position: usize,
        /// As it was typed, in lower case.
        word: String,
        /// The word of the list that is most like it, if one is much like it.
        suggestion: Option<&'static str>,
    },
    /// All words are in the list, but they do not fit together: one is wrong, or two are swapped.
    Checksum,
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WordCount(1) => f.write_str("1 word was given, a code has 12"),
            Self::WordCount(count) => write!(f, "{count} words were given, a code has 12"),
            Self::UnknownWord { position, suggestion: None, .. } => write!(f, "word {position} is not in the list"),
            Self::UnknownWord { position, suggestion: Some(like), .. } => {
                write!(f, "word {position} is not in the list; did you mean \"{like}\"?")
            }
            Self::Checksum => f.write_str("the words do not fit together"),
        }
    }
}

impl core::error::Error for CodeError {}

/// What is derived from a code. The ids are different outputs of one key, so that watchers of different places cannot link them.
#[derive(Debug)]
pub struct CodeKeys {
    /// The public name of the pairing.
    pub session_id: SessionId,
    /// The public key of the advert in a DHT.
    pub dht_key: [u8; 32],
    /// The public instance name on a LAN.
    pub mdns_id: [u8; 16],
    /// Seals the advert.
    pub advert_key: Secret,
    /// The Ed25519 seed of a signed DHT record.
    pub pkarr_seed: Secret,
    /// The key of the request's tag.
    pub request_mac: Secret,
    /// The early secret of the handshake.
    pub early: Secret,
}

impl CodeKeys {
    /// Derives all of them.
    // ID-19.
    pub fn derive(code: &PairingCode) -> Self {
        let prk = extract(strings::CODE, code.bytes());
        let psk = expand::<32>(&prk, labels::PAIR_PSK, &[]);
        Self {
            session_id: SessionId(stamp_v8(*expand::<16>(&prk, labels::PAIR_SESSION_ID, &[]).bytes())),
            dht_key: *expand::<32>(&prk, labels::PAIR_DHT_KEY, &[]).bytes(),
            mdns_id: *expand::<16>(&prk, labels::PAIR_MDNS_ID, &[]).bytes(),
            advert_key: expand(&prk, labels::PAIR_ADVERT_KEY, &[]),
            pkarr_seed: expand(&prk, labels::PAIR_PKARR_KEY, &[]),
            request_mac: expand(&psk, labels::PAIR_REQUEST_MAC, &[]),
            early: expand(&psk, labels::PAIR_EARLY, &[]),
        }
    }
}

#[cfg(test)]
mod tests;
