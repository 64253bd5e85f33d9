//! `kin up`: one process for a home that stays. It keeps connections, takes files by policy, delivers what waits, and does what other
//! commands of the same home ask of it.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adapter_tokio::files::ConflictPolicy;
use adapter_tokio::journal::Outgoing;
use adapter_tokio::metrics::prometheus;
use adapter_tokio::service::{Inbox, NetworkingService, SendError, Sharing};
use protocol_core::effects::{DeviceState, Direction, Event as CoreEvent, TransferKey};
use protocol_core::faults::DeclineReason;
use protocol_core::ids::DeviceId;
use protocol_core::limits::USER_WAIT;
use protocol_core::node::{FilePolicy, ShareError};
use protocol_core::transfer::manifest::Manifest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Context;
use super::send::tell_skipped;
use super::transfer::{amount, offer_event, tell_paused};
use crate::args::Up;
use crate::ask::{Answer, Asker};
use crate::events::{Event, WarningCode};
use crate::exit::{Exit, Outcome, Problem};
use crate::local::Hub;
use crate::net::{Local, Net, Start};
use crate::output::{Output, files, quoted, shell_word, shown, size};
use crate::registry;

/// Bytes of a request for counters, and how long it may take.
const REQUEST: usize = 8 * 1024;
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// Behind an accept that failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn run(context: &mut Context, args: &Up) -> Outcome {
    if args.systemd {
        return unit(context, args);
    }
    let dir = args.dir.as_deref().map(directory).transpose()?;
    let mut net = Net::start(context, Start { alone: true, ..Start::default() }).await?;
    let done = up(context, &mut net, args, dir).await;
    net.close().await;
    done
}

fn directory(path: &Path) -> Outcome<PathBuf> {
    let failed = |error: std::io::Error| Problem::new(Exit::NotFound, format!("{}: {error}", shown(&path.to_string_lossy())));
    let whole = std::fs::canonicalize(path).map_err(failed)?;
    if whole.is_dir() { Ok(whole) } else { Err(Problem::usage(format!("{} is no directory", shown(&path.to_string_lossy())))) }
}

/// A transfer that runs without anybody who follows it.
struct Taken {
    label: String,
    files: u64,
    since: Instant,
}

/// An offer whose owner is to be asked.
struct Asked {
    key: TransferKey,
    label: String,
    files: u64,
}

/// What an owner who sits at the terminal is asked.
enum Question {
    /// Whether to take an offer.
    Offer(Asked),
    /// Whether to forget a device that has removed this one.
    Removed { device: DeviceId, name: String },
}

impl Question {
    fn words(&self) -> String {
        match self {
            Self::Offer(asked) => format!("Take {}?", asked.label),
            Self::Removed { name, .. } => format!("Forget {} here too?", quoted(name)),
        }
    }

    fn is_about(&self, key: TransferKey) -> bool {
        matches!(self, Self::Offer(asked) if asked.key == key)
    }
}

async fn up(context: &mut Context, net: &mut Net, args: &Up, dir: Option<PathBuf>) -> Outcome {
    let home = context.home()?;
    let Context { out, asker, .. } = context;
    let Some(service) = net.service().cloned() else { return Err(Problem::internal("kin up without a service of its own")) };
    // A place has to be named for the inbox to be open; without one only folders of policies take files.
    let inbox = Inbox { dir: dir.clone().unwrap_or_else(|| home.clone()), on_conflict: ConflictPolicy::Rename, by_policy: true };
    service.set_inbox(Some(inbox.clone())).await.map_err(crate::net::closed)?;
    let metrics = match args.metrics {
        Some(at) => Some(serve_metrics(out, service.clone(), at).await?),
        None => None,
    };
    let (hub, listener) = Hub::open(&home, Local { service: service.clone() }, Some(inbox))?;
    let served = tokio::spawn(Arc::clone(&hub).serve(listener));
    net.introduce(out, args.address_file.as_deref()).await?;
    service.keep_connected(true).await.map_err(crate::net::closed)?;
    out.say("Up. Ctrl-C ends it.");
    let can_ask = asker.can_ask();
    let mut owner = Owner { out, service, hub: &hub, anywhere: dir.is_some(), can_ask, taken: BTreeMap::new(), waiting: VecDeque::new() };
    let done = owner.follow(net, asker).await;
    for task in metrics.into_iter().chain([served]) {
        task.abort();
    }
    done
}

