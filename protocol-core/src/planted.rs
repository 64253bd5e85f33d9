//! Planted bugs: mistakes that a programmer could have made, one of which can be switched on in a build for tests.
//!
//! The simulator has to show that it finds mistakes of this protocol, and not only that it runs. So each numbered check and each
//! rule of order has a bug here. All are compiled into one build behind the feature `testing`; [`plant`] chooses one at run time
//! for the whole process. Without the feature this module is not there and `planted!` is the constant `false`.
//!
//! A site reads `planted!(TagUnchecked) || …`: the right condition stands beside the wrong one. What is said of a bug, where it
//! breaks the protocol and how an outsider notices it, is said once, in the table below.
//!
//! Left out, because nothing outside shows them:
//!
//! * MACs compared in variable time: there is no clock but a virtual one.
//! * Secrets that are not wiped: memory cannot be looked at. (That a session's secrets live too long can: [`Bug::SecretsKept`].)
//! * An ML-KEM key that is not reduced: the library makes no key of it, so there is nothing to forget.
//! * The 300 s of a whole handshake: the steps' own times end it before.
//! * Second lines of defence, behind which the first still refuses: the place of an opening record (the kind is compared again),
//!   the type in a record's associated data (lengths tell types apart), counter 0 of a data stream (the window refuses it), the
//!   transfer's id in a chunk's associated data (the key is of one stream), a control header on a data stream (its opening record
//!   names no transfer), the transport ids in a transcript (infos are compared with them, so a relay gets no further).
//! * A ticket that can be answered twice: hosts answer once.
//! * Limits whose breach costs more than a run may: 64 MiB of unanswered manifests, a million entries, 2^32 records.

use core::sync::atomic::{AtomicU16, Ordering};

/// Bytes of a variant's name in kebab case.
const fn kebab_len(name: &str) -> usize {
    let (bytes, mut at, mut len) = (name.as_bytes(), 0, 0);
    while at < bytes.len() {
        len += if at > 0 && bytes[at].is_ascii_uppercase() { 2 } else { 1 };
        at += 1;
    }
    len
}

/// A variant's name in kebab case.
const fn kebab<const N: usize>(name: &str) -> [u8; N] {
    let (bytes, mut text, mut at, mut to) = (name.as_bytes(), [b'-'; N], 0, 0);
    while at < bytes.len() {
        to += if at > 0 && bytes[at].is_ascii_uppercase() { 1 } else { 0 };
        text[to] = bytes[at].to_ascii_lowercase();
        (at, to) = (at + 1, to + 1);
    }
    text
}

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident: $breaks:literal, $seen:literal;)+) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Bug {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nBreaks ", $breaks, ".")] $bug,)+
        }

        impl Bug {
            /// Every bug, in the order of the protocol.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)+];

            /// Its name on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => {
                        const TEXT: [u8; kebab_len(stringify!($bug))] = kebab(stringify!($bug));
                        const NAME: &str = match core::str::from_utf8(&TEXT) {
                            Ok(name) => name,
                            Err(_) => panic!("a name is ASCII"),
                        };
                        NAME
                    })+
                }
            }

            /// The check or rule that it breaks.
            pub const fn breaks(self) -> &'static str {
                match self {
                    $(Self::$bug => $breaks,)+
                }
            }

            /// How it shows to somebody who sees every device from outside, or who plays an attacker.
            pub const fn seen_by(self) -> &'static str {
                match self {
                    $(Self::$bug => $seen,)+
                }
            }
        }
    };
}

