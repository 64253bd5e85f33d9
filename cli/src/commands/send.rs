//! `kin send`: files and directories to a paired device.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adapter_tokio::files::{Scan, Selection, SkipReason, SymlinkPolicy, scan};
use adapter_tokio::service::{Queued, SendRequest, Sharing};
use protocol_core::effects::{DeviceState, Event as CoreEvent, Route, TransferKey};
use protocol_core::faults::{CancelReason, TransferFailure};
use protocol_core::info::Address;
use protocol_core::limits::{LABEL, USER_WAIT};
use protocol_core::transfer::manifest::{EntryKind, Manifest};

use super::reach::{Reach, Target, patience, reach};
use super::transfer::{Running, amount, offer_event, tell_paused, tell_route};
use super::{Context, devices, off_thread};
use crate::args::{Send, Symlinks};
use crate::events::{Event, File, WarningCode};
use crate::exit::{Exit, Outcome, Problem, Severity as _};
use crate::net::{Net, Start, scan_failed};
use crate::output::{Output, count, files, quoted, shell_word, shown, shown_path, size};
use crate::registry;
use crate::scratch::Scratch;

/// How long the other side's answer is awaited: its user's time, and a little for the way.
const ANSWER_WAIT: Duration = USER_WAIT.saturating_add(Duration::from_secs(30));

/// What is sent to whom.
pub(super) struct Sent<'a> {
    pub(super) request: SendRequest,
    pub(super) to: &'a str,
    pub(super) address: &'a [Address],
    pub(super) wait: Option<Duration>,
    /// Where it is not reached: how long it may wait for a `kin up`.
    pub(super) queue: Option<Duration>,
    /// The command that does the same once more.
    pub(super) command: String,
    /// What is sent is gone when this command ends: there is no other try.
    pub(super) once: bool,
}

pub(super) async fn run(context: &Context, args: &Send) -> Outcome {
    let from_stdin = args.paths.iter().any(|path| path == "-");
    if from_stdin && (args.paths.len() > 1 || args.dry_run) {
        return Err(Problem::usage("standard input is sent alone, and not tried out"));
    }
    if from_stdin != args.name.is_some() {
        return Err(Problem::usage("--name says what standard input is called: kin send - --name NAME"));
    }
    if from_stdin && args.queue.is_some() {
        return Err(Problem::usage("standard input cannot wait for another process: write it to a file first"));
    }
    let spool = if from_stdin { Some(spool(context, args).await?) } else { None };
    let paths = match &spool {
        Some((_, path)) => vec![path.clone()],
        None => args.paths.iter().map(PathBuf::from).collect(),
    };
    check_paths(&paths)?;
    let request = request(args, paths);
    if args.dry_run {
        return dry_run(context, args, &request);
    }
    let sent = Sent {
        request,
        to: &args.to,
        address: &args.address,
        wait: args.wait,
        queue: args.queue,
        command: command(args),
        once: from_stdin,
    };
    send(context, &sent).await
}

/// Offers and sends.
pub(super) async fn send(context: &Context, sent: &Sent<'_>) -> Outcome {
    let mut net = Net::start(context, Start::default()).await?;
    let done = offer(&context.out, &mut net, sent).await;
    net.close().await;
    done
}

fn request(args: &Send, paths: Vec<PathBuf>) -> SendRequest {
    let symlinks = match args.symlinks {
        Symlinks::Keep => SymlinkPolicy::Keep,
        Symlinks::Follow => SymlinkPolicy::Follow,
        Symlinks::Skip => SymlinkPolicy::Skip,
    };
    let selection = Selection { symlinks, exclude: args.exclude.clone(), ignore_files: args.ignore_file.clone() };
    SendRequest { label: label(&paths), paths, selection, rate: args.limit_rate }
}

/// Writes standard input to a temporary file under the name that it is sent by: its size has to be known before it is offered.
async fn spool(context: &Context, args: &Send) -> Outcome<(Scratch, PathBuf)> {
    let name = args.name.clone().unwrap_or_default();
    if Path::new(&name).file_name() != Some(&name) {
        return Err(Problem::usage("--name is the name of a file, without a directory"));
    }
    let failed = |error: std::io::Error| Problem::new(error.exit(), format!("standard input cannot be kept until it is sent: {error}"));
    let scratch = Scratch::new("kin-stdin").map_err(failed)?;
    let path = scratch.path().join(name);
    let mut file = std::fs::File::create_new(&path).map_err(failed)?;
    let copied = off_thread(move || std::io::copy(&mut std::io::stdin().lock(), &mut file).map(drop).map_err(failed));
    // Nobody may ever end it.
    context.stop.clone().or(copied).await??;
    Ok((scratch, path))
}

