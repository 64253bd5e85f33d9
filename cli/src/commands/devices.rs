//! `kin devices`: the registry. Looking works while another `kin` holds the home; changing does if that is a `kin up`.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adapter_tokio::home::HomeError;
use protocol_core::effects::{DeviceState, Event as CoreEvent};
use protocol_core::ids::DeviceId;
use protocol_core::node::{DeviceView, FilePolicy, Policy};
use unicode_width::UnicodeWidthStr as _;

use super::Context;
use crate::args::{DevicesVerb, Entries, Limit, PolicyArgs};
use crate::events::{Device, Event, Files, State};
use crate::exit::{Exit, Outcome, Problem};
use crate::net::{Net, Start, home_failed};
use crate::output::{Output, count, quoted, shown, size};
use crate::registry;

pub(super) async fn run(context: &Context, verb: Option<DevicesVerb>) -> Outcome {
    match verb.unwrap_or(DevicesVerb::List) {
        DevicesVerb::List => {
            let devices = known(context).await?;
            list(&context.out, &devices);
            Ok(())
        }
        DevicesVerb::Show { device } => {
            let devices = known(context).await?;
            show(&context.out, find(&devices, &device)?);
            Ok(())
        }
        DevicesVerb::Rename { device, name } => change(context, &device, Change::Rename(name)).await,
        DevicesVerb::Policy(args) if is_question(&args) => {
            let devices = known(context).await?;
            let device = find(&devices, &args.device)?;
            context.out.event(&Event::Device(device.clone()));
            show_policy(&context.out, device);
            Ok(())
        }
        DevicesVerb::Policy(args) => change(context, &args.device.clone(), Change::Policy(Box::new(args))).await,
        DevicesVerb::Block { device, off } => change(context, &device, Change::Block(!off)).await,
        DevicesVerb::Forget { device, block } => change(context, &device, Change::Forget { block }).await,
    }
}

/// What the `kin up` of the home says, else the snapshot: that takes no lock, and no home means no devices. One that another version
/// wrote is written anew, which takes the lock.
async fn known(context: &Context) -> Outcome<Vec<Device>> {
    if let Some(net) = Net::of_up(context).await {
        return of_holder(&net).await;
    }
    match registry::kept(&context.home()?) {
        Err(HomeError::OtherVersion(_)) => {}
        kept => return kept.map_err(|error| home_failed(&error)),
    }
    let net = Net::start(context, Start { offline: true, ..Start::default() }).await?;
    let rows = of_holder(&net).await;
    net.close().await;
    rows
}

async fn of_holder(net: &Net) -> Outcome<Vec<Device>> {
    let rows = net.metrics().await?.iter().map(|(view, metrics)| registry::counted(view, metrics)).collect();
    Ok(registry::with_blocked(rows, &net.blocked().await?))
}

enum Change {
    Rename(String),
    Policy(Box<PolicyArgs>),
    Block(bool),
    Forget { block: bool },
}

/// Whether the flags change nothing.
fn is_question(args: &PolicyArgs) -> bool {
    let PolicyArgs { device: _, files, max, max_entries, folder, messages, allow, deny } = args;
    files.is_none()
        && max.is_none()
        && max_entries.is_none()
        && folder.is_none()
        && messages.is_none()
        && allow.is_empty()
        && deny.is_empty()
}

async fn change(context: &Context, wanted: &str, change: Change) -> Outcome {
    let mut net = Net::start(context, Start { offline: true, ..Start::default() }).await?;
    let done = change_with(context, &mut net, wanted, change).await;
    net.close().await;
    done
}

