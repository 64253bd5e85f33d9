//! What `pair` and `join` share: the question, the check number, and how a pairing ends.

use std::pin::pin;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use protocol_core::effects::{Event as CoreEvent, Stranger};
use protocol_core::faults::{LinkFailure, PairFailure};
use protocol_core::ids::{DeviceId, SessionId};
use protocol_core::limits::USER_WAIT;

use super::Context;
use crate::ask::{Answer, Asker};
use crate::events::{self, Event, PairedDevice, WarningCode};
use crate::exit::{Exit, Outcome, Problem, Severity as _};
use crate::net::Net;
use crate::output::{Output, clock, quoted, shell_word, shown};

/// The two sides of a pairing, as far as their words differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Showed the code.
    Initiator,
    /// Typed it.
    Joiner,
}

/// A pairing that came about.
#[derive(Debug)]
pub(super) struct Paired {
    pub(super) device: DeviceId,
    pub(super) confirmed: bool,
}

/// Fails now if the question that will come could not be answered.
pub(super) fn needs_yes(context: &Context, yes: bool, verb: &str) -> Outcome {
    if yes || context.asker.can_ask() {
        return Ok(());
    }
    if context.global.no_input {
        let message = format!("`kin {verb}` asks before it trusts a device, and --no-input forbids that; nothing was sent");
        return Err(Problem::new(Exit::Pairing, message).next(format!("kin {verb} --yes")));
    }
    context.out.warning(
        WarningCode::CannotAsk,
        &format!("there is no terminal to ask at, so nobody will be trusted; `kin {verb} --yes` trusts whoever knows the code"),
    );
    Ok(())
}

/// Follows a pairing to its end, and asks in between.
///
/// # Errors
/// The pairing came to nothing, or a signal.
pub(super) async fn follow(
    context: &mut Context,
    net: &mut Net,
    session: SessionId,
    yes: bool,
    (role, expires): (Role, Option<Instant>),
) -> Outcome<Paired> {
    let Context { out, asker, .. } = context;
    let mut requested = false;
    let mut unfinished = None;
    let countdown = Countdown::new(out, expires);
    loop {
        let event = countdown.next(net).await?;
        match event {
            CoreEvent::PairRequest { session: of, peer, check } if of == session => {
                requested = true;
                request(out, session, &peer, check);
                if !yes {
                    countdown.hide();
                    let answer = ask(out, asker, net, session, (role, &peer, check)).await?;
                    net.answer_pairing(session, answer == Answer::Yes).await?;
                    if answer == Answer::Nobody {
                        out.say("Nobody can be asked here: the answer is no.");
                    }
                }
            }
            CoreEvent::Paired { session: of, peer, check, confirmed, repaired } if of == session => {
                if !requested {
                    request(out, session, &peer, check);
                }
                countdown.hide();
                paired(out, net, session, &peer, (confirmed, repaired)).await?;
                return Ok(Paired { device: peer.device, confirmed });
            }
            CoreEvent::PairUnfinished { session: of, device } if of == session => {
                unfinished = Some(device);
                out.warning(WarningCode::Unfinished, "the last message was lost; the next contact of the two finishes the pairing");
            }
            CoreEvent::PairConfirmed { device } if unfinished == Some(device) => {
                let known = net.devices().await?.into_iter().find(|known| known.id == device);
                let known = known.ok_or_else(|| Problem::internal("a confirmed device without a record"))?;
                let peer = Stranger { device, name: known.name, os: known.os };
                paired(out, net, session, &peer, (true, false)).await?;
                return Ok(Paired { device, confirmed: true });
            }
            CoreEvent::ConnectFailed { device, reason } if unfinished == Some(device) => return Err(lost(reason)),
            CoreEvent::PairFailed { session: of, reason } if of == session => return Err(failed(reason, role)),
            _ => {}
        }
    }
}

/// The question; it ends early if the pairing does.
async fn ask(
    out: &Output,
    asker: &mut Asker,
    net: &mut Net,
    session: SessionId,
    (role, peer, check): (Role, &Stranger, u32),
) -> Outcome<Answer> {
    let peer = format!("{} ({})", quoted(&peer.name), shown(&peer.os));
    let begin = match role {
        Role::Initiator => format!("{peer} wants to pair"),
        Role::Joiner => format!("You are about to pair with {peer}; it will be able to offer you files"),
    };
    let question = format!("{begin}   check: {}   the same on both screens?", out.bold(&spaced(check)));
    let mut answer = pin!(asker.yes(out, &question, USER_WAIT));
    loop {
        tokio::select! {
            answer = &mut answer => return Ok(answer),
            event = net.next() => match event? {
                CoreEvent::PairFailed { session: of, reason } if of == session => return Err(failed(reason, role)),
                _ => {}
            },
        }
    }
}

fn request(out: &Output, session: SessionId, peer: &Stranger, check: u32) {
    let device = events::Stranger { device_id: peer.device.to_string(), name: peer.name.clone(), platform: peer.os.clone() };
    out.event(&Event::PairRequest { session_id: session.to_string(), device, check: format!("{check:06}") });
}

