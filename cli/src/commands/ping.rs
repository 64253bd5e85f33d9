//! `kin ping`: a sign of life, and how long it takes.

use std::time::Duration;

use protocol_core::effects::{DeviceState, Event as CoreEvent};
use protocol_core::ids::DeviceId;

use super::reach::{Reach, Target, reach};
use super::transfer::tell_route;
use super::{Context, devices};
use crate::args::Ping;
use crate::events::Event;
use crate::exit::{Exit, Outcome, Problem};
use crate::net::{Net, Start};
use crate::output::{Output, quoted, shell_word};

/// How long an answer is awaited.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(context: &Context, args: &Ping) -> Outcome {
    let mut net = Net::start(context, Start::default()).await?;
    let done = ping(&context.out, &mut net, args).await;
    net.close().await;
    done
}

async fn ping(out: &Output, net: &mut Net, args: &Ping) -> Outcome {
    let known = net.devices().await?;
    let target = Target::of(devices::find_view(&known, &args.device)?);
    let again = |more: &str| format!("kin ping {} {more}", shell_word(&args.device)).trim_end().to_owned();
    let how = Reach { addresses: &args.address, wait: args.wait, there: "kin up` or `kin recv", again: &again };
    let route = reach(out, net, &target, how).await?;
    let way = tell_route(out, &route);
    out.say(&format!("{} answers: {way}", quoted(&target.name)));
    for number in 0..args.count {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let rtt = answer(net, &target, target.id).await?;
        let millis = rtt.as_secs_f64() * 1000.0;
        out.event(&Event::Pong { device_id: target.id.to_string(), rtt_ms: millis });
        out.result(&format!("{millis:.2} ms"));
    }
    Ok(())
}

/// Asks, and waits for the answer.
async fn answer(net: &mut Net, target: &Target, id: DeviceId) -> Outcome<Duration> {
    net.ping(id).await?;
    let answered = async {
        loop {
            match net.next().await? {
                CoreEvent::Pong { device, rtt } if device == id => return Ok(rtt),
                CoreEvent::Device { device, state: DeviceState::Disconnected, reason: Some(reason), .. } if device == id => {
                    return Err(Problem::new(Exit::Interrupted, format!("{} is gone: {reason}", quoted(&target.name))));
                }
                _ => {}
            }
        }
    };
    match tokio::time::timeout(ANSWER_WAIT, answered).await {
        Ok(answer) => answer,
        Err(_) => Err(Problem::new(Exit::Timeout, format!("{} did not answer in time", quoted(&target.name)))),
    }
}
