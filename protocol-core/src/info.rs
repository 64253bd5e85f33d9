//! What a device tells about itself: its DeviceInfo, its transports, its addresses, and how a live connection is bound to a
//! handshake (PROTOCOL.md, sections 4.2 and 6.2).

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt;
use core::str::FromStr;

use minicbor::Encoder;
use minicbor::encode::Error;

use crate::limits;
use crate::wire::cbor::{Malformed, Reader};
use crate::wire::encode::encode;

pub mod advert;

/// Bit of [`DeviceInfo::caps`]: chunks under ChaCha20-Poly1305. Always set.
pub const CAP_CHACHA20_POLY1305: u64 = 1;
/// Bit of [`DeviceInfo::caps`]: chunks under AES-256-GCM, because the processor has the instructions.
pub const CAP_AES_256_GCM: u64 = 2;

/// Version of the encoding.
const VERSION: u64 = 1;

/// A kind of transport.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportKind {
    /// Bare TCP; no transport id.
    Tcp,
    /// Iroh; the id is the EndpointId (32 bytes).
    Iroh,
    /// libp2p; the id is the PeerId (38 bytes).
    Libp2p,
    /// The simulator's.
    Sim,
    /// One that this program does not know: kept, and ignored.
    Other(String),
}

impl TransportKind {
    /// The kind of this name; [`TransportKind::Other`] for an unknown one.
    // ID-15.
    pub fn named(name: &str) -> Self {
        match name {
            "tcp" => Self::Tcp,
            "iroh" => Self::Iroh,
            "libp2p" => Self::Libp2p,
            "sim" => Self::Sim,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Tcp => "tcp",
            Self::Iroh => "iroh",
            Self::Libp2p => "libp2p",
            Self::Sim => "sim",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One transport of a device: who it is there, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportInfo {
    /// The kind of transport.
    pub kind: TransportKind,
    /// The device's id on it; empty for tcp.
    pub id: Vec<u8>,
    /// Addresses as the transport writes them, at most 16 of at most 128 bytes. Without kind, and without id but for libp2p, whose
    /// multiaddrs end with it.
    pub addresses: Vec<String>,
    /// The relay through which the device can be reached, at most 256 bytes.
    pub relay: Option<String>,
}

impl TransportInfo {
    /// The addresses in the form that people and dialers use; of Iroh the relay too, last.
    pub fn dialable(&self) -> impl Iterator<Item = Address> + '_ {
        let relay = self.relay.as_ref().filter(|_| self.kind == TransportKind::Iroh);
        self.addresses.iter().chain(relay).map(|address| Address {
            kind: self.kind.clone(),
            text: if self.kind == TransportKind::Iroh { format!("{}@{address}", Hex(&self.id)) } else { address.clone() },
        })
    }
}

/// What a device tells a paired device about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name its owner gave it, at most 64 bytes. Never shown as it is: see [`DeviceInfo::shown_name`].
    pub name: String,
    /// The operating system, at most 32 bytes.
    pub os: String,
    /// Program and version, at most 32 bytes.
    pub app: String,
    /// Capabilities: `CAP_…`. Unknown bits are ignored.
    pub caps: u64,
    /// Its transports, at most 4.
    pub transports: Vec<TransportInfo>,
}

impl DeviceInfo {
    /// The canonical bytes. Only what is within the bounds is accepted by peers: see [`DeviceInfo::bounded`].
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(6)?.u64(VERSION)?.str(&self.name)?.str(&self.os)?.str(&self.app)?.u64(self.caps)?;
            put_transports(to, &self.transports)
        })
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`Malformed`]: not canonical, another version, or anything beyond its bounds.
    // ID-14.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > limits::INFO {
            return Err(Malformed::Bounds);
        }
        let mut from = Reader::new(bytes)?;
        from.fields(6)?;
        if from.u64()? != VERSION {
            return Err(Malformed::Bounds);
        }
        Ok(Self {
            name: from.text(limits::INFO_NAME)?.to_owned(),
            os: from.text(limits::INFO_WORD)?.to_owned(),
            app: from.text(limits::INFO_WORD)?.to_owned(),
            caps: from.u64()?,
            transports: read_transports(&mut from)?,
        })
    }

    /// The same within all bounds: texts are cut, and transports, addresses and relays that are too many or too long are left
    /// out, the last first.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        cut(&mut self.name, limits::INFO_NAME);
        cut(&mut self.os, limits::INFO_WORD);
        cut(&mut self.app, limits::INFO_WORD);
        bound_transports(&mut self.transports);
        while self.encode().len() > limits::INFO && drop_last_address(&mut self.transports) {}
        self
    }

    /// Whether the device says that it is `id` on transports of `kind`.
    pub fn lists(&self, kind: &TransportKind, id: &[u8]) -> bool {
        self.transports.iter().any(|transport| transport.kind == *kind && transport.id == id)
    }

    /// The name for a screen: without control and bidirectional characters, whitespace collapsed. May be empty.
    // ID-16.
    pub fn shown_name(&self) -> String {
        let mut shown = String::with_capacity(self.name.len());
        for word in self.name.split_whitespace() {
            let before = shown.len();
            if before > 0 {
                shown.push(' ');
            }
            let space = shown.len();
            shown.extend(word.chars().filter(|&c| !c.is_control() && !is_bidirectional(c)));
            if shown.len() == space {
                shown.truncate(before);
            }
        }
        shown
    }
}

