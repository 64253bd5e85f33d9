//! The lines of a journal: length, checksum, CBOR.
//!
//! The checksum is no protection against whoever may write to the home; it tells a line that was written from one that a crash cut.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Read as _;
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use minicbor::Encoder;
use minicbor::encode::Error;
use protocol_core::ids::{DeviceId, TransferId};
use protocol_core::transfer::ranges::Ranges;
use protocol_core::wire::cbor::{Malformed, Reader};

use super::{Head, Inode, Outgoing};
use crate::files::{ConflictPolicy, Selection, SymlinkPolicy};
use crate::private::{self, Private};
use crate::request::SendRequest;

/// The form of the encoding.
const VERSION: u64 = 1;
/// Bytes of length and checksum.
const FRAME: usize = 12;
/// The longest first line: paths on a command line.
const LONGEST_HEAD: usize = 1 << 20;
/// Bounds of what is read back: generous, for our own file.
const PATH: usize = 1 << 16;
const COUNT: usize = 1_000_000;

const POLICIES: [ConflictPolicy; 5] =
    [ConflictPolicy::Skip, ConflictPolicy::Rename, ConflictPolicy::Overwrite, ConflictPolicy::Update, ConflictPolicy::Fail];
const LINKS: [SymlinkPolicy; 3] = [SymlinkPolicy::Keep, SymlinkPolicy::Skip, SymlinkPolicy::Follow];

/// What is written.
pub(super) enum Line<'a> {
    Head(&'a Head),
    Page(&'a [u8]),
    Prepared(&'a BTreeMap<u32, Vec<u8>>, &'a BTreeSet<u32>),
    Durable(&'a BTreeMap<u32, (Inode, Ranges)>),
    Named(&'a BTreeMap<u32, Inode>),
    Outgoing(&'a Outgoing),
}

/// What is read behind head and pages.
pub(super) enum Rest {
    Prepared(Vec<(u32, Vec<u8>)>, Vec<u32>),
    Durable(Vec<(u32, (Inode, Ranges))>),
    Named(Vec<(u32, Inode)>),
}

impl Line<'_> {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut to = Encoder::new(vec![0; FRAME]);
        self.write(&mut to).expect("invariant: a vector takes every byte");
        let mut bytes = to.into_writer();
        let checksum = checksum(&bytes[FRAME..]);
        let len = u32::try_from(bytes.len() - FRAME).expect("invariant: no line of a million entries has four gigabytes");
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..FRAME].copy_from_slice(&checksum);
        bytes
    }

    fn write(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), Error<Infallible>> {
        match self {
            Self::Head(head) => {
                to.array(11)?.u8(1)?.u64(VERSION)?.bytes(&head.device.0)?.bytes(&head.transfer.0)?.bytes(&head.digest)?;
                to.u32(head.chunk_size)?.u32(head.entries)?.u64(head.bytes)?.u64(head.unix_s)?;
                to.u64(place(&POLICIES, head.policy))?.bytes(head.directory.as_os_str().as_bytes())?;
            }
            Self::Page(page) => drop(to.array(2)?.u8(2)?.bytes(page)?),
            Self::Prepared(renamed, made) => {
                to.array(3)?.u8(3)?.array(renamed.len() as u64)?;
                for (entry, name) in *renamed {
                    to.array(2)?.u32(*entry)?.bytes(name)?;
                }
                to.array(made.len() as u64)?;
                for entry in *made {
                    to.u32(*entry)?;
                }
            }
            Self::Durable(files) => {
                to.array(2)?.u8(4)?.array(files.len() as u64)?;
                for (entry, (inode, bytes)) in *files {
                    to.array(4)?.u32(*entry)?.u64(inode.device)?.u64(inode.inode)?.array(bytes.pairs() as u64)?;
                    for range in bytes.iter() {
                        to.array(2)?.u64(range.start)?.u64(range.end)?;
                    }
                }
            }
            Self::Named(files) => {
                to.array(2)?.u8(5)?.array(files.len() as u64)?;
                for (entry, inode) in *files {
                    to.array(3)?.u32(*entry)?.u64(inode.device)?.u64(inode.inode)?;
                }
            }
            Self::Outgoing(outgoing) => {
                to.array(15)?.u8(7)?.u64(VERSION)?.bytes(&outgoing.device.0)?.bytes(&outgoing.transfer.0)?.u64(outgoing.unix_s)?;
                to.u32(outgoing.entries)?.u64(outgoing.bytes)?.bytes(&outgoing.digest)?;
                let SendRequest { paths, selection: Selection { symlinks, exclude, ignore_files }, label, rate } = &outgoing.request;
                to.u64(place(&LINKS, *symlinks))?.u64(rate.map_or(0, NonZeroU64::get))?;
                match label {
                    Some(label) => to.str(label)?,
                    None => to.null()?,
                };
                let names = ignore_files.iter().map(|name| name.as_bytes());
                let paths = paths.iter().map(|path| path.as_os_str().as_bytes());
                list(to, exclude.iter().map(|pattern| pattern.as_bytes()))?;
                list(to, names)?;
                list(to, paths)?;
                match outgoing.expires_unix {
                    Some(expires) => to.u64(expires)?,
                    None => to.null()?,
                };
            }
        }
        Ok(())
    }
}

fn list<'a>(to: &mut Encoder<Vec<u8>>, items: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<(), Error<Infallible>> {
    to.array(items.len() as u64)?;
    for item in items {
        to.bytes(item)?;
    }
    Ok(())
}

