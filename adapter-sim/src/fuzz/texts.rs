//! What people type.

use protocol_core::ids::{DeviceId, SessionId};
use protocol_core::info::Address;
use protocol_core::pairing::code::{CodeError, PairingCode, complete, repairs};

/// A code as it is typed: what is taken is shown as the words that mean the same; what is not is explained.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match PairingCode::parse(&text) {
        Ok(code) => {
            let words = code.words();
            assert!(matches!(words.len(), 12 | 24));
            let again = PairingCode::parse(&words.join(" ")).expect("our own words");
            assert_eq!(again.words(), words);
            assert!(repairs(&text).is_empty(), "nothing is to be repaired");
        }
        Err(CodeError::UnknownWord { position, word, suggestion }) => {
            assert!((1..=24).contains(&position) && !word.is_empty());
            assert!(suggestion.is_none_or(|word| complete(word).any(|listed| listed == word)), "a suggestion is of the list");
            assert!(repairs(&text).iter().all(|repair| repair.position == position), "the unknown word is the wrong one");
        }
        Err(CodeError::WordCount(count)) => assert!(!matches!(count, 12 | 24)),
        Err(CodeError::Checksum) => {
            for repair in repairs(&text) {
                assert_eq!(repair.code.words()[repair.position - 1], repair.word);
            }
        }
    }
}

/// Addresses and ids: what is read is written the same way.
pub fn address(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string(), text);
        assert!(!text.contains(char::is_control), "it is shown as it is");
    }
    if let Ok(id) = text.parse::<DeviceId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(text.parse::<SessionId>().map(|other| other.0), Ok(id.0));
    }
}
