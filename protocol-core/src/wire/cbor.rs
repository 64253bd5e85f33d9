//! Canonical CBOR: a strict pass over the heads first, then minicbor's lenient decoder on what passed.
//!
//! The rule of PROTOCOL.md, section 4: definite lengths, shortest heads, exact element counts, no trailing bytes, no tags, no
//! floats. Whatever is accepted encodes again to the same bytes.

use core::fmt;

use minicbor::Decoder;
use minicbor::data::Type;

/// Nesting that any message of ours needs, and the most that is looked at.
const DEPTH: usize = 8;

/// The bytes are not the canonical form of the message that was expected. The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end inside an item.
    Truncated,
    /// Bytes follow the item.
    Trailing,
    /// A head is not the shortest, or of indefinite length.
    NotShortest,
    /// A tag, a float, a simple value, a map: nothing of ours has one.
    Foreign,
    /// Nested deeper than any message of ours.
    Deep,
    /// Another type stands where a field was expected.
    Type,
    /// An array has more or fewer elements than the message has fields.
    Count,
    /// A field is longer, shorter, smaller or larger than its bounds.
    Bounds,
    /// A text is not UTF-8.
    Text,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the message ends too early",
            Self::Trailing => "bytes follow the message",
            Self::NotShortest => "a length or number is not in its shortest form",
            Self::Foreign => "a tag, float, map or simple value",
            Self::Deep => "nested too deep",
            Self::Type => "a field has the wrong type",
            Self::Count => "too many or too few fields",
            Self::Bounds => "a field is out of bounds",
            Self::Text => "a text is not UTF-8",
        })
    }
}

impl core::error::Error for Malformed {}

/// Whether `bytes` are exactly one canonical item. Linear, without recursion or allocation.
///
/// # Errors
/// What is wrong first.
// ID-9.
pub fn check(bytes: &[u8]) -> Result<(), Malformed> {
    let end = skip(bytes)?;
    if end == bytes.len() || planted!(TrailingAccepted) { Ok(()) } else { Err(Malformed::Trailing) }
}

/// The length of the canonical item that `bytes` begin with.
///
/// # Errors
/// What is wrong first; [`Malformed::Truncated`] where more bytes could make it right.
// ID-10.
pub fn skip(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut open = [0_u64; DEPTH];
    let mut depth = 0;
    let mut at = 0;
    loop {
        let (major, value, head) = head(bytes.get(at..).unwrap_or_default())?;
        at += head;
        match major {
            0 | 1 => {}
            2 | 3 => {
                let len = usize::try_from(value).map_err(|_| Malformed::Truncated)?;
                let end = at.checked_add(len).filter(|&end| end <= bytes.len()).ok_or(Malformed::Truncated)?;
                if major == 3 && core::str::from_utf8(&bytes[at..end]).is_err() {
                    return Err(Malformed::Text);
                }
                at = end;
            }
            4 if value > 0 => {
                if depth == DEPTH {
                    return Err(Malformed::Deep);
                }
                open[depth] = value;
                depth += 1;
                continue;
            }
            // An empty array; major type 7, of which `head` let only false, true and null pass.
            _ => {}
        }
        while depth > 0 {
            open[depth - 1] -= 1;
            if open[depth - 1] > 0 {
                break;
            }
            depth -= 1;
        }
        if depth == 0 {
            return Ok(at);
        }
    }
}

/// Major type, value and length of a canonical head.
fn head(bytes: &[u8]) -> Result<(u8, u64, usize), Malformed> {
    let &first = bytes.first().ok_or(Malformed::Truncated)?;
    let (major, info) = (first >> 5, first & 31);
    match major {
        5 | 6 => return Err(Malformed::Foreign),
        7 => return if matches!(info, 20..=22) { Ok((7, u64::from(info), 1)) } else { Err(Malformed::Foreign) },
        _ => {}
    }
    let (len, least) = match info {
        0..24 => return Ok((major, u64::from(info), 1)),
        24 => (1, 24),
        25 => (2, 1 << 8),
        26 => (4, 1 << 16),
        27 => (8, 1 << 32),
        _ => return Err(Malformed::NotShortest),
    };
    let raw = bytes.get(1..=len).ok_or(Malformed::Truncated)?;
    let value = raw.iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
    if value < least { Err(Malformed::NotShortest) } else { Ok((major, value, 1 + len)) }
}

/// Reads fields out of bytes that [`check`] has passed.
#[derive(Debug)]
pub struct Reader<'b>(Decoder<'b>);