fn place<T: PartialEq>(all: &[T], one: T) -> u64 {
    all.iter().position(|other| *other == one).unwrap_or(0) as u64
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    checksum
}

/// The whole lines of a journal, without their frames.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (frame, rest) = self.rest.split_at_checked(FRAME)?;
        let (len, sum) = frame.split_at(4);
        let len = usize::try_from(u32::from_be_bytes(len.try_into().ok()?)).ok()?;
        let (line, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        (checksum(line) == *sum).then_some(line)
    }
}

/// The head of the journal at `path`.
pub(super) fn head(path: &Path) -> Option<Head> {
    read_head(first(path)?.as_slice())
}

/// The outgoing transfer of the journal at `path`.
pub(super) fn outgoing(path: &Path) -> Option<Outgoing> {
    read_outgoing(first(path)?.as_slice()).ok()
}

/// The first line of a file, which is not read any further.
fn first(path: &Path) -> Option<Vec<u8>> {
    let Private::File(mut file) = private::open(path).ok()? else { return None };
    let mut bytes = vec![0; FRAME];
    file.read_exact(&mut bytes).ok()?;
    let len = usize::try_from(u32::from_be_bytes(bytes[..4].try_into().ok()?)).ok().filter(|len| *len <= LONGEST_HEAD)?;
    bytes.resize(FRAME + len, 0);
    file.read_exact(bytes.get_mut(FRAME..)?).ok()?;
    Lines::new(&bytes).next().map(<[u8]>::to_vec)
}

pub(super) fn read_head(line: &[u8]) -> Option<Head> {
    let read = || -> Result<Head, Malformed> {
        let mut from = Reader::new(line)?;
        from.fields(11)?;
        if (from.u8()?, from.u64()?) != (1, VERSION) {
            return Err(Malformed::Bounds);
        }
        Ok(Head {
            device: DeviceId(from.exactly()?),
            transfer: TransferId(from.exactly()?),
            digest: from.exactly()?,
            chunk_size: from.u32()?,
            entries: from.u32()?,
            bytes: from.u64()?,
            unix_s: from.u64()?,
            policy: one_of(&mut from, &POLICIES)?,
            directory: path(from.bytes(PATH)?),
        })
    };
    read().ok()
}

pub(super) fn read_page(line: &[u8]) -> Option<&[u8]> {
    let mut from = Reader::new(line).ok()?;
    from.fields(2).ok()?;
    if from.u8() == Ok(2) { from.bytes(line.len()).ok() } else { None }
}

pub(super) fn read_rest(line: &[u8]) -> Option<Rest> {
    let read = || -> Result<Rest, Malformed> {
        let mut from = Reader::new(line)?;
        from.array()?;
        match from.u8()? {
            3 => {
                let renamed = many(&mut from, |from| {
                    from.fields(2)?;
                    Ok((from.u32()?, from.bytes(PATH)?.to_vec()))
                })?;
                Ok(Rest::Prepared(renamed, many(&mut from, Reader::u32)?))
            }
            4 => Ok(Rest::Durable(many(&mut from, |from| {
                from.fields(4)?;
                let (entry, inode) = (from.u32()?, inode(from)?);
                let ranges = many(from, |from| {
                    from.fields(2)?;
                    let (start, end) = (from.u64()?, from.u64()?);
                    if start < end { Ok(start..end) } else { Err(Malformed::Bounds) }
                })?;
                Ok((entry, (inode, ranges.into_iter().collect())))
            })?)),
            5 => Ok(Rest::Named(many(&mut from, |from| {
                from.fields(3)?;
                Ok((from.u32()?, inode(from)?))
            })?)),
            _ => Err(Malformed::Bounds),
        }
    };
    read().ok()
}

fn read_outgoing(line: &[u8]) -> Result<Outgoing, Malformed> {
    let mut from = Reader::new(line)?;
    from.fields(15)?;
    if (from.u8()?, from.u64()?) != (7, VERSION) {
        return Err(Malformed::Bounds);
    }
    let (device, transfer, unix_s) = (DeviceId(from.exactly()?), TransferId(from.exactly()?), from.u64()?);
    let (entries, bytes, digest) = (from.u32()?, from.u64()?, from.exactly()?);
    let symlinks = one_of(&mut from, &LINKS)?;
    let rate = NonZeroU64::new(from.u64()?);
    let label = from.or_null(|from| from.text(PATH).map(str::to_owned))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Bounds);
    let exclude = many(&mut from, |from| text(from.bytes(PATH)?))?;
    let ignore_files = many(&mut from, |from| Ok(path(from.bytes(PATH)?).into_os_string()))?;
    let paths = many(&mut from, |from| Ok(path(from.bytes(PATH)?)))?;
    let request = SendRequest { paths, selection: Selection { symlinks, exclude, ignore_files }, label, rate };
    let expires_unix = from.or_null(Reader::u64)?;
    Ok(Outgoing { device, transfer, unix_s, request, entries, bytes, digest, expires_unix })
}

fn many<'b, T>(from: &mut Reader<'b>, mut one: impl FnMut(&mut Reader<'b>) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
    let count = from.array_up_to(COUNT)?;
    (0..count).map(|_| one(from)).collect()
}

fn one_of<T: Copy>(from: &mut Reader<'_>, all: &[T]) -> Result<T, Malformed> {
    usize::try_from(from.u64()?).ok().and_then(|at| all.get(at)).copied().ok_or(Malformed::Bounds)
}

fn inode(from: &mut Reader<'_>) -> Result<Inode, Malformed> {
    Ok(Inode { device: from.u64()?, inode: from.u64()? })
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}
