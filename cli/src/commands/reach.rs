//! A proven session with a paired device: for every verb that says something to one.

use std::time::{Duration, Instant};

use protocol_core::effects::{DeviceState, Event as CoreEvent, Route};
use protocol_core::faults::LinkFailure;
use protocol_core::ids::DeviceId;
use protocol_core::info::Address;
use protocol_core::node::DeviceView;

use crate::exit::{Exit, Outcome, Problem, Severity as _};
use crate::net::Net;
use crate::output::{Output, quoted};

/// After this the program says what it is waiting for.
const SILENCE: Duration = Duration::from_secs(2);

/// How long somebody is tried for whom things may wait, unless it is said: longer than a way through a relay takes.
const TRY: Duration = Duration::from_secs(5);

/// How long to try, where what is to be said may wait for so long.
pub(super) fn patience(wait: Option<Duration>, queue: Option<Duration>) -> Option<Duration> {
    wait.or_else(|| queue.map(|_| TRY))
}

/// Whom it is about.
pub(super) struct Target {
    pub(super) id: DeviceId,
    pub(super) name: String,
    has_address: bool,
}

impl Target {
    pub(super) fn of(view: &DeviceView) -> Self {
        Self { id: view.id, name: view.name.clone(), has_address: !view.addresses.is_empty() }
    }
}

/// How to reach it.
pub(super) struct Reach<'a> {
    /// Addresses beside those that are known.
    pub(super) addresses: &'a [Address],
    /// Try again for so long.
    pub(super) wait: Option<Duration>,
    /// What has to run there.
    pub(super) there: &'a str,
    /// The same command once more, with this added.
    pub(super) again: &'a (dyn Fn(&str) -> String + Sync),
}

/// A proven session with the device.
pub(super) async fn reach(out: &Output, net: &mut Net, target: &Target, how: Reach<'_>) -> Outcome<Route> {
    if !target.has_address && how.addresses.is_empty() {
        let message = format!("no address of {} is known", quoted(&target.name));
        return Err(Problem::new(Exit::Unreachable, message).next((how.again)("--address tcp:IP:PORT")));
    }
    let start = Instant::now();
    let mut told = false;
    net.connect(target.id, how.addresses).await?;
    loop {
        let limit = how.wait.into_iter().chain((!told).then_some(SILENCE)).min().unwrap_or(Duration::MAX);
        let event = match tokio::time::timeout(limit.saturating_sub(start.elapsed()), net.next()).await {
            Ok(event) => event?,
            Err(_) if how.wait.is_some_and(|wait| start.elapsed() >= wait) => return Err(ran_out(&how, target)),
            Err(_) => {
                told = true;
                out.say(&format!("Trying to reach {}…", quoted(&target.name)));
                continue;
            }
        };
        match event {
            CoreEvent::Device { device, state: DeviceState::Connected, route: Some(route), .. } if device == target.id => return Ok(route),
            CoreEvent::ConnectFailed { device, reason } if device == target.id => match (how.wait, reason) {
                (Some(wait), LinkFailure::Unreachable) if start.elapsed() < wait => net.connect(target.id, how.addresses).await?,
                (Some(_), LinkFailure::Unreachable) => return Err(ran_out(&how, target)),
                _ => return Err(unreachable(reason, &how, target)),
            },
            CoreEvent::Removed { device } if device == target.id => {
                let message = format!("{} was forgotten here meanwhile", quoted(&target.name));
                return Err(Problem::new(Exit::NotFound, message).next("kin pair"));
            }
            _ => {}
        }
    }
}

fn ran_out(how: &Reach<'_>, target: &Target) -> Problem {
    let message = format!("{} was not reached in the time of --wait; does `{}` run there?", quoted(&target.name), how.there);
    Problem::new(Exit::Timeout, message).next((how.again)(""))
}

fn unreachable(reason: LinkFailure, how: &Reach<'_>, target: &Target) -> Problem {
    let exit = match reason.exit() {
        // Before any data there is nothing to interrupt.
        Exit::Interrupted => Exit::Unreachable,
        other => other,
    };
    let advice =
        if exit == Exit::Unreachable { format!("; does `{}` run there, and is the address right?", how.there) } else { String::new() };
    let problem = Problem::new(exit, format!("{} was not reached: {reason}{advice}", quoted(&target.name)));
    match reason {
        LinkFailure::Removed => problem.next(format!("kin devices forget {}", target.id)),
        _ if exit == Exit::Unreachable => problem.next((how.again)("--address tcp:IP:PORT")),
        _ => problem.next("kin pair"),
    }
}
