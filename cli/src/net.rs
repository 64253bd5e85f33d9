//! The network as the commands use it: a service of their own, or that of the `kin up` that holds the home.

use std::path::{Path, PathBuf};
use std::time::Duration;

use adapter_tokio::files::{ConflictPolicy, FileFault, ScanError};
use adapter_tokio::home::HomeError;
use adapter_tokio::metrics::DeviceMetrics;
use adapter_tokio::service::{
    CallError, Closed, Events, Inbox, InitError, NetworkingService, PauseError, Queued, SendError, SendRequest, ServiceConfig, Sharing,
    Warning,
};
use protocol_core::effects::{Direction, Event as CoreEvent, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason};
use protocol_core::ids::{DeviceId, MessageId, SessionId, TransferId};
use protocol_core::info::Address;
use protocol_core::messages::{Draft, MessageError, StoredMessage};
use protocol_core::node::{BlockError, BlockedDevice, Confirm, ConnectError, DeviceView, PairingInvite, Policy};
use protocol_core::pairing::code::PairingCode;

use crate::commands::Context;
use crate::events::{Event, WarningCode};
use crate::exit::{Exit, Outcome, Problem};
use crate::local::{Answer, Request, There};
use crate::output::{Output, shown};
use crate::registry::Who;
use crate::stop::Stop;
use crate::transports::{self, Transports};
use crate::{local, private_file, registry};

/// How a command wants the service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'a> {
    /// What the device is called from now on.
    pub(crate) name: Option<&'a str>,
    /// No network: only the registry.
    pub(crate) offline: bool,
    /// A service of its own, or none: not that of a `kin up`.
    pub(crate) alone: bool,
}

/// Where a command's wishes are carried out.
enum Backend {
    Here(Local, Events),
    There(There),
}

/// A running service.
pub(crate) struct Net {
    backend: Backend,
    stop: Stop,
    transports: Transports,
}

impl Net {
    /// Opens the home and starts to listen; or asks the `kin up` that holds it.
    ///
    /// # Errors
    /// The home is held by another process or damaged, an address cannot be listened at.
    pub(crate) async fn start(context: &Context, start: Start<'_>) -> Outcome<Self> {
        let home = context.home()?;
        let mut config = ServiceConfig::new(&home);
        config.name = start.name.map(str::to_owned);
        if !start.offline {
            config.lookups = transports::lookups(&context.global);
        }
        config.stacks =
            if start.offline { Vec::new() } else { context.global.transport.stacks(&context.global.bind, &context.global.relay) };
        let (stop, transports) = (context.stop.clone(), context.global.transport.clone());
        let service = match NetworkingService::init_networking(config).await {
            Ok(service) => service,
            Err(InitError::Home(HomeError::Locked(_))) if !start.alone => {
                let there = There::connect(&home).await?;
                if start.name.is_some() {
                    return Err(Problem::new(Exit::State, "`kin up` holds this home, and has a name: end it to change that"));
                }
                return Ok(Self { backend: Backend::There(there), stop, transports });
            }
            Err(error) => return Err(init_failed(&error)),
        };
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
        Ok(Self { backend: Backend::Here(Local { service }, events), stop, transports })
    }

    /// The `kin up` that holds the home, if one does.
    pub(crate) async fn of_up(context: &Context) -> Option<Self> {
        let there = There::connect(&context.home().ok()?).await.ok()?;
        Some(Self { backend: Backend::There(there), stop: context.stop.clone(), transports: context.global.transport.clone() })
    }

    /// The service, where it is this process's own.
    pub(crate) fn service(&self) -> Option<&NetworkingService> {
        match &self.backend {
            Backend::Here(local, _) => Some(&local.service),
            Backend::There(_) => None,
        }
    }

    async fn ask(&self, request: Request) -> Outcome<Answer> {
        match &self.backend {
            Backend::Here(local, _) => local.answer(request).await,
            Backend::There(there) => there.ask(request).await,
        }
    }

    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// A signal; the `kin up` that was asked has ended.
    pub(crate) async fn next(&mut self) -> Outcome<CoreEvent> {
        match &mut self.backend {
            Backend::Here(_, events) => self.stop.or(events.next()).await?.ok_or_else(|| closed(Closed)),
            Backend::There(there) => self.stop.or(there.next()).await?.ok_or_else(local::gone),
        }
    }