async fn paired(out: &Output, net: &Net, session: SessionId, peer: &Stranger, (confirmed, repaired): (bool, bool)) -> Outcome {
    let known = net.devices().await?.into_iter().find(|device| device.id == peer.device);
    let fingerprint = known.as_ref().map(|device| device.fingerprint.clone()).unwrap_or_default();
    let name = known.map_or_else(|| peer.name.clone(), |device| device.name);
    out.event(&Event::Paired {
        session_id: session.to_string(),
        device: PairedDevice {
            device_id: peer.device.to_string(),
            name: name.clone(),
            platform: peer.os.clone(),
            fingerprint: fingerprint.clone(),
            confirmed,
        },
    });
    let again = if repaired { " again: the two knew each other, and have fresh keys now" } else { "" };
    out.result(&format!("Paired with {}{again}.  Undo: kin devices forget {}", quoted(&name), shell_word(&name)));
    out.say(&format!("Its fingerprint: {fingerprint}"));
    Ok(())
}

/// Why a pairing came to nothing: what happened, whose fault it is, what to do.
fn failed(reason: PairFailure, role: Role) -> Problem {
    let (advice, next) = match (reason, role) {
        (PairFailure::NotAccepted, _) => (
            "; the other device says no more than that. Check the words, or let it make a new code",
            Some("kin pair  (on the other device)"),
        ),
        (PairFailure::Expired | PairFailure::Burned, Role::Initiator) => ("; nobody was paired. Make a new code", Some("kin pair")),
        (PairFailure::Cut, _) => {
            ("; if `kin devices` lists it, the next contact finishes the pairing. Else make a new code", Some("kin pair"))
        }
        (PairFailure::NotFound, _) => (
            ": nobody answered. Is `kin pair` running there, on this network or at the address that was given? Does a firewall stand between?",
            Some("kin pair --address-file FILE  (on the other device)"),
        ),
        (PairFailure::RefusedHere, _) => ("; nobody was paired", None),
        (PairFailure::RefusedThere, _) => ("; its user said no, or did not answer in time", None),
        (PairFailure::SelfPairing, _) => ("; a code is for another device", None),
        (PairFailure::TooManyDevices, _) => ("; forget one first", Some("kin devices list")),
        (PairFailure::StorageHere, _) => ("; is the disk full?", None),
        _ => ("", None),
    };
    let mut problem = Problem::new(reason.exit(), format!("{reason}{advice}"));
    problem.next = next.map(str::to_owned);
    problem
}

/// The initiator's last word was lost, and the contact that would have stood for it came to nothing.
fn lost(reason: LinkFailure) -> Problem {
    let message = format!(
        "not confirmed: the last message of the pairing was lost, and then {reason}. If the other device lists this one, the next \
         contact finishes the pairing; else pair again with a new code"
    );
    Problem::new(Exit::Pairing, message).next("kin pair  (on the other device)")
}

/// Six digits in two groups.
fn spaced(check: u32) -> String {
    format!("{:03} {:03}", check / 1000, check % 1000)
}

/// A line that counts down while an event is awaited, on a terminal.
struct Countdown<'a> {
    out: &'a Output,
    bar: Option<(ProgressBar, Instant)>,
}

impl<'a> Countdown<'a> {
    fn new(out: &'a Output, expires: Option<Instant>) -> Self {
        let draws = out.terminal && !out.json && !out.quiet;
        let bar = expires.filter(|_| draws).map(|expires| {
            let bar = out.draw(ProgressBar::no_length());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            (bar, expires)
        });
        Self { out, bar }
    }

    async fn next(&self, net: &mut Net) -> Outcome<CoreEvent> {
        let Some((bar, expires)) = self.bar.as_ref().filter(|(bar, _)| !bar.is_finished()) else { return net.next().await };
        loop {
            let left = expires.saturating_duration_since(Instant::now());
            bar.set_message(format!("Waiting…  one use, {} left", clock(left.as_secs())));
            if let Ok(event) = tokio::time::timeout(Duration::from_secs(1), net.next()).await {
                return event;
            }
        }
    }

    fn hide(&self) {
        if let Some((bar, _)) = &self.bar {
            self.out.draw_no_more(bar);
        }
    }
}

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        self.hide();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_number_keeps_its_zeros() {
        assert_eq!(spaced(713_846), "713 846");
        assert_eq!(spaced(1_007), "001 007");
        assert_eq!(spaced(0), "000 000");
    }

    #[test]
    fn a_silent_refusal_names_its_three_causes() {
        let problem = failed(PairFailure::NotAccepted, Role::Joiner);
        assert_eq!(problem.exit, Exit::Pairing);
        for cause in ["wrong", "expired", "used"] {
            assert!(problem.message.contains(cause), "{}", problem.message);
        }
        assert!(problem.next.is_some());
    }

    #[test]
    fn who_was_not_found_is_unreachable() {
        assert_eq!(failed(PairFailure::NotFound, Role::Joiner).exit, Exit::Unreachable);
        assert_eq!(failed(PairFailure::Expired, Role::Initiator).exit, Exit::Pairing);
    }
}
