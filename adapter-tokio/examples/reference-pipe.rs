//! The reference pipe: the plainest program that does the work of a transfer without a protocol, to measure `kin` against.
//!
//! ```text
//! reference-pipe receive FILE             prints its port, takes one file, fsyncs it, acknowledges
//! reference-pipe send FILE 127.0.0.1:PORT
//! ```
//!
//! Two processes, one TCP stream. Each side has one thread that computes and one that reads ahead by one buffer: 256 KiB are
//! read, hashed with BLAKE3, sealed under a counter nonce, and written behind a head of 12 bytes; the other side reads, opens,
//! hashes and writes. One fsync, one acknowledgement. The key is a constant: this protects nothing.

use std::env::args;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::spawn;
use std::time::Instant;

use adapter_tokio::cipher::has_aes_instructions;
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::error::Unspecified;
use rustix::time::{ClockId, clock_gettime};

const CHUNK: usize = 256 << 10;
const HEAD: usize = 12;
const TAG: usize = 16;
const MIB: f64 = 1_048_576.0;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = args().skip(1).collect();
    let started = Instant::now();
    let bytes = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["receive", file] => receive(file)?,
        ["send", file, to] => send(file, to)?,
        _ => return Err("usage: reference-pipe receive FILE | send FILE ADDRESS".into()),
    };
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    let mib = bytes as f64 / MIB;
    eprintln!("{} {mib:.0} MiB, {:.0} MiB/s, {cpu:.3} CPU seconds", args[0], mib / started.elapsed().as_secs_f64());
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
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

fn send(file: &str, to: &str) -> io::Result<u64> {
    let (mut file, mut stream) = (File::open(file)?, TcpStream::connect(to)?);
    stream.set_nodelay(true)?;
    let (cipher, mut hasher) = (cipher(), blake3::Hasher::new());
    let ahead = Ahead::new(HEAD + CHUNK + TAG, move |buffer| fill(&mut file, &mut buffer[HEAD..HEAD + CHUNK]));
    let mut bytes = 0;
    for index in 0.. {
        let Some((mut frame, len)) = ahead.next()? else { break };
        let text = &mut frame[HEAD..HEAD + len];
        hasher.update(text);
        let tag = cipher.seal_in_place_separate_tag(nonce(index), Aad::empty(), text).map_err(forged)?;
        frame[HEAD + len..HEAD + len + TAG].copy_from_slice(tag.as_ref());
        frame[..4].copy_from_slice(&u32::try_from(len + TAG).map_err(io::Error::other)?.to_be_bytes());
        frame[4..HEAD].copy_from_slice(&index.to_be_bytes());
        stream.write_all(&frame[..HEAD + len + TAG])?;
        bytes += len as u64;
        ahead.back(frame);
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut acknowledged = [0; 32];
    stream.read_exact(&mut acknowledged)?;
    if acknowledged == *hasher.finalize().as_bytes() { Ok(bytes) } else { Err(io::Error::other("another digest")) }
}

fn receive(file: &str) -> io::Result<u64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let (stream, _) = listener.accept()?;
    let (mut input, mut file) = (stream.try_clone()?, File::create(file)?);
    let (cipher, mut hasher) = (cipher(), blake3::Hasher::new());
    // A frame without its length; its number stands first.
    let ahead = Ahead::new(HEAD + CHUNK + TAG, move |buffer| {
        let Some((head, body)) = buffer.split_at_mut_checked(HEAD) else { return Ok(0) };
        if fill(&mut input, head)? < HEAD {
            return Ok(0);
        }
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body = body.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
        input.read_exact(body)?;
        Ok(HEAD + len)
    });
    let mut bytes = 0;
    for index in 0.. {
        let Some((mut frame, len)) = ahead.next()? else { break };
        let (body, tag) = frame[HEAD..len].split_last_chunk_mut::<TAG>().ok_or(io::ErrorKind::InvalidData)?;
        let tag = Tag::from(*tag);
        let text = cipher.open_in_place_separate_tag(nonce(index), Aad::empty(), tag, body, 0..).map_err(forged)?;
        hasher.update(text);
        file.write_all(text)?;
        bytes += text.len() as u64;
        ahead.back(frame);
    }
    file.sync_all()?;
    (&stream).write_all(hasher.finalize().as_bytes())?;
    Ok(bytes)
}
