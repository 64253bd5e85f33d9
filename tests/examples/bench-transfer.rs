//! One large file between two processes over loopback: `kin`, the reference pipe, and scp, in turns; and `kin` over each network stack,
//! its reference pipe, and the stack's bare stream.
//!
//! ```sh
//! cargo build --release -p kin
//! cargo build --release -p adapter-tokio --example reference-pipe
//! cargo build --release -p kin-tests --example stack-pipe
//! cargo run --release -p kin-tests --example bench-transfer [ROUNDS [tcp|iroh|libp2p|memory]]
//! ```
//!
//! Files lie on tmpfs. The processor time is that of both processes, user and system, as `/usr/bin/time` (GNU) tells it. With
//! `sshd` installed, one of its own runs in the foreground on a free port of 127.0.0.1, with keys that are made for it and
//! thrown away.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::spawn;
use std::time::Instant;

use kin_tests::figures::Figure;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// What one transfer took.
struct Taken {
    /// From the sender's start to its end.
    seconds: f64,
    /// Of both processes.
    cpu: f64,
    /// Peak memory of the sender and of the receiver, in MiB.
    rss: [f64; 2],
}

struct Bench {
    dir: PathBuf,
    kin: PathBuf,
    pipe: PathBuf,
    stack_pipe: PathBuf,
}

fn main() {
    let rounds = std::env::args().nth(1).map_or(5, |rounds| rounds.parse().unwrap());
    let only = std::env::args().nth(2);
    let built = std::env::current_exe().unwrap();
    let examples = built.parent().unwrap();
    let dir = Path::new("/dev/shm").join(format!("kin-bench-{}", std::process::id()));
    let bench = Bench {
        kin: examples.parent().unwrap().join("kin"),
        pipe: examples.join("reference-pipe"),
        stack_pipe: examples.join("stack-pipe"),
        dir,
    };
    fs::create_dir(&bench.dir).unwrap();
    let done = std::panic::catch_unwind(|| bench.all(rounds, only.as_deref()));
    fs::remove_dir_all(&bench.dir).unwrap();
    done.unwrap();
}

impl Bench {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn all(&self, rounds: usize, only: Option<&str>) {
        self.pair();
        let wanted = |name: &str| only.is_none_or(|only| only == name);
        if wanted("tcp") {
            self.tcp(rounds);
        }
        for stack in ["iroh", "libp2p"].into_iter().filter(|stack| wanted(stack)) {
            self.stack(rounds, stack);
        }
        if wanted("memory") {
            self.memory();
        }
    }

    /// `kin` over this stack alone and over its default route, against the stack's reference pipe and its bare stream.
    fn stack(&self, rounds: usize, stack: &str) {
        let file = self.file(1024);
        let (mut kin, mut pipe, mut default, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let taken = [self.kin(&file, stack), self.stack_pipe(&file, stack), self.kin(&file, "auto"), self.bare(stack)];
            for (all, taken) in [&mut kin, &mut pipe, &mut default, &mut bare].into_iter().zip(taken) {
                // The first round only warms up.
                all.extend(Some(taken).filter(|_| round > 0));
            }
        }
        println!("\n1 GiB on tmpfs over {stack}, {rounds} rounds in turns: median (min to max)\n");
        println!("| | MiB/s | CPU s/GiB, both sides |\n| --- | --- | --- |");
        for (name, all) in [
            (format!("kin over {stack}"), &kin),
            (format!("reference pipe over {stack}"), &pipe),
            ("kin by its default route".to_owned(), &default),
            (format!("a bare stream of {stack}, no disk"), &bare),
        ] {
            println!("| {name} | {:.0} | {:.2} |", Figure::of(speed(all)), Figure::of(cpu(all)));
        }
        for (name, one, other) in [("over it ÷ reference pipe", &kin, &pipe), ("by default ÷ bare stream", &default, &bare)] {
            println!("| kin {name} | {} | {} |", Figure::ratio(&speed(one), &speed(other)), Figure::ratio(&cpu(one), &cpu(other)));
        }
        fs::remove_file(&file).unwrap();
    }

