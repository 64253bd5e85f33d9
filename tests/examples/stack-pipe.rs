//! The reference pipe (adapter-tokio/examples/reference-pipe.rs) over a stream of Iroh or libp2p, to measure `kin` against; and the stream
//! alone, without disk, hash and encryption of our own.
//!
//! ```text
//! stack-pipe iroh|libp2p receive FILE             prints its address, takes one file, fsyncs it, acknowledges
//! stack-pipe iroh|libp2p send FILE ADDRESS
//! stack-pipe iroh|libp2p sink                     prints its address, takes bytes, acknowledges
//! stack-pipe iroh|libp2p pour MIB ADDRESS
//! ```
//!
//! Each side has one thread that computes and one that reads ahead by one buffer, and the stack's own tasks.

use std::error::Error;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::spawn;

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::cipher::has_aes_instructions;
use adapter_tokio::transport::{Connection, Rx, Stop, Stopper, Transport, Tx};
use protocol_core::info::Address;
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::error::Unspecified;
use tokio::runtime::Runtime;

const CHUNK: usize = 256 << 10;
const HEAD: usize = 12;
const TAG: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let here = ["127.0.0.1:0".parse()?];
    let (stack, rest) = args.split_first().ok_or("which stack?")?;
    // A key of its own for each process: the two are different endpoints.
    let seed = [if rest.first().is_some_and(|verb| verb == "send" || verb == "pour") { 1 } else { 2 }; 32];
    match stack.as_str() {
        "iroh" => run(&runtime, Iroh::bind(&seed, &here, IrohConfig::default()), rest),
        "libp2p" => run(&runtime, async { Ok(Libp2p::bind(seed, &here).await?.0) }, rest),
        _ => Err("there are iroh and libp2p".into()),
    }
}

fn run<T: Transport>(runtime: &Runtime, transport: impl Future<Output = io::Result<T>>, args: &[String]) -> Result<(), Box<dyn Error>> {
    let transport = runtime.block_on(transport)?;
    let line = Line { runtime, stop: Stopper::new().1 };
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["receive", file] => {
            let (conn, tx, rx) = line.accept(&transport)?;
            line.receive(file, tx, rx)?;
            line.closed(&conn);
        }
        ["sink"] => {
            let (conn, tx, rx) = line.accept(&transport)?;
            line.sink(tx, rx)?;
            line.closed(&conn);
        }
        ["send", file, to] => {
            let (conn, tx, rx) = line.dial(&transport, &to.parse()?)?;
            line.send(file, tx, rx)?;
            conn.close(0);
        }
        ["pour", mib, to] => {
            let (conn, tx, rx) = line.dial(&transport, &to.parse()?)?;
            line.pour(mib.parse()?, tx, rx)?;
            conn.close(0);
        }
        _ => return Err("receive FILE | send FILE ADDRESS | sink | pour MIB ADDRESS".into()),
    }
    runtime.block_on(transport.shutdown());
    Ok(())
}

fn cipher() -> LessSafeKey {
    let algorithm = if has_aes_instructions() { &AES_256_GCM } else { &CHACHA20_POLY1305 };
    LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32]).expect("invariant: both algorithms take keys of 32 bytes"))
}

