//! The face of the host: a handle whose methods are wishes, and a stream of events.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use adapter_tokio::service::{NetworkingService, ServiceConfig};
//! use protocol_core::node::Confirm;
//!
//! let service = NetworkingService::init_networking(ServiceConfig::new("/home/me/.kin")).await?;
//! let mut events = service.events();
//! let invite = service.start_pairing_as_initiator(std::time::Duration::from_secs(600), Confirm::Ask).await?;
//! println!("{}", invite.code.words().join(" "));
//! while let Some(event) = events.next().await {
//!     println!("{event:?}");
//! }
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use protocol_core::bulk::cipher::BulkCipher;
use protocol_core::crypto::secret::SecretBytes;
use protocol_core::identity::NetworkIdentity;
use protocol_core::ids::{DeviceId, PeerKey};
use protocol_core::info::TransportKind;
use protocol_core::node::{Config, Node, RestoreError};
use protocol_core::records::Record;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::cipher::Ring;
use crate::driver::links::AnyTransport;
use crate::driver::records_thread::Records;
use crate::driver::transfers::Transfers;
use crate::driver::{self, Call, Host, with_env};
use crate::files;
use crate::home::{Home, HomeError};
use crate::journal::{Journals, Unfinished};
use crate::store::{Store, StoreError};
use crate::tcp::Tcp;
use crate::transport::Transport;

mod commands;
pub(crate) mod events;
mod protocols;
pub(crate) mod snapshot;

pub use self::commands::{CallError, Closed, PauseError, Queued, SendError, Sharing};
pub use self::events::Events;
use self::events::Subscribers;
pub use self::snapshot::{Snapshot, read_snapshot};
pub use crate::driver::transfers::Inbox;
pub use crate::lan::Interfaces;
pub use crate::lookup::{Finds, Lookup};
pub use crate::request::{SLOWEST, SendRequest};

/// Calls that may wait for the loop.
const CALLS: usize = 64;

/// A network stack for [`ServiceConfig::transports`].
pub struct BoxTransport(Box<dyn AnyTransport>);

impl BoxTransport {
    /// Takes a transport.
    pub fn new(transport: impl Transport) -> Self {
        Self(Box::new(Arc::new(transport)))
    }
}

impl fmt::Debug for BoxTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoxTransport({})", self.0.kind())
    }
}

/// A network stack that is started with this device's own keys, where the home says.
pub struct Stack {
    kind: TransportKind,
    bind: Vec<SocketAddr>,
    #[allow(clippy::type_complexity, reason = "a closure that returns a future has no shorter name")]
    start: Box<dyn Fn(&NetworkIdentity, Vec<SocketAddr>) -> Pin<Box<dyn Future<Output = io::Result<Started>> + Send>> + Send + Sync>,
}

/// A stack that listens, and the ports that it has.
type Started = (BoxTransport, Vec<u16>);

impl Stack {
    /// `start` makes the transport from the keys and the addresses to listen at, and says at which ports it listens. A port that is
    /// taken is an error of kind `AddrInUse`; it is called again then, with port 0.
    pub fn new<T, F>(kind: TransportKind, start: impl Fn(&NetworkIdentity, Vec<SocketAddr>) -> F + Send + Sync + 'static) -> Self
    where
        T: Transport,
        F: Future<Output = io::Result<(T, Vec<u16>)>> + Send + 'static,
    {
        let start = move |identity: &NetworkIdentity, bind: Vec<SocketAddr>| {
            let started = start(identity, bind);
            let boxed: Pin<Box<dyn Future<Output = io::Result<Started>> + Send>> =
                Box::pin(async move { started.await.map(|(transport, ports)| (BoxTransport::new(transport), ports)) });
            boxed
        };
        Self { kind, bind: Vec::new(), start: Box::new(start) }
    }

    /// Where it listens; none: on all interfaces. Port 0 stands for the port that it had the last time, if that is free.
    #[must_use]
    pub fn at(mut self, bind: Vec<SocketAddr>) -> Self {
        self.bind = bind;
        self
    }

    /// Bare TCP.
    pub fn tcp() -> Self {
        Self::new(TransportKind::Tcp, |_, bind| std::future::ready(bind_tcp(&bind)))
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stack({})", self.kind)
    }
}

/// What a service is made of.
#[derive(Debug)]
pub struct ServiceConfig {
    /// The home: identity, registry, settings. Made if it does not exist.
    pub home: PathBuf,
    /// The device's name from now on; `None`: the one it has, or the host's.
    pub name: Option<String>,
    /// The stacks to start, at most one of a kind, the best first.
    pub stacks: Vec<Stack>,
    /// Network stacks that run already, at most one of a kind.
    pub transports: Vec<BoxTransport>,
    /// Over what devices find each other, at most one of a medium; none: each has to be told where the other is.
    pub lookups: Vec<Lookup>,
}

impl ServiceConfig {
    /// Bare TCP on all interfaces, and nothing that speaks without being asked to: no discovery.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into(), name: None, stacks: vec![Stack::tcp()], transports: Vec::new(), lookups: Vec::new() }
    }
}

