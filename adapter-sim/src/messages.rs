//! Messages of a world's owners.

use protocol_core::effects::Event;
use protocol_core::ids::MessageId;
use protocol_core::messages::{Draft, MessageError, StoredMessage};
use protocol_core::wire::control::MessageState;

use crate::world::{Dev, World};

impl World {
    /// An owner sends a message; it is given up after so many seconds.
    ///
    /// # Errors
    /// Those of the Node.
    ///
    /// # Panics
    /// If the device does not run.
    pub fn send_message(&mut self, dev: Dev, peer: Dev, body: &[u8], life: u64) -> Result<MessageId, MessageError> {
        let to = self.id(peer);
        let draft = Draft { content_type: "text/plain".into(), body: body.to_vec(), expires_unix: self.unix_s(dev).saturating_add(life) };
        self.call(dev, |node, env| node.send_message(env, to, draft))
    }

    /// What came from a device and was not taken, the oldest first.
    pub fn messages(&self, dev: Dev, peer: Dev) -> Vec<StoredMessage> {
        self.node_of(dev).map_or_else(Vec::new, |node| node.messages(self.id(peer)))
    }

    /// What waits for a device, the oldest first.
    pub fn queued_messages(&self, dev: Dev, peer: Dev) -> Vec<StoredMessage> {
        self.node_of(dev).map_or_else(Vec::new, |node| node.queued_messages(self.id(peer)))
    }

    /// What a device was told became of its messages, in order.
    pub fn receipts(&self, dev: Dev) -> Vec<(MessageId, MessageState)> {
        let receipt = |event: &Event| if let Event::MessageReceipt { id, state, .. } = event { Some((*id, *state)) } else { None };
        self.events_of(dev).filter_map(receipt).collect()
    }

    /// An owner sends messages, each unlike every other.
    pub(crate) fn write_to(&mut self, (dev, peer): (Dev, Dev), count: usize, life: u64, long: bool) {
        if !self.is_up(dev) {
            return;
        }
        for _ in 0..count {
            let body = vec![7; if long { 300_000 } else { 9 }];
            // Who is not known gets nothing.
            if let Ok(id) = self.send_message(dev, peer, &body, life) {
                self.with_oracle(|oracle, world| {
                    oracle.on_said(dev, peer, id);
                    oracle.note_said(world, dev, peer, id);
                });
            }
        }
    }

    /// Whether a durable row of a table names this message.
    pub(crate) fn has_message_row(&self, dev: Dev, table: u8, id: MessageId) -> bool {
        let rows = self.devices[dev.0].store.range((table, Vec::new())..(table + 1, Vec::new()));
        // It stands at the beginning, and what follows may be long.
        rows.into_iter().any(|(_, value)| value[..value.len().min(48)].windows(16).any(|bytes| bytes == id.0))
    }

    /// An owner takes all that came from a device.
    pub(crate) fn take_all_from(&mut self, dev: Dev, peer: Dev) {
        let from = self.id(peer);
        for message in self.messages(dev, peer) {
            let taken = self.call(dev, |node, env| node.take_message(env, from, message.id));
            if taken.is_err() {
                self.with_oracle(|oracle, _| oracle.broken("S29", || format!("device {} does not give a message that is there", dev.0)));
            }
        }
    }
}