fn nonce(index: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn forged(_: Unspecified) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Two buffers that go round: one is filled while the other is used.
struct Ahead {
    full: Receiver<io::Result<(Vec<u8>, usize)>>,
    empty: SyncSender<Vec<u8>>,
}

impl Ahead {
    /// `fill` returns how much of the buffer it filled; 0 is the end.
    fn new(size: usize, mut fill: impl FnMut(&mut [u8]) -> io::Result<usize> + Send + 'static) -> Self {
        let (give_full, full) = sync_channel(2);
        let (empty, take_empty) = sync_channel(2);
        for _ in 0..2 {
            empty.send(vec![0; size]).expect("invariant: the channel has room for two");
        }
        spawn(move || {
            while let Ok(mut buffer) = take_empty.recv() {
                let filled = fill(&mut buffer);
                let last = !filled.as_ref().is_ok_and(|filled| *filled > 0);
                if give_full.send(filled.map(|filled| (buffer, filled))).is_err() || last {
                    return;
                }
            }
        });
        Self { full, empty }
    }

    fn next(&self) -> io::Result<Option<(Vec<u8>, usize)>> {
        match self.full.recv() {
            Ok(Ok((_, 0))) | Err(_) => Ok(None),
            Ok(filled) => filled.map(Some),
        }
    }

    fn back(&self, buffer: Vec<u8>) {
        // The reader is gone once it has seen the end.
        self.empty.send(buffer).ok();
    }
}

/// Fills as much as there is.
fn fill(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

/// Streams as a thread uses them.
struct Line<'r> {
    runtime: &'r Runtime,
    stop: Stop,
}

type Dialled<C> = (C, <C as Connection>::Tx, <C as Connection>::Rx);

impl Line<'_> {
    fn accept<T: Transport>(&self, transport: &T) -> io::Result<Dialled<T::Conn>> {
        println!("{}", transport.local().dialable().next().ok_or(io::ErrorKind::AddrNotAvailable)?);
        self.runtime.block_on(async {
            let conn = transport.accept().await?;
            let (tx, rx) = conn.accept().await?;
            Ok((conn, tx, rx))
        })
    }

    fn dial<T: Transport>(&self, transport: &T, to: &Address) -> io::Result<Dialled<T::Conn>> {
        self.runtime.block_on(async {
            let conn = transport.dial(to).await?;
            let (tx, rx) = conn.open().await?;
            Ok((conn, tx, rx))
        })
    }

    /// Whoever read the last word closes.
    fn closed(&self, conn: &impl Connection) {
        self.runtime.block_on(async { while conn.accept().await.is_ok() {} });
    }

    fn write(&self, tx: &mut impl Tx, bytes: &[u8]) -> io::Result<()> {
        tx.write_all_blocking(bytes, self.runtime.handle(), &self.stop)
    }

    fn reader<R: Rx>(&self, mut rx: R) -> impl FnMut(&mut [u8]) -> io::Result<usize> + Send + use<R> {
        let (runtime, stop) = (self.runtime.handle().clone(), self.stop.clone());
        move |into| rx.read_blocking(into, &runtime, &stop)
    }

    fn send(&self, file: &str, mut tx: impl Tx, rx: impl Rx) -> io::Result<()> {
        let mut file = File::open(file)?;
        let (cipher, mut hasher) = (cipher(), blake3::Hasher::new());
        let ahead = Ahead::new(HEAD + CHUNK + TAG, move |buffer| fill(|into| file.read(into), &mut buffer[HEAD..HEAD + CHUNK]));
        for index in 0.. {
            let Some((mut frame, len)) = ahead.next()? else { break };
            let text = &mut frame[HEAD..HEAD + len];
            hasher.update(text);
            let tag = cipher.seal_in_place_separate_tag(nonce(index), Aad::empty(), text).map_err(forged)?;
            frame[HEAD + len..HEAD + len + TAG].copy_from_slice(tag.as_ref());
            frame[..4].copy_from_slice(&u32::try_from(len + TAG).map_err(io::Error::other)?.to_be_bytes());
            frame[4..HEAD].copy_from_slice(&index.to_be_bytes());
            self.write(&mut tx, &frame[..HEAD + len + TAG])?;
            ahead.back(frame);
        }
        self.runtime.block_on(tx.finish())?;
        let mut acknowledged = [0; 32];
        fill(self.reader(rx), &mut acknowledged)?;
        if acknowledged == *hasher.finalize().as_bytes() { Ok(()) } else { Err(io::Error::other("another digest")) }
    }

    fn receive(&self, file: &str, mut tx: impl Tx, rx: impl Rx) -> io::Result<()> {
        let mut file = File::create(file)?;
        let (cipher, mut hasher, mut read) = (cipher(), blake3::Hasher::new(), self.reader(rx));
        // A frame without its length; its number stands first.
        let ahead = Ahead::new(HEAD + CHUNK + TAG, move |buffer| {
            let Some((head, body)) = buffer.split_at_mut_checked(HEAD) else { return Ok(0) };
            if fill(&mut read, head)? < HEAD {
                return Ok(0);
            }
            let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let body = body.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
            fill(&mut read, body)?;
            Ok(HEAD + len)
        });
        for index in 0.. {
            let Some((mut frame, len)) = ahead.next()? else { break };
            let (body, tag) = frame[HEAD..len].split_last_chunk_mut::<TAG>().ok_or(io::ErrorKind::InvalidData)?;
            let tag = Tag::from(*tag);
            let text = cipher.open_in_place_separate_tag(nonce(index), Aad::empty(), tag, body, 0..).map_err(forged)?;
            hasher.update(text);
            file.write_all(text)?;
            ahead.back(frame);
        }
        file.sync_all()?;
        self.write(&mut tx, hasher.finalize().as_bytes())?;
        self.runtime.block_on(tx.finish())
    }

    fn pour(&self, mib: u64, mut tx: impl Tx, rx: impl Rx) -> io::Result<()> {
        let buffer = vec![7; CHUNK];
        for _ in 0..mib * 4 {
            self.write(&mut tx, &buffer)?;
        }
        self.runtime.block_on(tx.finish())?;
        if fill(self.reader(rx), &mut [0; 32])? == 32 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn sink(&self, mut tx: impl Tx, rx: impl Rx) -> io::Result<()> {
        let (mut buffer, mut read) = (vec![0; CHUNK], self.reader(rx));
        while read(&mut buffer)? > 0 {}
        self.write(&mut tx, &[7; 32])?;
        self.runtime.block_on(tx.finish())
    }
}
