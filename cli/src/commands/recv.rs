//! `kin recv`: receives in the foreground. One question at a time; what was taken arrives side by side.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use adapter_tokio::files::{ConflictPolicy, Destination};
use adapter_tokio::home::journals_path;
use adapter_tokio::journal::Journals;
use protocol_core::effects::{EntryNote, Event as CoreEvent, TransferKey};
use protocol_core::faults::{DeclineReason, Failure, FileFault, TransferFailure};
use protocol_core::ids::DeviceId;
use protocol_core::limits::USER_WAIT;
use protocol_core::node::DeviceView;
use protocol_core::transfer::manifest::{EntryKind, Manifest};
use rustix::fs::Access;

use super::transfer::{Named, Running, amount, offer_event};
use super::{Context, devices, off_thread};
use crate::args::{OnConflict, Recv};
use crate::ask::{Answer, Asker};
use crate::events::{Event, WarningCode};
use crate::exit::{Exit, Outcome, Problem, Severity as _};
use crate::net::{Net, Start};
use crate::output::{Output, files, quoted, shown, size};
use crate::scratch::Scratch;

/// An offer that waits for its answer.
struct Offer {
    key: TransferKey,
    label: Option<String>,
    manifest: Arc<Manifest>,
    notes: Vec<(u32, EntryNote)>,
    /// It was declined already, without asking: this device could not even prepare for it.
    declined: Option<Failure>,
}

/// What an offer is answered with.
enum Decision {
    /// `None`: as it was taken in an earlier try.
    Accept(Option<ConflictPolicy>),
    Decline(DeclineReason),
    /// The peer took it back, or is gone.
    Gone,
}

pub(super) async fn run(context: &mut Context, args: &Recv) -> Outcome {
    if args.on_conflict == Some(OnConflict::Ask) && !context.asker.can_ask() {
        return Err(Problem::usage("--on-conflict ask needs a terminal to ask at").next("kin recv --on-conflict rename"));
    }
    if args.dir.as_os_str() == "-" {
        return to_stdout(context, args).await;
    }
    make_directory(&args.dir)?;
    let mut net = Net::start(context, Start::default()).await?;
    let done = receive(context, &mut net, args).await;
    net.close().await;
    done
}

/// Receives one file, and writes it to standard output when all of it is verified.
async fn to_stdout(context: &mut Context, args: &Recv) -> Outcome {
    if context.out.json {
        return Err(Problem::usage("standard output cannot carry events and a file: leave --json or the `-` out"));
    }
    let failed = |error: std::io::Error| Problem::new(error.exit(), format!("standard output: {error}"));
    let scratch = Scratch::new("kin-stdout").map_err(failed)?;
    let args = Recv { dir: scratch.path().to_owned(), once: true, one_file: true, ..args.clone() };
    let mut net = Net::start(context, Start::default()).await?;
    let done = receive(context, &mut net, &args).await;
    net.close().await;
    if done.is_err() {
        forget_what_is_in(context, scratch.path())?;
    }
    done?;
    let file = std::fs::read_dir(scratch.path()).map_err(failed)?.next();
    let path = file.ok_or_else(|| Problem::internal("a file that was received is not there"))?.map_err(failed)?.path();
    let written = off_thread(move || {
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let mut stdout = std::io::stdout().lock();
        std::io::copy(&mut file, &mut stdout).and_then(|_| stdout.flush()).map_err(failed)
    });
    // Nobody may ever read it.
    context.stop.clone().or(written).await?
}

/// What was begun in a directory that goes away cannot go on.
fn forget_what_is_in(context: &Context, directory: &Path) -> Outcome {
    let journals = Journals::new(journals_path(&context.home()?));
    for head in journals.heads().unwrap_or_default().iter().filter(|head| head.directory.starts_with(directory)) {
        journals.give_up(head.transfer);
    }
    Ok(())
}

/// Makes the directory if it is not there. One that takes no files is found out before anybody sends.
fn make_directory(path: &Path) -> Outcome {
    let made = match std::fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {
            rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(std::io::Error::from)
        }
        made => made,
    };
    made.map_err(|error| Problem::new(error.exit(), format!("{}: {error}", shown(&path.to_string_lossy()))))
}

