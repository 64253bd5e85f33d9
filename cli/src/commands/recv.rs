//! `kin recv`: receives in the foreground, offer by offer.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

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
    let mut waiting = VecDeque::new();
    loop {
        let offer = next_offer(&context.out, net, &mut waiting, (from, args.timeout)).await?;
        let done = take(context, net, args, &directory, (offer, &mut waiting)).await;
        if args.once {
            // Nobody is here for them.
            for offer in waiting.drain(..) {
                net.decline(offer.key, DeclineReason::Busy).await;
            }
        }
        match done {
            Err(problem) if args.once || matches!(problem.exit, Exit::Interrupt | Exit::Terminated) => return Err(problem),
            Ok(()) if args.once => return Ok(()),
            Err(problem) => context.out.warning(WarningCode::TransferFailed, &problem.message),
            Ok(()) => {}
        }
    }
}

/// What happens next. That a message came is told here: it waits for who reads it.
async fn next(out: &Output, net: &mut Net) -> Outcome<CoreEvent> {
    loop {
        match net.next().await? {
            CoreEvent::Message { device, .. } => {
                let known = net.devices().await?;
                let name = known.into_iter().find(|known| known.id == device).map_or_else(|| device.to_string(), |known| known.name);
                out.say(&format!("A message of {} came; read it with: kin msg list", quoted(&name)));
            }
            event => return Ok(event),
        }
    }
}

/// What happens next to one transfer, or to nobody in particular; offers that come meanwhile wait for their turn.
async fn next_of(out: &Output, net: &mut Net, waiting: &mut VecDeque<Offer>, key: TransferKey) -> Outcome<CoreEvent> {
    loop {
        match next(out, net).await? {
            CoreEvent::Failed { transfer, .. } if transfer != key => waiting.retain(|offer| offer.key != transfer),
            event => match offer_of(event) {
                Ok(offer) => waiting.push_back(offer),
                Err(event) => return Ok(event),
            },
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

/// The next offer of a device that is welcome.
async fn next_offer(
    out: &Output,
    net: &mut Net,
    waiting: &mut VecDeque<Offer>,
    (from, timeout): (Option<DeviceId>, Option<Duration>),
) -> Outcome<Offer> {
    let offered = async {
        loop {
            let offer = match waiting.pop_front() {
                Some(offer) => offer,
                None => match offer_of(next(out, net).await?) {
                    Ok(offer) => offer,
                    Err(_) => continue,
                },
            };
            if from.is_none_or(|from| from == offer.key.device) {
                return Ok(offer);
            }
            net.decline(offer.key, DeclineReason::Policy).await;
        }
    };
    match timeout {
        None => offered.await,
        Some(timeout) => match tokio::time::timeout(timeout, offered).await {
            Ok(offer) => offer,
            Err(_) => Err(Problem::new(Exit::Timeout, "no offer came in the time of --timeout")),
        },
    }
}

async fn take(
    context: &mut Context,
    net: &mut Net,
    args: &Recv,
    directory: &Path,
    (offer, waiting): (Offer, &mut VecDeque<Offer>),
) -> Outcome {
    let Context { out, asker, .. } = context;
    let key = offer.key;
    let known = net.devices().await?;
    tell_offer(out, &offer, known.iter().find(|device| device.id == key.device));
    if let Some(failure) = offer.declined {
        let problem = could_not_take(failure, directory);
        out.event(&Event::Refused { id: key.id.to_string(), reason: failure.to_string() });
        return Err(problem);
    }
    match decide(out, asker, net, args, (&offer, waiting)).await? {
        Decision::Gone => Err(Problem::new(Exit::Interrupted, "the offer was taken back before it was answered")),
        Decision::Decline(reason) => {
            net.decline(key, reason).await;
            out.event(&Event::Refused { id: key.id.to_string(), reason: reason.to_string() });
            let message = match reason {
                DeclineReason::Conflict => "the offer was declined: names in it are taken here (see --on-conflict)",
                _ => "the offer was declined",
            };
            Err(Problem::new(reason.exit(), message))
        }
        Decision::Accept(policy) => {
            net.accept(key, policy).await?;
            transfer(out, net, (offer, waiting), (directory, args.one_file)).await
        }
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
async fn decide(
    out: &Output,
    asker: &mut Asker,
    net: &mut Net,
    args: &Recv,
    (offer, waiting): (&Offer, &mut VecDeque<Offer>),
) -> Outcome<Decision> {
    if args.one_file && !is_one_file(&offer.manifest) {
        out.say("One file is wanted, and this is something else.");
        return Ok(Decision::Decline(DeclineReason::Policy));
    }
    if net.is_continued(offer.key).await? {
        out.say("It was taken before, and goes on.");
        return Ok(Decision::Accept(None));
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
        return Ok(Decision::Decline(DeclineReason::Conflict));
    }
    if !args.yes {
        let question = asker.yes(out, "Take it?", USER_WAIT);
        match beside(out, net, (offer.key, waiting), question).await? {
            Some(Answer::Yes) => {}
            Some(Answer::No | Answer::Silence | Answer::Nobody) => return Ok(Decision::Decline(DeclineReason::User)),
            None => return Ok(Decision::Gone),
        }
    }
    match policy {
        Some(policy) => Ok(Decision::Accept(Some(policy))),
        // Whatever comes in the way while the transfer runs gets a name of its own.
        None if conflicts == 0 => Ok(Decision::Accept(Some(ConflictPolicy::Rename))),
        None => {
            let question = asker.line(out, "Names are taken: [r]ename, [s]kip, [o]verwrite, [u]pdate, or [d]ecline?", USER_WAIT);
            let Some(answer) = beside(out, net, (offer.key, waiting), question).await? else { return Ok(Decision::Gone) };
            Ok(match answer.as_deref().map(str::trim).unwrap_or_default() {
                "r" | "rename" => Decision::Accept(Some(ConflictPolicy::Rename)),
                "s" | "skip" => Decision::Accept(Some(ConflictPolicy::Skip)),
                "o" | "overwrite" => Decision::Accept(Some(ConflictPolicy::Overwrite)),
                "u" | "update" => Decision::Accept(Some(ConflictPolicy::Update)),
                _ => Decision::Decline(DeclineReason::Conflict),
            })
        }
    }
}

/// Waits for an answer and watches the network; `None` if the offer went away meanwhile. Other offers wait.
async fn beside<T>(
    out: &Output,
    net: &mut Net,
    (key, waiting): (TransferKey, &mut VecDeque<Offer>),
    question: impl Future<Output = T>,
) -> Outcome<Option<T>> {
    let mut question = pin!(question);
    loop {
        tokio::select! {
            answer = &mut question => return Ok(Some(answer)),
            event = next_of(out, net, waiting, key) => {
                if let CoreEvent::Failed { .. } = event? {
                    return Ok(None);
                }
            },
        }
    }
}

async fn transfer(
    out: &Output,
    net: &mut Net,
    (offer, waiting): (Offer, &mut VecDeque<Offer>),
    (directory, one_file): (&Path, bool),
) -> Outcome {
    let key = offer.key;
    let mut running = Running::new(out, key, offer.manifest);
    loop {
        let event = match next_of(out, net, waiting, key).await {
            Ok(event) => event,
            Err(signal) => {
                net.let_go(key).await;
                return Err(signal);
            }
        };
        match running.on(event) {
            None => {}
            Some(Ok(summary)) => {
                if !one_file {
                    out.say(&format!("It is in {}.", shown(&directory.to_string_lossy())));
                }
                return running.finish(&summary, 0);
            }
            Some(Err(reason)) => return Err(broken(reason)),
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