    /// Says who and where this device is. The file is complete before the events tell of the addresses.
    pub(crate) async fn introduce(&self, out: &Output, address_file: Option<&Path>) -> Outcome<Vec<Address>> {
        let Answer::Who(who, addresses) = self.ask(Request::Who).await? else { return Err(local::strange()) };
        if let Some(path) = address_file {
            private_file::write_addresses(path, &addresses)?;
        }
        let listed: Vec<String> = addresses.iter().map(Address::to_string).collect();
        out.event(&Event::Identity { device_id: who.device_id, name: who.name, fingerprint: who.fingerprint, addresses: listed.clone() });
        out.event(&Event::Listening { addresses: listed });
        Ok(addresses)
    }

    /// Where this device listens now.
    pub(crate) async fn addresses(&self) -> Outcome<Vec<Address>> {
        let Answer::Who(_, addresses) = self.ask(Request::Who).await? else { return Err(local::strange()) };
        Ok(addresses)
    }

    pub(crate) async fn devices(&self) -> Outcome<Vec<DeviceView>> {
        Ok(self.metrics().await?.into_iter().map(|(device, _)| device).collect())
    }

    pub(crate) async fn metrics(&self) -> Outcome<Vec<(DeviceView, DeviceMetrics)>> {
        match self.ask(Request::Devices).await? {
            Answer::Devices(devices) => Ok(devices),
            _ => Err(local::strange()),
        }
    }

    pub(crate) async fn blocked(&self) -> Outcome<Vec<BlockedDevice>> {
        match self.ask(Request::Blocked).await? {
            Answer::Blocked(devices) => Ok(devices),
            _ => Err(local::strange()),
        }
    }

    pub(crate) async fn invite(&self, ttl: Duration, yes: bool) -> Outcome<PairingInvite> {
        match self.ask(Request::Invite { ttl, yes }).await? {
            Answer::Invite { session, code, ttl } => Ok(PairingInvite { session, code: code.0, ttl }),
            _ => Err(local::strange()),
        }
    }

    pub(crate) async fn join(&self, code: PairingCode, addresses: &[Address], yes: bool) -> Outcome<SessionId> {
        let addresses = self.transports.usable(addresses)?;
        match self.ask(Request::Join { code: local::Words(code), addresses, yes }).await? {
            Answer::Joining(session) => Ok(session),
            _ => Err(local::strange()),
        }
    }

    /// Answers a pairing's question. If it ended meanwhile, its own event says so.
    pub(crate) async fn answer_pairing(&self, session: SessionId, yes: bool) -> Outcome {
        self.ask(Request::AnswerPairing { session, yes }).await.map(drop)
    }

    pub(crate) async fn connect(&self, device: DeviceId, extra: &[Address]) -> Outcome {
        let extra = self.transports.usable(extra)?;
        self.ask(Request::Connect { device, extra }).await.map(drop)
    }

    pub(crate) async fn ping(&self, device: DeviceId) -> Outcome {
        self.ask(Request::Ping { device }).await.map(drop)
    }

    pub(crate) async fn share(&mut self, to: DeviceId, mut request: SendRequest) -> Outcome<Sharing> {
        // Another process has another working directory.
        for path in &mut request.paths {
            *path = absolute(path)?;
        }
        let mut stop = self.stop.clone();
        match stop.or(self.ask(Request::Share { to, request })).await?? {
            Answer::Sharing(sharing) => Ok(sharing),
            _ => Err(local::strange()),
        }
    }

    /// Remembers what to send to a device that is not here.
    pub(crate) async fn queue(&mut self, to: DeviceId, mut request: SendRequest, life: Duration) -> Outcome<Queued> {
        for path in &mut request.paths {
            *path = absolute(path)?;
        }
        let mut stop = self.stop.clone();
        match stop.or(self.ask(Request::Queue { to, request, life })).await?? {
            Answer::Queued(queued) => Ok(queued),
            _ => Err(local::strange()),
        }
    }

