//! The service as the commands use it: started from the flags, its failures as exit codes, its waits ended by signals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adapter_tokio::files::{ConflictPolicy, Scan};
use protocol_core::effects::{DeviceState, Event as CoreEvent, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason};
use protocol_core::ids::{DeviceId, SessionId};
use protocol_core::info::Address;
use protocol_core::pairing::code::PairingCode;
use protocol_core::transfer::manifest::Manifest;

use crate::commands::Context;
use crate::events::{Device, Event, State};
use crate::exit::{Outcome, Problem};
use crate::output::{Output, shown};
use crate::stop::Stop;

/// How a command wants the service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'a> {
    /// What the device is called from now on.
    pub(crate) name: Option<&'a str>,
    /// Where files may arrive.
    pub(crate) inbox: Option<&'a Path>,
    /// No network: only the registry.
    pub(crate) offline: bool,
}

/// A device as the core tells it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    pub(crate) state: DeviceState,
}

/// What the snapshot of a home says, or the home itself.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) device_id: String,
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    pub(crate) device_key: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) devices: Vec<Device>,
}

/// A code that waits for its device.
pub(crate) struct Invite {
    pub(crate) session: SessionId,
    pub(crate) code: PairingCode,
    pub(crate) ttl: Duration,
}

/// A running service.
pub(crate) struct Net {
    stop: Stop,
}

fn missing<T>() -> Outcome<T> {
    Err(Problem::internal("not joined to the service yet"))
}

impl Net {
    pub(crate) async fn start(context: &Context, _start: Start<'_>) -> Outcome<Self> {
        let _ = Self { stop: context.stop.clone() };
        missing()
    }
    pub(crate) fn introduce(&self, out: &Output) -> Vec<Address> {
        out.event(&Event::Listening { addresses: vec![] });
        vec![]
    }
    pub(crate) async fn next(&mut self) -> Outcome<CoreEvent> {
        self.stop.or(std::future::pending()).await
    }
    pub(crate) async fn devices(&self) -> Outcome<Vec<Known>> {
        missing()
    }
    pub(crate) async fn rows(&self) -> Outcome<Vec<Device>> {
        missing()
    }
    pub(crate) async fn invite(&self, _ttl: Duration, _yes: bool) -> Outcome<Invite> {
        missing()
    }
    pub(crate) async fn join(&self, _code: &PairingCode, _addresses: &[Address], _yes: bool) -> Outcome<SessionId> {
        missing()
    }
    pub(crate) async fn answer_pairing(&self, _session: SessionId, _yes: bool) -> Outcome {
        missing()
    }
    pub(crate) async fn connect(&self, _device: DeviceId, _extra: &[Address]) -> Outcome {
        missing()
    }
    pub(crate) async fn share(&self, _to: DeviceId, _scan: Scan, _label: Option<String>) -> Outcome<(TransferKey, Arc<Manifest>)> {
        missing()
    }
    pub(crate) async fn accept(&self, _key: TransferKey, _policy: ConflictPolicy) -> Outcome {
        missing()
    }
    pub(crate) async fn decline(&self, _key: TransferKey, _reason: DeclineReason) {}
    pub(crate) async fn cancel(&self, _key: TransferKey, _reason: CancelReason) {}
    pub(crate) async fn rename(&self, _device: &str, _name: &str) -> Outcome {
        missing()
    }
    pub(crate) async fn forget(&self, _device: &str) -> Outcome {
        missing()
    }
    pub(crate) async fn close(self) {}
}

/// The id that an event or a row names.
pub(crate) fn core_id(text: &str) -> Outcome<DeviceId> {
    text.parse().map_err(|_| Problem::internal(format_args!("{} is no device id", shown(text))))
}

/// What a home says without being opened; `None`: there is no home yet.
pub(crate) fn snapshot(_home: &Path) -> Outcome<Option<Snapshot>> {
    missing()
}

/// The snapshot, or a fresh identity; whether it was made now.
pub(crate) fn snapshot_or_open(_context: &Context, _home: &Path) -> Outcome<(Snapshot, bool)> {
    let _ = State::Paired;
    missing()
}
