//! What a path may be, before any file system sees it (PROTOCOL.md, section 9.5).
//!
//! Only what no system can hold, or what would leave the destination, is refused here. Everything else (`-rf`, `aux.c`,
//! bytes that are no UTF-8) is a name; whether a receiver's file system can hold it is decided there, entry by entry.

use alloc::vec::Vec;
use core::fmt;

use crate::limits;

/// A path that no manifest may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// No components.
    Empty,
    /// A component without bytes.
    EmptyComponent,
    /// A component `.` or `..`.
    Dots,
    /// A component with `/` or NUL inside.
    Separator,
    /// A component of more than [`limits::PATH_COMPONENT`] bytes.
    LongComponent,
    /// More than [`limits::PATH_BYTES`] bytes, one between components included.
    LongPath,
    /// More than [`limits::PATH_DEPTH`] components.
    Deep,
}

impl PathError {
    /// Whether it is a limit that was passed, rather than a rule that was broken.
    pub const fn is_limit(self) -> bool {
        matches!(self, Self::LongComponent | Self::LongPath | Self::Deep)
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a path without components",
            Self::EmptyComponent => "a path with an empty component",
            Self::Dots => "a path with a component . or ..",
            Self::Separator => "a name with a slash or a zero byte inside",
            Self::LongComponent => "a name is too long",
            Self::LongPath => "a path is too long",
            Self::Deep => "a path is too deep",
        })
    }
}

impl core::error::Error for PathError {}

/// Whether these bytes may be one component.
///
/// # Errors
/// What is wrong first.
// PATH-1.
pub fn check_component(component: &[u8]) -> Result<(), PathError> {
    match component {
        b"" => Err(PathError::EmptyComponent),
        b".." if planted!(DotDotAccepted) => Ok(()),
        b"." | b".." => Err(PathError::Dots),
        _ if component.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(PathError::Separator),
        _ if component.len() > limits::PATH_COMPONENT && !planted!(LongComponentAccepted) => Err(PathError::LongComponent),
        _ => Ok(()),
    }
}

/// Whether these components may be a path.
///
/// # Errors
/// What is wrong first: rules of components, then depth, then length.
// PATH-2.
pub fn check(components: &[Vec<u8>]) -> Result<(), PathError> {
    if components.is_empty() {
        return Err(PathError::Empty);
    }
    components.iter().try_for_each(|component| check_component(component))?;
    if components.len() > limits::PATH_DEPTH && !planted!(DeepPathAccepted) {
        return Err(PathError::Deep);
    }
    let bytes = components.iter().map(|component| component.len() + 1).sum::<usize>() - 1;
    if bytes > limits::PATH_BYTES && !planted!(LongPathAccepted) { Err(PathError::LongPath) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    // PATH-1.
    fn what_would_leave_the_destination_is_no_component() {
        for (name, why) in [
            (&b""[..], PathError::EmptyComponent),
            (b".", PathError::Dots),
            (b"..", PathError::Dots),
            (b"a/b", PathError::Separator),
            (b"/", PathError::Separator),
            (b"../x", PathError::Separator),
            (b"a\0", PathError::Separator),
            (&[b'x'; 256], PathError::LongComponent),
        ] {
            assert_eq!(check_component(name), Err(why), "{name:?}");
        }
    }

    #[test]
    // PATH-5.
    fn everything_else_is_a_name() {
        for name in [
            &b"..."[..],
            b" ",
            b"a ",
            b"~",
            b"-rf",
            b"--",
            b"$HOME",
            b"*",
            b"%2e%2e%2f",
            b"aux.c",
            b"NUL",
            b"a:b",
            b"C:\\x",
            b"..\\..\\x",
            b"a\nb",
            b"\x1b[31m",
            b"\xc0\xaf",
            b"\xff",
            b"\xed\xa0\x80",
            "\u{202e}txt".as_bytes(),
            "e\u{301}".as_bytes(),
            "\u{ff0f}".as_bytes(),
            b".git",
            &[b'x'; 255],
        ] {
            assert_eq!(check_component(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    // PATH-2.
    fn depth_and_length_end_at_their_limits() {
        let deep = |depth| vec![b"d".to_vec(); depth];
        assert_eq!(check(&deep(64)), Ok(()));
        assert_eq!(check(&deep(65)), Err(PathError::Deep));
        assert_eq!(check(&[]), Err(PathError::Empty));
        let mut long = vec![vec![b'x'; 255]; 16];
        assert_eq!(check(&long), Ok(()), "16 · 255 + 15 = 4095");
        long.push(vec![b'x']);
        assert_eq!(check(&long), Err(PathError::LongPath), "4097");
        long[0].pop();
        assert_eq!(check(&long), Ok(()), "4096");
    }

    proptest! {
        #[test]
        fn a_path_joined_and_split_is_the_same(components in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), Just(0), any::<u8>()], 0..4), 0..6)) {
            if check(&components).is_ok() {
                let joined = components.join(&b'/');
                prop_assert_eq!(joined.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>(), components);
                prop_assert!(!joined.starts_with(b"/") && !joined.contains(&0));
            } else {
                let whole = components.join(&b'/');
                let unsafe_part = whole.split(|&byte| byte == b'/').any(|part| matches!(part, b"" | b"." | b".."));
                prop_assert!(unsafe_part || whole.contains(&0) || components.iter().any(|component| component.contains(&b'/')));
            }
        }
    }
}
