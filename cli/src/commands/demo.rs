//! `kin demo`: two devices as two processes of this program, on real sockets, with homes of their own.
//!
//! What the two say is what any program would hear: events, line by line. Nothing is waited for in any other way.

pub(crate) mod compare;
pub(crate) mod sample;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

use self::compare::{Comparison, compare};
use crate::args::Demo;
use crate::commands::Context;
use crate::exit::{Exit, Outcome, Problem};
use crate::output::{Output, files, quoted, rate, shown, size};
use crate::progress::Progress;
use crate::scratch::Scratch;

/// The environment that must not reach the two devices.
const ENVIRONMENT: [&str; 11] = [
    "KIN_HOME",
    "KIN_NO_LAN",
    "KIN_DHT_BOOTSTRAP",
    "KIN_MAINLINE_BOOTSTRAP",
    "KIN_NO_DHT",
    "KIN_RELAY",
    "KIN_TRANSPORT",
    "KIN_BIND",
    "KIN_JSON",
    "KIN_NO_INPUT",
    "KIN_CODE",
];
/// What a device says on standard error that is kept for a report, in bytes.
const STDERR: u64 = 64 * 1024;

pub(crate) async fn run(context: &Context, demo: &Demo) -> Outcome {
    let scratch =
        Scratch::new("kin-demo").map_err(|error| Problem::new(Exit::LocalIo, format!("no temporary directory could be made: {error}")))?;
    let mut stop = context.stop.clone();
    // When a signal wins, the story is dropped: its processes are killed, and then the directory goes.
    let told = stop.or(tell(context, scratch.path(), demo.path.as_deref())).await;
    drop(scratch);
    told?
}

async fn tell(context: &Context, scratch: &Path, path: Option<&Path>) -> Outcome {
    let out = &context.out;
    let source = prepare(scratch, path).await?;
    let stage = Stage::new(scratch, context.global.transport.to_string())?;
    let pairing = stage.pair(out).await?;
    out.say(&format!("Paired in {} ms: {} and {}.", pairing.took.as_millis(), quoted(&pairing.first.name), quoted(&pairing.second.name)));

    let (there, back) = (scratch.join("there"), scratch.join("back"));
    let name = source.file_name().ok_or_else(|| Problem::usage("a path with a name is needed"))?;
    let first = stage.send(out, Way { from: "a", to: "b", device: &pairing.second.id, what: &source, into: &there }).await?;
    let compared_there = compare_off_thread(&source, &there.join(name)).await?;
    let second = stage.send(out, Way { from: "b", to: "a", device: &pairing.first.id, what: &there.join(name), into: &back }).await?;
    let compared_back = compare_off_thread(&source, &back.join(name)).await?;

    report(out, &pairing, &[("there", &first, &compared_there), ("back", &second, &compared_back)]);
    verdict(&[&first, &second], &[&compared_there, &compared_back])
}

async fn prepare(scratch: &Path, path: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(path) = path {
        return std::fs::canonicalize(path)
            .map_err(|error| Problem::new(Exit::NotFound, format!("{}: {error}", shown(&path.to_string_lossy()))));
    }
    let made = scratch.join("sample");
    let source = made.clone();
    let result = tokio::task::spawn_blocking(move || sample::generate(&made)).await;
    match result {
        Ok(Ok(())) => Ok(source),
        Ok(Err(error)) => Err(Problem::new(Exit::LocalIo, format!("the sample could not be written: {error}"))),
        Err(error) => Err(Problem::internal(error)),
    }
}

async fn compare_off_thread(left: &Path, right: &Path) -> Outcome<Comparison> {
    let (left, right) = (left.to_owned(), right.to_owned());
    match tokio::task::spawn_blocking(move || compare(&left, &right)).await {
        Ok(Ok(comparison)) => Ok(comparison),
        Ok(Err(error)) => Err(Problem::new(Exit::LocalIo, format!("the copies could not be compared: {error}"))),
        Err(error) => Err(Problem::internal(error)),
    }
}

/// Where the two devices act.
struct Stage {
    program: PathBuf,
    scratch: PathBuf,
    transports: String,
}

/// One of the two, as it introduced itself.
struct Actor {
    id: String,
    name: String,
    fingerprint: String,
}

struct Pairing {
    first: Actor,
    second: Actor,
    check: String,
    took: Duration,
}

/// One transfer to make.
struct Way<'a> {
    from: &'a str,
    to: &'a str,
    device: &'a str,
    what: &'a Path,
    into: &'a Path,
}

/// What a transfer came to.
struct Sent {
    files: u64,
    bytes: u64,
    seconds: f64,
    route: String,
    /// The exit codes of sender and receiver say that something was left out.
    partial: bool,
}

impl Stage {
    fn new(scratch: &Path, transports: String) -> Outcome<Self> {
        let program = std::env::current_exe().map_err(|error| Problem::internal(format_args!("where is this program? {error}")))?;
        Ok(Self { program, scratch: scratch.to_owned(), transports })
    }