/// What an owner would do, done by what he has said before, or by asking him.
struct Owner<'a> {
    out: &'a Output,
    service: NetworkingService,
    hub: &'a Hub,
    /// There is a folder for whatever is taken without one of its own.
    anywhere: bool,
    can_ask: bool,
    taken: BTreeMap<TransferKey, Taken>,
    waiting: VecDeque<Question>,
}

impl Owner<'_> {
    /// Does what events ask for, until a signal.
    async fn follow(&mut self, net: &mut Net, asker: &mut Asker) -> Outcome {
        loop {
            if let Some(question) = self.waiting.pop_front() {
                self.ask(net, asker, question).await?;
            } else {
                let event = net.next().await?;
                self.on_event(event).await?;
            }
        }
    }

    /// Asks, while everything else goes on.
    async fn ask(&mut self, net: &mut Net, asker: &mut Asker, question: Question) -> Outcome {
        let words = question.words();
        let mut asking = pin!(asker.yes(self.out, &words, USER_WAIT));
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break answer,
                event = net.next() => match event? {
                    CoreEvent::Failed { transfer, .. } if question.is_about(transfer) => {
                        self.out.warning(WarningCode::TransferFailed, "the offer was taken back before it was answered");
                        return Ok(());
                    }
                    event => self.on_event(event).await?,
                },
            }
        };
        match (question, answer) {
            (Question::Offer(asked), Answer::Yes) => self.accept(asked, Some(ConflictPolicy::Rename)).await,
            (Question::Offer(asked), Answer::No | Answer::Silence | Answer::Nobody) => {
                self.decline(asked.key, DeclineReason::User).await;
                self.out.say("The offer was declined.");
            }
            (Question::Removed { device, name }, Answer::Yes) => {
                // It may have been forgotten by another command meanwhile.
                self.service.forget_device(device).await.unwrap_or(());
                self.out.say(&format!("{} is forgotten.", quoted(&name)));
            }
            (Question::Removed { name, .. }, Answer::No | Answer::Silence | Answer::Nobody) => {
                self.out.say(&format!("{} stays listed.", quoted(&name)));
            }
        }
        Ok(())
    }

    async fn accept(&mut self, Asked { key, label, files }: Asked, policy: Option<ConflictPolicy>) {
        if self.service.accept(key, policy).await.is_ok() {
            self.out.event(&Event::Accepted { id: key.id.to_string() });
            self.taken.insert(key, Taken { label, files, since: Instant::now() });
        }
    }

    async fn decline(&self, key: TransferKey, reason: DeclineReason) {
        self.service.decline(key, reason).await.unwrap_or(());
        self.out.event(&Event::Refused { id: key.id.to_string(), reason: reason.to_string() });
    }

    async fn on_event(&mut self, event: CoreEvent) -> Outcome {
        let (out, service) = (self.out, &self.service);
        match event {
            CoreEvent::Device { device, state, reason, .. } => {
                let Some(row) = tell_device(out, service, device).await? else { return Ok(()) };
                let why = reason.filter(|_| state != DeviceState::Connected).map_or_else(String::new, |reason| format!(": {reason}"));
                out.result(&format!("{} {state}{why}", quoted(&row)));
                if state == DeviceState::Connected {
                    // What the round trip is: for whoever looks.
                    service.ping(device).await.unwrap_or(());
                    self.go_on(device).await?;
                }
            }
            CoreEvent::RemovedThere { device } => {
                if let Some(name) = tell_device(out, service, device).await? {
                    let message =
                        format!("{} has removed this device; agree with: kin devices forget {}", quoted(&name), shell_word(&name));
                    out.warning(WarningCode::RemovedThere, &message);
                    if self.can_ask {
                        self.waiting.push_back(Question::Removed { device, name });
                    }
                }
            }
            CoreEvent::Offered { transfer, label, manifest, .. } if !self.hub.has_receiver() => {
                self.on_offer(transfer, label, &manifest).await?;
            }
            CoreEvent::OfferDeclined { transfer, failure, .. } if !self.hub.has_receiver() => {
                out.event(&Event::Refused { id: transfer.id.to_string(), reason: failure.to_string() });
                let name = name_of(service, transfer.device).await?;
                let message = format!("an offer of {} was declined, this device could not take it: {failure}", quoted(&name));
                out.warning(WarningCode::TransferFailed, &message);
            }
            CoreEvent::Done { transfer, summary } => {
                if let Some(Taken { label, files: number, since }) = self.taken.remove(&transfer) {
                    let (id, seconds) = (transfer.id.to_string(), since.elapsed().as_secs_f64());
                    out.event(&Event::Done { id, files: number, bytes: summary.bytes, seconds, bytes_resumed: summary.resumed });
                    let place = if transfer.direction == Direction::Incoming { "here" } else { "there" };
                    out.result(&format!("{label} is {place}: {}, {}", files(summary.files), size(summary.bytes)));
                }
                self.makes_room(transfer).await?;
            }
            CoreEvent::Failed { transfer, reason } => {
                self.waiting.retain(|question| !question.is_about(transfer));
                if self.taken.remove(&transfer).is_some() {
                    out.warning(WarningCode::TransferFailed, &format!("a transfer ended before its receipt: {reason}"));
                }
                // What is kept would be offered again at once, and again.
                if !reason.keeps_files() {
                    self.makes_room(transfer).await?;
                }
            }
            CoreEvent::Paused { transfer, here, there } => {
                if let Some(Taken { label, .. }) = self.taken.get(&transfer) {
                    tell_paused(out, transfer, here, there, &format!("{label}: "));
                }
            }
            CoreEvent::Message { device, .. } => {
                let name = name_of(service, device).await?;
                out.result(&format!("a message of {} came; read it with: kin msg tail", quoted(&name)));
            }
            _ => {}
        }
        Ok(())
    }

    /// A transfer is over: one that waited because there were too many may have its turn.
    async fn makes_room(&mut self, transfer: TransferKey) -> Outcome {
        if transfer.direction == Direction::Outgoing { self.go_on(transfer.device).await } else { Ok(()) }
    }

    /// Offers what was begun, or waits, for a device and does not run.
    async fn go_on(&mut self, device: DeviceId) -> Outcome {
        let begun = self.service.unfinished().await.map_err(crate::net::closed)?;
        let stays = |transfer| begun.live.contains(&transfer) || begun.paused.contains(&transfer);
        let waits = |outgoing: &&Outgoing| outgoing.device == device && !stays(outgoing.transfer);
        for Outgoing { transfer, request, .. } in begun.outgoing.iter().filter(waits).cloned() {
            let first = request.paths.first().map_or_else(String::new, |path| shown(&path.to_string_lossy()));
            match self.service.go_on_with_device(device, request).await {
                Ok(Sharing { key, manifest, skipped, .. }) => {
                    tell_skipped(self.out, &skipped);
                    self.out.result(&format!("{first} is offered"));
                    self.taken.insert(key, Taken { label: first, files: amount(&manifest).0, since: Instant::now() });
                }
                // Another one ends, and then it is this one's turn; or a command was faster.
                Err(SendError::Refused(ShareError::TooMany)) => break,
                Err(SendError::Live | SendError::Paused) => {}
                Err(error) => {
                    let message = format!("{first} cannot be sent any more: {error}; forget it with: kin transfers cancel {transfer}");
                    self.out.warning(WarningCode::TransferFailed, &message);
                }
            }
        }
        Ok(())
    }

    /// Answers an offer as the policy of its device says; where that says to ask, it waits for its turn.
    async fn on_offer(&mut self, key: TransferKey, label: Option<String>, manifest: &Manifest) -> Outcome {
        let devices = self.service.devices().await.map_err(crate::net::closed)?;
        let Some(device) = devices.into_iter().find(|device| device.id == key.device) else { return Ok(()) };
        let (number, bytes) = amount(manifest);
        offer_event(self.out, key, manifest, 0);
        let label = label.map_or_else(|| files(number), |label| quoted(&label));
        self.out.result(&format!("{} offers {label}: {}, {}", quoted(&device.name), files(number), size(bytes)));
        let asked = Asked { key, label, files: number };
        let has_place = self.anywhere || device.policy.folder.is_some();
        if self.service.is_continued(key).await.map_err(crate::net::closed)? {
            let paused = self.service.is_paused(key).await.map_err(crate::net::closed)?;
            self.out.say(if paused { "It was taken before, and stays paused." } else { "It was taken before, and goes on." });
            self.accept(asked, None).await;
        } else if has_place && device.policy.files == FilePolicy::Automatic {
            self.accept(asked, Some(ConflictPolicy::Rename)).await;
        } else if has_place && self.can_ask && device.policy.files == FilePolicy::Ask {
            self.waiting.push_back(Question::Offer(asked));
        } else {
            self.decline(key, DeclineReason::Policy).await;
            let why = if has_place { "nobody is here to ask" } else { "there is no folder for it" };
            let next = format!("kin devices policy {} --files auto --folder DIR", shell_word(&device.name));
            let message = format!("the offer was declined: {why}. Run kin recv beside this, or take them all: {next}");
            self.out.warning(WarningCode::NobodyToAsk, &message);
        }
        Ok(())
    }
}

