//! Rows of the store: what the registry holds becomes durable, and what could not is written again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Node, cx};
use crate::devices::device::{Root, RootState};
use crate::effects::{Env, Event, Output};
use crate::identity;
use crate::ids::{PeerKey, Ticket};
use crate::limits;
use crate::outbox::Purpose;
use crate::records::Change;
use crate::timers::TimerKind;

impl Node {
    /// Has a device's row written, as the registry holds it now.
    pub(super) fn store(&mut self, env: &mut Env<'_>, peer: PeerKey, change: Change, purpose: Purpose) {
        self.forget_said(env, peer);
        let mut batch = Vec::from([change]);
        batch.extend(self.unsaid_rows(&peer));
        cx!(self, env).persist(batch, purpose);
        self.watch_pending(env, &peer);
    }

    /// A device that is known no more takes with it what was said; whether that was anything.
    // UNP-1.
    pub(super) fn forget_said(&mut self, env: &mut Env<'_>, peer: PeerKey) -> bool {
        if self.registry.get(&peer).is_some() {
            return false;
        }
        let said = self.messages.forget(cx!(self, env), peer);
        if said.is_empty() {
            return false;
        }
        // A write that was asked for before does not say it.
        let behind = if planted!(UnsaidTooSoon) { Ticket(0) } else { self.out.last_ticket() };
        let (unsaid, since) = self.unsaid.entry(peer).or_insert_with(|| (Vec::new(), behind));
        unsaid.extend(said);
        *since = behind;
        true
    }

    /// What was said with a device that was forgotten goes with its row, in one write: numbers that were used must not be there without
    /// the device, nor the device without them.
    // UNP-1, MSG-2.
    fn unsaid_rows(&self, peer: &PeerKey) -> Vec<Change> {
        let Some((keys, _)) = self.unsaid.get(peer) else { return Vec::new() };
        let needed = self.messages.keys(peer);
        keys.iter()
            .filter(|key| !needed.contains(key))
            .map(|(table, key)| Change { table: *table, key: key.clone(), value: None })
            .collect()
    }

    /// Has every row of a device written, as the registry holds them now, and not given up at once if that fails.
    pub(super) fn store_rows(&mut self, env: &mut Env<'_>, peer: PeerKey, removal: bool, failures: u32) {
        let mut rows = self.registry.rows(&peer);
        rows.extend(self.unsaid_rows(&peer));
        cx!(self, env).persist(rows, Purpose::Row { peer, removal, failures });
        self.watch_pending(env, &peer);
    }

    /// Each provisional root of a device has its timer, and nothing else has.
    pub(super) fn watch_pending(&mut self, env: &Env<'_>, peer: &PeerKey) {
        let expiry = |root: &Root| match root.state {
            RootState::Provisional { expires, .. } => Some((root.session_ref, expires)),
            RootState::Confirmed | RootState::Unconfirmed => None,
        };
        let pending: BTreeMap<_, _> = self.registry.get(peer).into_iter().flat_map(|device| &device.roots).filter_map(expiry).collect();
        for gone in self.timers.pending_of(peer).filter(|root| !pending.contains_key(root)).collect::<Vec<_>>() {
            self.timers.cancel(TimerKind::Pending(*peer, gone));
        }
        for (root, expires) in pending {
            let timer = TimerKind::Pending(*peer, root);
            if !self.timers.is_set(timer) {
                let left = core::time::Duration::from_secs(expires.saturating_sub(env.unix_s)).min(limits::PENDING_ROOT_TTL);
                self.timers.set(timer, self.now, left);
            }
        }
    }

    /// A row could not be written: the disk may hold a device, or a root of it, that is gone here, or not hold what is here.
    // PAIR-48.
    pub(super) fn on_row_unwritten(&mut self, peer: PeerKey, removal: bool, failures: u32) {
        self.out.push(Output::Notify(Event::NotStored { device: identity::device_id(&peer) }));
        if failures <= limits::STORE_TRIES && !planted!(UnwrittenForgotten) {
            let (wanted, most) = self.unwritten.entry(peer).or_default();
            (*wanted, *most) = (*wanted || removal, failures.max(*most));
            self.timers.set_at_latest(TimerKind::Rows, self.now, limits::STORE_AGAIN);
        }
    }

    /// Rows that could not be written are written again, as they are now.
    pub(super) fn write_again(&mut self, env: &mut Env<'_>) {
        for (peer, (removal, failures)) in core::mem::take(&mut self.unwritten) {
            // A device that was paired anew since is no removed one.
            let removal = removal && self.registry.get(&peer).is_none();
            self.store_rows(env, peer, removal, failures);
        }
        self.messages.erase_again(cx!(self, env));
    }
}
