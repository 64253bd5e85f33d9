//! The reference pipe: the plainest fast program that does the work of one big transfer without a protocol.
//!
//! `reference-pipe [--aead aes|chacha] SOURCE DESTINATION` starts itself once more as the receiver. Two processes, one TCP
//! connection on the loopback, one thread a side plus one buffer of read-ahead: read 256 KiB, BLAKE3, seal under a counter,
//! write a 12-byte head and the ciphertext; the other side reads, opens, BLAKE3, writes; one fsync, one acknowledgement.
//! It prints MiB/s and the CPU seconds of both sides. The key is a constant: this measures, it protects nothing.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;
use std::{env, io, thread};

use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustix::time::{ClockId, clock_gettime};

const CHUNK: usize = 256 << 10;
const TAG: usize = 16;
const HEAD: usize = 12;
const KEY: [u8; 32] = [0x5a; 32];

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let mut args: Vec<String> = env::args().skip(1).collect();
    let mut aead = "aes".to_owned();
    if let Some(at) = args.iter().position(|arg| arg == "--aead") {
        args.remove(at);
        if at >= args.len() {
            return Err("--aead needs aes or chacha".into());
        }
        aead = args.remove(at);
    }
    let algorithm = match aead.as_str() {
        "aes" => &AES_256_GCM,
        "chacha" => &CHACHA20_POLY1305,
        other => return Err(format!("no such AEAD: {other}").into()),
    };
    match args.as_slice() {
        [role, destination] if role == "receive" => receive(algorithm, destination),
        [source, destination] => send(&aead, algorithm, source, destination),
        _ => Err("usage: reference-pipe [--aead aes|chacha] SOURCE DESTINATION".into()),
    }
}

/// The nonce of frame `index`, and a context that lives as long as one call, as in `kin`.
fn context(algorithm: &'static Algorithm, index: u64) -> Outcome<(LessSafeKey, Nonce)> {
    let key = UnboundKey::new(algorithm, &KEY).map_err(|_| "the key is not accepted")?;
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    Ok((LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce)))
}

/// Lets `fill` run one buffer ahead on a thread of its own. It returns the bytes that it filled; 0 ends.
fn ahead(size: usize, mut fill: impl FnMut(&mut [u8]) -> io::Result<usize> + Send + 'static) -> Ahead {
    let (full_tx, full) = sync_channel(1);
    let (empty, empty_rx) = sync_channel::<Vec<u8>>(2);
    for _ in 0..2 {
        drop(empty.send(vec![0; size]));
    }
    thread::spawn(move || {
        while let Ok(mut buffer) = empty_rx.recv() {
            let filled = fill(&mut buffer);
            let last = !matches!(filled, Ok(1..));
            if full_tx.send(filled.map(|len| (buffer, len))).is_err() || last {
                return;
            }
        }
    });
    Ahead { full, empty }
}

struct Ahead {
    full: Receiver<io::Result<(Vec<u8>, usize)>>,
    empty: std::sync::mpsc::SyncSender<Vec<u8>>,
}

fn send(aead: &str, algorithm: &'static Algorithm, source: &str, destination: &str) -> Outcome<()> {
    let mut child = Command::new(env::current_exe()?).args(["receive", destination, "--aead", aead]).stdout(Stdio::piped()).spawn()?;
    let mut words = BufReader::new(child.stdout.take().ok_or("no output of the receiver")?).lines();
    let port: u16 = words.next().ok_or("the receiver did not start")??.parse()?;
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?;

    let mut file = File::open(source)?;
    let size = file.metadata()?.len();
    let start = Instant::now();
    let input = ahead(HEAD + CHUNK + TAG, move |buffer| fill(&mut file, &mut buffer[HEAD..HEAD + CHUNK]));
    let mut digest = blake3::Hasher::new();
    for index in 0.. {
        let (mut buffer, len) = input.full.recv()??;
        if len == 0 {
            break;
        }
        let text = &mut buffer[HEAD..HEAD + len];
        digest.update(text);
        let (key, nonce) = context(algorithm, index)?;
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), text).map_err(|_| "sealing failed")?;
        buffer[HEAD + len..HEAD + len + TAG].copy_from_slice(tag.as_ref());
        buffer[..4].copy_from_slice(&u32::try_from(8 + len + TAG)?.to_be_bytes());
        buffer[4..HEAD].copy_from_slice(&index.to_be_bytes());
        socket.write_all(&buffer[..HEAD + len + TAG])?;
        drop(input.empty.send(buffer));
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut acknowledged = [0; 32];
    socket.read_exact(&mut acknowledged)?;
    let seconds = start.elapsed().as_secs_f64();
    if acknowledged != *digest.finalize().as_bytes() {
        return Err("the receiver wrote something else".into());
    }
    let theirs = words.next().ok_or("the receiver did not finish")??;
    child.wait()?;
    let mib = size as f64 / f64::from(1 << 20);
    println!(
        "reference-pipe {aead}: {:.0} MiB/s, CPU seconds: sender {:.3}, receiver {theirs}, {mib:.0} MiB",
        mib / seconds,
        cpu_seconds()
    );
    Ok(())
}

fn receive(algorithm: &'static Algorithm, destination: &str) -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let (socket, _) = listener.accept()?;
    let mut output = File::create(destination)?;
    let mut reader = socket.try_clone()?;
    let input = ahead(HEAD + CHUNK + TAG, move |buffer| {
        let got = fill(&mut reader, &mut buffer[..HEAD])?;
        if got < HEAD {
            return Ok(0);
        }
        let len = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize - 8;
        reader.read_exact(&mut buffer[HEAD..HEAD + len])?;
        Ok(HEAD + len)
    });
    let mut digest = blake3::Hasher::new();
    for index in 0.. {
        let (mut buffer, end) = input.full.recv()??;
        if end == 0 {
            break;
        }
        let (key, nonce) = context(algorithm, index)?;
        let text = key.open_in_place(nonce, Aad::empty(), &mut buffer[HEAD..end]).map_err(|_| "forged")?;
        digest.update(text);
        output.write_all(text)?;
        drop(input.empty.send(buffer));
    }
    output.sync_all()?;
    (&socket).write_all(digest.finalize().as_bytes())?;
    println!("{:.3}", cpu_seconds());
    Ok(())
}

/// Reads until `buffer` is full or the input ends.
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

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
