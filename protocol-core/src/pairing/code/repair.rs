//! Finding the one word that was typed wrong: by likeness, and by the checksum.

use alloc::vec::Vec;

use bip39::Language;
use zeroize::Zeroizing;

use super::{ENOUGH, LONG, PairingCode, SHORT, Typed, find};

/// Edits (a letter added, left out, exchanged, or swapped with its neighbour) between a typed word and the one that was meant. In a
/// short word fewer, or everything would be like everything.
const MOST: usize = 2;
/// Words that are longer than this resemble none of the list.
const LONGEST: usize = 16;
/// Repairs that are offered at most.
const OFFERED: usize = 8;

/// A code that one other word would make right.
#[derive(Debug)]
pub struct Repair {
    /// Which word, from 1.
    pub position: usize,
    /// What it should be.
    pub word: &'static str,
    /// The code with that word.
    pub code: PairingCode,
}

/// The codes that `text` becomes if one word of it is exchanged for one like it, the most alike first; at most eight.
///
/// None if the code is right as it is, if its number of words is wrong, or if more than one word is not in the list. One in
/// sixteen wrong words passes the checksum of a code of twelve, so a person must confirm even a single repair.
pub fn repairs(text: &str) -> Vec<Repair> {
    let typed = Typed::new(text);
    if !matches!(typed.words().count(), SHORT | LONG) {
        return Vec::new();
    }
    let words: Vec<&str> = typed.words().collect();
    let mut indices: Zeroizing<Vec<usize>> = Zeroizing::new(words.iter().map(|word| find(word).unwrap_or(usize::MAX)).collect());
    let mut unknown = indices.iter().enumerate().filter(|&(_, &index)| index == usize::MAX).map(|(at, _)| at);
    let suspects = match (unknown.next(), unknown.next()) {
        (Some(only), None) => only..only + 1,
        (Some(_), Some(_)) => return Vec::new(),
        (None, _) if PairingCode::from_indices(&indices).is_some() => return Vec::new(),
        (None, _) => 0..words.len(),
    };
    let mut found = Vec::new();
    for at in suspects {
        let typed = indices[at];
        for (index, word) in Language::English.word_list().iter().enumerate().filter(|&(index, _)| index != typed) {
            let Some(distance) = unlikeness(words[at], word) else { continue };
            indices[at] = index;
            if let Some(code) = PairingCode::from_indices(&indices) {
                found.push((distance, Repair { position: at + 1, word, code }));
            }
        }
        indices[at] = typed;
    }
    found.sort_by_key(|(distance, _)| *distance);
    found.truncate(OFFERED);
    found.into_iter().map(|(_, repair)| repair).collect()
}

/// The word of the list that is most like `word`, if one is like it at all.
pub(super) fn nearest(word: &str) -> Option<&'static str> {
    let alike = |listed: &&'static str| Some((unlikeness(word, listed)?, *listed));
    Language::English.word_list().iter().filter_map(alike).min_by_key(|&(distance, _)| distance).map(|(_, listed)| listed)
}

/// The edit distance to the word, or to its first four letters if only four were typed. `None` if the two are not alike.
fn unlikeness(typed: &str, listed: &str) -> Option<usize> {
    let (typed, listed) = (typed.as_bytes(), listed.as_bytes());
    if typed.len() > LONGEST {
        return None;
    }
    let whole = edit_distance(typed, listed);
    let distance = match listed.get(..ENOUGH) {
        Some(cut) if typed.len() == ENOUGH => whole.min(edit_distance(typed, cut)),
        _ => whole,
    };
    (distance <= MOST.min(typed.len() / 2)).then_some(distance)
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    const ROW: usize = LONGEST + 1;
    // Words of the list are shorter than the longest typed one.
    let mut rows = [[0_usize; ROW]; 3];
    for (column, cell) in rows[0].iter_mut().enumerate() {
        *cell = column;
    }
    for (i, &x) in a.iter().enumerate() {
        let (before, last, this) = ((i + 2) % 3, i % 3, (i + 1) % 3);
        rows[this][0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let mut best = (rows[last][j] + usize::from(x != y)).min(rows[last][j + 1] + 1).min(rows[this][j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(rows[before][j - 1] + 1);
            }
            rows[this][j + 1] = best;
        }
    }
    rows[a.len() % 3][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("abc", "ab", 1),
            ("abc", "xabc", 1),
            ("abc", "axc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a.as_bytes(), b.as_bytes()), distance, "{a} {b}");
            assert_eq!(edit_distance(b.as_bytes(), a.as_bytes()), distance, "{b} {a}");
        }
    }
}