async fn name_of(service: &NetworkingService, device: DeviceId) -> Outcome<String> {
    let devices = service.devices().await.map_err(crate::net::closed)?;
    Ok(devices.into_iter().find(|known| known.id == device).map_or_else(|| device.to_string(), |known| known.name))
}

/// Prints the row of a device as it is now; its name.
async fn tell_device(out: &Output, service: &NetworkingService, device: DeviceId) -> Outcome<Option<String>> {
    let devices = service.metrics().await.map_err(crate::net::closed)?;
    let Some((view, metrics)) = devices.into_iter().find(|(view, _)| view.id == device) else { return Ok(None) };
    out.event(&Event::Device(registry::counted(&view, &metrics)));
    Ok(Some(view.name))
}

/// Answers whoever asks at a local port with the counters of every device.
async fn serve_metrics(out: &Output, service: NetworkingService, at: std::net::SocketAddr) -> Outcome<tokio::task::JoinHandle<()>> {
    if !at.ip().is_loopback() {
        return Err(Problem::usage("--metrics serves this machine only: an address like 127.0.0.1:9464"));
    }
    let failed = |error: std::io::Error| Problem::new(Exit::LocalIo, format!("{at}: {error}"));
    let listener = TcpListener::bind(at).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    out.say(&format!("Counters: http://{at}/metrics"));
    Ok(tokio::spawn(async move {
        loop {
            // One after the other: whoever is slow keeps the next waiting for a moment, and nobody can pile up.
            match listener.accept().await {
                Ok((stream, _)) => tokio::time::timeout(REQUEST_WAIT, counters(stream, &service)).await.map_or((), drop),
                // Out of descriptors, most likely: others give some back.
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
    }))
}

/// One request of HTTP, one answer, and the end.
async fn counters(mut stream: TcpStream, service: &NetworkingService) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let found = request.starts_with(b"GET /metrics ");
    let body = match service.metrics().await {
        Ok(devices) if found => prometheus(&devices),
        _ => String::new(),
    };
    let status = if found { "200 OK" } else { "404 Not Found" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// A unit that starts this program as it was called now.
fn unit(context: &Context, args: &Up) -> Outcome {
    let program = std::env::current_exe().map_err(|error| Problem::internal(format_args!("no path of this program: {error}")))?;
    let mut words = vec![program.to_string_lossy().into_owned()];
    if context.global.home.is_some() {
        words.extend(["--home".to_owned(), absolute(&context.home()?)?]);
    }
    words.extend(context.global.flags());
    words.push("up".to_owned());
    if let Some(dir) = &args.dir {
        words.push(absolute(dir)?);
    }
    if let Some(at) = args.metrics {
        words.extend(["--metrics".to_owned(), at.to_string()]);
    }
    if let Some(file) = &args.address_file {
        words.extend(["--address-file".to_owned(), absolute(file)?]);
    }
    let command: Vec<String> = words.iter().map(|word| unit_word(word)).collect();
    context.out.result(&format!(
        "[Unit]\nDescription=kin: paired devices, files and messages\nAfter=network-online.target\nWants=network-online.target\n\n\
         [Service]\nExecStart={}\nRestart=on-failure\nRestartSec=5\nSuccessExitStatus=143\nKillSignal=SIGTERM\nTimeoutStopSec=15\n\
         NoNewPrivileges=yes\n\n[Install]\nWantedBy=default.target",
        command.join(" ")
    ));
    Ok(())
}

fn absolute(path: &Path) -> Outcome<String> {
    let whole = std::path::absolute(path).map_err(|error| Problem::new(Exit::NotFound, error.to_string()))?;
    whole.into_os_string().into_string().map_err(|_| Problem::usage("a path in a unit has to be UTF-8"))
}

/// A word of a unit's command line (systemd.syntax): quoted, with what would be expanded doubled.
fn unit_word(word: &str) -> String {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+:@=,".contains(c));
    if plain {
        return word.to_owned();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::unit_word;

    #[test]
    fn words_of_a_unit_are_quoted() {
        assert_eq!(unit_word("/usr/bin/kin"), "/usr/bin/kin");
        assert_eq!(unit_word("/home/a b/100%$x\"\\"), "\"/home/a b/100%%$$x\\\"\\\\\"");
    }
}
