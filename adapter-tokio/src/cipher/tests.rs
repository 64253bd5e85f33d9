use super::*;
use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};

/// Equal bytes with the pure Rust implementation that the core ships.
#[test]
// DATA-25.
fn chacha_equals_rustcrypto() {
    let (key, nonce) = ([7; 32], [9; 12]);
    for length in [0_usize, 1, 63, 64, 65, 4096, 262_144] {
        let text: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut ours = text.clone();
        let tag = seal(false, &key, &nonce, b"head", &mut ours);
        let mut theirs = text.clone();
        let cipher = chacha20poly1305::ChaCha20Poly1305::new(&key.into());
        let their_tag = cipher.encrypt_inout_detached(&nonce.into(), b"head", theirs.as_mut_slice().into()).unwrap();
        assert_eq!((&ours, &tag[..]), (&theirs, &their_tag[..]), "{length} bytes");
        open(false, &key, &nonce, b"head", &mut ours, &tag).unwrap();
        assert_eq!(ours, text);
    }
}

/// Known answer: test case 14 of the GCM specification (zero key, zero nonce, 16 zero bytes).
#[test]
fn aes_known_answer() {
    let mut buffer = [0; 16];
    let tag = seal(true, &[0; 32], &[0; 12], b"", &mut buffer);
    assert_eq!(buffer, 0xcea7_403d_4d60_6b6e_074e_c5d3_baf3_9d18_u128.to_be_bytes());
    assert_eq!(tag, 0xd0d1_c8a7_9999_6bf0_265b_98b5_d48a_b919_u128.to_be_bytes());
}

#[test]
fn every_changed_part_is_forged() {
    for aes in [false, true] {
        let (key, nonce, text) = ([1; 32], [2; 12], [3; 40]);
        let mut sealed = text;
        let tag = seal(aes, &key, &nonce, b"aad", &mut sealed);
        let mut bad_tag = tag;
        bad_tag[15] ^= 1;
        assert_eq!(open(aes, &key, &nonce, b"aad", &mut sealed.clone(), &bad_tag), Err(Forged));
        assert_eq!(open(aes, &key, &nonce, b"aae", &mut sealed.clone(), &tag), Err(Forged));
        assert_eq!(open(aes, &key, &[4; 12], b"aad", &mut sealed.clone(), &tag), Err(Forged));
        assert_eq!(open(aes, &[5; 32], &nonce, b"aad", &mut sealed.clone(), &tag), Err(Forged));
        let mut bad = sealed;
        bad[0] ^= 1;
        assert_eq!(open(aes, &key, &nonce, b"aad", &mut bad, &tag), Err(Forged));
        assert_eq!(open(aes, &key, &nonce, b"aad", &mut sealed, &tag), Ok(()));
        assert_eq!(sealed, text);
    }
}