async fn receive(context: &mut Context, net: &mut Net, args: &Recv) -> Outcome {
    let known = net.devices().await?;
    let from = args.from.as_deref().map(|wanted| devices::find_view(&known, wanted)).transpose()?.map(|device| device.id);
    if known.is_empty() {
        context.out.warning(WarningCode::NoDevices, "no device is paired, so nobody can send: kin pair");
    }
    if !args.yes && !context.asker.can_ask() {
        context.out.warning(WarningCode::CannotAsk, "there is nobody to ask, so every offer is declined; --yes takes them all");
    }
    let directory = std::fs::canonicalize(&args.dir).unwrap_or_else(|_| args.dir.clone());
    net.open_inbox(&directory).await?;
    net.introduce(&context.out, args.address_file.as_deref()).await?;
    if args.one_file {
        context.out.say("Receiving one file. Ctrl-C ends it.");
    } else {
        context.out.say(&format!("Receiving into {}. Ctrl-C ends it.", shown(&directory.to_string_lossy())));
    }
    let Context { out, asker, .. } = context;
    let (running, waiting, idle_since) = (Vec::new(), VecDeque::new(), Instant::now());
    let mut receiver = Receiver { out, args, directory: &directory, from, running, waiting, idle_since };
    let done = receiver.run(net, asker).await;
    for running in &receiver.running {
        net.let_go(running.key()).await;
    }
    if args.once {
        // Nobody is here for them.
        for offer in receiver.waiting.drain(..) {
            net.decline(offer.key, DeclineReason::Busy).await;
        }
    }
    done
}

/// Takes offers: one question at a time, and what was taken side by side.
struct Receiver<'a> {
    out: &'a Output,
    args: &'a Recv,
    directory: &'a Path,
    /// Who is welcome; `None`: everybody.
    from: Option<DeviceId>,
    running: Vec<Running<'a>>,
    /// Offers that wait for their turn.
    waiting: VecDeque<Offer>,
    /// When the last offer or transfer was over.
    idle_since: Instant,
}

impl<'a> Receiver<'a> {
    /// Ends with the first offer or transfer where one is all that is wanted; else by a signal, or when nobody offers anything.
    async fn run(&mut self, net: &mut Net, asker: &mut Asker) -> Outcome {
        loop {
            let next = if self.args.once && !self.running.is_empty() { None } else { self.waiting.pop_front() };
            let over = match next {
                Some(offer) => self.consider(net, asker, offer).await?,
                None => {
                    let event = self.event(net).await?;
                    self.on(event)
                }
            };
            match over {
                None => continue,
                Some(outcome) if self.args.once => return outcome,
                Some(Err(problem)) => self.out.warning(WarningCode::TransferFailed, &problem.message),
                Some(Ok(())) => {}
            }
            self.idle_since = Instant::now();
        }
    }

    /// What happens next.
    ///
    /// # Errors
    /// A signal; no offer came in the time that was given.
    async fn event(&self, net: &mut Net) -> Outcome<CoreEvent> {
        let Some(timeout) = self.args.timeout.filter(|_| self.running.is_empty()) else { return next(self.out, net).await };
        let until = tokio::time::Instant::from_std(self.idle_since + timeout);
        let event = tokio::time::timeout_at(until, next(self.out, net)).await;
        event.unwrap_or_else(|_| Err(Problem::new(Exit::Timeout, "no offer came in the time of --timeout")))
    }