async fn change_with(context: &Context, net: &mut Net, wanted: &str, change: Change) -> Outcome {
    let out = &context.out;
    let views = net.devices().await?;
    if matches!(change, Change::Block(false)) {
        return unblock(out, net, &views, wanted).await;
    }
    let found = find_view(&views, wanted)?;
    let before = registry::row(found);
    let name = quoted(&found.name);
    match change {
        Change::Rename(name) => {
            if name.trim().is_empty() || name.chars().any(char::is_control) {
                return Err(Problem::usage("a name needs at least one character, and no control characters"));
            }
            net.rename(found.id, &name).await?;
            let renamed = now(net, before).await?;
            out.event(&Event::Device(renamed.clone()));
            out.result(&format!("{} is called {} here now.", quoted(&found.name), quoted(&renamed.name)));
        }
        Change::Policy(args) => {
            net.set_policy(found.id, changed(found.policy.clone(), &args)?).await?;
            let device = now(net, before).await?;
            out.event(&Event::Device(device.clone()));
            show_policy(out, &device);
        }
        Change::Block(_) => {
            net.block(found.id, true).await?;
            out.event(&Event::Device(now(net, before).await?));
            out.result(&format!("{name} is blocked: nothing of it is accepted. Undo: kin devices block --off {wanted}"));
        }
        Change::Forget { block } => {
            if block {
                net.block(found.id, true).await?;
            }
            let was_there = found.state == DeviceState::Connected;
            net.forget(found.id).await?;
            removed(net, found.id).await?;
            out.event(&Event::Device(Device { state: State::Forgotten, ..before }));
            out.result(&format!("{name} is forgotten: nothing of it is accepted any more. Pair again to undo."));
            let told = if was_there { "It was told." } else { "It learns that when it looks for this device next." };
            out.say(told);
        }
    }
    Ok(())
}

/// A device as it is now.
async fn now(net: &Net, before: Device) -> Outcome<Device> {
    let after = net.devices().await?;
    Ok(after.iter().map(registry::row).find(|device| device.device_id == before.device_id).unwrap_or(before))
}

/// Waits until a removal is durable.
async fn removed(net: &mut Net, id: DeviceId) -> Outcome {
    loop {
        match net.next().await? {
            CoreEvent::Removed { device } if device == id => return Ok(()),
            CoreEvent::NotStored { device } if device == id => {
                return Err(Problem::new(
                    Exit::LocalIo,
                    "that the device is forgotten could not be stored: it is there again after a restart",
                ));
            }
            _ => {}
        }
    }
}

/// Blocked devices are found by what they are called, paired or not.
async fn unblock(out: &Output, net: &Net, views: &[DeviceView], wanted: &str) -> Outcome {
    let blocked = net.blocked().await?;
    let paired: Vec<Device> = views.iter().map(registry::row).collect();
    let rows = registry::blocked_rows(&paired, &blocked);
    let row = find(&rows, wanted)?;
    let Some(found) = blocked.iter().find(|blocked| blocked.id.to_string() == row.device_id) else {
        return Err(Problem::internal("a row without its device"));
    };
    net.block(found.id, false).await?;
    out.event(&Event::Device(Device { blocked_since: None, ..row.clone() }));
    out.result(&format!("{} is not blocked any more.", quoted(&row.name)));
    Ok(())
}

/// A policy with what the flags say.
fn changed(mut policy: Policy, args: &PolicyArgs) -> Outcome<Policy> {
    if let Some(files) = args.files {
        policy.files = match files {
            Files::Ask => FilePolicy::Ask,
            Files::Auto => FilePolicy::Automatic,
            Files::Refuse => FilePolicy::Refuse,
        };
    }
    if let Some(Limit(most)) = args.max {
        policy.max_bytes = most;
    }
    if let Some(Entries(most)) = args.max_entries {
        policy.max_entries = most;
    }
    if let Some(messages) = args.messages {
        policy.messages = messages;
    }
    if let Some(folder) = &args.folder {
        policy.folder = if folder.is_empty() { None } else { Some(directory(Path::new(folder))?) };
    }
    policy.protocols.extend(args.allow.iter().cloned());
    policy.protocols.retain(|name| !args.deny.contains(name));
    Ok(policy)
}

/// A directory, as every process understands it.
fn directory(path: &Path) -> Outcome<String> {
    let failed = |error: std::io::Error| Problem::new(Exit::NotFound, format!("{}: {error}", shown(&path.to_string_lossy())));
    let whole = std::fs::canonicalize(path).map_err(failed)?;
    if !whole.is_dir() {
        return Err(Problem::usage(format!("{} is no directory", shown(&path.to_string_lossy()))));
    }
    whole.into_os_string().into_string().map_err(|_| Problem::usage("the path of a folder has to be UTF-8"))
}

