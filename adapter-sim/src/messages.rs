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
}
