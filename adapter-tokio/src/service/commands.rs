//! The owner's wishes: each runs in the loop, and answers.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol_core::effects::{DeviceState, Direction, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason};
use protocol_core::ids::{DeviceId, MessageId, SessionId, TransferId};
use protocol_core::info::Address;
use protocol_core::messages::{Draft, MessageError, StoredMessage, UnknownMessage};
use protocol_core::node::{
    BlockError, BlockedDevice, Confirm, ConnectError, DeviceView, Node, PairError, PairingInvite, Policy, PolicyError, ShareError,
    UnknownDevice, UnknownPairing, UnknownTransfer,
};
use protocol_core::pairing::code::PairingCode;
use protocol_core::transfer::manifest::{Manifest, ManifestError, chunk_size_for};
use tokio::sync::oneshot;
use tracing::warn;

use super::NetworkingService;
use crate::driver::transfers::Inbox;
use crate::driver::{Host, unix_s, with_env};
use crate::files::{ConflictPolicy, Scan, ScanError, Selection, SkipReason, scan};
use crate::home::HomeError;
use crate::journal::{Begun, Journals, KEPT, Outgoing};
use crate::metrics::DeviceMetrics;
use crate::pipeline::pace::Pace;
use crate::pipeline::send::Sources;
use crate::request::SendRequest;

/// The service has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service has ended")
    }
}

impl std::error::Error for Closed {}

/// Why a wish was not fulfilled. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError<E> {
    /// The service has ended.
    Closed,
    /// It cannot be.
    Refused(E),
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => Closed.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for CallError<E> {}

