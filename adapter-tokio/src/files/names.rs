//! Names: which are safe, which are ours, which of them a file system takes for one, and which are still free.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use protocol_core::ids::TransferId;
use protocol_core::limits::PATH_COMPONENT;
use protocol_core::transfer::manifest::{Entry, EntryKind};
use unicode_normalization::UnicodeNormalization as _;

use super::FileFault;

/// The one door from a peer's bytes to a name for the system: one component, and no special one.
// PATH-5.
pub(super) fn safe_name(name: &[u8]) -> Result<&OsStr, FileFault> {
    let special = matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0));
    if special || name.len() > PATH_COMPONENT {
        return Err(FileFault::Unsafe);
    }
    Ok(OsStr::from_bytes(name))
}

/// The first half of the transfer's id, in hex: enough to tell the transfers of one directory apart.
fn transfer_hex(transfer: TransferId) -> String {
    transfer.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The temporary file of an entry. It follows from transfer and entry alone, so that it is found again after a crash.
pub(super) fn temp_name(transfer: TransferId, entry: u32) -> String {
    format!(".kin-{}-{entry:x}.part", transfer_hex(transfer))
}

/// The transfer and entry of a temporary name.
fn parse_temp(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let middle = name.strip_prefix(b".kin-")?.strip_suffix(b".part")?;
    let (transfer, rest) = middle.split_at_checked(16)?;
    let entry = rest.strip_prefix(b"-")?;
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex(transfer) && hex(entry) && (1..=8).contains(&entry.len())).then_some((transfer, entry))
}

/// Whether `name` could be one of our temporary files.
// PATH-6.
pub(super) fn is_temp_name(name: &[u8]) -> bool {
    parse_temp(name).is_some()
}

/// Whether `name` could be a temporary file of this transfer.
pub(super) fn is_temp_of(transfer: TransferId, name: &[u8]) -> bool {
    parse_temp(name).is_some_and(|(found, _)| found == transfer_hex(transfer).as_bytes())
}

/// What names are compared by where the file system folds them: canonical decomposition, case folded, without the code
/// points that some file systems ignore. Names that are not UTF-8 stand for themselves.
pub(super) fn fold_key(name: &[u8]) -> Vec<u8> {
    let Ok(text) = core::str::from_utf8(name) else { return name.to_vec() };
    let folded =
        text.nfd().filter(|c| !ignorable(*c)).flat_map(char::to_lowercase).flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfd();
    folded.collect::<String>().into_bytes()
}

/// Default-ignorable code points (Unicode).
fn ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// `album` → `album (1)`, `photo.jpg` → `photo (1).jpg`; the stem is cut where the name would exceed `longest` bytes.
pub(super) fn numbered(name: &[u8], number: u32, kind: EntryKind, longest: usize) -> Vec<u8> {
    let dot = match kind {
        EntryKind::Directory => None,
        EntryKind::File | EntryKind::Symlink => name.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0),
    };
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let suffix = format!(" ({number})");
    // An extension that leaves no room for a stem is none.
    if extension.len() + suffix.len() >= longest {
        return [cut(name, longest.saturating_sub(suffix.len())), suffix.as_bytes()].concat();
    }
    [cut(stem, longest - extension.len() - suffix.len()), suffix.as_bytes(), extension].concat()
}

/// At most `longest` bytes of `name`, not ending inside a character.
fn cut(name: &[u8], longest: usize) -> &[u8] {
    let Some(mut short) = name.get(..longest) else { return name };
    if let Ok(text) = core::str::from_utf8(name) {
        short = &name[..text.floor_char_boundary(longest)];
    }
    short
}