    async fn pair(&self, out: &Output) -> Outcome<Pairing> {
        let code = self.scratch.join("code");
        let code = code.to_string_lossy();
        let mut first = self.spawn("a", &["pair", "--yes", "--name", "demo-a", "--code-file", &code])?;
        let first_actor = Actor::of(&first.until("identity").await?);
        let addresses = first.until("listening").await?;
        let words = first.until("code").await?;
        if list(&words, "words").count() != 12 {
            return Err(Problem::internal("a code without twelve words"));
        }

        let mut arguments = vec!["join", "--yes", "--name", "demo-b", "--code-file", &code];
        for address in list(&addresses, "addresses") {
            arguments.extend(["--address", address]);
        }
        let mut second = self.spawn("b", &arguments)?;
        let second_actor = Actor::of(&second.until("identity").await?);
        let start = Instant::now();
        let request = second.until("pair_request").await?;
        let seen_by_second = second.until("paired").await?;
        let took = start.elapsed();
        let seen_by_first = first.until("paired").await?;
        second.end().await?;
        first.end().await?;
        for event in [&seen_by_first, &seen_by_second] {
            out.forward(event);
        }
        for (seen, actor) in [(&seen_by_first, &second_actor), (&seen_by_second, &first_actor)] {
            let device = &seen["device"];
            if text(device, "device_id") != Some(&actor.id) || text(device, "fingerprint") != Some(&actor.fingerprint) {
                return Err(Problem::new(Exit::Integrity, format!("{} is not who the other device saw", actor.name)));
            }
        }
        Ok(Pairing { first: first_actor, second: second_actor, check: text(&request, "check").unwrap_or_default().to_owned(), took })
    }

    async fn send(&self, out: &Output, way: Way<'_>) -> Outcome<Sent> {
        let (what, into) = (way.what.to_string_lossy(), way.into.to_string_lossy());
        if what.contains('\u{fffd}') {
            return Err(Problem::usage("the demo takes paths of UTF-8 only; names inside may be anything"));
        }
        let mut receiver = self.spawn(way.to, &["recv", &into, "--once", "--yes", "--on-conflict", "fail"])?;
        let addresses = receiver.until("listening").await?;
        let mut arguments = vec!["send", &*what, "--to", way.device];
        for address in list(&addresses, "addresses") {
            arguments.extend(["--address", address]);
        }
        let mut sender = self.spawn(way.from, &arguments)?;
        let route = sender.until("route").await?;
        let offer = sender.until("offer").await?;
        for event in [&route, &offer] {
            out.forward(event);
        }
        let done = sender.watch(out, &offer).await?;
        let partial = [sender.end().await?, receiver.end().await?].contains(&Exit::Partial);
        out.forward(&done);
        let kind = text(&route, "kind").unwrap_or_default();
        let transport = text(&route, "transport").unwrap_or_default();
        Ok(Sent {
            files: number(&done, "files"),
            bytes: number(&done, "bytes"),
            seconds: done["seconds"].as_f64().unwrap_or_default(),
            route: format!("{transport}, {kind}"),
            partial,
        })
    }

    fn spawn(&self, home: &str, arguments: &[&str]) -> Outcome<Device> {
        let mut command = Command::new(&self.program);
        for name in ENVIRONMENT {
            command.env_remove(name);
        }
        command.arg("--home").arg(self.scratch.join(format!("home-{home}"))).args([
            "--json",
            "--no-input",
            "--no-lan",
            "--bind",
            "127.0.0.1:0",
            "--transport",
            &self.transports,
        ]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|error| Problem::internal(format_args!("a second process could not start: {error}")))?;
        let (Some(stdout), Some(mut stderr)) = (process.stdout.take(), process.stderr.take()) else {
            return Err(Problem::internal("a process without output"));
        };
        let words = tokio::spawn(async move {
            let mut kept = Vec::new();
            // What does not fit is read all the same: a full pipe would stop the device.
            drop((&mut stderr).take(STDERR).read_to_end(&mut kept).await);
            drop(tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await);
            String::from_utf8_lossy(&kept).into_owned()
        });
        Ok(Device { verb: arguments[0].to_owned(), process, lines: BufReader::new(stdout).lines(), words })
    }
}

/// A running device.
struct Device {
    verb: String,
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    words: JoinHandle<String>,
}

impl Device {
    async fn next(&mut self) -> Outcome<Option<Value>> {
        let line = self.lines.next_line().await.map_err(|error| Problem::internal(format_args!("its output broke: {error}")))?;
        line.map(|line| serde_json::from_str(&line).map_err(|_| Problem::internal(format_args!("it printed no JSON: {line}")))).transpose()
    }