/// Why a service could not start.
#[derive(Debug)]
pub enum InitError {
    /// The home cannot be used.
    Home(HomeError),
    /// The records cannot be read.
    Store(StoreError),
    /// The records cannot be understood.
    Restore(RestoreError),
    /// An address cannot be listened on.
    Bind(io::Error),
    /// The processor or the library computes wrong: nothing may be encrypted with it.
    Cipher,
    /// A thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Restore(error) => error.fmt(f),
            Self::Bind(error) => write!(f, "cannot listen: {error}"),
            Self::Cipher => f.write_str("the self-test of encryption failed"),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for InitError {}

/// Who this device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub id: DeviceId,
    /// The public half of its device key.
    pub key: PeerKey,
    /// Six words over that key.
    pub fingerprint: String,
    /// Its name.
    pub name: String,
    /// Its id on libp2p.
    pub peer_id: Vec<u8>,
    /// Its id on Iroh.
    pub endpoint_id: [u8; 32],
    /// Whether it was made by this start.
    pub created: bool,
}

/// What did not go as wished at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The port of the last time is taken: stored addresses of this device are wrong until it connects by itself.
    PortTaken {
        /// The transport.
        transport: TransportKind,
        /// The port that was wanted.
        wanted: u16,
        /// The one that it has now.
        got: u16,
    },
    /// What an earlier crash left in a directory could not be removed.
    NotSwept(PathBuf),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken { transport, wanted, got } => write!(f, "{transport} port {wanted} is taken, listening on {got} instead"),
            Self::NotSwept(path) => write!(f, "temporary files of an earlier run remain in {}", path.display()),
        }
    }
}

