//! `kin doctor`: looks at what commonly goes wrong, and says in a sentence what it is and what to do.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol_core::effects::{DeviceState, Event as CoreEvent, Route};
use protocol_core::faults::LinkFailure;
use protocol_core::info::Address;
use protocol_core::node::DeviceView;

use super::transfer::route_kind;
use super::{Context, devices};
use crate::args::Doctor;
use crate::events::{Event, RouteKind, Topic, Verdict};
use crate::exit::{Exit, Outcome, Problem};
use crate::net::{Net, Start};
use crate::output::{Output, quoted, shell_word, shown, size};
use crate::transports::ip;

mod lookup;

/// Below so many free bytes the registry itself may not be written.
const DISK_WRONG: u64 = 64 << 20;
/// Below so many nobody can send much.
const DISK_HINT: u64 = 1 << 30;
/// A clock before this is set to no time of this program: 2025-01-01.
const CLOCK_FIRST: u64 = 1_735_689_600;
/// How long a device is looked for.
const DEVICE_WAIT: Duration = Duration::from_secs(30);
/// How long a direct path may take to be found beside a relay.
const SETTLE: Duration = Duration::from_secs(4);

/// What was found so far.
struct Chart<'a> {
    out: &'a Output,
    worst: Option<Problem>,
}

impl Chart<'_> {
    fn ok(&self, about: Topic, message: &str) {
        self.out.event(&Event::Finding { about, verdict: Verdict::Ok, message: message.to_owned(), next_command: None });
        self.out.result(&format!("ok     {message}"));
    }

    fn hint(&self, about: Topic, message: &str, next: Option<String>) {
        self.tell(about, Verdict::Hint, message, next.as_deref());
    }

    /// The first that is wrong decides the exit code.
    fn wrong(&mut self, about: Topic, problem: Problem) {
        self.tell(about, Verdict::Wrong, &problem.message, problem.next.as_deref());
        self.worst.get_or_insert(problem);
    }

    fn tell(&self, about: Topic, verdict: Verdict, message: &str, next: Option<&str>) {
        let next_command = next.map(str::to_owned);
        self.out.event(&Event::Finding { about, verdict, message: message.to_owned(), next_command });
        let word = if verdict == Verdict::Wrong { "wrong" } else { "hint " };
        self.out.result(&format!("{word}  {message}"));
        if let Some(next) = next {
            self.out.result(&format!("       try: {next}"));
        }
    }
}

pub(super) async fn run(context: &Context, args: &Doctor) -> Outcome {
    let mut chart = Chart { out: &context.out, worst: None };
    let home = context.home()?;
    disk(&mut chart, &home);
    clock(&mut chart);
    firewall(&chart);
    match Net::start(context, Start::default()).await {
        Ok(mut net) => {
            chart.ok(Topic::Home, &format!("the home {} can be used", shown(&home.to_string_lossy())));
            let looked = look(context, &mut chart, &mut net, args).await;
            net.close().await;
            looked?;
        }
        Err(problem) => chart.wrong(Topic::Home, problem),
    }
    match chart.worst {
        None => Ok(()),
        Some(problem) => Err(problem),
    }
}

fn disk(chart: &mut Chart<'_>, home: &Path) {
    let Ok(found) = std::fs::metadata(home) else {
        return chart.ok(Topic::Disk, "there is no home yet: the first command makes it");
    };
    if found.permissions().mode() & 0o077 != 0 {
        let next = format!("chmod 700 {}", shell_word(&home.to_string_lossy()));
        chart.hint(Topic::Home, "others on this machine may look into the home", Some(next));
    }
    match rustix::fs::statvfs(home) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let text = format!("{} are free where the home is", size(free));
            if free < DISK_WRONG {
                chart.wrong(Topic::Disk, Problem::new(Exit::LocalIo, format!("{text}: make room before anything is received")));
            } else if free < DISK_HINT {
                chart.hint(Topic::Disk, &text, None);
            } else {
                chart.ok(Topic::Disk, &text);
            }
        }
        Err(error) => chart.wrong(Topic::Disk, Problem::new(Exit::LocalIo, format!("the disk of the home does not answer: {error}"))),
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn clock(chart: &mut Chart<'_>) {
    if unix_s() < CLOCK_FIRST {
        let message = "the clock is years behind: what waits expires at wrong times, and times that are shown are wrong";
        chart.wrong(Topic::Clock, Problem::new(Exit::State, message).next("timedatectl set-ntp true"));
    } else {
        chart.ok(Topic::Clock, "the clock shows a possible time");
    }
}

