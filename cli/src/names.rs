//! Names that a person should see before taking them: hidden ones, and those that programs act on without being asked. They arrive
//! unchanged all the same.

use crate::output::hides;

/// Files that a system or a server acts on where it finds them, in lower case. Hidden ones are flagged anyway.
const ACTED_ON: &[&str] = &["autorun.inf", "desktop.ini", "folder.htt", "web.config", "_netrc", "_vimrc"];
/// Endings of files that start a program, or have a file manager fetch something, in lower case.
const STARTERS: &[&str] = &["desktop", "lnk", "scf", "url"];

/// Whether a path is hidden or is run by itself, by the name of its last component. What is below such a directory is not
/// flagged again.
pub(crate) fn is_flagged<C: AsRef<[u8]>>(components: &[C]) -> bool {
    let Some((last, above)) = components.split_last() else { return false };
    stands_out(last.as_ref()) && !above.iter().any(|name| stands_out(name.as_ref()))
}

fn stands_out(name: &[u8]) -> bool {
    // Some file systems do not tell letters of another case apart, nor see characters that nobody sees; Windows drops dots and spaces
    // at the end.
    let name: String = String::from_utf8_lossy(name).chars().filter(|&character| !hides(character)).collect();
    let name = name.to_lowercase();
    let name = name.trim_end_matches(['.', ' ']);
    // Nothing but dots is left to nothing, and hidden too.
    name.is_empty()
        || name.starts_with('.')
        || ACTED_ON.contains(&name)
        || name.rsplit_once('.').is_some_and(|(_, ending)| STARTERS.contains(&ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_and_names_that_are_acted_on_are_flagged() {
        let table = [
            (".bashrc", true),
            ("home/.profile", true),
            (".ssh", true),
            (".ssh/authorized_keys", false), // its directory is
            ("project/.git", true),
            ("project/.git/hooks/post-commit", false),
            (".config/autostart/x.desktop", false),
            ("autostart/x.desktop", true),
            ("www/.htaccess", true),
            ("www/web.config", true),
            ("desktop.ini", true),
            ("Desktop.INI", true),
            ("AUTORUN.INF", true),
            ("autorun.inf. ", true),
            ("\u{200c}.git", true),
            (".g\u{200c}it", true),
            ("auto\u{200d}run.inf", true),
            ("holiday.lnk", true),
            ("...", true),
            ("holiday.jpg", false),
            ("desktop", false),
            ("desktop.ini.txt", false),
            ("lnk", false),
            ("a.bashrc", false),
            ("aux.c", false),
            ("~", false),
            ("-rf", false),
            ("%2egit", false),
            ("Maildir/cur/1.M2P3.host:2,S", false),
        ];
        for (path, flagged) in table {
            assert_eq!(is_flagged(&path.split('/').collect::<Vec<_>>()), flagged, "{path:?}");
        }
        assert!(is_flagged(&[b".\xff".as_slice()]) && !is_flagged(&[b"\xff".as_slice()]) && !is_flagged::<&[u8]>(&[]));
    }
}
