//! `kin transfers`: what was begun and is not finished. Looking needs no network and no lock.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use adapter_tokio::home::journals_path;
use adapter_tokio::journal::{Begun, Journals};
use adapter_tokio::service::SendRequest;
use protocol_core::effects::{Direction, TransferKey};
use protocol_core::faults::CancelReason;
use protocol_core::ids::{DeviceId, TransferId};
use protocol_core::info::Address;

use super::send::Sent;
use super::{Context, recv, send};
use crate::args::{Recv, TransfersVerb};
use crate::events::{Event, Unfinished, Way};
use crate::exit::{Exit, Outcome, Problem};
use crate::net::{Net, Start};
use crate::output::{Output, count, shell_word, shown, size};
use crate::registry;

pub(super) async fn run(context: &mut Context, verb: Option<TransfersVerb>) -> Outcome {
    let all = begun(&context.home()?)?;
    match verb.unwrap_or(TransfersVerb::List) {
        TransfersVerb::List => {
            list(&context.out, &all);
            Ok(())
        }
        TransfersVerb::Show { transfer } => {
            show(&context.out, find(&all, &transfer)?);
            Ok(())
        }
        TransfersVerb::Pause { transfer } => {
            let one = find(&all, &transfer)?;
            let runs = pause(context, one, true).await?;
            let more = if runs { "" } else { "; it does not run, and nothing goes on with it by itself" };
            context.out.event(&Event::Unfinished(Unfinished { paused: true, ..one.row.clone() }));
            context.out.result(&format!("{} is paused{more}. Go on: kin transfers resume {}", short(&one.row.id), short(&one.row.id)));
            Ok(())
        }
        TransfersVerb::Resume { transfer, address } => resume(context, find(&all, &transfer)?, &address).await,
        TransfersVerb::Cancel { transfer } => {
            let one = find(&all, &transfer)?;
            give_up(context, &[one], true).await.map(drop)
        }
        TransfersVerb::Prune => {
            let (number, left) = give_up(context, &all.iter().collect::<Vec<_>>(), false).await?;
            let left = if left == 0 { String::new() } else { format!("; {} run, and stay", count(left)) };
            context.out.result(&format!("{} forgotten{left}.", count(number)));
            Ok(())
        }
    }
}

/// A transfer that is not finished.
struct One {
    device: DeviceId,
    transfer: TransferId,
    what: What,
    row: Unfinished,
}

enum What {
    Out { request: Box<SendRequest> },
    In { directory: PathBuf },
}

/// All that was begun, the oldest first; those that came behind those that go.
fn begun(home: &Path) -> Outcome<Vec<One>> {
    let names = registry::devices(home)?;
    let name = |device: DeviceId| names.iter().find(|known| known.device_id == device.to_string()).map(|known| known.name.clone());
    let journals = Journals::new(journals_path(home));
    let Begun { incoming, outgoing, paused, .. } = Begun::read(&journals);
    let outgoing = outgoing.into_iter().map(|out| One {
        device: out.device,
        transfer: out.transfer,
        row: Unfinished {
            id: out.transfer.to_string(),
            direction: Way::Out,
            device_id: out.device.to_string(),
            name: name(out.device),
            bytes: out.bytes,
            bytes_durable: None,
            entries: out.entries.into(),
            begun_at: out.unix_s,
            expires_at: out.expires_unix,
            paused: paused.contains(&out.transfer),
            paths: out.request.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        },
        what: What::Out { request: Box::new(out.request) },
    });
    let incoming = incoming.into_iter().map(|head| One {
        device: head.device,
        transfer: head.transfer,
        row: Unfinished {
            id: head.transfer.to_string(),
            direction: Way::In,
            device_id: head.device.to_string(),
            name: name(head.device),
            bytes: head.bytes,
            bytes_durable: journals.read(head.transfer).map(|unfinished| unfinished.bytes().min(head.bytes)),
            entries: head.entries.into(),
            begun_at: head.unix_s,
            expires_at: None,
            paused: paused.contains(&head.transfer),
            paths: vec![head.directory.to_string_lossy().into_owned()],
        },
        what: What::In { directory: head.directory },
    });
    Ok(outgoing.chain(incoming).collect())
}

/// The one whose id begins like this.
fn find<'a>(all: &'a [One], wanted: &str) -> Outcome<&'a One> {
    let mut found = all.iter().filter(|one| one.row.id.starts_with(&wanted.to_lowercase()));
    match (found.next(), found.next()) {
        (Some(one), None) if !wanted.is_empty() => Ok(one),
        (None, _) => Err(Problem::new(Exit::NotFound, format!("no unfinished transfer {}", shown(wanted))).next("kin transfers")),
        _ => Err(Problem::new(Exit::NotFound, format!("several transfers begin with {}", shown(wanted))).next("kin transfers")),
    }
}

