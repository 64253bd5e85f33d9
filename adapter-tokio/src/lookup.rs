//! The door for lookups: services over which devices that do not know where the other is find each other (PROTOCOL.md, section 5).
//!
//! A [`Lookup`] carries records that mean nothing to anybody but who is to find them. It publishes those that are wanted, and tells of
//! each that it finds under an id that is sought, as often as it likes, in any order, true or not: the node opens it, or does not.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use protocol_core::node::Discovery;
use protocol_core::session::rendezvous::Medium;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::driver::Happened;
use crate::driver::links::Links;
use crate::lan::{self, Interfaces};

/// How long a lookup may take to take back what it has published.
const GOODBYE: Duration = Duration::from_secs(1);

/// A service that carries records.
pub struct Lookup {
    medium: Medium,
    #[allow(clippy::type_complexity, reason = "a closure that returns a future has no shorter name")]
    run: Box<dyn FnOnce(watch::Receiver<Discovery>, Finds) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>,
}

impl Lookup {
    /// `run` does what the watched [`Discovery`] says, as it changes, until its sender is gone. It is to take back then what it has
    /// published, where that can be done, within a second.
    pub fn new<F>(medium: Medium, run: impl FnOnce(watch::Receiver<Discovery>, Finds) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { medium, run: Box::new(move |wishes, finds| Box::pin(run(wishes, finds))) }
    }

    /// Multicast DNS on the local network.
    pub fn lan(interfaces: Interfaces) -> Self {
        Self::new(Medium::Mdns, move |wishes, finds| lan::run(interfaces, wishes, finds))
    }

    pub(crate) fn start(self, links: Links) -> Looking {
        let (wanted, wishes) = watch::channel(Discovery::default());
        let task = tokio::spawn((self.run)(wishes, Finds { medium: self.medium, links }));
        Looking { medium: self.medium, wanted, task }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookup({:?})", self.medium)
    }
}

/// Where a [`Lookup`] tells what it finds.
#[derive(Debug)]
pub struct Finds {
    medium: Medium,
    links: Links,
}

impl Finds {
    /// A record was found under an id.
    pub async fn tell(&self, id: Vec<u8>, record: Vec<u8>) {
        self.links.tell(Happened::Found { medium: self.medium, id, record }).await;
    }
}

/// A lookup that runs.
#[derive(Debug)]
pub(crate) struct Looking {
    pub(crate) medium: Medium,
    wanted: watch::Sender<Discovery>,
    task: JoinHandle<()>,
}

impl Looking {
    /// Publishes this and looks for that, and nothing else any more.
    pub(crate) fn want(&self, discovery: Discovery) {
        self.wanted.send_if_modified(|wanted| {
            let other = (&wanted.publish, &wanted.seek) != (&discovery.publish, &discovery.seek);
            *wanted = discovery;
            other
        });
    }

    /// Takes everything back.
    pub(crate) async fn close(mut self) {
        drop(self.wanted);
        if timeout(GOODBYE, &mut self.task).await.is_err() {
            debug!(medium = ?self.medium, "a lookup was still busy at the end");
            self.task.abort();
        }
    }
}