/// A running device. Clones are the same one; it ends with [`shutdown`](Self::shutdown), or when the last clone is dropped.
#[derive(Clone)]
pub struct NetworkingService {
    calls: mpsc::Sender<Call>,
    subscribers: Subscribers,
    identity: Arc<Identity>,
    warnings: Arc<[Warning]>,
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for NetworkingService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkingService").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl NetworkingService {
    /// Opens the home, starts listening, and runs the loop on the current runtime.
    ///
    /// # Errors
    /// [`InitError`]; nothing runs then.
    pub async fn init_networking(config: ServiceConfig) -> Result<Self, InitError> {
        let ServiceConfig { home, name, stacks, transports, lookups } = config;
        let opened = tokio::task::spawn_blocking(move || open(&home, name)).await;
        let mut opened = opened.map_err(|error| InitError::Thread(error.into()))??;
        let mut listening: Vec<Box<dyn AnyTransport>> = Vec::new();
        for stack in stacks {
            match start(&opened.home, &opened.identity, &stack).await {
                Ok((transport, warning)) => {
                    listening.push(transport.0);
                    opened.warnings.extend(warning);
                }
                Err(error) => {
                    for transport in listening {
                        transport.shutdown().await;
                    }
                    return Err(error);
                }
            }
        }
        listening.extend(transports.into_iter().map(|transport| transport.0));

        let identity = Identity {
            id: opened.identity.device_id(),
            key: opened.identity.public(),
            fingerprint: opened.identity.fingerprint(),
            name: opened.name.clone(),
            peer_id: opened.identity.peer_id(),
            endpoint_id: opened.identity.endpoint_id(),
            created: opened.home.created(),
        };
        let config = Config {
            name: opened.name,
            os: std::env::consts::OS.to_owned(),
            app: concat!("kin ", env!("CARGO_PKG_VERSION")).to_owned(),
            bulk_aes: crate::cipher::has_aes_instructions(),
            cipher: Arc::new(Ring) as Arc<dyn BulkCipher>,
        };
        let node = with_env(|env| Node::restore(config, opened.identity, env, opened.records)).map_err(InitError::Restore)?;

        let (links, happened) = driver::channel();
        let records = Records::start(opened.store, Arc::clone(&opened.home), links.clone()).map_err(InitError::Thread)?;
        let (calls, called) = mpsc::channel(CALLS);
        let (end, ended) = watch::channel(false);
        let subscribers = Subscribers::default();
        let lookups = lookups.into_iter().map(|lookup| lookup.start(links.clone())).collect();
        let host = Host::new(node, listening, records, Transfers::new(opened.journals), subscribers.clone(), links, lookups);
        tokio::spawn(async move {
            host.run(happened, called).await;
            end.send_replace(true);
        });
        Ok(Self { calls, subscribers, identity: Arc::new(identity), warnings: opened.warnings.into(), ended })
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> Events {
        self.subscribers.subscribe()
    }

    /// Who this device is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What did not go as wished at the start.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

struct Opened {
    home: Arc<Home>,
    journals: Arc<Journals>,
    name: String,
    identity: NetworkIdentity,
    store: Store,
    records: Vec<Record>,
    warnings: Vec<Warning>,
}

fn open(path: &std::path::Path, name: Option<String>) -> Result<Opened, InitError> {
    if !crate::cipher::self_test() {
        return Err(InitError::Cipher);
    }
    let home = Home::open(path).map_err(InitError::Home)?;
    let mut settings = home.settings().map_err(InitError::Home)?;
    if name.is_some() && settings.name != name {
        settings.name = name;
        home.write_settings(&settings).map_err(InitError::Home)?;
    }
    let journals = Journals::new(home.journals_path());
    let warnings = prune(&journals)?;
    let identity = NetworkIdentity::from_seed(home.seed().duplicate());
    let store = Store::open(&home.store_path(), identity.storage_key()).map_err(InitError::Store)?;
    let records = store.all().map_err(InitError::Store)?;
    let records = records.into_iter().map(|(table, key, value)| Record { table, key, value: SecretBytes::new(value) }).collect();
    let journals = Arc::new(journals);
    Ok(Opened { home: Arc::new(home), journals, name: settings.name.unwrap_or_else(host_name), identity, store, records, warnings })
}

/// Removes what nobody will go on with: transfers that were begun too long ago, or too many.
// HOST-8.
fn prune(journals: &Journals) -> Result<Vec<Warning>, InitError> {
    journals.prune_paused().map_err(InitError::Home)?;
    let mut warnings = Vec::new();
    for (transfer, left) in journals.surplus().map_err(InitError::Home)? {
        match left.as_ref().map(Unfinished::sweep) {
            // A destination that is gone has nothing left in it.
            None | Some(Ok(_) | Err(files::FileFault::NotFound)) => journals.remove(transfer).map_err(InitError::Home)?,
            Some(Err(fault)) => {
                let directory = left.map(|left| left.head.directory).unwrap_or_default();
                warn!(directory = %directory.display(), %fault, "temporary files remain");
                warnings.push(Warning::NotSwept(directory));
            }
        }
    }
    Ok(warnings)
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// Starts a stack where it was asked, on the port of the last time where that is free.
async fn start(home: &Home, identity: &NetworkIdentity, stack: &Stack) -> Result<(BoxTransport, Option<Warning>), InitError> {
    let kind = &stack.kind;
    let mut settings = home.settings().map_err(InitError::Home)?;
    let wanted = settings.ports.get(kind.name()).copied();
    let at = |port: u16| {
        let with = |at: &SocketAddr| if at.port() == 0 { SocketAddr::new(at.ip(), port) } else { *at };
        let everywhere = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
        let bind = if stack.bind.is_empty() { everywhere.to_vec() } else { stack.bind.iter().map(with).collect() };
        (stack.start)(identity, bind)
    };
    let first = |ports: &[u16]| ports.first().copied().unwrap_or(0);
    let (transport, ports, warning) = match (wanted, at(wanted.unwrap_or(0)).await) {
        (_, Ok((transport, ports))) => (transport, ports, None),
        (Some(wanted), Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
            let (transport, ports) = at(0).await.map_err(InitError::Bind)?;
            let got = first(&ports);
            (transport, ports, Some(Warning::PortTaken { transport: kind.clone(), wanted, got }))
        }
        (_, Err(error)) => return Err(InitError::Bind(error)),
    };
    if wanted.is_none() && first(&ports) != 0 {
        settings.ports.insert(kind.name().to_owned(), first(&ports));
        home.write_settings(&settings).map_err(InitError::Home)?;
    }
    Ok((transport, warning))
}

/// Listens on every one of `bind`; where both protocols are wanted on all interfaces, on one port, and without IPv6 if the machine has
/// none.
fn bind_tcp(bind: &[SocketAddr]) -> io::Result<(Tcp, Vec<u16>)> {
    let tcp = match bind {
        [v4, v6] if v4.port() == v6.port() && v4.ip().is_unspecified() && v6.ip().is_unspecified() => {
            let first = Tcp::bind(&[*v4])?;
            let port = first.bound().first().map_or(v4.port(), SocketAddr::port);
            drop(first);
            let both = [*v4, *v6].map(|at| SocketAddr::new(at.ip(), port));
            Tcp::bind(&both).or_else(|_| Tcp::bind(&both[..1]))?
        }
        _ => Tcp::bind(bind)?,
    };
    let ports = tcp.bound().iter().map(SocketAddr::port).collect();
    Ok((tcp, ports))
}