/// The device of this id, name, or unique beginning of either. A whole id or name wins over beginnings.
pub(super) fn find<'a>(devices: &'a [Device], wanted: &str) -> Outcome<&'a Device> {
    let whole = |device: &&Device| device.device_id == wanted || device.name == wanted;
    let begins = |device: &&Device| {
        let named = device.name.to_lowercase().starts_with(&wanted.to_lowercase());
        named || device.device_id.starts_with(&wanted.to_ascii_lowercase())
    };
    let mut found: Vec<&Device> = devices.iter().filter(whole).collect();
    if found.is_empty() && !wanted.is_empty() {
        found = devices.iter().filter(begins).collect();
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Problem::new(Exit::NotFound, format!("no device is called {}", quoted(wanted))).next("kin devices list")),
        several => {
            let candidates: Vec<String> = several.iter().map(|device| format!("{} {}", quoted(&device.name), device.device_id)).collect();
            let message = format!("{} could be: {}", quoted(wanted), candidates.join(", "));
            Err(Problem::new(Exit::NotFound, message).next("kin devices list"))
        }
    }
}

/// The same among the devices of a running service.
pub(super) fn find_view<'a>(views: &'a [DeviceView], wanted: &str) -> Outcome<&'a DeviceView> {
    let rows: Vec<Device> = views.iter().map(registry::row).collect();
    registry::view_of(views, find(&rows, wanted)?)
}

fn list(out: &Output, devices: &[Device]) {
    for device in devices {
        out.event(&Event::Device(device.clone()));
    }
    if devices.is_empty() {
        out.say("No device is paired.  kin pair");
        return;
    }
    let names: Vec<String> = devices.iter().map(|device| shown(&device.name)).collect();
    let width = names.iter().map(|name| name.width()).max().unwrap_or(0);
    for (device, name) in devices.iter().zip(&names) {
        let space = " ".repeat(width - name.width());
        let unused = match device {
            Device { blocked_since: Some(_), .. } => "  (blocked)",
            Device { removed_there: Some(_), .. } => "  (has removed this device; kin devices forget)",
            Device { confirmed: false, .. } => "  (not used yet)",
            _ => "",
        };
        let (state, id) = (state_name(device.state), &device.device_id);
        out.result(&format!("{name}{space}  {state:<12}  {id}  {}{unused}", device.fingerprint));
    }
}

fn show(out: &Output, device: &Device) {
    out.event(&Event::Device(device.clone()));
    out.result(&format!("name         {}", shown(&device.name)));
    out.result(&format!("device id    {}", device.device_id));
    out.result(&format!("fingerprint  {}", device.fingerprint));
    out.result(&format!("platform     {}", shown(&device.platform)));
    let whose = match device.dialled_here {
        Some(true) => ", dialled from here",
        Some(false) => ", dialled by it",
        None => "",
    };
    out.result(&format!("state        {}{whose}", state_name(device.state)));
    out.result(&format!("paired       {}{}", date(device.paired_at), if device.confirmed { "" } else { ", not used yet" }));
    out.result(&format!("last seen    {}", device.last_seen.map_or_else(|| "never".to_owned(), date)));
    out.result(&format!("last route   {}", device.last_route.as_deref().map_or_else(|| "none".to_owned(), shown)));
    if let Some(route) = &device.route {
        let rtt = device.rtt_ms.map_or_else(String::new, |rtt| format!(", {rtt:.1} ms"));
        out.result(&format!("route        {}{rtt}", shown(route)));
    }
    if let (Some(end), Some(at)) = (&device.last_end, device.last_end_at) {
        out.result(&format!("last end     {end}, {}", date(at)));
    }
    if device.bytes_sent + device.bytes_received > 0 {
        let (sent, received) = (size(device.bytes_sent), size(device.bytes_received));
        out.result(&format!("traffic      {sent} sent, {received} received, {} reconnects", device.reconnects));
    }
    if let Some(at) = device.removed_there {
        out.result(&format!("removed      it has removed this device, {}; agree with: kin devices forget {}", date(at), device.device_id));
    }
    if let Some(at) = device.blocked_since {
        out.result(&format!("blocked      since {}", date(at)));
    }
    show_policy(out, device);
    for address in &device.addresses {
        out.result(&format!("address      {}", shown(address)));
    }
}

