//! What the owner does with messages.

use alloc::vec::Vec;

use super::{Node, cx};
use crate::effects::Env;
use crate::ids::{DeviceId, MessageId};
use crate::messages::{Draft, MessageError, StoredMessage, UnknownMessage};

impl Node {
    /// Queues a message for a paired device: durable first, told in the present session or the next, in order, until its receipt comes.
    ///
    /// Ends with [`Event::MessageReceipt`](crate::effects::Event::MessageReceipt),
    /// [`Event::MessageExpired`](crate::effects::Event::MessageExpired) or
    /// [`Event::MessageNotStored`](crate::effects::Event::MessageNotStored). Nothing is dialled for it.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn send_message(&mut self, env: &mut Env<'_>, device: DeviceId, draft: Draft) -> Result<MessageId, MessageError> {
        self.advance(env);
        let peer = self.registry.by_id(device).filter(|known| known.is_paired()).ok_or(MessageError::UnknownDevice)?.key;
        let id = self.messages.send(cx!(self, env), peer, env.unix_s, draft)?;
        self.settle(env);
        Ok(id)
    }

    /// Gives up a message that waits. It may have arrived all the same, if it was told.
    ///
    /// # Errors
    /// [`UnknownMessage`]: it does not wait, or no more.
    pub fn cancel_message(&mut self, env: &mut Env<'_>, device: DeviceId, id: MessageId) -> Result<(), UnknownMessage> {
        self.advance(env);
        let peer = self.registry.by_id(device).ok_or(UnknownMessage)?.key;
        self.messages.cancel(cx!(self, env), peer, env.unix_s, id)?;
        self.settle(env);
        Ok(())
    }

    /// Takes a message that came out of the store.
    ///
    /// # Errors
    /// [`UnknownMessage`]: it is not there, or was taken.
    pub fn take_message(&mut self, env: &mut Env<'_>, device: DeviceId, id: MessageId) -> Result<StoredMessage, UnknownMessage> {
        self.advance(env);
        let peer = self.registry.by_id(device).ok_or(UnknownMessage)?.key;
        self.messages.take(cx!(self, env), peer, env.unix_s, id)
    }

    /// Messages that came from a device and were not taken, the oldest first.
    pub fn messages(&self, device: DeviceId) -> Vec<StoredMessage> {
        self.registry.by_id(device).into_iter().flat_map(|known| self.messages.came(&known.key)).cloned().collect()
    }

    /// Messages that wait for a device, the oldest first.
    pub fn queued_messages(&self, device: DeviceId) -> Vec<StoredMessage> {
        self.registry.by_id(device).into_iter().flat_map(|known| self.messages.waiting(&known.key)).cloned().collect()
    }

    /// How many messages wait for a device.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn probe_messages(&self, device: DeviceId) -> usize {
        self.probe_queue(device).0
    }

    /// How many messages wait for a device, and of how many bytes.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn probe_queue(&self, device: DeviceId) -> (usize, usize) {
        let waiting = self.registry.by_id(device).into_iter().flat_map(|known| self.messages.waiting(&known.key));
        waiting.fold((0, 0), |(count, bytes), message| (count + 1, bytes + message.body.len()))
    }
}
