//! A peer of our own making: it pairs and connects over real sockets, has every key, and says what it likes.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use protocol_core::bulk::cipher::{Aead, RustCrypto};
use protocol_core::bulk::sealer::{CHUNK_OVERHEAD, ChunkKey};
use protocol_core::crypto::aead::seal_counted;
use protocol_core::crypto::kdf::put_lp;
use protocol_core::crypto::labels::strings;
use protocol_core::crypto::secret::Secret;
use protocol_core::entropy::{Entropy, NoEntropy};
use protocol_core::handshake::Traffic;
use protocol_core::identity::{DeviceKey, device_id};
use protocol_core::ids::{PeerKey, SessionRef, TransferId};
use protocol_core::info::{Binding, BindingKind, DeviceInfo, TransportInfo, TransportKind};
use protocol_core::pairing::code::{CodeKeys, PairingCode};
use protocol_core::pairing::handshake::{JoinerWaiting, Status};
use protocol_core::session::handshake::DialerWaiting;
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordOpener, RecordSealer, RecordType};
use protocol_core::session::stream::{Opening, REPLY};
use protocol_core::wire::control::{ControlMessage, ControlReader, Item};
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::{Header, StreamKind};

use crate::stage::WATCHDOG;

/// The system's random source.
pub(crate) struct System;

impl Entropy for System {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        getrandom::fill(bytes).map_err(|_| NoEntropy)
    }
}

fn random<const N: usize>() -> [u8; N] {
    protocol_core::entropy::random(&mut System).unwrap()
}

/// A device that is paired with the one that is lied to.
pub(crate) struct Liar {
    key: DeviceKey,
    info: Vec<u8>,
    node: PeerKey,
    root: Secret,
}

/// A connection, its greeting, and the preamble of its stream.
pub(crate) fn dial(address: &str, name: StreamName) -> (TcpStream, [u8; 32]) {
    let mut socket = TcpStream::connect(address.strip_prefix("tcp:").unwrap_or(address)).unwrap();
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    socket.set_nodelay(true).unwrap();
    let mut exporter = [0; 32];
    socket.read_exact(&mut exporter).unwrap();
    socket.write_all(&name.preamble()).unwrap();
    (socket, exporter)
}

/// The keys of a code that was written to a file.
pub(crate) fn code_keys(file: &str) -> CodeKeys {
    CodeKeys::derive(&PairingCode::parse(&fs::read_to_string(file).unwrap()).unwrap())
}

pub(crate) fn binding(exporter: [u8; 32]) -> Binding {
    Binding { kind: BindingKind::Tcp, own: Vec::new(), remote: Vec::new(), exporter: exporter.to_vec() }
}

fn frame(socket: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 4];
    socket.read_exact(&mut len).unwrap();
    let mut body = vec![0; u32::from_be_bytes(len) as usize];
    socket.read_exact(&mut body).unwrap();
    body
}

impl Liar {
    /// Pairs, honestly, with the device that shows this code, and goes when that has all that it needs.
    pub(crate) fn pair(address: &str, code_file: &str) -> Self {
        let (liar, mut session) = Self::meet(address, code_file);
        while session.hear().is_some() {}
        liar
    }

    /// The same with a device that stays: with the session that follows from it.
    pub(crate) fn meet(address: &str, code_file: &str) -> (Self, Session) {
        let transport = TransportInfo { kind: TransportKind::Tcp, id: Vec::new(), addresses: Vec::new(), relay: None };
        let info = DeviceInfo { name: "liar".into(), os: "linux".into(), app: "test".into(), caps: 1, transports: vec![transport] };
        let (key, info, code) = (DeviceKey::from_seed(&Secret::new(random())), info.encode(), code_keys(code_file));
        let (mut socket, exporter) = dial(address, StreamName::Pair);
        let (waiting, request) = JoinerWaiting::start(&code, binding(exporter), &mut System).unwrap();
        socket.write_all(&request).unwrap();
        let verified = waiting.on_challenge(&frame(&mut socket), &code, &key).unwrap();
        let node = verified.peer().key;
        let (done, response) = verified.respond(&key, &info);
        socket.write_all(&response).unwrap();
        assert_eq!(done.complete.on_complete(&frame(&mut socket)).unwrap(), Status::Accepted);
        let session = Session::open(socket, done.keys.traffic, done.keys.session_ref, address, Vec::new());
        (Self { key, info, node, root: done.keys.root }, session)
    }