/// Enough of an id to tell it from others.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn line(row: &Unfinished) -> String {
    let device = shown(row.name.as_deref().unwrap_or(&row.device_id));
    let paths: Vec<String> = row.paths.iter().map(|path| shown(path)).collect();
    let (way, place) = match row.direction {
        Way::Out => (format!("→ {device}"), paths.join(" ")),
        Way::In => (format!("← {device}"), format!("into {}", paths.join(" "))),
    };
    let done = row.bytes_durable.map_or_else(|| size(row.bytes), |durable| format!("{} of {}", size(durable), size(row.bytes)));
    let paused = if row.paused { "  (paused)" } else { "" };
    format!("{}  {way}  {done}  {place}{paused}", short(&row.id))
}

fn list(out: &Output, all: &[One]) {
    for One { row, .. } in all {
        out.result(&line(row));
        out.event(&Event::Unfinished(row.clone()));
    }
    if all.is_empty() {
        out.say("Nothing is unfinished.");
    } else {
        out.say("Go on with one:  kin transfers resume ID   Have it rest:  … pause ID   Give it up:  … cancel ID");
    }
}

fn show(out: &Output, one: &One) {
    let row = &one.row;
    out.event(&Event::Unfinished(row.clone()));
    out.result(&line(row));
    out.result(&format!("  id       {}", row.id));
    out.result(&format!("  entries  {}", count(row.entries)));
    if let Some(expires) = row.expires_at {
        let until = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(expires));
        let paused = if row.paused { ", once it is paused no more" } else { "" };
        out.result(&format!("  waits until {until} for a `kin up` that finds the device{paused}"));
    }
    let next = match row.direction {
        Way::In if !row.paused => {
            format!("kin recv {} --from {}   while the other device sends the same again", place(row), shell_word(&device(row)))
        }
        Way::In | Way::Out => format!("kin transfers resume {}", short(&row.id)),
    };
    out.result(&format!("  go on    {next}"));
}

fn place(row: &Unfinished) -> String {
    row.paths.first().map_or_else(String::new, |path| shell_word(path))
}

fn device(row: &Unfinished) -> String {
    row.name.clone().unwrap_or_else(|| row.device_id.clone())
}

/// Has one rest, or go on; whether it runs in a `kin up`.
async fn pause(context: &Context, one: &One, paused: bool) -> Outcome<bool> {
    let net = Net::start(context, Start { offline: true, ..Start::default() }).await?;
    let runs = net.pause(key(one), paused).await;
    net.close().await;
    runs
}

const fn key(one: &One) -> TransferKey {
    let direction = match one.row.direction {
        Way::Out => Direction::Outgoing,
        Way::In => Direction::Incoming,
    };
    TransferKey { device: one.device, direction, id: one.transfer }
}

/// Lets one go on that is paused, or begins it again.
async fn resume(context: &mut Context, one: &One, address: &[Address]) -> Outcome {
    let id = short(&one.row.id);
    if pause(context, one, false).await? {
        let words = if one.row.paused { "is paused no more" } else { "runs, and is not paused on this device" };
        context.out.event(&Event::Unfinished(Unfinished { paused: false, ..one.row.clone() }));
        context.out.result(&format!("{id} {words}."));
        return Ok(());
    }
    match &one.what {
        What::Out { request } => {
            let to = one.device.to_string();
            let command = format!("kin transfers resume {id}");
            let sent = Sent { request: (**request).clone(), to: &to, address, wait: None, queue: None, command, once: false };
            match send::send(context, &sent).await {
                // A `kin up` that finds the device has been faster.
                Err(_) if matches!(pause(context, one, false).await, Ok(true)) => {
                    context.out.result(&format!("{id} runs: `kin up` carries it."));
                    Ok(())
                }
                sent => sent,
            }
        }
        What::In { directory } => {
            let (dir, from) = (directory.clone(), Some(one.device.to_string()));
            let args = Recv { dir, from, once: true, yes: false, on_conflict: None, timeout: None, address_file: None, one_file: false };
            recv::run(context, &args).await
        }
    }
}

/// Gives transfers up; with `run`, those that run where a `kin up` holds the home are cancelled there. How many are gone, and how many stay.
async fn give_up(context: &Context, all: &[&One], run: bool) -> Outcome<(u64, u64)> {
    let net = Net::start(context, Start { offline: true, ..Start::default() }).await?;
    let (mut gone, mut left) = (0, 0);
    for one in all {
        if run {
            // Both sides hear of it.
            net.cancel(key(one), CancelReason::User).await;
        }
        if net.give_up(one.transfer).await? || run {
            gone += 1;
        } else {
            left += 1;
        }
    }
    net.close().await;
    Ok((gone, left))
}
