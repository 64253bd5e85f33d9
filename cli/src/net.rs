//! The service as the commands use it: started from the flags, its failures as exit codes, its waits ended by signals.

use std::path::Path;
use std::time::Duration;

use adapter_tokio::files::{ConflictPolicy, FileFault, ScanError};
use adapter_tokio::home::HomeError;
use adapter_tokio::service::{
    CallError, Closed, Events, InitError, NetworkingService, SendError, SendRequest, ServiceConfig, Sharing, Warning,
};
use protocol_core::effects::{Event as CoreEvent, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason};
use protocol_core::ids::{DeviceId, MessageId, SessionId};
use protocol_core::info::Address;
use protocol_core::messages::{Draft, MessageError, StoredMessage};
use protocol_core::node::{Confirm, DeviceView, PairingInvite};
use protocol_core::pairing::code::PairingCode;

use crate::commands::Context;
use crate::events::{Event, WarningCode};
use crate::exit::{Exit, Outcome, Problem};
use crate::output::{Output, shown};
use crate::stop::Stop;
use crate::transports::Transports;
use crate::{private_file, registry};

/// How a command wants the service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'a> {
    /// What the device is called from now on.
    pub(crate) name: Option<&'a str>,
    /// No network: only the registry.
    pub(crate) offline: bool,
}

/// A running service.
pub(crate) struct Net {
    service: NetworkingService,
    events: Events,
    stop: Stop,
    transports: Transports,
}

impl Net {
    /// Opens the home and starts to listen.
    ///
    /// # Errors
    /// The home is held by another process or damaged, an address cannot be listened at.
    pub(crate) async fn start(context: &Context, start: Start<'_>) -> Outcome<Self> {
        let home = context.home()?;
        let mut config = ServiceConfig::new(&home);
        config.name = start.name.map(str::to_owned);
        config.stacks = if start.offline { Vec::new() } else { context.global.transport.stacks(&context.global.bind) };
        let service = NetworkingService::init_networking(config).await.map_err(|error| init_failed(&error))?;
        let events = service.events();
        let out = &context.out;
        if service.identity().created {
            out.say(&format!("A new identity was made in {}.", shown(&home.to_string_lossy())));
        }
        for warning in service.warnings() {
            let code = match warning {
                Warning::PortTaken { .. } => WarningCode::PortChanged,
                _ => WarningCode::NotSwept,
            };
            out.warning(code, &shown(&warning.to_string()));
        }
        registry::remember(&home, service.identity());
        Ok(Self { service, events, stop: context.stop.clone(), transports: context.global.transport.clone() })
    }

    /// Says who and where this device is. The file is complete before the events tell of the addresses.
    pub(crate) async fn introduce(&self, out: &Output, address_file: Option<&Path>) -> Outcome<Vec<Address>> {
        let addresses = self.service.local_addresses().await.map_err(closed)?;
        if let Some(path) = address_file {
            private_file::write_addresses(path, &addresses)?;
        }
        let listed: Vec<String> = addresses.iter().map(Address::to_string).collect();
        let identity = self.service.identity();
        out.event(&Event::Identity {
            device_id: identity.id.to_string(),
            name: identity.name.clone(),
            fingerprint: identity.fingerprint.clone(),
            addresses: listed.clone(),
        });
        out.event(&Event::Listening { addresses: listed });
        Ok(addresses)
    }

    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// A signal.
    pub(crate) async fn next(&mut self) -> Outcome<CoreEvent> {
        self.stop.or(self.events.next()).await?.ok_or_else(|| closed(Closed))
    }

    pub(crate) async fn devices(&self) -> Outcome<Vec<DeviceView>> {
        self.service.devices().await.map_err(closed)
    }

    pub(crate) async fn invite(&self, ttl: Duration, yes: bool) -> Outcome<PairingInvite> {
        self.service.start_pairing_as_initiator(ttl, confirm(yes)).await.map_err(|error| refused(error, Exit::Pairing))
    }

    pub(crate) async fn join(&self, code: PairingCode, addresses: &[Address], yes: bool) -> Outcome<SessionId> {
        let addresses = self.transports.usable(addresses)?;
        let started = self.service.start_pairing_as_joiner(code, addresses, confirm(yes)).await;
        started.map_err(|error| refused(error, Exit::Pairing))
    }

    /// Answers a pairing's question. If it ended meanwhile, its own event says so.
    pub(crate) async fn answer_pairing(&self, session: SessionId, yes: bool) -> Outcome {
        match self.service.answer_pairing(session, yes).await {
            Err(CallError::Closed) => Err(closed(Closed)),
            Ok(()) | Err(CallError::Refused(_)) => Ok(()),
        }
    }

    pub(crate) async fn connect(&self, device: DeviceId, extra: &[Address]) -> Outcome {
        let extra = self.transports.usable(extra)?;
        self.service.connect(device, extra).await.map_err(|error| refused(error, Exit::NotFound))
    }

    pub(crate) async fn share(&mut self, to: DeviceId, request: SendRequest) -> Outcome<Sharing> {
        let shared = self.stop.or(self.service.share_with_device(to, request)).await?;
        shared.map_err(|error| send_failed(&error))
    }

