//! What tests over real services have in common.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adapter_tokio::service::{Events, NetworkingService, ServiceConfig, Stack};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::node::Confirm;

/// What no step takes unless something hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A directory that goes with it.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new one, whose name begins so.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str) -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system's random source");
        let dir = std::env::temp_dir().join(format!("kin-{name}-{:016x}", u64::from_ne_bytes(random)));
        fs::create_dir(&dir).expect("a new directory");
        Self(dir)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

/// A device on loopback.
///
/// # Panics
/// If it cannot be started.
pub async fn start(home: &Path, stack: Stack) -> NetworkingService {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let config = ServiceConfig { stacks: vec![stack.at(vec![loopback])], ..ServiceConfig::new(home) };
    NetworkingService::init_networking(config).await.expect("it starts")
}

/// Waits for an event.
///
/// # Panics
/// If it does not come.
pub async fn wait<T>(events: &mut Events, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let found = tokio::time::timeout(HANGS, async {
        loop {
            if let Some(found) = wanted(&events.next().await.expect("the service runs")) {
                return found;
            }
        }
    });
    found.await.expect("the event comes")
}

/// Waits until the other device is in this state.
pub async fn state(events: &mut Events, wanted: DeviceState) {
    wait(events, |event| matches!(event, Event::Device { state, .. } if *state == wanted).then_some(())).await;
}

/// Pairs two devices; both know that the other knows.
///
/// # Panics
/// If that does not come about.
pub async fn pair(a: &NetworkingService, b: &NetworkingService) {
    let (mut ours, mut theirs) = (a.events(), b.events());
    let invite = a.start_pairing_as_initiator(Duration::from_secs(600), Confirm::Automatic).await.expect("no other code lives");
    let addresses = a.local_addresses().await.expect("the service runs");
    b.start_pairing_as_joiner(invite.code, addresses, Confirm::Automatic).await.expect("no other attempt runs");
    wait(&mut ours, |event| matches!(event, Event::PairConfirmed { .. }).then_some(())).await;
    wait(&mut theirs, |event| matches!(event, Event::Answered { .. }).then_some(())).await;
}

/// A question from either side comes back on the session that they have.
///
/// # Panics
/// If it does not.
pub async fn both_answer(a: &NetworkingService, b: &NetworkingService) {
    for (from, to) in [(a, b), (b, a)] {
        let mut events = from.events();
        from.ping(to.identity().id).await.expect("connected");
        wait(&mut events, |event| matches!(event, Event::Pong { .. }).then_some(())).await;
    }
}