/// A path that is not there is found out before anything is opened.
fn check_paths(paths: &[PathBuf]) -> Outcome {
    for path in paths {
        std::fs::symlink_metadata(path)
            .map_err(|error| Problem::new(error.exit(), format!("{}: {error}", shown(&path.to_string_lossy()))))?;
    }
    Ok(())
}

/// Lists what would be sent.
fn dry_run(context: &Context, args: &Send, request: &SendRequest) -> Outcome {
    let out = &context.out;
    devices::find(&registry::devices(&context.home()?)?, &args.to)?;
    let Scan { entries, skipped, excluded, .. } = scan(&request.paths, &request.selection).map_err(|error| scan_failed(&error))?;
    let (mut number, mut bytes) = (0, 0);
    for entry in &entries {
        let path = entry.components.join(&b'/');
        let (mark, of_size) = match entry.kind {
            EntryKind::Directory => ("/".to_owned(), String::new()),
            EntryKind::Symlink => (format!(" -> {}", shown_path(entry.target.as_deref().unwrap_or_default())), String::new()),
            EntryKind::File => (String::new(), size(entry.size)),
        };
        out.result(&format!("{of_size:>12}  {}{mark}", shown_path(&path)));
        if entry.kind == EntryKind::File {
            (number, bytes) = (number + 1, bytes + entry.size);
            out.event(&Event::File(File::planned(&path, entry.size)));
        }
    }
    let skipped = tell_skipped(out, &skipped);
    out.say(&format!("Would send {}, {}, to {}{}.", files(number), size(bytes), shown(&args.to), left_out(excluded)));
    if skipped > 0 { Err(Problem::partial("some items cannot be sent; they are listed above")) } else { Ok(()) }
}

/// What a selection leaves out, in words.
fn left_out(excluded: u64) -> String {
    if excluded == 0 { String::new() } else { format!("; {} left out by patterns", count(excluded)) }
}

/// Lists what is left out; how many.
pub(super) fn tell_skipped(out: &Output, skipped: &[(PathBuf, SkipReason)]) -> u64 {
    for (path, reason) in skipped {
        let why = match reason {
            SkipReason::Unreadable(fault) => format!("not readable, {fault}"),
            SkipReason::Special | SkipReason::Symlink | SkipReason::Loop | SkipReason::TooLong => reason.to_string(),
        };
        out.warning(WarningCode::SourceSkipped, &format!("{} is left out: {why}", shown(&path.to_string_lossy())));
    }
    skipped.len() as u64
}

async fn offer(out: &Output, net: &mut Net, sent: &Sent<'_>) -> Outcome {
    let known = net.devices().await?;
    let found = devices::find_view(&known, sent.to)?;
    let target = Target::of(found);
    let again = |more: &str| sent.again(more);
    let how = Reach { addresses: sent.address, wait: patience(sent.wait, sent.queue), there: "kin recv", again: &again };
    let route = match (reach(out, net, &target, how).await, sent.queue) {
        (Ok(route), _) => route,
        (Err(problem), Some(life)) if matches!(problem.exit, Exit::Unreachable | Exit::Timeout) => {
            return queue(out, net, &target, (sent, life)).await;
        }
        (Err(problem), _) => return Err(problem),
    };
    let way = tell_route(out, &route);
    let Sharing { key, manifest, skipped, excluded } = net.share(target.id, sent.request.clone()).await?;
    let skipped = tell_skipped(out, &skipped);
    let (number, bytes) = amount(&manifest);
    offer_event(out, key, &manifest, 0);
    let label = sent.request.label.as_deref().map_or_else(String::new, shown);
    let excluded = left_out(excluded);
    out.say(&format!("{label}  {}  {} → {}   {way}{excluded}", files(number), size(bytes), shown(&target.name)));
    let done = match wait_for_answer(out, net, key, &target).await {
        Ok(()) => transfer(out, net, (key, manifest, skipped), (sent, &route)).await,
        Err(problem) => Err(problem),
    };
    if sent.once && done.as_ref().is_err_and(|problem| problem.exit != Exit::Partial) {
        net.cancel(key, CancelReason::Source).await;
        net.give_up(key.id).await?;
    }
    done
}

