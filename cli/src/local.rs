//! The local socket of `kin up`: other commands of the same home ask it to do what they were asked, and hear what happens.
//!
//! ```text
//! command ─ {"number":1,"request":{…}} ─▶ kin up
//! command ◀─ {"hello":…}, {"event":{…}}, {"answer":[1,{…}]} ─ kin up
//! ```
//! One JSON object a line, both ways. The socket lies in the home, for this user only; who asks is looked at once more by the
//! system's word for his user id. Whatever a command had begun that makes no sense without it ends when its connection does.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adapter_tokio::files::ConflictPolicy;
use adapter_tokio::home::HomeError;
use adapter_tokio::metrics::DeviceMetrics;
use adapter_tokio::service::{Inbox, Queued, SendRequest, Sharing};
use protocol_core::effects::{Event as CoreEvent, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason};
use protocol_core::ids::{DeviceId, MessageId, SessionId, TransferId};
use protocol_core::info::Address;
use protocol_core::messages::{Draft, StoredMessage};
use protocol_core::node::{BlockedDevice, DeviceView, Policy};
use protocol_core::pairing::code::PairingCode;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::exit::{Exit, Outcome, Problem};
use crate::net::Local;
use crate::output::shown;
use crate::registry::Who;

/// The socket's name in a home.
const SOCKET: &str = "up.sock";
/// Commands that may be connected at a time.
const COMMANDS: usize = 64;
/// How long the greeting is awaited.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Behind an accept that failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Lines that may wait for a command that does not read, before it is cut off.
const WAITING: usize = 4096;

/// What a command may ask for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is a method of Net, where it is said what it does")]
pub(crate) enum Request {
    Who,
    Devices,
    Blocked,
    Invite { ttl: Duration, yes: bool },
    Join { code: Words, addresses: Vec<Address>, yes: bool },
    AnswerPairing { session: SessionId, yes: bool },
    CancelPairing { session: SessionId },
    Connect { device: DeviceId, extra: Vec<Address> },
    Ping { device: DeviceId },
    Share { to: DeviceId, request: SendRequest },
    Queue { to: DeviceId, request: SendRequest, life: Duration },
    OpenInbox { directory: PathBuf },
    Continued { key: TransferKey },
    Paused { key: TransferKey },
    Accept { key: TransferKey, policy: Option<ConflictPolicy> },
    GiveUp { transfer: TransferId },
    Pause { key: TransferKey, paused: bool },
    Decline { key: TransferKey, reason: DeclineReason },
    Cancel { key: TransferKey, reason: CancelReason },
    SendMessage { device: DeviceId, draft: Draft },
    CancelMessage { device: DeviceId, id: MessageId },
    TakeMessage { device: DeviceId, id: MessageId },
    Messages { device: DeviceId },
    QueuedMessages { device: DeviceId },
    Rename { device: DeviceId, name: String },
    SetPolicy { device: DeviceId, policy: Policy },
    Block { device: DeviceId, blocked: bool },
    Forget { device: DeviceId },
}

/// What it hears.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Who(Who, Vec<Address>),
    Devices(Vec<(DeviceView, DeviceMetrics)>),
    Blocked(Vec<BlockedDevice>),
    Invite { session: SessionId, code: Words, ttl: Duration },
    Joining(SessionId),
    Yes(bool),
    Sharing(Sharing),
    Queued(Queued),
    Message(MessageId),
    Messages(Vec<StoredMessage>),
}

/// A code, for the way between two processes of its owner.
#[derive(Debug)]
pub(crate) struct Words(pub(crate) PairingCode);

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0.words().join(" "))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let words = String::deserialize(from)?;
        PairingCode::parse(&words).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    number: u64,
    request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Say {
    /// The first line: the version of the program.
    Hello(String),
    Answer(u64, Result<Answer, Problem>),
    Event(Box<CoreEvent>),
}

