//! `kin pair`: a one-time code, a wait, a question.

use std::time::{Duration, Instant};

use protocol_core::effects::Event as CoreEvent;
use protocol_core::ids::DeviceId;

use super::Context;
use super::pairing::{Role, follow, needs_yes};
use crate::args::Pair;
use crate::events::{Event, WarningCode};
use crate::exit::Outcome;
use crate::net::{Net, Start};
use crate::output::{Output, clock};
use crate::{private_file, words};

/// How long the other side's first sign of life is awaited.
const CONFIRM_WAIT: Duration = Duration::from_secs(3);

pub(super) async fn run(context: &mut Context, args: &Pair) -> Outcome {
    needs_yes(context, args.yes, "pair")?;
    let mut net = Net::start(context, Start { name: args.name.as_deref(), ..Start::default() }).await?;
    let done = pair(context, &mut net, args).await;
    net.close().await;
    done
}

async fn pair(context: &mut Context, net: &mut Net, args: &Pair) -> Outcome {
    let addresses = net.introduce(&context.out, args.address_file.as_deref()).await?;
    let invite = net.invite(args.ttl, args.yes).await?;
    let expires = Instant::now() + invite.ttl;
    let words = invite.code.words();
    if let Some(path) = &args.code_file {
        private_file::write(path, &(words.join(" ") + "\n"))?;
    }
    show(&context.out, &words, invite.ttl);
    // One that is likely to work is enough to read; the file has all.
    let at = addresses.first().map(|address| format!("kin join --address {address}"));
    match at {
        Some(at) if context.global.looks().is_none() => context.out.say(&format!("On the other device:  {at}")),
        Some(at) => context.out.say(&format!("On the other device:  kin join\nIf it does not find this one:  {at}")),
        None => context.out.say("On the other device:  kin join"),
    }
    let paired = follow(context, net, invite.session, args.yes, (Role::Initiator, Some(expires))).await?;
    if !paired.confirmed && !confirmed(net, paired.device).await? {
        context.out.warning(
            WarningCode::NotUsedYet,
            "not used yet: the other device has not shown that it finished. The next contact confirms the pairing",
        );
    }
    Ok(())
}

fn show(out: &Output, words: &[&str], ttl: Duration) {
    out.event(&Event::Code { words: words.iter().map(|word| (*word).to_owned()).collect(), expires_in_s: ttl.as_secs() });
    out.say("Pair a device. It will be able to offer you files; you approve each offer.");
    out.say(&out.bold(&words::numbered(words)));
    out.say(&format!("One use, {} left.", clock(ttl.as_secs())));
    if out.terminal
        && !out.json
        && let Some(drawn) = words::qr(words)
    {
        out.say(&drawn);
    }
}

/// Waits for the other side's first sign of life, but not long: the record stands without it.
async fn confirmed(net: &mut Net, peer: DeviceId) -> Outcome<bool> {
    let seen = async {
        loop {
            if let CoreEvent::PairConfirmed { device } = net.next().await?
                && device == peer
            {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(CONFIRM_WAIT, seen).await {
        Ok(result) => result.map(|()| true),
        Err(_) => Ok(false),
    }
}
