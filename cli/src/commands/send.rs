//! `kin send`: files and directories to a paired device.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adapter_tokio::files::{SkipReason, SymlinkPolicy};
use adapter_tokio::service::{SendRequest, Sharing};
use protocol_core::effects::{DeviceState, Event as CoreEvent, TransferKey};
use protocol_core::faults::{CancelReason, TransferFailure};
use protocol_core::limits::{LABEL, USER_WAIT};
use protocol_core::transfer::manifest::Manifest;

use super::reach::{Reach, Target, reach};
use super::transfer::{Running, amount, offer_event, tell_route};
use super::{Context, devices};
use crate::args::{Send, Symlinks};
use crate::events::{Event, WarningCode};
use crate::exit::{Exit, Outcome, Problem, Severity as _};
use crate::net::{Net, Start};
use crate::output::{Output, files, quoted, shell_word, shown, size};

/// How long the other side's answer is awaited: its user's time, and a little for the way.
const ANSWER_WAIT: Duration = USER_WAIT.saturating_add(Duration::from_secs(30));

pub(super) async fn run(context: &Context, args: &Send) -> Outcome {
    if args.paths.iter().any(|path| path == "-") {
        return Err(Problem::usage("sending standard input is not built in yet: write it to a file, and send that"));
    }
    check_paths(args)?;
    let mut net = Net::start(context, Start::default()).await?;
    let done = send(&context.out, &mut net, args).await;
    net.close().await;
    done
}

/// A path that is not there is found out before anything is opened.
fn check_paths(args: &Send) -> Outcome {
    for path in &args.paths {
        std::fs::symlink_metadata(path)
            .map_err(|error| Problem::new(error.exit(), format!("{}: {error}", shown(&path.to_string_lossy()))))?;
    }
    Ok(())
}

/// Lists what is left out; how many.
fn tell_skipped(out: &Output, skipped: &[(PathBuf, SkipReason)]) -> u64 {
    for (path, reason) in skipped {
        let why = match reason {
            SkipReason::Unreadable(fault) => format!("not readable, {fault}"),
            SkipReason::Special | SkipReason::Symlink | SkipReason::TooLong => reason.to_string(),
        };
        out.warning(WarningCode::SourceSkipped, &format!("{} is left out: {why}", shown(&path.to_string_lossy())));
    }
    skipped.len() as u64
}

async fn send(out: &Output, net: &mut Net, args: &Send) -> Outcome {
    let known = net.devices().await?;
    let found = devices::find_view(&known, &args.to)?;
    let target = Target::of(found);
    let again = |more: &str| again(args, more);
    let route = reach(out, net, &target, Reach { addresses: &args.address, wait: args.wait, there: "kin recv", again: &again }).await?;
    let way = tell_route(out, &route);
    let label = label(args);
    let request = SendRequest {
        paths: args.paths.iter().map(PathBuf::from).collect(),
        symlinks: match args.symlinks {
            Symlinks::Keep => SymlinkPolicy::Keep,
            Symlinks::Skip => SymlinkPolicy::Skip,
        },
        label: label.clone(),
    };
    let Sharing { key, manifest, skipped } = net.share(target.id, request).await?;
    let skipped = tell_skipped(out, &skipped);
    let (number, bytes) = amount(&manifest);
    offer_event(out, key, &manifest, 0);
    let label = label.map_or_else(String::new, |label| shown(&label));
    out.say(&format!("{label}  {}  {} → {}   {way}", files(number), size(bytes), shown(&target.name)));
    wait_for_answer(out, net, key, &target).await?;
    transfer(out, net, (key, manifest, skipped), args).await
}

/// What the receiver is shown as the name of the whole: that of the first path.
fn label(args: &Send) -> Option<String> {
    let first = PathBuf::from(args.paths.first()?);
    let name = first.file_name()?.to_string_lossy().into_owned();
    (name.len() <= LABEL).then_some(name)
}

/// The same command once more.
fn again(args: &Send, more: &str) -> String {
    let paths: Vec<String> = args.paths.iter().map(|path| shell_word(&path.to_string_lossy())).collect();
    format!("kin send {} --to {} {more}", paths.join(" "), shell_word(&args.to)).trim_end().to_owned()
}

async fn wait_for_answer(out: &Output, net: &mut Net, key: TransferKey, target: &Target) -> Outcome {
    let answer = async {
        loop {
            match net.next().await? {
                CoreEvent::Accepted { transfer } if transfer == key => return Ok(()),
                // The manifest goes before the answer comes.
                CoreEvent::DataRoute { transfer, route } if transfer == key => drop(tell_route(out, &route)),
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

async fn transfer(out: &Output, net: &mut Net, (key, manifest, skipped): (TransferKey, Arc<Manifest>, u64), args: &Send) -> Outcome {
    let mut running = Running::new(out, key, manifest);
    loop {
        let event = match net.next().await {
            Ok(event) => event,
            Err(signal) => {
                net.let_go(key).await;
                return Err(signal.next(again(args, "")));
            }
        };
        match running.on(event) {
            None => {}
            Some(Ok(summary)) => return running.finish(&summary, skipped),
            Some(Err(reason)) => {
                let kept = if reason.keeps_files() {
                    "what has arrived is kept there, and the same command goes on"
                } else {
                    "nothing unfinished has a final name there"
                };
                let message = format!("the transfer ended before its receipt: {reason}; {kept}");
                return Err(Problem::new(reason.exit(), message).next(again(args, "")));
            }
        }
    }
}