    /// Its id, as others list it.
    pub(crate) fn id(&self) -> String {
        device_id(&self.key.public()).to_string()
    }

    /// A session, as an honest device begins one.
    pub(crate) fn connect(&self, address: &str) -> Session {
        let (mut socket, exporter) = dial(address, StreamName::Link);
        let (waiting, hello) = DialerWaiting::hello(&self.root, self.key.public(), self.node, binding(exporter), &mut System).unwrap();
        socket.write_all(&hello).unwrap();
        let done = waiting.on_accept(&frame(&mut socket), &self.key, &self.info).unwrap();
        Session::open(socket, done.keys.traffic, done.keys.session_ref, address, done.finish)
    }
}

/// A session that the liar dialled.
pub(crate) struct Session {
    socket: TcpStream,
    traffic: Traffic,
    session_ref: SessionRef,
    address: String,
    streams: u64,
    seals: RecordSealer,
    opens: RecordOpener,
    reader: ControlReader,
    heard: VecDeque<ControlMessage>,
}

impl Session {
    fn open(mut socket: TcpStream, traffic: Traffic, session_ref: SessionRef, address: &str, before: Vec<u8>) -> Self {
        let header = Header::new(StreamKind::Control, session_ref, 0, random()).unwrap();
        let mut seals = RecordSealer::new(&StreamKey::of_opener(&traffic.from_opener, &header));
        let ack = seals.seal(RecordType::Opening, &Opening::Ack.encode()).unwrap();
        socket.write_all(&[&before[..], &header.encode(), &ack].concat()).unwrap();
        let mut reply = [0; REPLY];
        socket.read_exact(&mut reply).unwrap();
        let opens = RecordOpener::new(&StreamKey::of_answerer(&traffic.from_answerer, &header, &reply));
        let (reader, heard) = (ControlReader::new(), VecDeque::new());
        Self { socket, traffic, session_ref, address: address.to_owned(), streams: 0, seals, opens, reader, heard }
    }

    /// A control message, or what passes for one: length and body.
    pub(crate) fn tell(&mut self, message: &[u8]) {
        for part in message.chunks(65_536) {
            let record = self.seals.seal(RecordType::Data, part).unwrap();
            // The other side may have closed already: it then says so when it is heard.
            self.socket.write_all(&record).unwrap_or(());
        }
    }

    /// The next control message that is not about being alive; `None` when the session is closed.
    pub(crate) fn hear(&mut self) -> Option<ControlMessage> {
        loop {
            match self.heard.pop_front() {
                Some(ControlMessage::Ping { nonce }) => self.tell(&ControlMessage::Pong { nonce }.encode()),
                Some(ControlMessage::Pong { .. }) => {}
                Some(message) => return Some(message),
                None => self.read()?,
            }
        }
    }

    fn read(&mut self) -> Option<()> {
        let mut record = vec![0; 5];
        read_or_closed(&mut self.socket, &mut record)?;
        let len = u32::from_be_bytes(*record.first_chunk().unwrap()) as usize;
        record.resize(5 + len, 0);
        read_or_closed(&mut self.socket, &mut record[5..])?;
        let (kind, text) = self.opens.open(&record).unwrap();
        if kind == RecordType::Fin {
            return None;
        }
        self.reader.push(&text);
        for item in &mut self.reader {
            match item.unwrap() {
                Item::Message(message) => self.heard.push_back(message),
                Item::Unknown => panic!("a message of no type"),
            }
        }
        Some(())
    }