/// The device is not there: what is to be sent waits for it.
async fn queue(out: &Output, net: &mut Net, target: &Target, (sent, life): (&Sent<'_>, Duration)) -> Outcome {
    let Queued { transfer, manifest, skipped, excluded, expires_unix } = net.queue(target.id, sent.request.clone(), life).await?;
    let skipped = tell_skipped(out, &skipped);
    let (number, bytes) = amount(&manifest);
    out.event(&Event::Queued {
        id: transfer.to_string(),
        device_id: target.id.to_string(),
        files: number,
        bytes,
        expires_at: expires_unix,
    });
    let excluded = left_out(excluded);
    let what = sent.request.label.as_deref().map_or_else(|| files(number), shown);
    out.result(&format!("{what}  {}  {} → {}   waits{excluded}", files(number), size(bytes), shown(&target.name)));
    out.say("`kin up` sends it when the device is there; see  kin transfers  for what waits.");
    if skipped == 0 { Ok(()) } else { Err(Problem::partial(format!("{} of it are left out; they are listed above", count(skipped)))) }
}

/// What the receiver is shown as the name of the whole: that of the first path.
fn label(paths: &[PathBuf]) -> Option<String> {
    let name = paths.first()?.file_name()?.to_string_lossy().into_owned();
    (name.len() <= LABEL).then_some(name)
}

/// The same command once more.
fn command(args: &Send) -> String {
    let mut words: Vec<String> = args.paths.iter().map(|path| shell_word(&path.to_string_lossy())).collect();
    words.extend(args.name.iter().flat_map(|name| ["--name".to_owned(), shell_word(&name.to_string_lossy())]));
    words.extend(args.exclude.iter().flat_map(|pattern| ["--exclude".to_owned(), shell_word(pattern)]));
    if args.ignore_file != [".kinignore"] {
        words.extend(args.ignore_file.iter().flat_map(|name| ["--ignore-file".to_owned(), shell_word(&name.to_string_lossy())]));
    }
    match args.symlinks {
        Symlinks::Keep => {}
        Symlinks::Follow => words.push("--symlinks follow".to_owned()),
        Symlinks::Skip => words.push("--symlinks skip".to_owned()),
    }
    words.extend(args.limit_rate.map(|rate| format!("--limit-rate {rate}")));
    format!("kin send {} --to {}", words.join(" "), shell_word(&args.to))
}

impl Sent<'_> {
    /// The same command once more, with this added.
    fn again(&self, more: &str) -> String {
        format!("{} {more}", self.command).trim_end().to_owned()
    }
}

async fn wait_for_answer(out: &Output, net: &mut Net, key: TransferKey, target: &Target) -> Outcome {
    let answer = async {
        loop {
            match net.next().await? {
                CoreEvent::Accepted { transfer } if transfer == key => return Ok(()),
                // The manifest goes before the answer comes.
                CoreEvent::DataRoute { transfer, route } if transfer == key => drop(tell_route(out, &route)),
                CoreEvent::Rerouted { device, route } if device == target.id => drop(tell_route(out, &route)),
                CoreEvent::Paused { transfer, here, there } if transfer == key => tell_paused(out, key, here, there, ""),
                CoreEvent::Failed { transfer, reason } if transfer == key => return Err(refused(out, key, reason)),
                CoreEvent::Device { device, state: DeviceState::Disconnected, .. } if device == target.id => {
                    out.say("The connection was lost; it is awaited.");
                }
                _ => {}
            }
        }
    };
    match tokio::time::timeout(ANSWER_WAIT, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            net.cancel(key, CancelReason::User).await;
            Err(Problem::new(Exit::Timeout, format!("{} did not answer the offer in time", quoted(&target.name))))
        }
    }
}

fn refused(out: &Output, key: TransferKey, reason: TransferFailure) -> Problem {
    if let TransferFailure::Declined(reason) = reason {
        out.event(&Event::Refused { id: key.id.to_string(), reason: reason.to_string() });
        return Problem::new(reason.exit(), format!("the other device declined: {reason}; nothing was sent"));
    }
    Problem::new(reason.exit(), reason.to_string())
}

async fn transfer(
    out: &Output,
    net: &mut Net,
    (key, manifest, skipped): (TransferKey, Arc<Manifest>, u64),
    (sent, route): (&Sent<'_>, &Route),
) -> Outcome {
    let mut running = Running::new(out, key, manifest);
    running.hint(route);
    let next = |problem: Problem| if sent.once { problem } else { problem.next(sent.again("")) };
    loop {
        let event = match net.next().await {
            Ok(event) => event,
            Err(signal) => {
                net.let_go(key).await;
                return Err(next(signal));
            }
        };
        match running.on(event) {
            None => {}
            Some(Ok(summary)) => return running.finish(&summary, skipped),
            Some(Err(reason)) => {
                let kept = if !reason.keeps_files() {
                    "nothing unfinished has a final name there"
                } else if sent.once {
                    "what has arrived is kept there until it is given up: what came from standard input cannot be sent again"
                } else {
                    "what has arrived is kept there, and the same command goes on"
                };
                let message = format!("the transfer ended before its receipt: {reason}; {kept}");
                return Err(next(Problem::new(reason.exit(), message)));
            }
        }
    }
}