    /// Takes files into `directory`; every conflict is reported with its offer.
    pub(crate) async fn open_inbox(&self, directory: &Path) -> Outcome {
        self.ask(Request::OpenInbox { directory: absolute(directory)? }).await.map(drop)
    }

    /// Whether an offer goes on with what was taken in an earlier try.
    pub(crate) async fn is_continued(&self, key: TransferKey) -> Outcome<bool> {
        match self.ask(Request::Continued { key }).await? {
            Answer::Yes(continued) => Ok(continued),
            _ => Err(local::strange()),
        }
    }

    /// Whether an offer goes on with what this device's owner has rest.
    pub(crate) async fn is_paused(&self, key: TransferKey) -> Outcome<bool> {
        match self.ask(Request::Paused { key }).await? {
            Answer::Yes(paused) => Ok(paused),
            _ => Err(local::strange()),
        }
    }

    /// Gives up a transfer that does not run; whether there was one.
    pub(crate) async fn give_up(&self, transfer: TransferId) -> Outcome<bool> {
        match self.ask(Request::GiveUp { transfer }).await? {
            Answer::Yes(there) => Ok(there),
            _ => Err(local::strange()),
        }
    }

    /// Has a transfer rest, or go on; whether it runs.
    pub(crate) async fn pause(&self, key: TransferKey, paused: bool) -> Outcome<bool> {
        match self.ask(Request::Pause { key, paused }).await? {
            Answer::Yes(runs) => Ok(runs),
            _ => Err(local::strange()),
        }
    }

    /// The person who followed a transfer does so no more. In a process of its own it ends with that, and can go on in another; what a
    /// `kin up` carries ends here, and what is durable is kept.
    pub(crate) async fn let_go(&self, key: TransferKey) {
        if let Backend::There(_) = &self.backend {
            let reason = if key.direction == Direction::Outgoing { CancelReason::Source } else { CancelReason::Io };
            self.cancel(key, reason).await;
        }
    }

    /// Takes an offer; `None`: as it was taken before.
    pub(crate) async fn accept(&self, key: TransferKey, policy: Option<ConflictPolicy>) -> Outcome {
        self.ask(Request::Accept { key, policy }).await.map(drop)
    }

    /// An offer that is gone meanwhile needs no answer.
    pub(crate) async fn decline(&self, key: TransferKey, reason: DeclineReason) {
        drop(self.ask(Request::Decline { key, reason }).await);
    }

    /// A transfer that is over meanwhile needs no end.
    pub(crate) async fn cancel(&self, key: TransferKey, reason: CancelReason) {
        drop(self.ask(Request::Cancel { key, reason }).await);
    }

    pub(crate) async fn send_message(&self, device: DeviceId, draft: Draft) -> Outcome<MessageId> {
        match self.ask(Request::SendMessage { device, draft }).await? {
            Answer::Message(id) => Ok(id),
            _ => Err(local::strange()),
        }
    }

    /// A message that is over meanwhile needs no end.
    pub(crate) async fn cancel_message(&self, device: DeviceId, id: MessageId) {
        drop(self.ask(Request::CancelMessage { device, id }).await);
    }

    /// Takes a message out of the store, if it is still there.
    pub(crate) async fn take_message(&self, device: DeviceId, id: MessageId) -> Outcome<Option<StoredMessage>> {
        match self.ask(Request::TakeMessage { device, id }).await? {
            Answer::Messages(messages) => Ok(messages.into_iter().next()),
            _ => Err(local::strange()),
        }
    }

    pub(crate) async fn messages(&self, device: DeviceId) -> Outcome<Vec<StoredMessage>> {
        self.some_messages(Request::Messages { device }).await
    }

    pub(crate) async fn queued_messages(&self, device: DeviceId) -> Outcome<Vec<StoredMessage>> {
        self.some_messages(Request::QueuedMessages { device }).await
    }

    async fn some_messages(&self, request: Request) -> Outcome<Vec<StoredMessage>> {
        match self.ask(request).await? {
            Answer::Messages(messages) => Ok(messages),
            _ => Err(local::strange()),
        }
    }

    pub(crate) async fn rename(&self, device: DeviceId, name: &str) -> Outcome {
        self.ask(Request::Rename { device, name: name.to_owned() }).await.map(drop)
    }

