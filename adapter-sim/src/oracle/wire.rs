//! What is seen on the wire: fresh keys, true ends, true progress.

use protocol_core::effects::{Direction, TransferKey};
use protocol_core::limits;
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::handshake::{Accept, Challenge, Hello, PairingRequest};

use super::calm::Said;
use super::{Oracle, Recorder};
use crate::{Dev, World};

impl Oracle {
    /// K2: an ephemeral key is sent once. What an honest device sends on a stream, before anybody damages it.
    pub(crate) fn on_sent(
        &mut self,
        world: &World,
        (dev, peer): (Dev, Dev),
        name: Option<StreamName>,
        (by_opener, frame): (bool, u32),
        bytes: &[u8],
    ) {
        match (name, by_opener, frame) {
            (Some(StreamName::Pair), true, 2) => self.on_responded(dev),
            (Some(StreamName::Pair), false, 2) => self.on_complete(world, dev),
            _ => {}
        }
        // A Hello says nothing yet: whoever can answer it holds the root.
        let said = match (name, by_opener, frame) {
            (Some(StreamName::Pair), true, 2) => Some(Said::Response),
            (Some(StreamName::Pair), false, 2) => Some(Said::Complete),
            (Some(StreamName::Link), _, 2) => Some(Said::Finish),
            // A notice speaks of what is over.
            (Some(StreamName::Link), false, _) if bytes.len() > limits::NOTICE_FRAME => Some(Said::Accept),
            _ => None,
        };
        if let Some(said) = said {
            self.check_said(world, dev, peer, said);
        }
        let (Some(body), 1) = (bytes.get(4..), frame) else { return };
        let exchange = match (name, by_opener) {
            (Some(StreamName::Pair), true) => PairingRequest::decode(body).ok().map(|request| request.exchange),
            (Some(StreamName::Pair), false) => Challenge::decode(body).ok().map(|challenge| challenge.exchange),
            (Some(StreamName::Link), true) => Hello::decode(body).ok().map(|hello| hello.exchange),
            (Some(StreamName::Link), false) => Accept::decode(body).ok().map(|accept| accept.exchange),
            (Some(StreamName::Data(_)) | None, _) => None,
        };
        if let Some(exchange) = exchange {
            if name == Some(StreamName::Pair) && !by_opener {
                self.on_challenge(dev);
            }
            let fresh = self.ephemerals.insert(exchange);
            self.check("K2", fresh, || format!("device {} sent an ephemeral key a second time", dev.0));
        }
    }

    /// DATA-12: who hears that a session ended in order has opened a fin.
    pub(super) fn on_ended(&mut self, dev: Dev) {
        let ends = self.ends.entry(dev).or_default();
        *ends += 1;
        let (ends, fins) = (*ends, Recorder::fins_opened(dev));
        self.check("DATA-12", ends <= fins, || {
            format!("device {} was told {ends} times that a session ended in order, and opened {fins} fins", dev.0)
        });
    }

    /// DATA-12: a manifest is whole when its fin was opened.
    pub(super) fn on_offered(&mut self, dev: Dev) {
        let offers = self.offers.entry(dev).or_default();
        *offers += 1;
        let (offers, fins) = (*offers, Recorder::fins_opened(dev));
        self.check("DATA-12", offers <= fins, || format!("device {} was shown {offers} offers, and opened {fins} fins", dev.0));
    }

    /// S20: what a sender is told to be durable is durable at the receiver.
    pub(super) fn check_durable(&mut self, world: &World, dev: Dev, key: &TransferKey, told: u64) {
        if key.direction == Direction::Incoming {
            let durable = world.disk(dev).durable(key);
            self.check("S20", durable.is_none_or(|durable| told <= durable), || {
                format!("device {} says that {told} bytes are durable, {durable:?} are", dev.0)
            });
            return;
        }
        let Some(receiver) = world.dev_of_id(key.device).filter(|receiver| !self.liars.contains(receiver)) else { return };
        let theirs = TransferKey { device: world.id(dev), direction: Direction::Incoming, id: key.id };
        let durable = world.disk(receiver).durable(&theirs);
        self.check("S20", durable.is_none_or(|durable| told <= durable), || {
            format!("device {} was told that {told} bytes are durable, {durable:?} are", dev.0)
        });
    }
}
