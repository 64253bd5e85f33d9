//! The simulator's connections and streams behind the trait of the real ones: what a Node meets there must be what it meets elsewhere.
//!
//! There is one world for all devices of the process. Its time goes on to the end of what is under way whenever somebody does something;
//! then those who wait look again.

use std::future::Future;
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adapter_sim::{Dev, Raw, RawConn, Wire, World};
use adapter_tokio::transport::{Connection, Rx, Transport, Tx};
use protocol_core::effects::{Cut, Remote};
use protocol_core::info::{Address, TransportInfo, TransportKind};
use tokio::sync::Notify;

use super::{Bench, Traits};

/// How long anything may be under way, in virtual time.
const SETTLED: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Shared {
    world: Mutex<State>,
    moved: Notify,
}

#[derive(Debug)]
struct State {
    world: World,
    /// Devices that listen.
    listening: Vec<Dev>,
    /// Connections that nobody has accepted yet.
    waiting: Vec<(Dev, RawConn)>,
    /// Streams that were accepted.
    taken: Vec<Raw>,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| Shared {
    world: Mutex::new(State { world: World::quiet(1), listening: Vec::new(), waiting: Vec::new(), taken: Vec::new() }),
    moved: Notify::new(),
});

fn state() -> MutexGuard<'static, State> {
    SHARED.world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something, and lets the world go on until nothing is under way.
fn act<T>(what: impl FnOnce(&mut State) -> T) -> T {
    let done = {
        let mut state = state();
        let done = what(&mut state);
        state.world.run_for(SETTLED);
        done
    };
    SHARED.moved.notify_waiters();
    done
}

/// Waits until there is something.
async fn wait<T>(mut look: impl FnMut(&mut State) -> Option<T>) -> T {
    loop {
        let moved = SHARED.moved.notified();
        let mut moved = std::pin::pin!(moved);
        moved.as_mut().enable();
        let there = look(&mut state());
        if let Some(there) = there {
            return there;
        }
        moved.await;
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// A device of the world.
#[derive(Debug)]
pub struct Simulated {
    dev: Dev,
}

impl Simulated {
    fn new(wire: Wire) -> Self {
        act(|state| {
            let dev = state.world.add_stranger(wire, None);
            state.listening.push(dev);
            Self { dev }
        })
    }
}

impl Transport for Simulated {
    type Conn = SimulatedConn;

    fn kind(&self) -> TransportKind {
        state().world.address(self.dev).kind
    }

    fn local(&self) -> TransportInfo {
        let state = state();
        let mut info = state.world.transports(self.dev).swap_remove(0);
        if !state.listening.contains(&self.dev) {
            info.addresses.clear();
        }
        info
    }

    async fn dial(&self, to: &Address) -> io::Result<SimulatedConn> {
        act(|state| {
            let at =
                state.listening.iter().copied().find(|&dev| state.world.address(dev) == *to).ok_or(io::ErrorKind::ConnectionRefused)?;
            let conn = state.world.raw_connect(self.dev, at);
            state.waiting.push((at, conn.other()));
            Ok(SimulatedConn { conn })
        })
    }

    async fn accept(&self) -> io::Result<SimulatedConn> {
        wait(|state| {
            if !state.listening.contains(&self.dev) {
                return Some(Err(gone()));
            }
            let at = state.waiting.iter().position(|(dev, _)| *dev == self.dev)?;
            Some(Ok(SimulatedConn { conn: state.waiting.remove(at).1 }))
        })
        .await
    }

    async fn close(&self) {
        act(|state| state.listening.retain(|dev| *dev != self.dev));
    }
}

/// An end of a connection.
#[derive(Debug)]
pub struct SimulatedConn {
    conn: RawConn,
}

fn halves(raw: Raw) -> (SimulatedTx, SimulatedRx) {
    (SimulatedTx { raw, done: false }, SimulatedRx { raw })
}

impl Connection for SimulatedConn {
    type Tx = SimulatedTx;
    type Rx = SimulatedRx;

    fn remote(&self) -> Remote {
        state().world.raw_remote(self.conn)
    }

    async fn open(&self) -> io::Result<(SimulatedTx, SimulatedRx)> {
        act(|state| state.world.raw_stream(self.conn)).map(halves).ok_or_else(gone)
    }

    async fn accept(&self) -> io::Result<(SimulatedTx, SimulatedRx)> {
        wait(|state| {
            if let Some(raw) = state.world.raw_streams(self.conn).into_iter().find(|raw| !state.taken.contains(raw)) {
                state.taken.push(raw);
                return Some(Ok(halves(raw)));
            }
            (!state.world.raw_is_up(self.conn)).then(|| Err(gone()))
        })
        .await
    }

    fn close(&self, _: u32) {
        act(|state| state.world.raw_hang_up(self.conn));
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct SimulatedTx {
    raw: Raw,
    done: bool,
}

impl SimulatedTx {
    fn cut(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            act(|state| {
                if state.world.raw_takes_bytes(self.raw) {
                    state.world.raw_reset(self.raw);
                }
            });
        }
    }
}

impl Tx for SimulatedTx {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.done {
            return Err(gone());
        }
        act(|state| {
            if !state.world.raw_takes_bytes(self.raw) {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            state.world.raw_send(self.raw, bytes);
            Ok(())
        })?;
        // Others have their turns.
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.done, true) {
            return Err(gone());
        }
        act(|state| {
            if !state.world.raw_takes_bytes(self.raw) {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            state.world.raw_finish(self.raw);
            Ok(())
        })
    }

    fn reset(&mut self, _: u32) {
        self.cut();
    }
}

impl Drop for SimulatedTx {
    fn drop(&mut self) {
        self.cut();
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct SimulatedRx {
    raw: Raw,
}

impl Rx for SimulatedRx {
    fn read(&mut self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send {
        wait(|state| {
            let came = state.world.raw_take(self.raw, into.len());
            if !came.is_empty() {
                into[..came.len()].copy_from_slice(&came);
                return Some(Ok(came.len()));
            }
            match state.world.raw_end(self.raw)? {
                Cut::Finished => Some(Ok(0)),
                Cut::Broken | Cut::Malformed => Some(Err(io::ErrorKind::ConnectionReset.into())),
            }
        })
    }

    fn stop(&mut self, _: u32) {
        act(|state| state.world.raw_reset(self.raw));
    }
}

/// Many streams on a connection, and ids that the transport knows.
#[derive(Debug)]
pub struct Many;

impl Bench for Many {
    type Transport = Simulated;
    const TRAITS: Traits = Traits { ids: true, exporter: false, one_stream: false, ..One::TRAITS };

    async fn up(_: u8) -> Simulated {
        Simulated::new(Wire::Sim)
    }
}

/// One stream a connection, and nobody is known.
#[derive(Debug)]
pub struct One;

impl Bench for One {
    type Transport = Simulated;
    const TRAITS: Traits = Traits { ids: false, exporter: true, one_stream: true, tells_cuts: true, resets: true, asks_for_ids: false };

    async fn up(_: u8) -> Simulated {
        Simulated::new(Wire::Tcp)
    }
}