/// The characters that change the direction of what follows them (Unicode's property `Bidi_Control`).
const fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}

fn bound_transports(transports: &mut Vec<TransportInfo>) {
    transports.truncate(limits::INFO_TRANSPORTS);
    for transport in transports {
        transport.addresses.retain(|address| address.len() <= limits::INFO_ADDRESS);
        transport.addresses.truncate(limits::INFO_ADDRESSES);
        transport.relay.take_if(|relay| relay.len() > limits::INFO_RELAY);
    }
}

/// Drops the last address of the transport that has the most; whether there was any.
fn drop_last_address(transports: &mut [TransportInfo]) -> bool {
    transports.iter_mut().max_by_key(|transport| transport.addresses.len()).is_some_and(|most| most.addresses.pop().is_some())
}

fn put_transports(to: &mut Encoder<Vec<u8>>, transports: &[TransportInfo]) -> Result<(), Error<Infallible>> {
    to.array(count(transports.len()))?;
    for transport in transports {
        to.array(4)?.str(transport.kind.name())?.bytes(&transport.id)?.array(count(transport.addresses.len()))?;
        for address in &transport.addresses {
            to.str(address)?;
        }
        match &transport.relay {
            Some(relay) => to.str(relay)?,
            None => to.null()?,
        };
    }
    Ok(())
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("invariant: a length fits 64 bits")
}

fn read_transports(from: &mut Reader<'_>) -> Result<Vec<TransportInfo>, Malformed> {
    let transports = from.array_up_to(limits::INFO_TRANSPORTS)?;
    (0..transports)
        .map(|_| {
            from.fields(4)?;
            // The text sets no bound for these two but that of the whole.
            let kind = TransportKind::named(from.text(limits::INFO)?);
            let id = from.bytes(limits::INFO)?.to_owned();
            let addresses = from.array_up_to(limits::INFO_ADDRESSES)?;
            let addresses =
                (0..addresses).map(|_| from.text(limits::INFO_ADDRESS).map(str::to_owned)).collect::<Result<Vec<_>, Malformed>>()?;
            let relay = from.or_null(|from| from.text(limits::INFO_RELAY).map(str::to_owned))?;
            Ok(TransportInfo { kind, id, addresses, relay })
        })
        .collect()
}

struct Hex<'b>(&'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a device can be dialled, as people write it: `tcp:IP:PORT`, `iroh:HEXID@IP:PORT`, `libp2p:` and a multiaddr.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The transport.
    pub kind: TransportKind,
    /// What follows the colon; the transport reads it.
    pub text: String,
}

impl Address {
    /// Whether it leads through a relay.
    pub fn is_relayed(&self) -> bool {
        self.kind == TransportKind::Iroh && self.text.contains("://")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.text)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let (kind, rest) = text.split_once(':').ok_or(BadAddress::NoTransport)?;
        let kind = match TransportKind::named(kind) {
            TransportKind::Other(_) => return Err(BadAddress::NoTransport),
            known => known,
        };
        if rest.is_empty() || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(BadAddress::Text);
        }
        Ok(Self { kind, text: rest.to_owned() })
    }
}

/// The text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAddress {
    /// It does not begin with the name of a transport and a colon.
    NoTransport,
    /// Nothing follows the colon, or something with whitespace or control characters in it.
    Text,
}

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTransport => "an address begins with tcp:, iroh: or libp2p:",
            Self::Text => "no address follows the colon",
        })
    }
}

impl core::error::Error for BadAddress {}

/// How a handshake names the transport that it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingKind {
    /// Iroh, with exported keying material.
    IrohX,
    /// libp2p, which exports nothing.
    Libp2p,
    /// Bare TCP: no ids, and the accepting side's random bytes for an exporter.
    Tcp,
    /// The simulator.
    Sim,
}

/// A live connection as one side sees it. Both sides put their view into the transcript, so a difference ends the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// What kind of connection it is.
    pub kind: BindingKind,
    /// Our id on the transport; empty on tcp.
    pub own: Vec<u8>,
    /// The remote's id, as the transport reports it; empty on tcp.
    pub remote: Vec<u8>,
    /// Bytes that only this connection has: 32 on Iroh and tcp, else none.
    pub exporter: Vec<u8>,
}

impl Binding {
    /// The name that stands in transcripts.
    pub const fn name(&self) -> &'static str {
        match self.kind {
            BindingKind::IrohX => "iroh-x",
            BindingKind::Libp2p => "libp2p",
            BindingKind::Tcp => "tcp",
            BindingKind::Sim => "sim",
        }
    }

    /// The transport, as a [`DeviceInfo`] lists it.
    pub const fn transport(&self) -> TransportKind {
        match self.kind {
            BindingKind::IrohX => TransportKind::Iroh,
            BindingKind::Libp2p => TransportKind::Libp2p,
            BindingKind::Tcp => TransportKind::Tcp,
            BindingKind::Sim => TransportKind::Sim,
        }
    }

    /// Whether `info` says that its device is at the remote end of this connection. Always so on tcp, which has no ids.
    pub fn is_listed_by(&self, info: &DeviceInfo) -> bool {
        self.kind == BindingKind::Tcp || info.lists(&self.transport(), &self.remote)
    }
}

#[cfg(test)]
mod tests;
