//! Sessions that an enemy takes part in, and their control streams.

use protocol_core::crypto::secret::Secret;
use protocol_core::ids::SessionRef;
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordSealer, RecordType};
use protocol_core::session::stream::{Opening, Refusal};
use protocol_core::wire::control::ControlMessage;
use protocol_core::wire::header::{Header, StreamKind};

use super::hand::Done;
use super::lie::Lie;
use super::talk::{State, Talk};
use crate::raw::Raw;
use crate::{Dev, World};

/// The secrets of a session that an enemy takes part in.
pub(super) struct Session {
    pub(super) who: Dev,
    pub(super) peer: Dev,
    pub(super) session_ref: SessionRef,
    pub(super) ours: Secret,
    pub(super) theirs: Secret,
    /// The number of the last data stream.
    pub(super) number: u64,
    pub(super) conn: usize,
    pub(super) we_opened: bool,
    /// When its control stream ended.
    pub(super) ended: Option<u64>,
    /// It never answers a Ping.
    pub(super) deaf: bool,
    /// The root that it rests on.
    pub(super) root: Option<[u8; 32]>,
}

impl World {
    /// A session begins.
    pub(super) fn learn(&mut self, raw: Raw, done: &Done, we_opened: bool, root: Option<[u8; 32]>) -> usize {
        let (who, peer) = (self.device_of(raw.stream, raw.end), self.device_of(raw.stream, 1 - raw.end));
        let traffic = &done.traffic;
        let (ours, theirs) =
            if we_opened { (&traffic.from_opener, &traffic.from_answerer) } else { (&traffic.from_answerer, &traffic.from_opener) };
        let (ours, theirs) = (ours.duplicate(), theirs.duplicate());
        let conn = self.streams[raw.stream].conn;
        let session_ref = done.session_ref;
        let root = done.root.as_ref().map(|root| *root.bytes()).or(root);
        let session = Session { who, peer, session_ref, ours, theirs, number: 0, conn, we_opened, ended: None, deaf: false, root };
        self.foe.sessions.push(session);
        self.foe.sessions.len() - 1
    }

    /// Header and opening record of a control stream.
    pub(super) fn header(&mut self, session: usize, lie: Lie) -> Option<(Vec<u8>, Header, RecordSealer)> {
        let Session { session_ref, ours, .. } = self.foe.sessions.get(session)?;
        let header = Header::new(StreamKind::Control, *session_ref, 0, self.keys.bytes()).ok()?;
        let mut sealer = RecordSealer::new(&StreamKey::of_opener(ours, &header));
        let opening = if lie == Lie::Refuse { Opening::Refuse(Refusal::User) } else { Opening::Ack };
        let record = sealer.seal(RecordType::Opening, &opening.encode()).ok()?;
        Some(([&header.encode()[..], &record].concat(), header, sealer))
    }

    /// A control message came: what is answered.
    pub(super) fn told(&mut self, session: usize, message: &ControlMessage) -> Vec<ControlMessage> {
        match message {
            ControlMessage::Ping { nonce } if !self.foe.sessions[session].deaf => vec![ControlMessage::Pong { nonce: *nonce }],
            ControlMessage::Offer(offer) => self.take(session, offer),
            ControlMessage::Decline { transfer, .. } => {
                self.foe.declined.insert(*transfer);
                Vec::new()
            }
            ControlMessage::Accept { transfer, chunks, .. } => self.deliver(*transfer, chunks),
            ControlMessage::OpenBulk { transfer, count } => {
                self.open_bulk(session, *transfer, *count);
                Vec::new()
            }
            ControlMessage::Message { .. } | ControlMessage::MessageReceipt { .. } => {
                self.letter_came(session, message);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The control stream of a liar's session, if it stands.
    pub(super) fn control_of(&self, session: usize) -> Option<Raw> {
        let mut all = self.foe.talks.iter();
        let (&(stream, end), _) = all.find(|(_, talk)| matches!(&talk.state, State::Control(control) if control.session == session))?;
        Some(Raw { stream, end })
    }

    /// Says control messages in a session.
    pub(super) fn utter_in(&mut self, session: usize, messages: &[ControlMessage]) {
        let text: Vec<u8> = messages.iter().flat_map(ControlMessage::encode).collect();
        self.utter_bytes(session, &text);
    }

    /// Says what may be no control messages.
    pub(super) fn utter_bytes(&mut self, session: usize, text: &[u8]) {
        let mute = text.is_empty() || self.foe.sessions[session].deaf;
        let Some(raw) = self.control_of(session).filter(|_| !mute) else { return };
        crate::oracle::Recorder::set_device(self.device_of(raw.stream, raw.end));
        if let Some(Talk { state: State::Control(control), .. }) = self.foe.talks.get_mut(&(raw.stream, raw.end))
            && let Ok(record) = control.sealer.seal(RecordType::Data, text)
        {
            self.raw_send(raw, &record);
        }
    }
}