    /// Takes files into `directory`; every conflict is reported with its offer.
    pub(crate) async fn open_inbox(&self, directory: &Path) -> Outcome {
        let inbox = adapter_tokio::service::Inbox { dir: directory.to_owned(), on_conflict: ConflictPolicy::Fail };
        self.service.set_inbox(Some(inbox)).await.map_err(closed)
    }

    pub(crate) async fn accept(&self, key: TransferKey, policy: ConflictPolicy) -> Outcome {
        self.service.accept(key, Some(policy)).await.map_err(|_| Problem::new(Exit::Interrupted, "the offer was taken back"))
    }

    /// An offer that is gone meanwhile needs no answer.
    pub(crate) async fn decline(&self, key: TransferKey, reason: DeclineReason) {
        self.service.decline(key, reason).await.unwrap_or(());
    }

    /// A transfer that is over meanwhile needs no end.
    pub(crate) async fn cancel(&self, key: TransferKey, reason: CancelReason) {
        self.service.cancel(key, reason).await.unwrap_or(());
    }

    pub(crate) async fn send_message(&self, device: DeviceId, draft: Draft) -> Outcome<MessageId> {
        self.service.send_message(device, draft).await.map_err(|error| match error {
            CallError::Refused(MessageError::TooLong) => refused(error, Exit::Usage),
            CallError::Refused(MessageError::UnknownDevice) => refused(error, Exit::NotFound),
            CallError::Refused(MessageError::QueueFull) => refused(error, Exit::State),
            CallError::Closed | CallError::Refused(MessageError::NoEntropy) => refused(error, Exit::Internal),
        })
    }

    /// A message that is over meanwhile needs no end.
    pub(crate) async fn cancel_message(&self, device: DeviceId, id: MessageId) {
        self.service.cancel_message(device, id).await.unwrap_or(());
    }

    /// Takes a message out of the store, if it is still there.
    pub(crate) async fn take_message(&self, device: DeviceId, id: MessageId) -> Outcome<Option<StoredMessage>> {
        match self.service.take_message(device, id).await {
            Ok(message) => Ok(Some(message)),
            Err(CallError::Refused(_)) => Ok(None),
            Err(CallError::Closed) => Err(closed(Closed)),
        }
    }

    pub(crate) async fn messages(&self, device: DeviceId) -> Outcome<Vec<StoredMessage>> {
        self.service.messages(device).await.map_err(closed)
    }

    pub(crate) async fn queued_messages(&self, device: DeviceId) -> Outcome<Vec<StoredMessage>> {
        self.service.queued_messages(device).await.map_err(closed)
    }

    pub(crate) async fn rename(&self, device: DeviceId, name: &str) -> Outcome {
        self.service.rename_device(device, name.to_owned()).await.map_err(|error| refused(error, Exit::NotFound))
    }

    pub(crate) async fn forget(&self, device: DeviceId) -> Outcome {
        self.service.forget_device(device).await.map_err(|error| refused(error, Exit::NotFound))
    }

    /// Says goodbye to every peer and waits until everything is closed.
    pub(crate) async fn close(self) {
        self.service.shutdown().await;
    }
}

const fn confirm(yes: bool) -> Confirm {
    if yes { Confirm::Automatic } else { Confirm::Ask }
}

fn closed(_: Closed) -> Problem {
    Problem::internal("the service ended by itself")
}

fn refused<E: std::fmt::Display>(error: CallError<E>, exit: Exit) -> Problem {
    match error {
        CallError::Closed => closed(Closed),
        CallError::Refused(error) => Problem::new(exit, error.to_string()),
    }
}

/// A home that cannot be used is a matter of state; only a name that cannot be stored is the command line's.
pub(crate) fn home_failed(error: &HomeError) -> Problem {
    let exit = if *error == HomeError::BadSetting { Exit::Usage } else { Exit::State };
    Problem::new(exit, shown(&error.to_string()))
}

fn init_failed(error: &InitError) -> Problem {
    match error {
        InitError::Home(error) => home_failed(error),
        InitError::Store(_) => Problem::new(Exit::State, shown(&error.to_string())),
        InitError::Bind(cause) => {
            let exit = if cause.kind() == std::io::ErrorKind::AddrNotAvailable { Exit::Usage } else { Exit::LocalIo };
            Problem::new(exit, error.to_string()).next("kin … --bind 127.0.0.1:0")
        }
        InitError::Restore(_) | InitError::Cipher | InitError::Thread(_) => Problem::new(Exit::Internal, error.to_string()),
    }
}

fn send_failed(error: &SendError) -> Problem {
    let exit = match error {
        SendError::Closed => return closed(Closed),
        SendError::Scan(ScanError::Path(_, FileFault::NotFound)) => Exit::NotFound,
        SendError::Scan(ScanError::Path(..)) => Exit::LocalIo,
        SendError::Scan(ScanError::Twice(_) | ScanError::TooMany) | SendError::Manifest(_) => Exit::Usage,
        SendError::Refused(_) => Exit::Internal,
    };
    Problem::new(exit, shown(&error.to_string()))
}