bugs! {
    // Pairing: I on PairingRequest.
    /// The version and suite of a first frame are not looked at.
    VersionUnchecked: "§6.5 I 1 (PAIR-7)", "the version byte of an honest PairingRequest or Hello flipped on its way: the handshake goes on all the same";
    /// Bytes behind a message's CBOR are not noticed.
    TrailingAccepted: "§6.5 I 1 (ID-9)", "a handshake frame made longer by some bytes, with its length put right: the handshake goes on all the same";
    /// A first frame may be of nearly any length.
    FirstFrameUnbounded: "§6.5 I 1, §11 (PAIR-3)", "a stranger announces a first frame of 64 KiB: its stream is not reset before the body";
    /// A request for any session id is taken for one about our code.
    SessionIdUnchecked: "§6.5 I 2 (PAIR-14)", "a holder of the code asks for another session id, with a tag over that: a Challenge comes back";
    /// An expired code still admits new handshakes, and never dies.
    ExpiredCodeAccepted: "§6.5 I 3 (PAIR-40)", "a joiner that comes after the code's time is paired, and the owner is never told that it expired";
    /// The tag is not compared.
    TagUnchecked: "§6.5 I 4 (PAIR-15)", "a stranger that knows the public session id and not the words gets a Challenge";
    /// The transcript leaves out the bytes that only this connection has.
    ExporterUnbound: "§6.5 I 4 (PAIR-8)", "a relay between two TCP connections with different exporters: the pairing through it succeeds";
    /// Failures before the tag count against the code.
    StrangersBurnCode: "§6.5 I 4, §11 (PAIR-16, LIM-7)", "requests with a wrong tag from a stranger: the code is burned, and the right joiner is refused";
    /// A first flight may come again.
    ReplayAdmitted: "§6.5 I 5 (PAIR-17)", "a recorded PairingRequest played again on a new stream gets a second Challenge";
    /// Handshakes past the tag are not counted.
    HandshakesAtOnceUnbounded: "§6.5 I 6, §11 (PAIR-18)", "a holder of the code opens five handshakes at once: the fifth gets a Challenge";
    /// The last of the handshakes that a code admits burns nothing when it fails.
    SixteenthDoesNotBurn: "§6.5 I 6, §11 (PAIR-18)", "sixteen handshakes that are cut after the Challenge: the owner is not told that the code is burned";
    /// An exchange key that contributes nothing is taken.
    LowOrderAccepted: "§6.5 I 7, J 1 (ID-2)", "a holder of the code sends e_j of zeros under a right tag: a Challenge comes back";
    /// Failures past the tag are not counted.
    FailuresNeverBurn: "§6.5 I 7, §11 (PAIR-39)", "a holder of the code fails more than three times after the Challenge, not on TCP: the code lives";
    /// The time to the Response is not watched.
    ResponseTimerUnset: "§6.5 I 8 (PAIR-42)", "a holder of the code says nothing after the Challenge: its stream is open 31 s later";
}

impl Bug {
    /// The bug of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// The planted bug's number and one; 0 if there is none.
static PLANTED: AtomicU16 = AtomicU16::new(0);

/// Plants a bug in this process, in place of the one before, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u16 + 1), Ordering::Relaxed);
}

/// Whether this bug is the planted one.
#[inline]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::string::String;
    use std::vec::Vec;
    use std::{format, fs};

    #[test]
    fn names_are_distinct_and_lead_back() {
        assert_eq!(Bug::TagUnchecked.name(), "tag-unchecked");
        let names: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        for &bug in Bug::ALL {
            assert_eq!(Bug::by_name(bug.name()), Some(bug));
            assert!(!bug.breaks().is_empty() && !bug.seen_by().is_empty(), "{bug:?}");
        }
        assert_eq!(Bug::by_name("none"), None);
        assert!(Bug::ALL.iter().all(|&bug| !is(bug)), "nothing is planted unless somebody plants it");
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("planted.rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_bug_of_the_table_is_planted_somewhere() {
        let mut paths = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut paths);
        let text: String = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        let nowhere: Vec<&Bug> = Bug::ALL.iter().filter(|bug| !text.contains(&format!("planted!({bug:?})"))).collect();
        assert!(nowhere.is_empty(), "no site has {nowhere:?}");
        let least = 10;
        assert!(Bug::ALL.len() >= least, "only {} bugs", Bug::ALL.len());
    }
}