    pub(crate) async fn set_policy(&self, device: DeviceId, policy: Policy) -> Outcome {
        self.ask(Request::SetPolicy { device, policy }).await.map(drop)
    }

    pub(crate) async fn block(&self, device: DeviceId, blocked: bool) -> Outcome {
        self.ask(Request::Block { device, blocked }).await.map(drop)
    }

    pub(crate) async fn forget(&self, device: DeviceId) -> Outcome {
        self.ask(Request::Forget { device }).await.map(drop)
    }

    /// Says goodbye to every peer and waits until everything is closed. A `kin up` goes on.
    pub(crate) async fn close(self) {
        if let Backend::Here(local, _) = &self.backend {
            local.service.shutdown().await;
        }
    }
}

/// A path as every process of this machine understands it. A separator at its end means something, and stays.
fn absolute(path: &Path) -> Outcome<PathBuf> {
    let problem = |error: std::io::Error| Problem::new(Exit::NotFound, format!("{}: {error}", shown(&path.to_string_lossy())));
    let mut whole = std::path::absolute(path).map_err(problem)?;
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        whole.push("");
    }
    Ok(whole)
}

/// The service of this process, behind the requests of its own commands and of others.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) service: NetworkingService,
}

impl Local {
    /// Does what is asked.
    pub(crate) async fn answer(&self, request: Request) -> Outcome<Answer> {
        let service = &self.service;
        match request {
            Request::Who => Ok(Answer::Who(Who::from(service.identity()), service.local_addresses().await.map_err(closed)?)),
            Request::Devices => service.metrics().await.map(Answer::Devices).map_err(closed),
            Request::Blocked => service.blocked_devices().await.map(Answer::Blocked).map_err(closed),
            Request::Invite { ttl, yes } => {
                let PairingInvite { session, code, ttl } =
                    service.start_pairing_as_initiator(ttl, confirm(yes)).await.map_err(|error| refused(error, Exit::Pairing))?;
                Ok(Answer::Invite { session, code: local::Words(code), ttl })
            }
            Request::Join { code, addresses, yes } => {
                let started = service.start_pairing_as_joiner(code.0, addresses, confirm(yes)).await;
                started.map(Answer::Joining).map_err(|error| refused(error, Exit::Pairing))
            }
            Request::AnswerPairing { session, yes } => match service.answer_pairing(session, yes).await {
                Err(CallError::Closed) => Err(closed(Closed)),
                Ok(()) | Err(CallError::Refused(_)) => Ok(Answer::Done),
            },
            Request::CancelPairing { session } => done(service.cancel_pairing(session).await.map_err(closed)),
            Request::Connect { device, extra } => done(service.connect(device, extra).await.map_err(|error| {
                let exit = if error == CallError::Refused(ConnectError::Blocked) { Exit::Refused } else { Exit::NotFound };
                refused(error, exit)
            })),
            Request::Ping { device } => {
                let asked = service.ping(device).await;
                done(asked.map_err(|_| Problem::new(Exit::Unreachable, "the device is not connected")))
            }
            Request::Share { to, request } => {
                service.share_with_device(to, request).await.map(Answer::Sharing).map_err(|error| send_failed(&error))
            }
            Request::Queue { to, request, life } => {
                service.queue_for_device(to, request, life).await.map(Answer::Queued).map_err(|error| send_failed(&error))
            }
            Request::OpenInbox { directory } => {
                let inbox = Inbox { dir: directory, on_conflict: ConflictPolicy::Fail, by_policy: false };
                done(service.set_inbox(Some(inbox)).await.map_err(closed))
            }
            Request::Accept { key, policy } => {
                let taken = service.accept(key, policy).await;
                done(taken.map_err(|_| Problem::new(Exit::Interrupted, "the offer was taken back")))
            }
            Request::Continued { key } => service.is_continued(key).await.map(Answer::Yes).map_err(closed),
            Request::Paused { key } => service.is_paused(key).await.map(Answer::Yes).map_err(closed),
            Request::GiveUp { transfer } => service.give_up(transfer).await.map(Answer::Yes).map_err(closed),
            Request::Pause { key, paused } => service.pause(key, paused).await.map(Answer::Yes).map_err(|error| match error {
                PauseError::Unknown => Problem::new(Exit::NotFound, error.to_string()).next("kin transfers"),
                PauseError::NotNoted(_) => {
                    let message =
                        format!("that holds until this process ends, because it could not be written: {}", shown(&error.to_string()));
                    Problem::new(Exit::LocalIo, message)
                }
                PauseError::Closed => closed(Closed),
            }),
            Request::Decline { key, reason } => {
                service.decline(key, reason).await.unwrap_or(());
                Ok(Answer::Done)
            }
            Request::Cancel { key, reason } => {
                service.cancel(key, reason).await.unwrap_or(());
                Ok(Answer::Done)
            }
            request => self.answer_about_devices(request).await,
        }
    }