    /// Takes what happened; how it ended, if something did.
    fn on(&mut self, event: CoreEvent) -> Option<Outcome> {
        let event = match offer_of(event) {
            Ok(offer) => {
                self.waiting.retain(|waiting| waiting.key != offer.key);
                self.waiting.push_back(offer);
                return None;
            }
            Err(event) => event,
        };
        if let CoreEvent::Failed { transfer, .. } = &event {
            self.waiting.retain(|offer| offer.key != *transfer);
        }
        let concerned = |running: &Running<'_>| match (&event, transfer_of(&event)) {
            (_, Some(key)) => running.key() == key,
            (CoreEvent::Device { device, .. }, None) => running.key().device == *device,
            _ => false,
        };
        let at = self.running.iter().position(concerned)?;
        let outcome = self.running[at].on(event)?;
        let running = self.running.remove(at);
        Some(match outcome {
            Ok(summary) => {
                if !self.args.one_file {
                    self.out.say(&format!("It is in {}.", shown(&self.directory.to_string_lossy())));
                }
                running.finish(&summary, 0)
            }
            Err(reason) => Err(broken(reason)),
        })
    }

    /// Decides about an offer, and begins to receive it. `Some`: nothing comes of it.
    async fn consider(&mut self, net: &mut Net, asker: &mut Asker, offer: Offer) -> Outcome<Option<Outcome>> {
        let key = offer.key;
        if self.from.is_some_and(|from| from != key.device) {
            net.decline(key, DeclineReason::Policy).await;
            return Ok(None);
        }
        let known = net.devices().await?;
        tell_offer(self.out, &offer, known.iter().find(|device| device.id == key.device));
        if let Some(failure) = offer.declined {
            let problem = could_not_take(failure, self.directory);
            self.out.event(&Event::Refused { id: key.id.to_string(), reason: failure.to_string() });
            return Ok(Some(Err(problem)));
        }
        let continued = net.is_continued(key).await?;
        if continued && net.is_paused(key).await? {
            // What has arrived stays where it is.
            net.decline(key, DeclineReason::Busy).await;
            self.out.event(&Event::Refused { id: key.id.to_string(), reason: DeclineReason::Busy.to_string() });
            let problem = Problem::new(Exit::Refused, "the offer was declined: it goes on with what is paused on this device");
            return Ok(Some(Err(problem.next("kin transfers resume ID  (kin transfers lists it)"))));
        }
        let decision = {
            let mut decision = pin!(decide(self.out, asker, self.args, (&offer, continued)));
            loop {
                tokio::select! {
                    decision = &mut decision => break decision,
                    event = next(self.out, net) => {
                        let event = event?;
                        if matches!(event, CoreEvent::Failed { transfer, .. } if transfer == key) {
                            break Decision::Gone;
                        }
                        if let Some(Err(problem)) = self.on(event) {
                            self.out.warning(WarningCode::TransferFailed, &problem.message);
                        }
                    },
                }
            }
        };
        match decision {
            Decision::Gone => Ok(Some(Err(Problem::new(Exit::Interrupted, "the offer was taken back before it was answered")))),
            Decision::Decline(reason) => {
                net.decline(key, reason).await;
                self.out.event(&Event::Refused { id: key.id.to_string(), reason: reason.to_string() });
                let message = match reason {
                    DeclineReason::Conflict => "the offer was declined: names in it are taken here (see --on-conflict)",
                    _ => "the offer was declined",
                };
                Ok(Some(Err(Problem::new(reason.exit(), message))))
            }
            Decision::Accept(policy) => {
                net.accept(key, policy).await?;
                self.running.push(Running::new(self.out, key, offer.manifest));
                Ok(None)
            }
        }
    }
}

/// The transfer that an event is about.
const fn transfer_of(event: &CoreEvent) -> Option<TransferKey> {
    match event {
        CoreEvent::Progress { transfer, .. }
        | CoreEvent::Entry { transfer, .. }
        | CoreEvent::DataRoute { transfer, .. }
        | CoreEvent::Suspended { transfer }
        | CoreEvent::Paused { transfer, .. }
        | CoreEvent::Resumed { transfer, .. }
        | CoreEvent::Done { transfer, .. }
        | CoreEvent::Failed { transfer, .. } => Some(*transfer),
        _ => None,
    }
}

/// What happens next. That a message came is told here: it waits for who reads it.
async fn next(out: &Output, net: &mut Net) -> Outcome<CoreEvent> {
    loop {
        match net.next().await? {
            CoreEvent::Message { device, .. } => {
                let known = net.devices().await?;
                let name = known.into_iter().find(|known| known.id == device).map_or_else(|| device.to_string(), |known| known.name);
                out.say(&format!("A message of {} came; when this ends, read it with: kin msg tail", quoted(&name)));
            }
            event => return Ok(event),
        }
    }
}

/// The offer of an event, if it is about one.
fn offer_of(event: CoreEvent) -> Result<Offer, CoreEvent> {
    match event {
        CoreEvent::Offered { transfer: key, label, manifest, notes } => Ok(Offer { key, label, manifest, notes, declined: None }),
        CoreEvent::OfferDeclined { transfer: key, label, manifest, failure } => {
            Ok(Offer { key, label, manifest, notes: Vec::new(), declined: Some(failure) })
        }
        event => Err(event),
    }
}

