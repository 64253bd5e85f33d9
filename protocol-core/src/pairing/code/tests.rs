use super::*;
use std::collections::BTreeSet;
use std::format;
use std::string::ToString as _;

const WORDS: &str = "elephant tired add civil twin liquid material attitude scissors near weapon stomach";

struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        bytes.fill(self.0);
        Ok(())
    }
}

struct Broken;

impl Entropy for Broken {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), NoEntropy> {
        Err(NoEntropy)
    }
}

fn parses_to(text: &str) -> String {
    PairingCode::parse(text).unwrap().words().join(" ")
}

#[test]
fn a_code_reads_back() {
    for byte in [0, 1, 0x7f, 0xff] {
        let code = PairingCode::generate(&mut Fixed(byte)).unwrap();
        assert_eq!(code.words().len(), 12);
        let read = PairingCode::parse(&code.words().join(" ")).unwrap();
        assert_eq!(read.bytes(), code.bytes());
    }
    assert!(matches!(PairingCode::generate(&mut Broken), Err(NoEntropy)));
    let long = PairingCode(Bits::Long(Secret::new([0x5a; 32])));
    assert_eq!(long.words().len(), 24);
    assert_eq!(PairingCode::parse(&long.words().join(" ")).unwrap().bytes(), [0x5a; 32]);
}

#[test]
// ID-17.
fn typing_is_forgiving_where_it_is_safe() {
    let upper = WORDS.to_uppercase();
    let dashed = WORDS.replace(' ', "-");
    let lines = format!("\n\t{}  ,-- ", WORDS.replace(' ', " ,\r\n\u{3000}"));
    let wide: String = WORDS.chars().map(|c| if c == ' ' { c } else { char::from_u32(c as u32 + 0xfee0).unwrap() }).collect();
    let cut: String = WORDS.split(' ').map(|word| format!("{} ", &word[..word.len().min(4)])).collect();
    for text in [WORDS, &upper, &dashed, &lines, &wide, &cut] {
        assert_eq!(parses_to(text), WORDS, "{text:?}");
    }
}

/// Every word is known whole and by four letters, by nothing else.
#[test]
fn every_word_has_exactly_two_spellings() {
    for (index, word) in Language::English.word_list().iter().enumerate() {
        for len in 1..=word.len() {
            let whole = Language::English.word_list().binary_search(&&word[..len]).ok();
            let expected = if len == 4 { Some(index) } else { whole };
            assert_eq!(find(&word[..len]), expected, "{}", &word[..len]);
        }
        assert_eq!(find(&format!("{word}x")), None);
    }
}

#[test]
// ID-18.
fn a_wrong_code_says_what_is_wrong() {
    let error = |text: &str| PairingCode::parse(text).unwrap_err();
    let with = |position: usize, word: &str| {
        let mut words: Vec<&str> = WORDS.split(' ').collect();
        words[position - 1] = word;
        words.join(" ")
    };
    assert_eq!(error(""), CodeError::WordCount(0));
    assert_eq!(error(&WORDS[..WORDS.rfind(' ').unwrap()]), CodeError::WordCount(11));
    assert_eq!(error(&format!("{WORDS} abandon")), CodeError::WordCount(13));
    assert_eq!(error(&"abandon ".repeat(10_000)), CodeError::WordCount(10_000));
    assert_eq!(error(&with(12, "zoo")), CodeError::Checksum);
    for (typed, suggestion) in
        [("elephent", Some("elephant")), ("xylophonic", None), ("eelphant", Some("elephant")), ("ELEPHAMT", Some("elephant"))]
    {
        assert_eq!(error(&with(7, typed)), CodeError::UnknownWord { position: 7, word: typed.to_lowercase(), suggestion });
    }
    assert!(matches!(error(&with(1, "elepq")), CodeError::UnknownWord { position: 1, .. }), "five letters that begin like a word");
    assert_eq!(error(&with(3, "ad")), CodeError::UnknownWord { position: 3, word: "ad".to_owned(), suggestion: Some("add") });
    assert_eq!(error(&with(3, "elephent")).to_string(), "word 3 is not in the list; did you mean \"elephant\"?");
    let huge = "x".repeat(100_000);
    assert!(matches!(error(&with(1, &huge)), CodeError::UnknownWord { suggestion: None, .. }));
}

#[test]
fn one_wrong_word_is_repaired_by_the_checksum() {
    let offers = |from: &str, to: &str| {
        let found = repairs(&WORDS.replace(from, to));
        assert!(found.len() <= 8);
        for repair in &found {
            let words = repair.code.words();
            assert_eq!(words[repair.position - 1], repair.word);
            assert_eq!(parses_to(&words.join(" ")), words.join(" "));
        }
        found.iter().position(|repair| repair.code.words().join(" ") == WORDS)
    };
    // A word that is not in the list, one that is, and a mistyped abbreviation.
    assert_eq!(offers("elephant", "elefant"), Some(0));
    assert_eq!(offers("liquid", "lquid"), Some(0));
    assert!(offers("near", "neat").is_some());
    assert!(offers("weapon", "waepo").is_some());
    assert!(offers("stomach", "stpm").is_some());
    assert!(repairs(WORDS).is_empty(), "nothing to repair");
    assert!(repairs(&WORDS.replace("near", "qqq").replace("add", "qqq")).is_empty(), "two unknown words");
    assert!(repairs("elefant").is_empty());
}

/// Invariant K5: one bit of the code changes every id and key, and no id shows the code.
#[test]
// ID-19.
fn every_bit_changes_every_key() {
    let outputs = |entropy: [u8; 16]| {
        let keys = CodeKeys::derive(&PairingCode(Bits::Short(Secret::new(entropy))));
        let public = [&keys.session_id.0[..], &keys.dht_key, &keys.mdns_id];
        let secret = [&keys.advert_key, &keys.pkarr_seed, &keys.request_mac, &keys.early].map(|key| &key.bytes()[..]);
        for window in entropy.windows(4) {
            assert!(!public.iter().any(|id| id.windows(4).any(|part| part == window)), "a public id shows the code");
        }
        [&public[..], &secret].concat().into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let entropy = [0x47, 0xdc, 0x54, 0x0c, 0x94, 0xce, 0xb7, 0x04, 0xa2, 0x38, 0x75, 0xc1, 0x12, 0x73, 0xe1, 0x6b];
    let base = outputs(entropy);
    assert_eq!(base.iter().collect::<BTreeSet<_>>().len(), 7);
    for bit in 0..128 {
        let mut other = entropy;
        other[bit / 8] ^= 1 << (bit % 8);
        for (at, (one, other)) in base.iter().zip(outputs(other)).enumerate() {
            assert_ne!(*one, other, "bit {bit} does not change output {at}");
        }
    }
}

#[test]
// ID-8.
fn a_code_is_not_printed() {
    let code = PairingCode::parse(WORDS).unwrap();
    assert_eq!(format!("{code:?}"), "PairingCode(Short([redacted]))");
    let keys = format!("{:?}", CodeKeys::derive(&code));
    assert_eq!(keys.matches("[redacted]").count(), 4, "{keys}");
}
