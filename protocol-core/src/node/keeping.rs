//! Staying connected: a device that should be spoken with is dialled again, by itself, until a session stands (PROTOCOL.md, section 8.1).
//!
//! ```text
//! no session ─▶ wait ─▶ dial ─┬─ session: nothing is due
//!                ▲            └─ nothing came of it: twice the wait, up to the ceiling
//!                └── at once, and from the beginning: the network changed, the machine woke, a person asked
//! ```

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use super::{Node, cx};
use crate::effects::Env;
use crate::entropy::random;
use crate::faults::LinkFailure;
use crate::ids::DeviceId;
use crate::limits;
use crate::timers::TimerKind;

/// What is known of the devices that are to be kept connected.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// The owner wants it.
    on: bool,
    /// Attempts in a row that came to nothing.
    tries: BTreeMap<DeviceId, u32>,
    /// Devices that the owner disconnected: not dialled until he asks for them.
    left: BTreeSet<DeviceId>,
}

impl Node {
    /// Keeps a session with every paired device, from now on or no more: without it a device is dialled only when somebody asks.
    ///
    /// A device that is blocked, that has removed the pairing, or that the owner disconnected, is not dialled.
    // KEEP-1.
    pub fn keep_connected(&mut self, env: &mut Env<'_>, on: bool) {
        self.advance(env);
        self.keeping = Keeping { on, ..Keeping::default() };
        if on {
            self.redial_all(env);
        } else {
            for device in self.registry.iter().map(|device| device.id).collect::<Vec<_>>() {
                self.timers.cancel(TimerKind::Keep(device));
                // Where a transfer waits for a session, one is wanted all the same.
                self.keep(env, device, limits::KEEP_FIRST);
            }
        }
        self.settle(env);
    }

    /// The network is another than before, or the machine has slept: what came to nothing may succeed now, and what stands may be dead.
    // KEEP-4.
    pub(super) fn redial_kept(&mut self, env: &mut Env<'_>) {
        if self.keeping.on {
            self.on_awake(env);
        }
    }

    /// See above; what stands is asked for a sign of life in any case.
    pub(super) fn on_awake(&mut self, env: &mut Env<'_>) {
        for session in self.primary.values().copied().collect::<Vec<_>>() {
            if let Some(session) = self.sessions.get_mut(&session).filter(|session| !session.ending) {
                session.ping(cx!(self, env));
            }
        }
        self.redial_all(env);
    }

    /// Who was seen last is there most likely, and is dialled first: one after the other, as many as may be at once.
    fn redial_all(&mut self, env: &mut Env<'_>) {
        let mut devices: Vec<_> = self.registry.iter().map(|device| (Reverse(device.last_seen_unix), device.id)).collect();
        devices.sort_unstable();
        for (rank, (_, device)) in (0..).zip(devices) {
            self.keeping.tries.remove(&device);
            self.keep(env, device, limits::KEEP_FIRST.saturating_mul(rank / limits::KEEP_AT_ONCE as u32));
        }
    }

    /// What stood in the way of a device is gone.
    pub(super) fn keep_now(&mut self, env: &mut Env<'_>, device: DeviceId) {
        self.keeping.tries.remove(&device);
        self.keep(env, device, Duration::ZERO);
    }

    /// A person asks for a device: what was before counts no more.
    pub(super) fn keep_again(&mut self, device: DeviceId) {
        self.keeping.left.remove(&device);
        self.keeping.tries.remove(&device);
    }

    /// A pairing: a session comes of it, most likely. If none does by then, the device is dialled as any other.
    // KEEP-2.
    pub(super) fn keep_paired(&mut self, env: &mut Env<'_>, device: DeviceId, within: Duration) {
        self.keep_again(device);
        self.keep(env, device, within);
    }

    /// The owner ends the session: it is not to come back by itself.
    // KEEP-5.
    pub(super) fn keep_no_more(&mut self, device: DeviceId) {
        self.timers.cancel(TimerKind::Keep(device));
        if self.keeping.on && !planted!(DialledThoughLeft) {
            self.keeping.left.insert(device);
        }
    }

    /// A session is over, or an attempt came to nothing; `lived`: how long the session had stood.
    // KEEP-2, KEEP-3.
    pub(super) fn keep_after(&mut self, env: &mut Env<'_>, device: DeviceId, reason: LinkFailure, lived: Option<Duration>) {
        if !self.keeping.on && !self.transfers.is_suspended(device) {
            return;
        }
        if lived.is_some_and(|lived| lived >= limits::KEEP_STOOD) {
            self.keeping.tries.remove(&device);
        }
        let tries = self.keeping.tries.entry(device).or_default();
        // One that stood is dialled again at once; but its end in order says that nobody is there who wants it.
        let at_once = *tries == 0 && lived.is_some() && reason != LinkFailure::Ended;
        let doublings = if planted!(NoBackoff) { 0 } else { tries.saturating_sub(u32::from(at_once)).min(16) };
        *tries = tries.saturating_add(1);
        // Where a session could be had, the next one likely can, however short that was.
        let most = if lived.is_some() { limits::KEEP_MOST_SHORT } else { limits::KEEP_MOST };
        let wait = if at_once { Duration::ZERO } else { limits::KEEP_FIRST.saturating_mul(1 << doublings).min(most) };
        self.keep(env, device, wait);
    }

    /// Sets when a device is dialled next: after so long, a quarter more or less, and a little later where the other side dials first.
    fn keep(&mut self, env: &mut Env<'_>, device: DeviceId, wait: Duration) {
        if !self.is_kept(device) {
            return;
        }
        let Some(peer) = self.registry.by_id(device).map(|known| known.key) else { return };
        // LINK-11.
        let first = self.identity.public() < peer || planted!(SecondAtOnce);
        let second = if first { Duration::ZERO } else { limits::KEEP_SECOND };
        let span = wait.max(limits::KEEP_JITTER) / 2;
        let share = random::<4>(env.entropy).map_or(0, u32::from_le_bytes);
        let jitter = Duration::from_micros((span.as_micros() as u64).saturating_mul(u64::from(share)) >> 32);
        let wait = wait.saturating_sub(wait / 4) + jitter + second;
        self.timers.set(TimerKind::Keep(device), self.now, wait);
    }

    /// Whether a device is to be dialled when there is no session with it.
    // KEEP-6.
    pub(super) fn is_kept(&self, device: DeviceId) -> bool {
        let Some(known) = self.registry.by_id(device) else { return false };
        let removed = known.is_removed_there().is_some() && !planted!(DialledThoughRemoved);
        (self.keeping.on || (self.transfers.is_suspended(device) && !planted!(SuspendedNotDialled)))
            && known.is_paired()
            && !removed
            && !self.registry.is_blocked(&known.key)
            && !self.keeping.left.contains(&device)
            && !self.primary.contains_key(&device)
    }

    /// Whether the owner has disconnected it.
    #[cfg(feature = "testing")]
    pub(super) fn is_left(&self, device: DeviceId) -> bool {
        self.keeping.left.contains(&device)
    }

    /// It is time to dial a device.
    // KEEP-7.
    pub(super) fn on_keep(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let Some(peer) = self.registry.by_id(device).map(|known| known.key).filter(|_| self.is_kept(device)) else { return };
        if self.dialers.contains_key(&device) {
            // An attempt is under way; when it ends this is decided anew.
            return;
        }
        if self.dialers.len() >= limits::KEEP_AT_ONCE && !planted!(KeptAllAtOnce) {
            return self.keep(env, device, limits::KEEP_FIRST);
        }
        self.begin_attempt(env, peer, Vec::new(), false);
    }
}