/// What can be seen of firewalls without asking for anybody's rights.
fn firewall(chart: &Chart<'_>) {
    let ufw = std::fs::read_to_string("/etc/ufw/ufw.conf").is_ok_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
    let firewalld = Path::new("/run/firewalld").exists();
    if ufw {
        chart.hint(
            Topic::Firewall,
            "ufw is on: others reach this device only at ports that it lets through",
            Some("sudo ufw allow PORT".to_owned()),
        );
    } else if firewalld {
        let next = "sudo firewall-cmd --add-port=PORT/tcp".to_owned();
        chart.hint(Topic::Firewall, "firewalld is on: others reach this device only at ports that it lets through", Some(next));
    } else {
        chart.ok(Topic::Firewall, "no firewall of this machine is known to be in the way");
    }
}

async fn look(context: &Context, chart: &mut Chart<'_>, net: &mut Net, args: &Doctor) -> Outcome {
    let addresses = net.introduce(chart.out, None).await?;
    network(chart, &addresses);
    let relayed = lookup::relay(chart, net, &context.global, addresses).await?;
    lookup::nodes(chart, &context.global, relayed).await;
    lookup::mainline(chart, &context.global).await;
    let known = net.devices().await?;
    for device in &known {
        about_record(chart, device);
    }
    if let Some(wanted) = &args.device {
        let found = devices::find_view(&known, wanted)?.clone();
        device(context, chart, net, args, &found).await?;
    } else if known.is_empty() {
        chart.hint(Topic::Device, "no device is paired", Some("kin pair".to_owned()));
    }
    Ok(())
}

fn network(chart: &mut Chart<'_>, addresses: &[Address]) {
    let at: Vec<IpAddr> = addresses.iter().filter_map(|address| ip(&address.text)).collect();
    if addresses.is_empty() {
        let problem = Problem::new(Exit::LocalIo, "this device listens nowhere: it can only dial");
        chart.wrong(Topic::Network, problem.next("kin doctor --transport auto"));
    } else if at.iter().all(IpAddr::is_loopback) {
        chart.hint(
            Topic::Network,
            "this device can be reached from this machine alone: has it a network, and does --bind name another address?",
            Some("ip address  (on Linux: what networks the machine has)".to_owned()),
        );
    } else {
        let names: Vec<String> = addresses.iter().map(|address| address.kind.name().to_owned()).collect();
        let kinds: std::collections::BTreeSet<String> = names.into_iter().collect();
        let kinds: Vec<String> = kinds.into_iter().collect();
        chart.ok(Topic::Network, &format!("this device can be reached at {} addresses ({})", addresses.len(), kinds.join(", ")));
    }
}

/// What the registry says of a device, whether it is there or not.
fn about_record(chart: &Chart<'_>, device: &DeviceView) {
    let name = quoted(&device.name);
    if device.removed_there.is_some() {
        let next = format!("kin devices forget {}", device.id);
        chart.hint(Topic::Device, &format!("{name} has removed this device"), Some(next));
    }
    if device.last_seen_unix.is_some_and(|seen| seen > unix_s().saturating_add(3600)) {
        chart.hint(
            Topic::Clock,
            &format!("{name} was last seen in the future: the clock was set back"),
            Some("timedatectl set-ntp true".to_owned()),
        );
    }
}

async fn device(context: &Context, chart: &mut Chart<'_>, net: &mut Net, args: &Doctor, view: &DeviceView) -> Outcome {
    let name = quoted(&view.name);
    if view.blocked.is_some() {
        let problem = Problem::new(Exit::Refused, format!("{name} is blocked here"));
        chart.wrong(Topic::Device, problem.next(format!("kin devices block --off {}", view.id)));
        return Ok(());
    }
    let looks = context.global.looks();
    if view.addresses.is_empty() && args.address.is_empty() && looks.is_none() {
        let problem = Problem::new(Exit::Unreachable, format!("no address of {name} is known: start `kin up` there, and give one"));
        chart.wrong(Topic::Device, problem.next(format!("kin doctor {} --address tcp:IP:PORT", view.id)));
        return Ok(());
    }
    net.connect(view.id, &args.address).await?;
    let reached = async {
        loop {
            match net.next().await? {
                CoreEvent::Device { device, state: DeviceState::Connected, route: Some(route), .. } if device == view.id => {
                    return Ok::<_, Problem>(Ok(route));
                }
                CoreEvent::ConnectFailed { device, reason } if device == view.id => return Ok(Err(reason)),
                _ => {}
            }
        }
    };
    match tokio::time::timeout(DEVICE_WAIT, reached).await {
        Ok(reached) => match reached? {
            Ok(route) => {
                answers(chart, view, &settled(net, view, route).await?);
                version(chart, &name, net, view).await?;
            }
            Err(reason) => failed(chart, view, reason, looks),
        },
        Err(_) => failed(chart, view, LinkFailure::Unreachable, looks),
    }
    Ok(())
}

