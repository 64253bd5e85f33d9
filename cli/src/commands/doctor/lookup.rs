//! Over what devices find and reach each other from other networks.

#[cfg(feature = "libp2p")]
use std::net::IpAddr;
use std::time::Duration;

use protocol_core::info::Address;

use super::Chart;
use crate::args::Global;
use crate::events::Topic;
use crate::exit::{Exit, Outcome, Problem};
use crate::net::Net;
use crate::output::shown;
use crate::transports::relays;

/// How long a relay may take to be there.
const RELAY_WAIT: Duration = Duration::from_secs(6);

/// Whether this device can be reached through a relay.
pub(super) async fn relay(chart: &mut Chart<'_>, net: &mut Net, global: &Global, mut addresses: Vec<Address>) -> Outcome<bool> {
    let wanted = relays(&global.relay);
    if wanted.is_empty() {
        return Ok(false);
    }
    // It is known a moment after the start, and nothing tells of it but the addresses.
    let until = tokio::time::Instant::now() + RELAY_WAIT;
    while !addresses.iter().any(Address::is_relayed) && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        addresses = net.addresses().await?;
    }
    let wanted = shown(&wanted.join(", "));
    let reached = addresses.iter().any(Address::is_relayed);
    if !reached && net.service().is_none() {
        chart.hint(Topic::Lookup, "the `kin up` of this home has no relay", Some(format!("kin up --relay {wanted}")));
    } else if reached {
        chart.ok(Topic::Lookup, &format!("this device can be reached through the relay {wanted}"));
    } else {
        let problem = Problem::new(Exit::Unreachable, format!("the relay {wanted} does not answer"));
        chart.wrong(Topic::Lookup, problem.next(format!("curl {wanted}  (does anything answer there?)")));
    }
    Ok(reached)
}

/// Whether a first node of the Mainline DHT answers.
#[cfg(feature = "iroh")]
pub(super) async fn mainline(chart: &mut Chart<'_>, global: &Global) {
    let nodes = crate::transports::mainline_nodes(global);
    if nodes.is_empty() {
        return;
    }
    match adapter_iroh::mainline::answer(&nodes).await {
        Ok(()) => chart.ok(Topic::Lookup, "the Mainline DHT answers"),
        Err(error) => {
            let message = format!("no node of the Mainline DHT answers: {}", shown(&error.to_string()));
            let next = "kin doctor --mainline-bootstrap HOST:PORT  (of a node that is up; UDP has to come through)";
            chart.wrong(Topic::Lookup, Problem::new(Exit::Unreachable, message).next(next));
        }
    }
}

#[cfg(not(feature = "iroh"))]
pub(super) async fn mainline(_: &mut Chart<'_>, _: &Global) {}

/// Whether the nodes of the DHT answer, and what one of them sees of this device.
#[cfg(feature = "libp2p")]
pub(super) async fn nodes(chart: &mut Chart<'_>, global: &Global, relayed: bool) {
    use adapter_libp2p::kademlia::{answers, mirror};

    use crate::transports::dht_nodes;

    let nodes = dht_nodes(global);
    if nodes.is_empty() {
        return;
    }
    let (mut there, mut mirrored) = (0, None);
    for node in &nodes {
        match answers(node).await {
            Ok(()) => {
                there += 1;
                mirrored = Some(mirror(node).await).filter(|seen| seen.is_ok() || mirrored.is_none()).or(mirrored);
            }
            Err(error) => {
                let message = format!("the node of the DHT {} does not answer: {}", shown(&node.to_string()), shown(&error.to_string()));
                chart.hint(Topic::Lookup, &message, Some("kin dht  (there)".to_owned()));
            }
        }
    }
    if there == 0 {
        let problem = Problem::new(Exit::Unreachable, "no node of the DHT answers: no device of another network is found");
        return chart.wrong(Topic::Lookup, problem.next("kin dht  (on a machine that all devices reach)"));
    }
    chart.ok(Topic::Lookup, &format!("{there} of {} nodes of the DHT answer", nodes.len()));
    match mirrored {
        Some(Ok(seen)) => {
            clock(chart, seen.ahead);
            translated(chart, seen.own.ip(), seen.seen.ip(), relayed);
        }
        _ => {
            let next =
                if relayed { "kin send … --transport tcp  (faster, where it gets through)" } else { "kin up --relay https://RELAY" };
            let message = "UDP does not come through this network: Iroh has no direct path out of it, only relays";
            chart.hint(Topic::Network, message, Some(next.to_owned()));
        }
    }
}

#[cfg(not(feature = "libp2p"))]
pub(super) async fn nodes(_: &mut Chart<'_>, _: &Global, _: bool) {}

/// Devices look for each other under ids of the hour: the one before and the next are looked under too.
#[cfg(feature = "libp2p")]
fn clock(chart: &mut Chart<'_>, ahead: i64) {
    let minutes = ahead.abs() / 60;
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    if minutes >= 60 {
        let message = format!("this clock is {minutes} minutes {way} that of the DHT: devices look for each other by the hour, and miss");
        chart.wrong(Topic::Clock, Problem::new(Exit::State, message).next("timedatectl set-ntp true"));
    } else if minutes >= 5 {
        let message = format!("this clock is {minutes} minutes {way} that of the DHT");
        chart.hint(Topic::Clock, &message, Some("timedatectl set-ntp true".to_owned()));
    }
}

#[cfg(feature = "libp2p")]
fn translated(chart: &Chart<'_>, own: IpAddr, seen: IpAddr, relayed: bool) {
    if own == seen {
        chart.ok(Topic::Network, &format!("no router translates the address of this device: it is {seen} from outside too"));
    } else if relayed {
        chart.ok(
            Topic::Network,
            &format!("a router translates the address of this device ({own} is {seen} from outside), and it has a relay"),
        );
    } else {
        let message =
            format!("a router translates the address of this device ({own} is {seen} from outside): from other networks nobody reaches it");
        chart.hint(
            Topic::Network,
            &message,
            Some("kin up --relay https://RELAY  (or let a port through: --bind tcp:0.0.0.0:PORT)".to_owned()),
        );
    }
}