    fn tcp(&self, rounds: usize) {
        let file = self.file(1024);
        let sshd = Sshd::start(self);
        let (mut kin, mut pipe, mut scp) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            for (all, taken) in [
                (&mut kin, Some(self.kin(&file, "tcp"))),
                (&mut pipe, Some(self.pipe(&file))),
                (&mut scp, sshd.as_ref().map(|sshd| sshd.scp(self, &file))),
            ] {
                // The first round only warms up.
                all.extend(taken.filter(|_| round > 0));
            }
        }
        drop(sshd);
        println!("1 GiB on tmpfs, {rounds} rounds in turns: median (min to max)\n");
        println!("| | MiB/s | CPU s/GiB, both sides |\n| --- | --- | --- |");
        for (name, all) in [("kin", &kin), ("reference pipe", &pipe)] {
            println!("| {name} | {:.0} | {:.2} |", Figure::of(speed(all)), Figure::of(cpu(all)));
        }
        if !scp.is_empty() {
            println!("| scp | {:.0} | (the server's is not counted) |", Figure::of(speed(&scp)));
        }
        println!("| kin ÷ reference pipe | {} | {} |", Figure::ratio(&speed(&kin), &speed(&pipe)), Figure::ratio(&cpu(&kin), &cpu(&pipe)));
        if !scp.is_empty() {
            println!("| kin ÷ scp | {} | |", Figure::ratio(&speed(&kin), &speed(&scp)));
        }
        fs::remove_file(&file).unwrap();
    }

    fn memory(&self) {
        println!("\n| peak memory, MiB | sender | receiver |\n| --- | --- | --- |");
        for mib in [64, 4096] {
            let file = self.file(mib);
            let [sender, receiver] = self.kin(&file, "tcp").rss;
            println!("| {mib} MiB | {sender:.1} | {receiver:.1} |");
            fs::remove_file(file).unwrap();
        }
    }

    /// A file of random bytes.
    fn file(&self, mib: u64) -> PathBuf {
        let path = self.at("big");
        let mut file = fs::File::create(&path).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut state = 1_u64;
        for byte in &mut buffer {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
        for at in 0..mib {
            buffer[..8].copy_from_slice(&at.to_be_bytes());
            file.write_all(&buffer).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), mib * MIB);
        path
    }

    /// The program, timed into the file `times`.
    fn timed(&self, program: &Path, times: &str) -> Command {
        let mut command = Command::new("/usr/bin/time");
        command.args(["-f", "%U %S %M", "-o"]).arg(self.at(times)).arg(program).stdin(Stdio::null());
        command
    }

    fn device(&self, times: &str, home: &str) -> Command {
        let mut command = self.timed(&self.kin, times);
        command.args(["--no-input", "-q", "--bind", "127.0.0.1:0", "--home"]).arg(self.at(home));
        command.stdout(Stdio::null());
        command
    }

    fn pair(&self) {
        let code = self.at("code");
        let mut pairing = self.device("t", "a");
        let pairing = pairing.args(["--json", "pair", "--yes", "--name", "first", "--code-file"]).arg(&code).stdout(Stdio::piped());
        let mut pairing = pairing.spawn().unwrap();
        // Whatever is said after the address is said when the code was written.
        let mut address = None;
        let after = |line: &str| match listening(line) {
            None => address.clone(),
            found => {
                address = found;
                None
            }
        };
        let address = said(pairing.stdout.take().unwrap(), after).unwrap();
        let joined =
            self.device("u", "b").args(["join", "--yes", "--name", "second", "--address", &address, "--code-file"]).arg(&code).status();
        assert!(joined.unwrap().success() && pairing.wait().unwrap().success());
    }

    fn kin(&self, file: &Path, transport: &str) -> Taken {
        let inbox = self.at("inbox");
        fs::create_dir(&inbox).unwrap();
        let mut receiver = self.device("t", "a");
        let receiver = receiver.args(["--transport", transport, "--json", "recv", "--once", "--yes"]).arg(&inbox).stdout(Stdio::piped());
        let mut receiver = receiver.spawn().unwrap();
        let to = said(receiver.stdout.take().unwrap(), listening).unwrap();
        let started = Instant::now();
        let sent =
            self.device("u", "b").args(["--transport", transport, "send", "--to", "first", "--address", &to]).arg(file).status().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        assert!(sent.success() && receiver.wait().unwrap().success());
        assert_eq!(fs::metadata(inbox.join("big")).unwrap().len(), fs::metadata(file).unwrap().len());
        fs::remove_dir_all(inbox).unwrap();
        self.taken(seconds)
    }

    fn pipe(&self, file: &Path) -> Taken {
        let arrived = self.at("arrived");
        let mut receiver = self.timed(&self.pipe, "t");
        let receiver = receiver.arg("receive").arg(&arrived).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut receiver = receiver.spawn().unwrap();
        let to = format!("127.0.0.1:{}", said(receiver.stdout.take().unwrap(), |line| Some(line.to_owned())).unwrap());
        let started = Instant::now();
        let sent = self.timed(&self.pipe, "u").arg("send").arg(file).arg(to).stderr(Stdio::null()).status().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        assert!(sent.success() && receiver.wait().unwrap().success());
        fs::remove_file(arrived).unwrap();
        self.taken(seconds)
    }

    fn stack_pipe(&self, file: &Path, stack: &str) -> Taken {
        let arrived = self.at("arrived");
        let taken = self.piped(&[stack, "receive", &arrived.display().to_string()], &[stack, "send", &file.display().to_string()]);
        fs::remove_file(arrived).unwrap();
        taken
    }

    fn bare(&self, stack: &str) -> Taken {
        self.piped(&[stack, "sink"], &[stack, "pour", "1024"])
    }

    /// Two processes of the stack's pipe; the address of the one is the last word of the other.
    fn piped(&self, receiver: &[&str], sender: &[&str]) -> Taken {
        let mut receiving = self.timed(&self.stack_pipe, "t");
        let mut receiving = receiving.args(receiver).stdout(Stdio::piped()).spawn().unwrap();
        let to = said(receiving.stdout.take().unwrap(), |line| Some(line.to_owned())).unwrap();
        let started = Instant::now();
        let sent = self.timed(&self.stack_pipe, "u").args(sender).arg(to).status().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        assert!(sent.success() && receiving.wait().unwrap().success());
        self.taken(seconds)
    }

    fn taken(&self, seconds: f64) -> Taken {
        let read = |times: &str| -> [f64; 3] {
            let text = fs::read_to_string(self.at(times)).unwrap();
            let numbers: Vec<f64> = text.lines().last().unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
            numbers.try_into().unwrap()
        };
        let ([user, system, sender], [their_user, their_system, receiver]) = (read("u"), read("t"));
        Taken { seconds, cpu: user + system + their_user + their_system, rss: [sender / 1024.0, receiver / 1024.0] }
    }
}

