//! `kin join`: a code that another device shows, an address, a question.

use std::io::Read as _;
use std::time::Duration;

use protocol_core::effects::{DeviceState, Event as CoreEvent};
use protocol_core::ids::DeviceId;
use protocol_core::pairing::code::PairingCode;

use super::pairing::{Role, follow, needs_yes};
use super::{Context, off_thread};
use crate::args::Join;
use crate::events::WarningCode;
use crate::exit::{Exit, Outcome, Problem};
use crate::net::{Net, Start};
use crate::words;

/// How long the initiator's first reply is awaited after the pairing: it tells that our last message arrived.
const REPLY_WAIT: Duration = Duration::from_secs(2);
/// The longest text that is read as a code, in bytes.
const LONGEST_CODE: u64 = 4096;

pub(super) async fn run(context: &mut Context, args: &Join) -> Outcome {
    if args.address.is_empty() && context.global.looks().is_none() {
        return Err(Problem::usage(
            "with --no-lan and no DHT nobody is looked for: say where the other device listens (it runs `kin pair --address-file FILE`)",
        )
        .next("kin join --address tcp:IP:PORT"));
    }
    needs_yes(context, args.yes, "join")?;
    let code = code(context, args).await?;
    let mut net = Net::start(context, Start { name: args.name.as_deref(), ..Start::default() }).await?;
    let done = join(context, &mut net, args, code).await;
    net.close().await;
    done
}

async fn join(context: &mut Context, net: &mut Net, args: &Join, code: PairingCode) -> Outcome {
    net.introduce(&context.out, None).await?;
    let session = net.join(code, &args.address, args.yes).await?;
    match context.global.looks().filter(|_| args.address.is_empty()) {
        Some(place) => context.out.say(&format!("Looking for the other device {place}…")),
        None => context.out.say("Looking for the other device…"),
    }
    let paired = follow(context, net, session, args.yes, (Role::Joiner, None)).await?;
    first_reply(net, paired.device).await
}

/// Waits until the session is up, which takes the initiator's first reply; without one the next contact finishes the pairing.
async fn first_reply(net: &mut Net, peer: DeviceId) -> Outcome {
    if net.devices().await?.iter().any(|device| device.id == peer && device.state == DeviceState::Connected) {
        return Ok(());
    }
    let up = async {
        loop {
            if let CoreEvent::Device { device, state: DeviceState::Connected | DeviceState::Disconnected, .. } = net.next().await?
                && device == peer
            {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(REPLY_WAIT, up).await.unwrap_or(Ok(()))
}

/// The code, from wherever it comes.
async fn code(context: &mut Context, args: &Join) -> Outcome<PairingCode> {
    if !args.words.is_empty() {
        context.out.warning(WarningCode::WordsInArguments, "a shell remembers what is typed on its command line; a prompt does not");
        return words::parse(&args.words.join(" "));
    }
    if let Some(path) = &args.code_file {
        let file = std::fs::File::open(path).map_err(|error| {
            let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::LocalIo };
            Problem::new(exit, format!("{}: {error}", path.display()))
        })?;
        return words::parse(&read(file)?);
    }
    if args.code_stdin {
        return words::parse(&context.stop.or(off_thread(|| read(std::io::stdin().lock()))).await??);
    }
    if let Ok(text) = std::env::var("KIN_CODE")
        && !text.trim().is_empty()
    {
        return words::parse(&text);
    }
    if !context.asker.can_ask() {
        return Err(Problem::usage("no code was given and nobody can be asked for it").next("kin join --code-file FILE"));
    }
    context.out.say("Enter the twelve words that the other device shows; four letters of each are enough, Tab completes.");
    context.stop.or(off_thread(words::prompt)).await?
}

fn read(from: impl std::io::Read) -> Outcome<String> {
    let mut text = String::new();
    let read = from.take(LONGEST_CODE).read_to_string(&mut text);
    read.map_err(|error| Problem::new(Exit::LocalIo, format!("the code could not be read: {error}")))?;
    Ok(text)
}