fn show_policy(out: &Output, device: &Device) {
    let policy = &device.policy;
    let files = match policy.files {
        Files::Ask => "asked about",
        Files::Auto => "taken",
        Files::Refuse => "refused",
    };
    let bounds = [policy.max_bytes.map(size), policy.max_entries.map(|most| format!("{} entries", count(most.into())))];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    let most = if bounds.is_empty() { String::new() } else { format!(", at most {} at once", bounds.join(" and ")) };
    let folder = policy.folder.as_deref().map_or_else(String::new, |folder| format!(", into {}", shown(folder)));
    out.result(&format!("files        {files}{most}{folder}"));
    out.result(&format!("messages     {}", if policy.messages { "taken" } else { "refused" }));
    if !policy.protocols.is_empty() {
        let names: Vec<String> = policy.protocols.iter().map(|name| shown(name)).collect();
        out.result(&format!("protocols    {}", names.join(", ")));
    }
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Discovered => "Discovered",
        State::Pairing => "Pairing",
        State::Paired => "Paired",
        State::Connected => "Connected",
        State::Disconnected => "Disconnected",
        State::Forgotten => "Forgotten",
        State::Blocked => "Blocked",
    }
}

/// A moment in UTC, and how long ago.
fn date(unix_s: u64) -> String {
    let Some(at) = UNIX_EPOCH.checked_add(Duration::from_secs(unix_s)).filter(|_| unix_s < 253_402_300_800) else {
        return "at an impossible time".to_owned();
    };
    let ago = SystemTime::now().duration_since(at).map_or(0, |ago| ago.as_secs());
    let ago = match ago {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", ago / 60),
        3600..86_400 => format!("{} h ago", ago / 3600),
        _ => format!("{} days ago", ago / 86_400),
    };
    format!("{} ({ago})", humantime::format_rfc3339_seconds(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, id: &str) -> Device {
        Device::named(id.to_owned(), name.to_owned(), State::Paired)
    }

    #[test]
    fn a_device_is_found_by_id_name_or_unique_beginning() {
        let devices = [device("laptop", "aa11"), device("laptop-b", "ab22"), device("Phone", "cc33"), device("phone 2", "dd44")];
        let id = |wanted: &str| find(&devices, wanted).map(|device| device.device_id.clone());
        assert_eq!(id("laptop").unwrap(), "aa11", "a whole name wins over beginnings");
        assert_eq!(id("laptop-").unwrap(), "ab22");
        assert_eq!(id("Phone").unwrap(), "cc33");
        assert_eq!(id("AB").unwrap(), "ab22");
        for ambiguous in ["lap", "a", "PHO"] {
            let problem = id(ambiguous).unwrap_err();
            assert_eq!(problem.exit, Exit::NotFound);
            assert!(problem.message.contains("could be"), "{}", problem.message);
        }
        assert!(id("pho").unwrap_err().message.contains("cc33"));
        for unknown in ["", "tablet"] {
            assert!(id(unknown).unwrap_err().message.contains("no device"), "{unknown:?}");
        }
    }

    #[test]
    fn equal_names_are_ambiguous() {
        let devices = [device("twin", "aa"), device("twin", "bb")];
        assert!(find(&devices, "twin").unwrap_err().message.contains("bb"));
        assert_eq!(find(&devices, "bb").unwrap().device_id, "bb");
    }

    #[test]
    fn impossible_times_do_not_panic() {
        assert_eq!(date(u64::MAX), "at an impossible time");
        assert!(date(0).starts_with("1970-01-01T00:00:00Z"));
    }
}