    /// Opens a data stream.
    pub(crate) fn data(&mut self, opening: &Opening) -> Data {
        self.streams += 1;
        let (mut socket, _) = dial(&self.address, StreamName::Data(opening.kind()));
        let header = Header::new(opening.kind(), self.session_ref, self.streams, random()).unwrap();
        let key = StreamKey::of_opener(&self.traffic.from_opener, &header);
        let mut seals = RecordSealer::new(&key);
        let record = seals.seal(RecordType::Opening, &opening.encode()).unwrap();
        socket.write_all(&[&header.encode()[..], &record].concat()).unwrap();
        Data { socket, key, seals }
    }

    pub(crate) fn pages(&mut self, transfer: TransferId, manifest_digest: [u8; 32]) -> Data {
        self.data(&Opening::Manifest { transfer, manifest_digest })
    }

    pub(crate) fn bulk(&mut self, transfer: TransferId, manifest_digest: [u8; 32]) -> Bulk {
        let data = self.data(&Opening::Bulk { transfer, manifest_digest });
        let key = ChunkKey::new(&data.key, Aead::ChaCha20Poly1305, transfer, &manifest_digest, Arc::new(RustCrypto));
        Bulk { socket: data.socket, key }
    }
}

fn read_or_closed(socket: &mut TcpStream, into: &mut [u8]) -> Option<()> {
    match socket.read_exact(into) {
        Ok(()) => Some(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => panic!("the receiver says nothing"),
        Err(_) => None,
    }
}

/// Waits until the other side has closed; nothing may come before.
fn await_close(mut socket: TcpStream) {
    let mut byte = [0];
    assert_eq!(read_or_closed(&mut socket, &mut byte), None, "a byte came where none belongs");
}

/// A data stream of records.
pub(crate) struct Data {
    socket: TcpStream,
    key: StreamKey,
    seals: RecordSealer,
}

impl Data {
    pub(crate) fn page(&mut self, page: &[u8]) {
        let record = self.seals.seal(RecordType::Data, page).unwrap();
        self.socket.write_all(&record).unwrap_or(());
    }

    /// A record longer than any: rightly sealed nevertheless.
    pub(crate) fn page_without_limit(&mut self, page: &[u8]) {
        let (number, kind) = (self.seals.counter(), RecordType::Data as u8);
        let len = u32::try_from(page.len() + 16).unwrap().to_be_bytes();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        let mut aad = Vec::new();
        put_lp(&mut aad, strings::RECORD_AAD);
        aad.extend([&self.key.bind()[..], &number.to_be_bytes(), &[kind], &len].concat());
        let sealed = seal_counted(&self.key.records(), nonce, page, &aad);
        self.socket.write_all(&[&len[..], &[kind], &sealed].concat()).unwrap_or(());
    }

    pub(crate) fn fin(&mut self) {
        let record = self.seals.seal(RecordType::Fin, &[]).unwrap();
        self.socket.write_all(&record).unwrap_or(());
        self.socket.shutdown(Shutdown::Write).unwrap_or(());
    }

    pub(crate) fn await_close(self) {
        await_close(self.socket);
    }
}

/// A bulk stream.
pub(crate) struct Bulk {
    socket: TcpStream,
    key: ChunkKey,
}

impl Bulk {
    /// A chunk's frame. An index may come twice here: the key is nobody's secret.
    pub(crate) fn sealed(&self, index: u64, text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; text.len() + CHUNK_OVERHEAD];
        frame[12..12 + text.len()].copy_from_slice(text);
        self.key.seal(index, &mut frame).unwrap();
        frame
    }

    pub(crate) fn write(&mut self, frame: &[u8]) {
        self.socket.write_all(frame).unwrap_or(());
    }

    pub(crate) fn chunk(&mut self, index: u64, text: &[u8]) {
        let frame = self.sealed(index, text);
        self.write(&frame);
    }

    /// All is sent.
    pub(crate) fn finish(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap_or(());
    }

    pub(crate) fn await_close(self) {
        await_close(self.socket);
    }
}
