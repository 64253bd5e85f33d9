//! A manifest for another process: its pages as they are, and read back through every check.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use super::{Manifest, ManifestParser};
use crate::ids::TransferId;
use crate::wire::control::Offer;

#[derive(serde::Serialize, serde::Deserialize)]
struct Pages {
    entries: u32,
    bytes: u64,
    chunk_size: u32,
    digest: [u8; 32],
    /// In hex.
    pages: Vec<String>,
}

impl Serialize for Manifest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let hex = |page: &[u8]| {
            let mut text = String::with_capacity(2 * page.len());
            for byte in page {
                write!(text, "{byte:02x}").expect("invariant: a String takes every byte");
            }
            text
        };
        let pages = self.pages().map(hex).collect();
        Pages { entries: self.len(), bytes: self.bytes(), chunk_size: self.chunk_size(), digest: self.digest, pages }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Pages { entries, bytes, chunk_size, digest, pages } = Pages::deserialize(from)?;
        let offer = Offer { transfer: TransferId([0; 16]), entries, bytes, chunk_size, manifest_digest: digest, label: None };
        let mut parser = ManifestParser::new(&offer).map_err(D::Error::custom)?;
        for page in pages {
            let byte = |pair: &[u8]| core::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
            let page: Option<Vec<u8>> = page.as_bytes().chunks(2).map(byte).collect();
            parser.page(page.ok_or_else(|| D::Error::custom("a page that is not hex"))?).map_err(D::Error::custom)?;
        }
        parser.finish().map_err(D::Error::custom)
    }
}