impl<E> From<Closed> for CallError<E> {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// A transfer that was offered.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Debug)]
pub struct Sharing {
    /// How it is named from now on.
    pub key: TransferKey,
    /// What is offered, for the paths and sizes of entries.
    pub manifest: Arc<Manifest>,
    /// What cannot be sent, and why.
    pub skipped: Vec<(PathBuf, SkipReason)>,
    /// How many entries the selection leaves out.
    pub excluded: u64,
}

/// What waits to be offered.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Debug)]
pub struct Queued {
    /// Its id among what is unfinished.
    pub transfer: TransferId,
    /// What was there, for paths and sizes.
    pub manifest: Arc<Manifest>,
    /// What cannot be sent, and why.
    pub skipped: Vec<(PathBuf, SkipReason)>,
    /// How many entries the selection leaves out.
    pub excluded: u64,
    /// Until when it waits, in seconds since 1970; `None`: it was begun before, and waits as such transfers do.
    pub expires_unix: Option<u64>,
}

/// Why nothing was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The service has ended.
    Closed,
    /// The paths cannot be sent.
    Scan(ScanError),
    /// What was found breaks a limit of transfers, or nothing was found.
    Manifest(ManifestError),
    /// The Node refused.
    Refused(ShareError),
    /// The same is being sent to that device already.
    Live,
    /// Its owner has it rest.
    Paused,
    /// As many transfers wait as may ([`KEPT`](crate::journal::KEPT)).
    TooManyWait,
    /// What is to wait could not be written down.
    NotNoted(HomeError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => Closed.fmt(f),
            Self::Scan(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
            Self::Refused(error) => write!(f, "{error}"),
            Self::Live => f.write_str("the same is being sent there already"),
            Self::Paused => f.write_str("it is paused"),
            Self::TooManyWait => write!(f, "{KEPT} transfers wait, and there is no room for more"),
            Self::NotNoted(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SendError {}

/// Why a transfer neither rests nor goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseError {
    /// The service has ended.
    Closed,
    /// There is no such transfer, or it is done, or was not taken yet.
    Unknown,
    /// It does, until this service ends: that could not be written down.
    NotNoted(HomeError),
}

impl fmt::Display for PauseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => Closed.fmt(f),
            Self::Unknown => f.write_str("there is no such transfer any more"),
            Self::NotNoted(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PauseError {}

impl From<Closed> for SendError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl NetworkingService {
    /// Runs `call` in the loop.
    pub(super) async fn call<R: Send + 'static>(&self, call: impl FnOnce(&mut Host) -> R + Send + 'static) -> Result<R, Closed> {
        let (answer, answered) = oneshot::channel();
        let call = Box::new(move |host: &mut Host| drop(answer.send(call(host))));
        self.calls.send(call).await.map_err(|_| Closed)?;
        tokio::select! {
            biased;
            answer = answered => answer.map_err(|_| Closed),
            // The loop is gone, and a call that it did not look at stays in the channel.
            () = self.calls.closed() => Err(Closed),
        }
    }

    /// Makes a code and waits for a device that knows it. What comes of it are events of the invite's session.
    ///
    /// # Errors
    /// [`PairError`]: another code is live, or the time is out of bounds.
    pub async fn start_pairing_as_initiator(&self, ttl: Duration, confirm: Confirm) -> Result<PairingInvite, CallError<PairError>> {
        self.call(move |host| with_env(|env| host.node.start_pairing_as_initiator(env, ttl, confirm))).await?.map_err(CallError::Refused)
    }

    /// Looks for the device that made `code`, at `addresses`.
    ///
    /// # Errors
    /// [`PairError`]: a pairing with a code is running already, or there is no address.
    pub async fn start_pairing_as_joiner(
        &self,
        code: PairingCode,
        addresses: Vec<Address>,
        confirm: Confirm,
    ) -> Result<SessionId, CallError<PairError>> {
        self.call(move |host| with_env(|env| host.node.start_pairing_as_joiner(env, &code, &addresses, confirm)))
            .await?
            .map_err(CallError::Refused)
    }

    /// Says whether the device of a `PairRequest` may be trusted.
    ///
    /// # Errors
    /// [`UnknownPairing`]: nobody waits for this answer (any more).
    pub async fn answer_pairing(&self, session: SessionId, yes: bool) -> Result<(), CallError<UnknownPairing>> {
        self.call(move |host| with_env(|env| host.node.answer_pairing(env, session, yes))).await?.map_err(CallError::Refused)
    }

    /// Ends a pairing. One that is not running is no error.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn cancel_pairing(&self, session: SessionId) -> Result<(), Closed> {
        self.call(move |host| with_env(|env| host.node.cancel_pairing(env, session))).await
    }

    /// Connects to a paired device at its stored addresses and `extra`. An event tells how it went.
    ///
    /// # Errors
    /// [`ConnectError`]: no such device, or no address.
    pub async fn connect(&self, device: DeviceId, extra: Vec<Address>) -> Result<(), CallError<ConnectError>> {
        self.call(move |host| with_env(|env| host.node.connect(env, device, &extra))).await?.map_err(CallError::Refused)
    }

    /// Ends the session with a device, if there is one.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn disconnect(&self, device: DeviceId) -> Result<(), Closed> {
        self.call(move |host| with_env(|env| host.node.disconnect(env, device))).await
    }

    /// Looks through the paths and offers what is there to a paired device. No file is read before the device accepts.
    ///
    /// What is offered is remembered until it is finished or cancelled: see [`Self::unfinished`]. To go on with it, offer the same again;
    /// what the receiver has of it is not sent again.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::Live`] if the same is being sent there already.
    pub async fn share_with_device(&self, to: DeviceId, request: SendRequest) -> Result<Sharing, SendError> {
        self.share(to, request, true).await
    }

    /// The same, where nobody asks: what waits among [`Self::unfinished`], and does not rest.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::Paused`].
    pub async fn go_on_with_device(&self, to: DeviceId, request: SendRequest) -> Result<Sharing, SendError> {
        self.share(to, request, false).await
    }

    async fn share(&self, to: DeviceId, request: SendRequest, asked: bool) -> Result<Sharing, SendError> {
        let SendRequest { paths, selection, label, rate } = request.clone();
        let journals = self.call(|host| Arc::clone(host.transfers.journals())).await?;
        let noting = Arc::clone(&journals);
        let found = tokio::task::spawn_blocking(move || {
            let found = look(&paths, &selection, rate)?;
            let before = before(&noting, to, &paths, found.manifest.digest());
            if let (true, Some(before)) = (asked, &before) {
                // Who asks for it wants it to go on.
                noting.pause(before.transfer, false, true).map_err(SendError::NotNoted)?;
            }
            Ok::<_, SendError>((found, before))
        });
        let (Found { manifest, sources, skipped, excluded }, before) = found.await.map_err(|_| SendError::Closed)??;
        let offered = Arc::clone(&manifest);
        let (again, expires) = before.map_or((None, None), |before| (Some(before.transfer), before.expires_unix));
        let key = self.call(move |host| {
            if again.is_some_and(|again| host.transfers.is_live(again)) {
                return Err(SendError::Live);
            }
            // It may rest since it was looked through.
            if again.is_some_and(|again| !asked && host.transfers.journals().is_paused(again)) {
                return Err(SendError::Paused);
            }
            let sources = Sources::new(Arc::clone(&offered), sources, rate.map(Pace::new));
            let key = with_env(|env| match again {
                Some(again) => host.node.share_again(env, to, offered, label, again),
                None => host.node.share_with_device(env, to, offered, label),
            });
            let key = key.map_err(SendError::Refused)?;
            host.transfers.add_outgoing(key, sources);
            Ok(key)
        });
        let key = key.await??;
        let (noting, of) = (Arc::clone(&journals), Arc::clone(&manifest));
        let noted = tokio::task::spawn_blocking(move || note_outgoing(&noting, key, request, &of, expires)).await;
        if let Ok(Err(error)) = noted {
            warn!(%error, "what is sent could not be noted: it cannot go on by itself");
        }
        if self.call(move |host| host.transfers.noted(key.id)).await? {
            // It was faster than its note.
            drop(tokio::task::spawn_blocking(move || journals.remove(key.id)).await);
        }
        Ok(Sharing { key, manifest, skipped, excluded })
    }

    /// Looks through the paths, and remembers what is there for a device that is not here: it waits among [`Self::unfinished`] until it is
    /// offered by [`Self::share_with_device`], or `life` is over: then it is forgotten, begun or not. What is there when it is offered
    /// counts, not what is there now, and of several wishes for the same paths the last one. What was begun before stays as it was.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::Live`] if the same paths are being sent there already, [`SendError::TooManyWait`].
    pub async fn queue_for_device(&self, to: DeviceId, request: SendRequest, life: Duration) -> Result<Queued, SendError> {
        let journals = self.call(|host| Arc::clone(host.transfers.journals())).await?;
        if !self.call(move |host| host.node.policy(to).is_some()).await? {
            return Err(SendError::Refused(ShareError::UnknownDevice));
        }
        let live = self.unfinished().await?.live;
        let queued = tokio::task::spawn_blocking(move || {
            let Found { manifest, skipped, excluded, .. } = look(&request.paths, &request.selection, request.rate)?;
            let waiting = journals.outgoing().map_err(SendError::NotNoted)?;
            let paths = absolute(&request.paths);
            let same: Vec<&Outgoing> = waiting.iter().filter(|other| other.device == to && other.request.paths == paths).collect();
            if same.iter().any(|other| live.contains(&other.transfer)) {
                return Err(SendError::Live);
            }
            if same.is_empty() && waiting.len() >= KEPT {
                return Err(SendError::TooManyWait);
            }
            let before = same.iter().find(|other| other.digest == *manifest.digest());
            let id = before.map_or_else(new_transfer, |before| Ok(before.transfer))?;
            let key = TransferKey { device: to, direction: Direction::Outgoing, id };
            let expires_unix = match before {
                Some(Outgoing { expires_unix: None, .. }) => None,
                Some(_) | None => Some(unix_s().saturating_add(life.as_secs())),
            };
            note_outgoing(&journals, key, request, &manifest, expires_unix).map_err(SendError::NotNoted)?;
            // Who wishes it again wants it to go on.
            journals.pause(id, false, true).map_err(SendError::NotNoted)?;
            Ok(Queued { transfer: id, manifest, skipped, excluded, expires_unix })
        });
        let queued = queued.await.map_err(|_| SendError::Closed)??;
        // It may have come while the paths were looked through: then whoever follows the events hears that it is here.
        if self.devices().await?.iter().any(|device| device.id == to && device.state == DeviceState::Connected) {
            self.connect(to, Vec::new()).await.unwrap_or(());
        }
        Ok(queued)
    }

    /// Transfers that were begun and are not finished, in this life of the process or earlier ones.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn unfinished(&self) -> Result<Begun, Closed> {
        let journals = self.call(|host| Arc::clone(host.transfers.journals())).await?;
        let begun = tokio::task::spawn_blocking(move || Begun::read(&journals)).await.unwrap_or_default();
        let mut ids: Vec<TransferId> = begun.incoming.iter().map(|head| head.transfer).collect();
        ids.extend(begun.outgoing.iter().map(|outgoing| outgoing.transfer));
        let live = self.call(move |host| ids.into_iter().filter(|id| host.transfers.is_live(*id)).collect()).await?;
        Ok(Begun { live, ..begun })
    }