    /// The next event of this name; an `error`, or the end before it, is our failure too.
    async fn until(&mut self, name: &str) -> Outcome<Value> {
        while let Some(event) = self.next().await? {
            match text(&event, "event") {
                Some(found) if found == name => return Ok(event),
                Some("error") => return Err(self.failed(&event)),
                _ => {}
            }
        }
        Err(self.vanished().await)
    }

    /// Shows the progress of a transfer until it is done.
    async fn watch(&mut self, out: &Output, offer: &Value) -> Outcome<Value> {
        let id = text(offer, "id").unwrap_or_default().to_owned();
        let mut progress = Progress::new(out, id, number(offer, "bytes"), number(offer, "files"));
        while let Some(event) = self.next().await? {
            match text(&event, "event") {
                Some("progress") => progress.update(number(&event, "bytes_sent"), number(&event, "bytes_durable")),
                Some("file") => progress.file_done(),
                Some("done") => {
                    progress.finish(Some(number(&event, "bytes")));
                    return Ok(event);
                }
                Some("error") => return Err(self.failed(&event)),
                _ => {}
            }
        }
        Err(self.vanished().await)
    }

    fn failed(&self, error: &Value) -> Problem {
        let exit = exit_of(number(error, "code"));
        Problem::new(exit, format!("`kin {}` failed: {}", self.verb, text(error, "message").unwrap_or("without a word")))
    }

    async fn vanished(&mut self) -> Problem {
        let status = self.process.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        let words = (&mut self.words).await.unwrap_or_default();
        Problem::internal(format_args!("`kin {}` ended early ({status})\n{words}", self.verb))
    }

    /// Waits for its end, which must be a success, or one with something left out.
    async fn end(mut self) -> Outcome<Exit> {
        let mut last = None;
        while let Some(event) = self.next().await? {
            if text(&event, "event") == Some("error") {
                last = Some(event);
            }
        }
        let status = self.process.wait().await.map_err(Problem::internal)?;
        match (status.code(), last) {
            (Some(0), _) => Ok(Exit::Ok),
            (Some(code), _) if code == i32::from(Exit::Partial.code()) => Ok(Exit::Partial),
            (_, Some(error)) => Err(self.failed(&error)),
            (_, None) => Err(self.vanished().await),
        }
    }
}

impl Actor {
    fn of(identity: &Value) -> Self {
        let field = |name| text(identity, name).unwrap_or_default().to_owned();
        Self { id: field("device_id"), name: field("name"), fingerprint: field("fingerprint") }
    }
}

fn report(out: &Output, pairing: &Pairing, ways: &[(&str, &Sent, &Comparison)]) {
    out.result(&out.bold("What happened:"));
    out.result(&format!("  paired    in {} ms, check {}", pairing.took.as_millis(), pairing.check));
    for actor in [&pairing.first, &pairing.second] {
        out.result(&format!("  {:<9} {}  {}", actor.name, actor.id, actor.fingerprint));
    }
    for (name, sent, comparison) in ways {
        let speed = if sent.seconds > 0.0 { (sent.bytes as f64 / sent.seconds) as u64 } else { 0 };
        let amount = format!("{}, {}", files(sent.files), size(sent.bytes));
        out.result(&format!("  {name:<9} {amount} in {:.2} s ({}) over {}", sent.seconds, rate(speed), sent.route));
        let verdict = match comparison.different {
            0 => format!("equal byte by byte: {}, {}", files(comparison.files), size(comparison.bytes)),
            different => format!("{different} DIFFERENCES"),
        };
        out.result(&format!("            {verdict}"));
        for line in &comparison.named {
            out.result(&format!("              {line}"));
        }
    }
}

fn verdict(sent: &[&Sent], compared: &[&Comparison]) -> Outcome {
    match (compared.iter().any(|comparison| comparison.different > 0), sent.iter().any(|sent| sent.partial)) {
        (false, false) => Ok(()),
        (_, true) => Err(Problem::partial("some items could not be sent, so the copies are not equal")),
        (true, false) => Err(Problem::new(Exit::Integrity, "the copies are not equal")),
    }
}

fn exit_of(code: u64) -> Exit {
    const ALL: [Exit; 14] = [
        Exit::Usage,
        Exit::State,
        Exit::Unreachable,
        Exit::Interrupted,
        Exit::Refused,
        Exit::Pairing,
        Exit::Integrity,
        Exit::LocalIo,
        Exit::Conflict,
        Exit::Partial,
        Exit::NotFound,
        Exit::Incompatible,
        Exit::Timeout,
        Exit::Unsafe,
    ];
    ALL.into_iter().find(|exit| u64::from(exit.code()) == code).unwrap_or(Exit::Internal)
}

fn text<'a>(event: &'a Value, field: &str) -> Option<&'a str> {
    event[field].as_str()
}

fn number(event: &Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_default()
}

fn list<'a>(event: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    event[field].as_array().into_iter().flatten().filter_map(Value::as_str)
}