fn speed(all: &[Taken]) -> Vec<f64> {
    all.iter().map(|taken| 1024.0 / taken.seconds).collect()
}

fn cpu(all: &[Taken]) -> Vec<f64> {
    all.iter().map(|taken| taken.cpu).collect()
}

/// The first line on `output` in which `wanted` finds something; what follows is read and dropped.
fn said<T>(output: impl Read + Send + 'static, mut wanted: impl FnMut(&str) -> Option<T>) -> Option<T> {
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let found = lines.find_map(|line| wanted(&line));
    spawn(move || lines.for_each(drop));
    found
}

/// The first address of a `listening` event.
fn listening(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["event"] == "listening").then(|| event["addresses"][0].as_str().map(str::to_owned))?
}

/// A server of our own for scp.
struct Sshd {
    server: Child,
    port: String,
}

impl Sshd {
    /// `None` if it is not installed, or does not start here.
    fn start(bench: &Bench) -> Option<Self> {
        let key = bench.at("ssh-key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        made.ok().filter(|made| made.success())?;
        fs::copy(bench.at("ssh-key.pub"), bench.at("authorized")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let config = bench.at("sshd-config");
        let [key, authorized] = [key, bench.at("authorized")].map(|path| path.display().to_string());
        let lines = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {key}\nAuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPidFile none\nSubsystem sftp internal-sftp\n"
        );
        fs::write(&config, lines).unwrap();
        // It wants this directory to change its root to.
        fs::create_dir_all("/run/sshd").ok();
        let mut server = Command::new("/usr/sbin/sshd");
        let mut server = server.args(["-D", "-e", "-f"]).arg(&config).stderr(Stdio::piped()).spawn().ok()?;
        let listens = said(server.stderr.take()?, |line| line.contains("listening on").then_some(()));
        let sshd = Self { server, port };
        if listens.is_none() {
            eprintln!("sshd does not start: no scp");
        }
        listens.map(|()| sshd)
    }

    fn scp(&self, bench: &Bench, file: &Path) -> Taken {
        let arrived = bench.at("scp-arrived");
        let mut scp = bench.timed(Path::new("scp"), "u");
        scp.args(["-q", "-P", &self.port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]);
        scp.args(["-o", "LogLevel=ERROR", "-F", "none", "-i"]).arg(bench.at("ssh-key")).arg(file);
        let started = Instant::now();
        let sent = scp.arg(format!("127.0.0.1:{}", arrived.display())).status().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        assert!(sent.success());
        fs::remove_file(arrived).unwrap();
        Taken { seconds, ..bench.taken(seconds) }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