    /// Gives up a transfer that was begun and does not run: what it left is removed. Whether there was one.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn give_up(&self, transfer: TransferId) -> Result<bool, Closed> {
        let idle = self.call(move |host| (!host.transfers.is_live(transfer)).then(|| Arc::clone(host.transfers.journals()))).await?;
        let Some(journals) = idle else { return Ok(false) };
        Ok(tokio::task::spawn_blocking(move || journals.give_up(transfer)).await.unwrap_or(false))
    }

    /// Whether an offer goes on with what this device's owner has taken in an earlier try: nothing new is to be decided.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn is_continued(&self, key: TransferKey) -> Result<bool, Closed> {
        self.call(move |host| host.transfers.is_continued(key)).await
    }

    /// Whether an offer goes on with what the owner has rest.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn is_paused(&self, key: TransferKey) -> Result<bool, Closed> {
        self.call(move |host| host.transfers.is_paused(key)).await
    }

    /// Says where incoming files go; `None`: every offer is declined.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn set_inbox(&self, inbox: Option<Inbox>) -> Result<(), Closed> {
        self.call(move |host| host.transfers.inbox = inbox).await
    }

    /// Takes an offer. `on_conflict`: instead of what the inbox says. What its owner has rest since an earlier try stays so
    /// ([`Self::is_paused`]) until [`Self::pause`] lets it go on.
    ///
    /// # Errors
    /// [`UnknownTransfer`]: no such offer waits for an answer.
    pub async fn accept(&self, key: TransferKey, on_conflict: Option<ConflictPolicy>) -> Result<(), CallError<UnknownTransfer>> {
        let taken = self.call(move |host| {
            host.transfers.set_policy(key, on_conflict);
            let paused = host.transfers.is_paused(key);
            with_env(|env| {
                host.node.accept(env, key)?;
                if paused { host.node.pause(env, key, true) } else { Ok(()) }
            })?;
            Ok(paused.then(|| Arc::clone(host.transfers.journals())))
        });
        if let Some(journals) = taken.await?.map_err(CallError::Refused)? {
            // This try may have another id.
            drop(tokio::task::spawn_blocking(move || journals.pause(key.id, true, true)).await);
        }
        Ok(())
    }

    /// Declines an offer.
    ///
    /// # Errors
    /// [`UnknownTransfer`]: no such offer waits for an answer.
    pub async fn decline(&self, key: TransferKey, reason: DeclineReason) -> Result<(), CallError<UnknownTransfer>> {
        self.call(move |host| with_env(|env| host.node.decline(env, key, reason))).await?.map_err(CallError::Refused)
    }

    /// Has a transfer rest, or go on, in either direction, in this life of the process and the next ones: see
    /// [`Node::pause`](protocol_core::node::Node::pause). What is taken again ([`Self::accept`]) or offered again where nobody asks
    /// ([`Self::go_on_with_device`]) rests as long as its id is in [`Begun::paused`]. Whether it runs.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn pause(&self, key: TransferKey, paused: bool) -> Result<bool, PauseError> {
        let (journals, live) = self
            .call(move |host| {
                let live = with_env(|env| host.node.pause(env, key, paused)).is_ok();
                (Arc::clone(host.transfers.journals()), live)
            })
            .await
            .map_err(|_: Closed| PauseError::Closed)?;
        let noted = tokio::task::spawn_blocking(move || journals.pause(key.id, paused, live)).await.map_err(|_| PauseError::Closed)?;
        if noted.map_err(PauseError::NotNoted)? { Ok(live) } else { Err(PauseError::Unknown) }
    }

    /// Ends a transfer in either direction.
    ///
    /// # Errors
    /// [`UnknownTransfer`]: it is over, or never was.
    pub async fn cancel(&self, key: TransferKey, reason: CancelReason) -> Result<(), CallError<UnknownTransfer>> {
        self.call(move |host| with_env(|env| host.node.cancel(env, key, reason))).await?.map_err(CallError::Refused)
    }

    /// Every device that was met, as it is now.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn devices(&self) -> Result<Vec<DeviceView>, Closed> {
        self.call(|host| host.node.devices()).await
    }

    /// Gives a device another name here.
    ///
    /// # Errors
    /// [`UnknownDevice`].
    pub async fn rename_device(&self, device: DeviceId, name: String) -> Result<(), CallError<UnknownDevice>> {
        self.call(move |host| with_env(|env| host.node.rename_device(env, device, &name))).await?.map_err(CallError::Refused)
    }

    /// Keeps a session with every paired device, or no more: see [`Node::keep_connected`](protocol_core::node::Node::keep_connected).
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn keep_connected(&self, on: bool) -> Result<(), Closed> {
        self.call(move |host| with_env(|env| host.node.keep_connected(env, on))).await
    }

    /// Asks a device with which a session stands for a sign of life: [`Event::Pong`](protocol_core::effects::Event::Pong) says how long
    /// that took.
    ///
    /// # Errors
    /// [`UnknownDevice`]: no session stands with it.
    pub async fn ping(&self, device: DeviceId) -> Result<(), CallError<UnknownDevice>> {
        self.call(move |host| with_env(|env| host.node.ping(env, device))).await?.map_err(CallError::Refused)
    }

    /// Every device, with what passed between it and this one since the service began.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn metrics(&self) -> Result<Vec<(DeviceView, DeviceMetrics)>, Closed> {
        self.call(|host| {
            let with_metrics = |device: DeviceView| {
                let metrics = host.metrics.get(device.id);
                (device, metrics)
            };
            host.node.devices().into_iter().map(with_metrics).collect()
        })
        .await
    }

    /// Connections that are open, and all that there were since the service began.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn connections(&self) -> Result<(usize, usize), Closed> {
        self.call(|host| host.connections()).await
    }

    /// Looks at the core, for tests.
    #[doc(hidden)]
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Node) -> T + Send + 'static) -> Result<T, Closed> {
        self.call(|host| look(&host.node)).await
    }

    /// Says what a device may do here.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub async fn set_policy(&self, device: DeviceId, policy: Policy) -> Result<(), CallError<PolicyError>> {
        self.call(move |host| with_env(|env| host.node.set_policy(env, device, policy))).await?.map_err(CallError::Refused)
    }

    /// Blocks a paired device, or lifts that: see [`Node::block_device`](protocol_core::node::Node::block_device).
    ///
    /// # Errors
    /// [`BlockError`].
    pub async fn block_device(&self, device: DeviceId, blocked: bool) -> Result<(), CallError<BlockError>> {
        self.call(move |host| with_env(|env| host.node.block_device(env, device, blocked))).await?.map_err(CallError::Refused)
    }

    /// Every blocked device, paired or not.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn blocked_devices(&self) -> Result<Vec<BlockedDevice>, Closed> {
        self.call(|host| host.node.blocked_devices()).await
    }

    /// Forgets a device: from this call on nothing of it is accepted; it is told if a session stands, else at its next contact.
    ///
    /// # Errors
    /// [`UnknownDevice`].
    pub async fn forget_device(&self, device: DeviceId) -> Result<(), CallError<UnknownDevice>> {
        let forget = move |host: &mut Host| {
            let forgotten = with_env(|env| host.node.forget_device(env, device));
            // Its streams are stopped before anybody is told that it is forgotten.
            host.perform();
            forgotten
        };
        self.call(forget).await?.map_err(CallError::Refused)?;
        let journals = self.call(|host| Arc::clone(host.transfers.journals())).await?;
        let forgotten = tokio::task::spawn_blocking(move || journals.forget(device)).await;
        if let Ok(Err(error)) = forgotten {
            warn!(%error, "what waits for a forgotten device stays noted");
        }
        Ok(())
    }

    /// Queues a message for a paired device. It waits, durably, until a session brings it there or its time is over; nothing is dialled
    /// for it. Events of its id tell what becomes of it.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn send_message(&self, device: DeviceId, draft: Draft) -> Result<MessageId, CallError<MessageError>> {
        self.call(move |host| with_env(|env| host.node.send_message(env, device, draft))).await?.map_err(CallError::Refused)
    }

    /// Gives up a message that waits.
    ///
    /// # Errors
    /// [`UnknownMessage`]: it does not wait (any more).
    pub async fn cancel_message(&self, device: DeviceId, id: MessageId) -> Result<(), CallError<UnknownMessage>> {
        self.call(move |host| with_env(|env| host.node.cancel_message(env, device, id))).await?.map_err(CallError::Refused)
    }

    /// Takes a message that came out of the store.
    ///
    /// # Errors
    /// [`UnknownMessage`]: it is not there (any more).
    pub async fn take_message(&self, device: DeviceId, id: MessageId) -> Result<StoredMessage, CallError<UnknownMessage>> {
        self.call(move |host| with_env(|env| host.node.take_message(env, device, id))).await?.map_err(CallError::Refused)
    }

    /// Messages that came from a device and were not taken, the oldest first.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn messages(&self, device: DeviceId) -> Result<Vec<StoredMessage>, Closed> {
        self.call(move |host| host.node.messages(device)).await
    }

    /// Messages that wait for a device, the oldest first.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn queued_messages(&self, device: DeviceId) -> Result<Vec<StoredMessage>, Closed> {
        self.call(move |host| host.node.queued_messages(device)).await
    }

    /// Where this device can be dialled now.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn local_addresses(&self) -> Result<Vec<Address>, Closed> {
        self.call(|host| host.transports.iter().flat_map(|transport| transport.local().dialable().collect::<Vec<_>>()).collect()).await
    }

    /// Says goodbye to every peer, closes everything, and waits until it is closed: at most about two seconds.
    pub async fn shutdown(&self) {
        // It may have ended already, or be ending: both come to the same.
        self.call(Host::close).await.unwrap_or(());
        let mut ended = self.ended.clone();
        drop(ended.wait_for(|ended| *ended).await);
    }
}

