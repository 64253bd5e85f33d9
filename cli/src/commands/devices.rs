//! `kin devices`: the registry. Looking works while another `kin` holds the home; changing does not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol_core::node::DeviceView;
use unicode_width::UnicodeWidthStr as _;

use super::Context;
use crate::args::DevicesVerb;
use crate::events::{Device, Event, State};
use crate::exit::{Exit, Outcome, Problem};
use crate::net::{Net, Start};
use crate::output::{Output, quoted, shown};
use crate::registry;

pub(super) async fn run(context: &Context, verb: Option<DevicesVerb>) -> Outcome {
    match verb.unwrap_or(DevicesVerb::List) {
        DevicesVerb::List => {
            let devices = known(context)?;
            list(&context.out, &devices);
            Ok(())
        }
        DevicesVerb::Show { device } => {
            let devices = known(context)?;
            show(&context.out, find(&devices, &device)?);
            Ok(())
        }
        DevicesVerb::Rename { device, name } => change(context, &device, Change::Rename(name)).await,
        DevicesVerb::Forget { device } => change(context, &device, Change::Forget).await,
    }
}

/// What the snapshot says: it takes no lock, and no home means no devices.
fn known(context: &Context) -> Outcome<Vec<Device>> {
    registry::devices(&context.home()?)
}

enum Change {
    Rename(String),
    Forget,
}

async fn change(context: &Context, wanted: &str, change: Change) -> Outcome {
    let net = Net::start(context, Start { name: None, offline: true }).await?;
    let done = change_with(context, &net, wanted, change).await;
    net.close().await;
    done
}

async fn change_with(context: &Context, net: &Net, wanted: &str, change: Change) -> Outcome {
    let out = &context.out;
    let views = net.devices().await?;
    let found = find_view(&views, wanted)?;
    let before = registry::row(found);
    match change {
        Change::Rename(name) => {
            if name.trim().is_empty() || name.chars().any(char::is_control) {
                return Err(Problem::usage("a name needs at least one character, and no control characters"));
            }
            net.rename(found.id, &name).await?;
            let after = net.devices().await?;
            let renamed = after.iter().find(|device| device.id == found.id).map_or(before, registry::row);
            out.event(&Event::Device(renamed.clone()));
            out.result(&format!("{} is called {} here now.", quoted(&found.name), quoted(&renamed.name)));
        }
        Change::Forget => {
            net.forget(found.id).await?;
            out.event(&Event::Device(Device { state: State::Forgotten, ..before }));
            out.result(&format!("{} is forgotten: it can reach this device no more. Pair again to undo.", quoted(&found.name)));
            out.say("It was not told, and keeps its own record until it forgets this device too.");
        }
    }
    Ok(())
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
        let unused = if device.confirmed { "" } else { "  (not used yet)" };
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
    out.result(&format!("state        {}", state_name(device.state)));
    out.result(&format!("paired       {}{}", date(device.paired_at), if device.confirmed { "" } else { ", not used yet" }));
    out.result(&format!("last seen    {}", device.last_seen.map_or_else(|| "never".to_owned(), date)));
    out.result(&format!("last route   {}", device.last_route.as_deref().map_or_else(|| "none".to_owned(), shown)));
    for address in &device.addresses {
        out.result(&format!("address      {}", shown(address)));
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
        Device {
            device_id: id.to_owned(),
            name: name.to_owned(),
            state: State::Paired,
            fingerprint: String::new(),
            platform: "linux".to_owned(),
            paired_at: 0,
            last_seen: None,
            last_route: None,
            addresses: vec![],
            confirmed: true,
        }
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
