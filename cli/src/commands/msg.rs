//! `kin msg`: messages.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol_core::effects::Event as CoreEvent;
use protocol_core::ids::{DeviceId, MessageId};
use protocol_core::limits::MESSAGE_BODY;
use protocol_core::messages::{Draft, StoredMessage};
use protocol_core::wire::control::MessageState;

use super::reach::{Reach, Target, patience, reach};
use super::transfer::tell_route;
use super::{Context, devices, off_thread};
use crate::args::{MsgSend, MsgTail, MsgVerb};
use crate::events::{Event, ReceiptState, path_text};
use crate::exit::{Exit, Outcome, Problem};
use crate::net::{Net, Start};
use crate::output::{Output, quoted, shell_word, shown};

pub(super) async fn run(context: &Context, verb: &MsgVerb) -> Outcome {
    match verb {
        MsgVerb::Send(args) => {
            let body = body(&args.text).await?;
            let mut net = Net::start(context, Start::default()).await?;
            let done = send(&context.out, &mut net, args, body).await;
            net.close().await;
            done
        }
        MsgVerb::Tail(args) => {
            let mut net = Net::start(context, Start::default()).await?;
            let done = tail(&context.out, &mut net, args).await;
            net.close().await;
            done
        }
        MsgVerb::List { device } => {
            let net = Net::start(context, Start { offline: true, ..Start::default() }).await?;
            let done = list(&context.out, &net, device.as_deref()).await;
            net.close().await;
            done
        }
    }
}