fn tell_offer(out: &Output, offer: &Offer, sender: Option<&DeviceView>) {
    let (number, bytes) = amount(&offer.manifest);
    let conflicts = Named::new(conflicts(offer).filter_map(|entry| Some(offer.manifest.entry(entry)?.components)));
    let key = offer.key;
    let flagged = offer_event(out, key, &offer.manifest, conflicts.count);
    let name = sender.map_or_else(|| key.device.to_string(), |device| quoted(&device.name));
    let label = offer.label.as_deref().map_or_else(String::new, |label| format!(" {}", quoted(label)));
    out.say(&format!("{name} offers{label}: {}, {}", files(number), size(bytes)));
    conflicts.say(out, "taken here already");
    flagged.say(out, "hidden, or run by itself");
}

/// Why an offer was declined without asking.
fn could_not_take(failure: Failure, directory: &Path) -> Problem {
    let free = Destination::open(directory).and_then(|destination| destination.free_space());
    let place = shown(&directory.to_string_lossy());
    let why = match (failure, free) {
        (Failure::Disk(FileFault::DiskFull), Ok(free)) => format!("it does not fit, {} are free in {place}", size(free)),
        _ => format!("{place}: {failure}"),
    };
    Problem::new(failure.exit(), format!("the offer was declined: {why}"))
}

fn conflicts(offer: &Offer) -> impl Iterator<Item = u32> + '_ {
    offer.notes.iter().filter(|(_, note)| matches!(note, EntryNote::Conflict)).map(|(entry, _)| *entry)
}

fn is_one_file(manifest: &Manifest) -> bool {
    manifest.len() == 1 && manifest.entry(0).is_some_and(|entry| entry.kind == EntryKind::File)
}

/// Yes or no, and what happens to names that are taken.
async fn decide(out: &Output, asker: &mut Asker, args: &Recv, (offer, continued): (&Offer, bool)) -> Decision {
    if args.one_file && !is_one_file(&offer.manifest) {
        out.say("One file is wanted, and this is something else.");
        return Decision::Decline(DeclineReason::Policy);
    }
    if continued {
        out.say("It was taken before, and goes on.");
        return Decision::Accept(None);
    }
    let conflicts = conflicts(offer).count();
    let policy = match args.on_conflict {
        Some(OnConflict::Skip) => Some(ConflictPolicy::Skip),
        Some(OnConflict::Rename) => Some(ConflictPolicy::Rename),
        Some(OnConflict::Overwrite) => Some(ConflictPolicy::Overwrite),
        Some(OnConflict::Update) => Some(ConflictPolicy::Update),
        Some(OnConflict::Fail) => Some(ConflictPolicy::Fail),
        Some(OnConflict::Ask) => None,
        None if args.yes => Some(ConflictPolicy::Rename),
        None if asker.can_ask() => None,
        None => Some(ConflictPolicy::Fail),
    };
    if conflicts > 0 && policy == Some(ConflictPolicy::Fail) {
        return Decision::Decline(DeclineReason::Conflict);
    }
    if !args.yes && asker.yes(out, "Take it?", USER_WAIT).await != Answer::Yes {
        return Decision::Decline(DeclineReason::User);
    }
    match policy {
        Some(policy) => Decision::Accept(Some(policy)),
        // Whatever comes in the way while the transfer runs gets a name of its own.
        None if conflicts == 0 => Decision::Accept(Some(ConflictPolicy::Rename)),
        None => {
            let answer = asker.line(out, "Names are taken: [r]ename, [s]kip, [o]verwrite, [u]pdate, or [d]ecline?", USER_WAIT).await;
            match answer.as_deref().map(str::trim).unwrap_or_default() {
                "r" | "rename" => Decision::Accept(Some(ConflictPolicy::Rename)),
                "s" | "skip" => Decision::Accept(Some(ConflictPolicy::Skip)),
                "o" | "overwrite" => Decision::Accept(Some(ConflictPolicy::Overwrite)),
                "u" | "update" => Decision::Accept(Some(ConflictPolicy::Update)),
                _ => Decision::Decline(DeclineReason::Conflict),
            }
        }
    }
}

fn broken(reason: TransferFailure) -> Problem {
    let kept = match reason.keeps_files() {
        true => "; what has arrived is kept, and goes on when the same is sent again",
        false => "; no unfinished file has its final name, and the temporary ones are removed",
    };
    Problem::new(reason.exit(), format!("the transfer ended before its receipt: {reason}{kept}"))
}
