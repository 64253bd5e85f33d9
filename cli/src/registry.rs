//! The home as read-only verbs see it: they take no lock, or only for an instant, and work while another process holds it.

use std::fs;
use std::path::Path;

use adapter_tokio::home::{Home, HomeError};
use adapter_tokio::metrics::DeviceMetrics;
use adapter_tokio::service::{Identity, Snapshot, read_snapshot};
use protocol_core::effects::DeviceState;
use protocol_core::node::{BlockedDevice, DeviceView, FilePolicy};
use serde::{Deserialize, Serialize};

use crate::events::{Device, Files, Policy, State};
use crate::exit::{Outcome, Problem};
use crate::net::home_failed;
use crate::private_file;

/// The file of the home that says who its device is. Nothing in it is secret.
const WHO: &str = "identity.json";

/// Who a device is, without a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) device_id: String,
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    /// The public half of the device key, in hex.
    pub(crate) device_key: String,
    /// The public key on Iroh, in hex.
    pub(crate) endpoint_id: String,
}

impl From<&Identity> for Who {
    fn from(identity: &Identity) -> Self {
        Self {
            device_id: identity.id.to_string(),
            name: identity.name.clone(),
            fingerprint: identity.fingerprint.clone(),
            device_key: data_encoding::HEXLOWER.encode(&identity.key.0),
            endpoint_id: data_encoding::HEXLOWER.encode(&identity.endpoint_id),
        }
    }
}

/// Leaves a note for read-only verbs. Without it they cannot answer while this process runs, which is no reason to stop.
pub(crate) fn remember(home: &Path, identity: &Identity) {
    let Ok(text) = serde_json::to_string(&Who::from(identity)) else { return };
    let path = home.join(WHO);
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return;
    }
    if let Err(problem) = private_file::write(&path, &text) {
        tracing::warn!(%problem, "the note for read-only commands was not written");
    }
}

/// Who the device of a home is, while another process holds it.
pub(crate) fn who(home: &Path) -> Outcome<Who> {
    let missing = || home_failed(&HomeError::Locked(home.to_owned()));
    let text = fs::read_to_string(home.join(WHO)).map_err(|_| missing())?;
    serde_json::from_str(&text).map_err(|_| missing())
}

/// The devices of a home, as they are now, or as they were when its last process ended.
pub(crate) fn devices(home: &Path) -> Outcome<Vec<Device>> {
    kept(home).map_err(|error| match error {
        HomeError::OtherVersion(_) => home_failed(&error).next("kin devices list"),
        _ => home_failed(&error),
    })
}

/// The same, with what another version wrote as an error of its own.
pub(crate) fn kept(home: &Path) -> Result<Vec<Device>, HomeError> {
    let Some(Snapshot { devices: views, blocked }) = read_snapshot(home)? else { return Ok(Vec::new()) };
    let held = matches!(Home::open(home), Err(HomeError::Locked(_)));
    let shown = |view: &DeviceView| if held { row(view) } else { Device { state: State::Paired, route: None, rtt_ms: None, ..row(view) } };
    Ok(with_blocked(views.iter().map(shown).collect(), &blocked))
}

/// A device for output, without what only the process that holds the home has counted.
pub(crate) fn row(view: &DeviceView) -> Device {
    counted(view, &DeviceMetrics::default())
}

/// A blocked device that is not paired any more, for output.
fn blocked_row(blocked: &BlockedDevice) -> Device {
    Device {
        fingerprint: protocol_core::identity::fingerprint(&blocked.key),
        blocked_since: Some(blocked.unix_s),
        ..Device::named(blocked.id.to_string(), blocked.name.clone(), State::Blocked)
    }
}

/// Rows of blocked devices: those that are paired look as they do among `rows`.
pub(crate) fn blocked_rows(rows: &[Device], blocked: &[BlockedDevice]) -> Vec<Device> {
    let row = |blocked: &BlockedDevice| rows.iter().find(|row| row.device_id == blocked.id.to_string()).cloned();
    blocked.iter().map(|blocked| row(blocked).unwrap_or_else(|| blocked_row(blocked))).collect()
}

/// Adds the blocked devices that are not paired any more.
pub(crate) fn with_blocked(mut rows: Vec<Device>, blocked: &[BlockedDevice]) -> Vec<Device> {
    let gone = blocked_rows(&rows, blocked).into_iter().filter(|row| row.state == State::Blocked).collect::<Vec<_>>();
    rows.extend(gone);
    rows
}

fn policy(policy: &protocol_core::node::Policy) -> Policy {
    Policy {
        messages: policy.messages,
        files: match policy.files {
            FilePolicy::Ask => Files::Ask,
            FilePolicy::Automatic => Files::Auto,
            FilePolicy::Refuse => Files::Refuse,
        },
        max_bytes: policy.max_bytes,
        max_entries: policy.max_entries,
        folder: policy.folder.clone(),
        protocols: policy.protocols.iter().cloned().collect(),
    }
}

/// A device for output.
pub(crate) fn counted(view: &DeviceView, metrics: &DeviceMetrics) -> Device {
    Device {
        device_id: view.id.to_string(),
        name: view.name.clone(),
        state: match view.state {
            DeviceState::Discovered => State::Discovered,
            DeviceState::Pairing => State::Pairing,
            DeviceState::Paired => State::Paired,
            DeviceState::Connected => State::Connected,
            DeviceState::Disconnected => State::Disconnected,
        },
        fingerprint: view.fingerprint.clone(),
        platform: view.os.clone(),
        paired_at: view.paired_unix,
        last_seen: view.last_seen_unix,
        last_route: view.last_route.as_ref().map(|route| format!("{}:{}", route.transport, route.address)),
        addresses: view.addresses.iter().map(ToString::to_string).collect(),
        confirmed: view.confirmed,
        removed_there: view.removed_there,
        blocked_since: view.blocked,
        policy: policy(&view.policy),
        last_end: view.last_end.map(|(reason, _)| reason.to_string()),
        last_end_at: view.last_end.map(|(_, unix_s)| unix_s),
        route: view.route.as_ref().map(|route| format!("{}:{}", route.transport, route.address)),
        dialled_here: view.dialled_here,
        rtt_ms: view.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        reconnects: view.sessions.saturating_sub(1),
        bytes_sent: metrics.bytes_sent,
        bytes_received: metrics.bytes_received,
        goodput: metrics.goodput as u64,
    }
}

/// The view behind a row that was chosen.
pub(crate) fn view_of<'a>(views: &'a [DeviceView], row: &Device) -> Outcome<&'a DeviceView> {
    views.iter().find(|view| view.id.to_string() == row.device_id).ok_or_else(|| Problem::internal("a row without its device"))
}