/// `kin up` has ended.
pub(crate) fn gone() -> Problem {
    Problem::new(Exit::Interrupted, "`kin up`, which this command asked, has ended").next("kin up")
}

/// An answer to another question.
pub(crate) fn strange() -> Problem {
    Problem::internal("`kin up` answered another question")
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<Answer, Problem>>>>>>;

/// The `kin up` of the same home, as a command sees it.
pub(crate) struct There {
    asks: mpsc::UnboundedSender<Ask>,
    waiting: Waiting,
    last: std::sync::atomic::AtomicU64,
    events: mpsc::UnboundedReceiver<CoreEvent>,
}

impl There {
    /// Connects to the process that holds a home.
    ///
    /// # Errors
    /// It is no `kin up`, or one of another version.
    pub(crate) async fn connect(home: &Path) -> Outcome<Self> {
        let held = || crate::net::home_failed(&HomeError::Locked(home.to_owned()));
        let stream = UnixStream::connect(home.join(SOCKET)).await.map_err(|_| held())?;
        let (from, mut to) = stream.into_split();
        let mut lines = BufReader::new(from);
        let hello = tokio::time::timeout(HELLO_WAIT, read(&mut lines)).await.ok().flatten();
        match hello {
            Some(Say::Hello(version)) if version == env!("CARGO_PKG_VERSION") => {}
            Some(Say::Hello(version)) => {
                let message = format!("the `kin up` that holds this home is of version {}: start it again", shown(&version));
                return Err(Problem::new(Exit::Incompatible, message).next("kin up"));
            }
            _ => return Err(held()),
        }
        let waiting = Waiting::new(Mutex::new(Some(HashMap::new())));
        let (asks, mut asked) = mpsc::unbounded_channel::<Ask>();
        let (told, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                if to.write_all(&line(&ask)).await.is_err() {
                    return;
                }
            }
        });
        let answers = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(said) = read(&mut lines).await {
                match said {
                    Say::Event(event) => drop(told.send(*event)),
                    Say::Answer(number, answer) => {
                        let asker = lock(&answers).as_mut().and_then(|waiting| waiting.remove(&number));
                        if let Some(asker) = asker {
                            // Whoever asked may wait no more.
                            asker.send(answer).unwrap_or(());
                        }
                    }
                    Say::Hello(_) => {}
                }
            }
            // Nobody answers any more: whoever waits hears that.
            *lock(&answers) = None;
        });
        Ok(Self { asks, waiting, last: 0.into(), events })
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, request: Request) -> Outcome<Answer> {
        let number = self.last.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        match lock(&self.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(number, answer)),
            None => return Err(gone()),
        }
        self.asks.send(Ask { number, request }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The next event; `None` once the other process has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<CoreEvent> {
        self.events.recv().await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(what: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(what).expect("invariant: what is said has string keys and no foreign serializer");
    line.push(b'\n');
    line
}

/// The next line; `None` at the end, or if it is none of ours.
async fn read<T: for<'de> Deserialize<'de>>(from: &mut BufReader<OwnedReadHalf>) -> Option<T> {
    let mut line = Vec::new();
    let length = from.read_until(b'\n', &mut line).await.ok()?;
    if length == 0 {
        return None;
    }
    serde_json::from_slice(&line).inspect_err(|error| tracing::warn!(%error, "a line on the local socket")).ok()
}

/// The commands that are connected to this `kin up`.
pub(crate) struct Hub {
    local: Local,
    /// Where files go while no command receives.
    inbox: Option<Inbox>,
    /// The command that receives: offers are its matter.
    receiver: Mutex<Option<u64>>,
    path: PathBuf,
}

impl Hub {
    /// Makes the socket. One that a killed process left is taken: this process holds the home.
    pub(crate) fn open(home: &Path, local: Local, inbox: Option<Inbox>) -> Outcome<(Arc<Self>, UnixListener)> {
        let path = home.join(SOCKET);
        let failed = |error: std::io::Error| Problem::new(Exit::State, format!("{}: {error}", shown(&path.to_string_lossy())));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // The home itself is for its owner only; this is the second door.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok((Arc::new(Self { local, inbox, receiver: Mutex::new(None), path }), listener))
    }

    /// Whether a command receives: then it answers offers.
    pub(crate) fn has_receiver(&self) -> bool {
        lock(&self.receiver).is_some()
    }

    /// Serves every command, until it is dropped.
    // HOST-22.
    pub(crate) async fn serve(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(tokio::sync::Semaphore::new(COMMANDS));
        for number in 0.. {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: others give some back.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let own = stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw());
            if !own {
                tracing::warn!("somebody else at the local socket");
                continue;
            }
            let hub = Arc::clone(&self);
            tokio::spawn(async move {
                hub.command(number, stream).await;
                drop(place);
            });
        }
    }

    async fn command(&self, number: u64, stream: UnixStream) {
        let (from, to) = stream.into_split();
        let (says, said) = mpsc::channel::<Say>(WAITING);
        let mut writer = tokio::spawn(write(to, said));
        let mut events = self.local.service.events();
        let mut lines = BufReader::new(from);
        let mut begun = Vec::new();
        let (asks, mut asked) = mpsc::unbounded_channel::<Ask>();
        let reader = tokio::spawn(async move {
            while let Some(ask) = read(&mut lines).await {
                if asks.send(ask).is_err() {
                    return;
                }
            }
        });
        let mut open = says.try_send(Say::Hello(env!("CARGO_PKG_VERSION").to_owned())).is_ok();
        while open {
            tokio::select! {
                _ = &mut writer => open = false,
                event = events.next() => open = event.is_some_and(|event| says.try_send(Say::Event(Box::new(event))).is_ok()),
                ask = asked.recv() => match ask {
                    Some(Ask { number: of, request }) => self.on_request(number, (of, request), &says, &mut begun).await,
                    None => open = false,
                },
            }
        }
        reader.abort();
        writer.abort();
        for session in begun {
            drop(self.local.answer(Request::CancelPairing { session }).await);
        }
        self.leave(number).await;
    }

    async fn on_request(&self, command: u64, (number, request): (u64, Request), says: &mpsc::Sender<Say>, begun: &mut Vec<SessionId>) {
        if matches!(request, Request::OpenInbox { .. }) && !self.enter(command) {
            let busy = Problem::new(Exit::State, "another `kin recv` receives for this home already");
            drop(says.send(Say::Answer(number, Err(busy))).await);
            return;
        }
        if matches!(request, Request::Share { .. } | Request::Queue { .. }) {
            // Looking through a tree takes its time, and others may be asked meanwhile.
            let (local, says) = (self.local.clone(), says.clone());
            tokio::spawn(async move {
                let answer = local.answer(request).await;
                drop(says.send(Say::Answer(number, answer)).await);
            });
            return;
        }
        let answer = self.local.answer(request).await;
        if let Ok(Answer::Invite { session, .. } | Answer::Joining(session)) = &answer {
            begun.push(*session);
        }
        drop(says.send(Say::Answer(number, answer)).await);
    }

    fn enter(&self, command: u64) -> bool {
        *lock(&self.receiver).get_or_insert(command) == command
    }

    async fn leave(&self, command: u64) {
        if lock(&self.receiver).take_if(|receiver| *receiver == command).is_some() {
            self.local.service.set_inbox(self.inbox.clone()).await.unwrap_or(());
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // One that stays is taken by the next process.
        drop(std::fs::remove_file(&self.path));
    }
}

async fn write(mut to: OwnedWriteHalf, mut said: mpsc::Receiver<Say>) {
    while let Some(say) = said.recv().await {
        if to.write_all(&line(&say)).await.is_err() {
            return;
        }
    }
}
