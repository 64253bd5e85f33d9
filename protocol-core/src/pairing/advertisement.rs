//! The initiator's advert: where to dial it, sealed under the code (PROTOCOL.md, section 5.1).

use alloc::vec::Vec;

use super::code::CodeKeys;
use crate::crypto::kdf::put_lp;
use crate::crypto::labels::strings;
use crate::entropy::{Entropy, NoEntropy};
use crate::info::advert::{Advert, BadAdvert};

/// Seals an advert. May be done again with new addresses: the nonce is random.
///
/// # Errors
/// [`NoEntropy`].
pub fn seal(advert: &Advert, keys: &CodeKeys, entropy: &mut dyn Entropy) -> Result<Vec<u8>, NoEntropy> {
    advert.seal(&keys.advert_key, &associated_data(keys), entropy)
}

/// Opens an advert of this code. A joiner tries every value that a lookup gives: the AEAD sorts them.
///
/// # Errors
/// [`BadAdvert`].
// ID-20.
pub fn open(sealed: &[u8], keys: &CodeKeys) -> Result<Advert, BadAdvert> {
    Advert::open(sealed, &keys.advert_key, &associated_data(keys))
}

fn associated_data(keys: &CodeKeys) -> Vec<u8> {
    let mut aad = Vec::new();
    put_lp(&mut aad, strings::ADVERT);
    put_lp(&mut aad, &keys.dht_key);
    aad
}