/// Paths as another life of the process finds them.
fn absolute(paths: &[PathBuf]) -> Vec<PathBuf> {
    let whole = |path: &PathBuf| {
        let mut whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            whole.push("");
        }
        whole
    };
    paths.iter().map(whole).collect()
}

/// The try before, of the same paths with the same in them: the transfer goes on as that.
fn before(journals: &Journals, to: DeviceId, paths: &[PathBuf], digest: &[u8; 32]) -> Option<Outgoing> {
    let paths = absolute(paths);
    let same = |before: &Outgoing| before.device == to && before.request.paths == paths && before.digest == *digest;
    journals.outgoing().ok()?.into_iter().find(same)
}

fn new_transfer() -> Result<TransferId, SendError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| SendError::Refused(ShareError::NoEntropy))?;
    Ok(TransferId(id))
}

fn note_outgoing(
    journals: &Journals,
    key: TransferKey,
    request: SendRequest,
    manifest: &Manifest,
    expires_unix: Option<u64>,
) -> Result<(), HomeError> {
    let request = SendRequest { paths: absolute(&request.paths), ..request };
    let replaced = |before: &Outgoing| before.device == key.device && before.request.paths == request.paths && before.transfer != key.id;
    for before in journals.outgoing()?.into_iter().filter(replaced) {
        journals.remove(before.transfer)?;
    }
    let unix_s = unix_s();
    let (entries, bytes, digest) = (manifest.len(), manifest.bytes(), *manifest.digest());
    journals.add_outgoing(&Outgoing { device: key.device, transfer: key.id, unix_s, request, entries, bytes, digest, expires_unix })
}

struct Found {
    manifest: Arc<Manifest>,
    sources: Vec<crate::files::Source>,
    skipped: Vec<(PathBuf, SkipReason)>,
    excluded: u64,
}

fn look(paths: &[PathBuf], selection: &Selection, rate: Option<NonZeroU64>) -> Result<Found, SendError> {
    let Scan { entries, sources, skipped, excluded } = scan(paths, selection).map_err(SendError::Scan)?;
    let bytes = entries.iter().map(|entry| entry.size).fold(0, u64::saturating_add);
    let chunk_size = rate.map_or_else(|| chunk_size_for(bytes), |rate| chunk_size_for(bytes).min(Pace::new(rate).chunk_size()));
    let manifest = Manifest::build(entries, chunk_size).map_err(SendError::Manifest)?;
    Ok(Found { manifest: Arc::new(manifest), sources, skipped, excluded })
}