/// Whether the link at `link` points into what is offered: its target is relative, climbs only through directories that are
/// themselves entries (so that no link is stepped out of), and ends at an entry or below the link's own top item.
// PATH-8.
pub(super) fn link_stays_inside(entries: &[Entry], link: &Entry) -> bool {
    let Some(target) = &link.target else { return false };
    if target.first() == Some(&b'/') {
        return false;
    }
    let offered = |path: &[&[u8]]| entries.binary_search_by(|entry| entry.components.iter().map(Vec::as_slice).cmp(path.iter().copied()));
    let is_directory = |path: &[&[u8]]| {
        path.is_empty() || offered(path).ok().and_then(|at| entries.get(at)).is_some_and(|entry| entry.kind == EntryKind::Directory)
    };
    let mut path: Vec<&[u8]> = link.components.iter().map(Vec::as_slice).collect();
    path.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if !is_directory(&path) || path.pop().is_none() {
                    return false;
                }
            }
            name => path.push(name),
        }
    }
    let same_top = link.components.len() > 1 && path.first().copied() == link.components.first().map(Vec::as_slice);
    same_top || (!path.is_empty() && offered(&path).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_ordinary_components_are_names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'a'; 256]] {
            assert_eq!(safe_name(bad), Err(FileFault::Unsafe), "{bad:?}");
        }
        for good in [&b"..."[..], b"~", b"-rf", b"%2e%2e%2f", b"\x1b[2J", b"a:b", b"..\\x", b"\xff", &[b'a'; 255], b".. ", b"\xef\xbc\x8f"]
        {
            assert_eq!(safe_name(good).map(OsStr::as_bytes), Ok(good));
        }
    }

    #[test]
    fn temporary_names_are_recognised_exactly() {
        let transfer = TransferId([0xab; 16]);
        let name = temp_name(transfer, 0x1f);
        assert_eq!(name, ".kin-abababababababab-1f.part");
        assert!(is_temp_name(name.as_bytes()) && is_temp_of(transfer, name.as_bytes()));
        assert!(!is_temp_of(TransferId([0xac; 16]), name.as_bytes()));
        for other in [
            ".kin-ababababababab-1f.part",
            ".kin-abababababababab-.part",
            ".kin-abababababababab-1F.part",
            ".kin-abababababababab-1f.par",
            "kin-x",
        ] {
            assert!(!is_temp_name(other.as_bytes()), "{other}");
        }
        assert!(is_temp_name(temp_name(transfer, u32::MAX).as_bytes()));
    }

    #[test]
    fn what_a_folding_file_system_takes_for_one_has_one_key() {
        for (a, b) in [
            ("é", "e\u{301}"),
            ("각", "\u{1100}\u{1161}\u{11a8}"),
            ("\u{212b}", "\u{c5}"),
            ("ß", "ẞ"),
            ("ß", "SS"),
            ("ﬁ", "fi"),
            ("\u{212a}", "k"),
            ("README", "readme"),
            ("ς", "Σ"),
            ("Ꭰ", "ꭰ"),
            (".g\u{200c}it", ".git"),
        ] {
            assert_eq!(fold_key(a.as_bytes()), fold_key(b.as_bytes()), "{a} and {b}");
        }
        for (a, b) in [("a", "b"), ("é", "e"), ("／", "/"), ("a ", "a")] {
            assert_ne!(fold_key(a.as_bytes()), fold_key(b.as_bytes()), "{a} and {b}");
        }
        assert_ne!(fold_key(b"\xffA"), fold_key(b"\xffa"));
    }

    #[test]
    fn numbered_names_keep_extension_and_length() {
        let file = |name: &str, n| String::from_utf8(numbered(name.as_bytes(), n, EntryKind::File, 255)).unwrap();
        assert_eq!(file("photo.jpg", 1), "photo (1).jpg");
        assert_eq!(file("README", 2), "README (2)");
        assert_eq!(file(".bashrc", 1), ".bashrc (1)");
        assert_eq!(file("a (1).txt", 1), "a (1) (1).txt");
        assert_eq!(numbered(b"v1.2", 1, EntryKind::Directory, 255), b"v1.2 (1)");
        let long = numbered("ä".repeat(127).as_bytes(), 10, EntryKind::File, 255);
        assert!(long.len() <= 255 && core::str::from_utf8(&long).unwrap().ends_with("ä (10)"));
        let extension = [b"x.".as_slice(), &[b'e'; 253]].concat();
        assert_eq!(numbered(&extension, 1, EntryKind::File, 255).len(), 255);
    }
}