/// The text, or what standard input holds.
async fn body(text: &str) -> Outcome<Vec<u8>> {
    if text != "-" {
        return Ok(text.as_bytes().to_vec());
    }
    off_thread(|| {
        let mut body = Vec::new();
        let read = std::io::stdin().take(MESSAGE_BODY as u64 + 1).read_to_end(&mut body);
        read.map_err(|error| Problem::new(Exit::LocalIo, format!("standard input: {error}")))?;
        Ok(body)
    })
    .await
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn send(out: &Output, net: &mut Net, args: &MsgSend, body: Vec<u8>) -> Outcome {
    let known = net.devices().await?;
    let target = Target::of(devices::find_view(&known, &args.to)?);
    let content_type = if std::str::from_utf8(&body).is_ok() { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    // Without --queue nothing stays behind; a day is longer than any wait.
    let life = args.queue.unwrap_or(Duration::from_secs(86_400));
    let draft = Draft { content_type: content_type.to_owned(), body, expires_unix: unix_s().saturating_add(life.as_secs()) };
    let id = net.send_message(target.id, draft).await?;
    let done = deliver(out, net, args, &target, id).await;
    if done.is_err() && args.queue.is_none() {
        net.cancel_message(target.id, id).await;
    }
    done
}

async fn deliver(out: &Output, net: &mut Net, args: &MsgSend, target: &Target, id: MessageId) -> Outcome {
    queued(out, net, id).await?;
    let again = |more: &str| format!("kin msg send --to {} {more}", shell_word(&args.to)).trim_end().to_owned();
    let how = Reach { addresses: &args.address, wait: patience(args.wait, args.queue), there: "kin recv` or `kin msg tail", again: &again };
    match reach(out, net, target, how).await {
        Ok(route) => drop(tell_route(out, &route)),
        Err(problem) if args.queue.is_some() && matches!(problem.exit, Exit::Unreachable | Exit::Timeout) => {
            out.result(&format!("Not reached: the message waits for the next contact with {}.", quoted(&target.name)));
            return Ok(());
        }
        Err(problem) => return Err(problem),
    }
    match tokio::time::timeout(args.wait_receipt, receipt(out, net, id)).await {
        Ok(state) => told(out, target, state?),
        Err(_) => {
            let kept = if args.queue.is_some() { "it waits for the next contact" } else { "it may have arrived all the same" };
            Err(Problem::new(Exit::Timeout, format!("{} sent no receipt in time; {kept}", quoted(&target.name))))
        }
    }
}

/// Waits until it is durable here.
async fn queued(out: &Output, net: &mut Net, id: MessageId) -> Outcome {
    loop {
        match net.next().await? {
            CoreEvent::MessageQueued { id: of, .. } if of == id => {
                out.event(&Event::Receipt { message_id: id.to_string(), state: ReceiptState::Queued });
                return Ok(());
            }
            CoreEvent::MessageNotStored { id: of, .. } if of == id => {
                return Err(Problem::new(Exit::LocalIo, "the message could not be stored here, and was not sent"));
            }
            _ => {}
        }
    }
}

async fn receipt(out: &Output, net: &mut Net, id: MessageId) -> Outcome<ReceiptState> {
    let state = loop {
        match net.next().await? {
            CoreEvent::MessageReceipt { id: of, state, .. } if of == id => {
                break match state {
                    MessageState::Delivered => ReceiptState::Delivered,
                    MessageState::HandedOver => ReceiptState::HandedOver,
                    MessageState::Conflict => ReceiptState::Conflict,
                    MessageState::Refused | MessageState::Other(_) => ReceiptState::Refused,
                };
            }
            CoreEvent::MessageExpired { id: of, .. } if of == id => break ReceiptState::Expired,
            _ => {}
        }
    };
    out.event(&Event::Receipt { message_id: id.to_string(), state });
    Ok(state)
}

fn told(out: &Output, target: &Target, state: ReceiptState) -> Outcome {
    let name = quoted(&target.name);
    match state {
        ReceiptState::Delivered | ReceiptState::HandedOver => {
            out.result(&format!("Delivered to {name}."));
            Ok(())
        }
        ReceiptState::Refused => Err(Problem::new(Exit::Refused, format!("{name} did not take the message: too many wait there"))),
        ReceiptState::Conflict => {
            let message =
                format!("{name} has seen another message in this one's place: one of the two devices was set back to an older state");
            Err(Problem::new(Exit::Integrity, message).next("kin pair"))
        }
        ReceiptState::Expired | ReceiptState::Queued => Err(Problem::new(Exit::Timeout, "the message's time was over before its receipt")),
    }
}

/// Names of devices by id.
async fn names(net: &Net) -> Outcome<BTreeMap<DeviceId, String>> {
    Ok(net.devices().await?.into_iter().map(|device| (device.id, device.name)).collect())
}

fn print(out: &Output, names: &BTreeMap<DeviceId, String>, device: DeviceId, message: &StoredMessage) {
    let (body, body_base64) = path_text(&message.body);
    let name = names.get(&device).map_or_else(|| device.to_string(), |name| shown(name));
    let text =
        if body_base64.is_some() { format!("({} bytes of {})", message.body.len(), shown(&message.content_type)) } else { shown(&body) };
    out.event(&Event::Message {
        message_id: message.id.to_string(),
        device_id: device.to_string(),
        content_type: message.content_type.clone(),
        body,
        body_base64,
        received_at: message.unix_s,
    });
    out.result(&format!("{name}: {text}"));
}

async fn tail(out: &Output, net: &mut Net, args: &MsgTail) -> Outcome {
    let known = net.devices().await?;
    let from = args.from.as_deref().map(|wanted| devices::find_view(&known, wanted)).transpose()?.map(|device| device.id);
    net.introduce(out, args.address_file.as_deref()).await?;
    let wanted = |device: DeviceId| from.is_none_or(|from| from == device);
    for device in known.iter().map(|device| device.id).filter(|device| wanted(*device)) {
        for message in net.messages(device).await? {
            if take(out, net, device, message.id).await? && args.once {
                return Ok(());
            }
        }
    }
    out.say("Waiting for messages. Ctrl-C ends it.");
    loop {
        let came = async {
            loop {
                match net.next().await? {
                    CoreEvent::Message { device, id } if wanted(device) => return Ok((device, id)),
                    _ => {}
                }
            }
        };
        let (device, id) = match args.timeout {
            None => came.await?,
            Some(timeout) => match tokio::time::timeout(timeout, came).await {
                Ok(came) => came?,
                Err(_) => return Err(Problem::new(Exit::Timeout, "no message came in the time of --timeout")),
            },
        };
        if take(out, net, device, id).await? && args.once {
            return Ok(());
        }
    }
}

/// Prints a message and takes it out of the store. False: it was taken already.
async fn take(out: &Output, net: &Net, device: DeviceId, id: MessageId) -> Outcome<bool> {
    let Some(message) = net.messages(device).await?.into_iter().find(|message| message.id == id) else { return Ok(false) };
    // Printed first: one that a crash takes between the two is printed again, and none is lost.
    print(out, &names(net).await?, device, &message);
    net.take_message(device, id).await?;
    Ok(true)
}

async fn list(out: &Output, net: &Net, device: Option<&str>) -> Outcome {
    let known = net.devices().await?;
    let only = device.map(|wanted| devices::find_view(&known, wanted)).transpose()?.map(|device| device.id);
    let names = names(net).await?;
    let mut any = false;
    for device in known.iter().map(|device| device.id).filter(|device| only.is_none_or(|only| only == *device)) {
        for message in net.messages(device).await? {
            any = true;
            print(out, &names, device, &message);
        }
        for message in net.queued_messages(device).await? {
            any = true;
            out.event(&Event::Receipt { message_id: message.id.to_string(), state: ReceiptState::Queued });
            let name = names.get(&device).map_or_else(|| device.to_string(), |name| shown(name));
            out.result(&format!("waits for {name}: {} bytes", message.body.len()));
        }
    }
    if !any {
        out.say("No messages.");
    }
    Ok(())
}