    async fn answer_about_devices(&self, request: Request) -> Outcome<Answer> {
        let service = &self.service;
        match request {
            Request::SendMessage { device, draft } => {
                let sent = service.send_message(device, draft).await;
                sent.map(Answer::Message).map_err(|error| match error {
                    CallError::Refused(MessageError::TooLong) => refused(error, Exit::Usage),
                    CallError::Refused(MessageError::UnknownDevice) => refused(error, Exit::NotFound),
                    CallError::Refused(MessageError::QueueFull) => refused(error, Exit::State),
                    CallError::Closed | CallError::Refused(MessageError::NoEntropy) => refused(error, Exit::Internal),
                })
            }
            Request::CancelMessage { device, id } => {
                service.cancel_message(device, id).await.unwrap_or(());
                Ok(Answer::Done)
            }
            Request::TakeMessage { device, id } => match service.take_message(device, id).await {
                Ok(message) => Ok(Answer::Messages(vec![message])),
                Err(CallError::Refused(_)) => Ok(Answer::Messages(Vec::new())),
                Err(CallError::Closed) => Err(closed(Closed)),
            },
            Request::Messages { device } => service.messages(device).await.map(Answer::Messages).map_err(closed),
            Request::QueuedMessages { device } => service.queued_messages(device).await.map(Answer::Messages).map_err(closed),
            Request::Rename { device, name } => {
                done(service.rename_device(device, name).await.map_err(|error| refused(error, Exit::NotFound)))
            }
            Request::SetPolicy { device, policy } => {
                done(service.set_policy(device, policy).await.map_err(|error| refused(error, Exit::Usage)))
            }
            Request::Block { device, blocked } => done(service.block_device(device, blocked).await.map_err(|error| {
                let exit = if error == CallError::Refused(BlockError::TooMany) { Exit::State } else { Exit::NotFound };
                refused(error, exit)
            })),
            Request::Forget { device } => done(service.forget_device(device).await.map_err(|error| refused(error, Exit::NotFound))),
            _ => Err(local::strange()),
        }
    }
}

fn done(result: Outcome) -> Outcome<Answer> {
    result.map(|()| Answer::Done)
}

const fn confirm(yes: bool) -> Confirm {
    if yes { Confirm::Automatic } else { Confirm::Ask }
}

pub(crate) fn closed(_: Closed) -> Problem {
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
    match error {
        SendError::Closed => closed(Closed),
        SendError::Scan(error) => scan_failed(error),
        SendError::Manifest(_) => Problem::new(Exit::Usage, shown(&error.to_string())),
        SendError::Refused(_) => Problem::new(Exit::Internal, shown(&error.to_string())),
        SendError::Live | SendError::Paused | SendError::TooManyWait => Problem::new(Exit::State, error.to_string()).next("kin transfers"),
        SendError::NotNoted(_) => Problem::new(Exit::LocalIo, shown(&error.to_string())),
    }
}

/// Why paths cannot be sent.
pub(crate) fn scan_failed(error: &ScanError) -> Problem {
    let exit = match error {
        ScanError::Path(_, FileFault::NotFound) => Exit::NotFound,
        ScanError::Path(..) => Exit::LocalIo,
        ScanError::Twice(_) | ScanError::TooMany | ScanError::Pattern(..) => Exit::Usage,
    };
    Problem::new(exit, shown(&error.to_string()))
}