impl<'b> Reader<'b> {
    /// Checks that `bytes` are one canonical item, and stands before it.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn new(bytes: &'b [u8]) -> Result<Self, Malformed> {
        check(bytes)?;
        Ok(Self(Decoder::new(bytes)))
    }

    /// The head of an array; its number of elements.
    ///
    /// # Errors
    /// [`Malformed::Type`].
    pub fn array(&mut self) -> Result<u64, Malformed> {
        self.0.array().ok().flatten().ok_or(Malformed::Type)
    }

    /// The head of an array of exactly `fields` elements.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Count`].
    pub fn fields(&mut self, fields: u64) -> Result<(), Malformed> {
        if self.array()? == fields { Ok(()) } else { Err(Malformed::Count) }
    }

    /// The head of an array of at most `most` elements; their number.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Bounds`].
    pub fn array_up_to(&mut self, most: usize) -> Result<usize, Malformed> {
        usize::try_from(self.array()?).ok().filter(|&len| len <= most).ok_or(Malformed::Bounds)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// [`Malformed::Type`].
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.u64().map_err(|_| Malformed::Type)
    }

    /// An unsigned integer below 2^32.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Bounds`].
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| Malformed::Bounds)
    }

    /// An unsigned integer below 2^16.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Bounds`].
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        u16::try_from(self.u64()?).map_err(|_| Malformed::Bounds)
    }

    /// An unsigned integer below 2^8.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Bounds`].
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        u8::try_from(self.u64()?).map_err(|_| Malformed::Bounds)
    }

    /// A signed integer of 64 bits.
    ///
    /// # Errors
    /// [`Malformed::Type`] (also for a number outside the type).
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.0.i64().map_err(|_| Malformed::Type)
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`Malformed::Type`].
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        self.0.bool().map_err(|_| Malformed::Type)
    }

    /// A byte string of at most `most` bytes.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Bounds`].
    pub fn bytes(&mut self, most: usize) -> Result<&'b [u8], Malformed> {
        let bytes = self.0.bytes().map_err(|_| Malformed::Type)?;
        if bytes.len() <= most { Ok(bytes) } else { Err(Malformed::Bounds) }
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Bounds`].
    pub fn exactly<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed::Bounds)
    }

    /// A text of at most `most` bytes.
    ///
    /// # Errors
    /// [`Malformed::Type`], [`Malformed::Bounds`].
    pub fn text(&mut self, most: usize) -> Result<&'b str, Malformed> {
        let text = self.0.str().map_err(|_| Malformed::Type)?;
        if text.len() <= most { Ok(text) } else { Err(Malformed::Bounds) }
    }

    /// `None`, and past it, if null is next; else `Some` of what `read` makes of it.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn or_null<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<Option<T>, Malformed> {
        if matches!(self.0.datatype(), Ok(Type::Null)) {
            self.0.null().map_err(|_| Malformed::Type)?;
            return Ok(None);
        }
        read(self).map(Some)
    }

    /// Passes over one item of any type.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end of the message.
    pub fn skip(&mut self) -> Result<(), Malformed> {
        self.0.skip().map_err(|_| Malformed::Truncated)
    }

    /// How many bytes have been read.
    pub fn position(&self) -> usize {
        self.0.position()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    // ID-9.
    fn only_canonical_items_pass() {
        for good in [&[0x80_u8][..], &[0x00], &[0x18, 24], &[0x82, 0x01, 0x41, 7], &[0xf6], &[0x81, 0x81, 0x80], &[0x61, b'a']] {
            assert_eq!(check(good), Ok(()), "{good:02x?}");
        }
        for (bad, why) in [
            (&[][..], Malformed::Truncated),
            (&[0x80, 0x80][..], Malformed::Trailing),
            (&[0x18, 23], Malformed::NotShortest),
            (&[0x19, 0, 255], Malformed::NotShortest),
            (&[0x9f, 0xff], Malformed::NotShortest),
            (&[0x5f, 0xff], Malformed::NotShortest),
            (&[0xa0], Malformed::Foreign),
            (&[0xc0, 0x00], Malformed::Foreign),
            (&[0xf9, 0x3c, 0x00], Malformed::Foreign),
            (&[0xf7], Malformed::Foreign),
            (&[0xf8, 0x14], Malformed::Foreign),
            (&[0x61, 0xff], Malformed::Text),
            (&[0x42, 0x00], Malformed::Truncated),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Malformed::Truncated),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Malformed::Truncated),
        ] {
            assert_eq!(check(bad), Err(why), "{bad:02x?}");
        }
        assert_eq!(check(&vec![0x81; 100_000]), Err(Malformed::Deep));
    }
}