/// A path through a relay, or the direct one that it goes over to soon.
async fn settled(net: &mut Net, view: &DeviceView, mut route: Route) -> Outcome<Route> {
    let settles = async {
        while route_kind(&route.address) == RouteKind::Relayed {
            if let CoreEvent::Rerouted { device, route: other } = net.next().await?
                && device == view.id
            {
                route = other;
            }
        }
        Ok::<_, Problem>(())
    };
    tokio::time::timeout(SETTLE, settles).await.unwrap_or(Ok(()))?;
    Ok(route)
}

/// A device is there: how it is reached, and what that shows.
fn answers(chart: &Chart<'_>, view: &DeviceView, route: &Route) {
    let name = quoted(&view.name);
    let relayed = route_kind(&route.address) == RouteKind::Relayed;
    let how = if relayed { "through a relay" } else { "directly" };
    chart.ok(Topic::Device, &format!("{name} answers {how}, over {}:{}", route.transport, shown(&route.address)));
    if relayed {
        let message =
            format!("no direct path to {name} has been found yet: UDP is blocked, or neither router lets in what it was not asked for");
        let next = "kin up --bind tcp:0.0.0.0:PORT  (on the side whose router can let a port through)";
        chart.hint(Topic::Network, &message, Some(next.to_owned()));
    }
    // The port is the device's own only where this side dialled.
    let known = view.addresses.iter().any(|address| ip(&address.text).is_some_and(|known| ip(&route.address) == Some(known)));
    if !view.addresses.is_empty() && !known && !relayed {
        let message = format!("{name} was not at the {} addresses that it had before: it was found", view.addresses.len());
        chart.hint(Topic::Device, &message, Some(format!("kin devices show {}  (it has the new ones now)", view.id)));
    }
}

fn failed(chart: &mut Chart<'_>, view: &DeviceView, reason: LinkFailure, looks: Option<&str>) {
    let name = quoted(&view.name);
    let (exit, message, next) = match reason {
        LinkFailure::Unreachable if looks.is_some() => (
            Exit::Unreachable,
            format!(
                "{name} answers at none of the {} known addresses and was not found {}: it is off or behind a firewall, looks for nobody \
                 there, or its clock or this one is more than an hour wrong",
                view.addresses.len(),
                looks.unwrap_or_default()
            ),
            format!("kin doctor  (on {name}, with the same --dht-bootstrap and --relay)"),
        ),
        LinkFailure::Unreachable => (
            Exit::Unreachable,
            format!(
                "nothing answers at the {} known addresses of {name}: it is off, elsewhere, or behind a firewall",
                view.addresses.len()
            ),
            format!("kin doctor {} --address tcp:IP:PORT", view.id),
        ),
        LinkFailure::Removed => (Exit::Refused, format!("{name} has removed this device"), format!("kin devices forget {}", view.id)),
        LinkFailure::NotAccepted => (
            Exit::Refused,
            format!("something answers at an address of {name} and does not accept: another device, or one that lost the pairing"),
            "kin pair".to_owned(),
        ),
        LinkFailure::Unfinished => (
            Exit::Pairing,
            format!("the pairing with {name} is not finished on this device: its question was not answered"),
            "kin pair".to_owned(),
        ),
        reason => (Exit::Interrupted, format!("{name}: {reason}"), format!("kin ping {}", view.id)),
    };
    chart.wrong(Topic::Device, Problem::new(exit, message).next(next));
}

/// Programs of one major version understand each other.
async fn version(chart: &Chart<'_>, name: &str, net: &Net, view: &DeviceView) -> Outcome {
    let app = net.devices().await?.into_iter().find(|known| known.id == view.id).map_or_else(String::new, |known| known.app);
    let ours = concat!("kin ", env!("CARGO_PKG_VERSION"));
    if app == ours {
        chart.ok(Topic::Version, &format!("{name} runs the same version"));
    } else {
        chart.hint(
            Topic::Version,
            &format!("{name} runs {}, and this device {ours}", shown(&app)),
            Some("kin --version  (on both)".to_owned()),
        );
    }
    Ok(())
}
