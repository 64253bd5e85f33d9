//! Data streams of a session that an enemy takes part in, and what is odd about some.

use protocol_core::ids::TransferId;
use protocol_core::limits;
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordSealer, RecordType};
use protocol_core::session::stream::Opening;
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::Header;
use serde::{Deserialize, Serialize};

use super::{Due, Expect};
use crate::link::Wire;
use crate::raw::Raw;
use crate::world::Act;
use crate::{Dev, World};

/// What is wrong with a data stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Odd {
    /// Only that nobody knows its transfer: so many of them wait.
    #[default]
    Early,
    /// Its opening record does not verify.
    Noise,
    Version,
    Kind,
    /// It has the number of a control stream.
    Zero,
    /// Its number lies behind the last.
    Beyond,
    /// A recorded stream comes again when 5000 others have gone by.
    Old,
    /// A recorded stream comes again at once.
    Again,
    /// Its session is not known.
    Unknown,
    Custom,
    /// Its opening record is longer than any.
    Long,
    /// Nobody knows its transfer, and its pages come all the same.
    Flow,
}

impl Odd {
    /// All.
    pub(super) const ALL: &'static [Self] = &[
        Self::Early,
        Self::Noise,
        Self::Version,
        Self::Kind,
        Self::Zero,
        Self::Beyond,
        Self::Old,
        Self::Again,
        Self::Unknown,
        Self::Custom,
        Self::Long,
        Self::Flow,
    ];
}

impl World {
    /// The newest session of a liar with a device; `old`: one before it.
    pub(super) fn session_with(&self, who: Dev, peer: Dev, old: usize) -> Option<usize> {
        (0..self.foe.sessions.len()).rev().filter(|&at| self.foe.sessions[at].who == who && self.foe.sessions[at].peer == peer).nth(old)
    }

    /// A stream for a session: on its connection, where that carries many and stands; else on one more.
    fn stream_of(&mut self, session: usize, name: StreamName) -> Option<Raw> {
        let session = &self.foe.sessions[session];
        let (who, peer, conn) = (session.who, session.peer, session.conn);
        let stands = self.conns[conn].ends.iter().all(|end| end.up);
        if !self.is_up(peer) {
            return None;
        }
        Some(if stands && self.conns[conn].wire != Wire::Tcp {
            let end = usize::from(self.conns[conn].ends[1].dev == who);
            self.raw_open_on(conn, end, name)
        } else {
            self.raw_open(who, peer, name)
        })
    }

    /// Opens a data stream of a session as an honest device does. Its key is that of the opener's direction.
    pub(super) fn open_data(&mut self, session: usize, opening: &Opening) -> Option<(Raw, RecordSealer, StreamKey, Header)> {
        let number = self.foe.sessions[session].number + 1;
        let (bytes, header, sealer) = self.data_flight(session, opening, number)?;
        self.foe.sessions[session].number = number;
        let raw = self.stream_of(session, StreamName::Data(opening.kind()))?;
        self.raw_send(raw, &bytes);
        let key = StreamKey::of_opener(&self.foe.sessions[session].ours, &header);
        Some((raw, sealer, key, header))
    }

    /// Header and opening record.
    fn data_flight(&mut self, session: usize, opening: &Opening, number: u64) -> Option<(Vec<u8>, Header, RecordSealer)> {
        let session = &self.foe.sessions[session];
        let header = Header::new(opening.kind(), session.session_ref, number, self.keys.bytes()).ok()?;
        let mut sealer = RecordSealer::new(&StreamKey::of_opener(&session.ours, &header));
        let record = sealer.seal(RecordType::Opening, &opening.encode()).ok()?;
        Some(([&header.encode()[..], &record].concat(), header, sealer))
    }

    /// Opens a data stream with which something is wrong: it must be reset.
    pub(super) fn odd_stream(&mut self, session: usize, odd: Odd) -> Option<()> {
        *self.foe.moves_of.entry(session).or_default() += 1;
        let transfer = TransferId(self.keys.bytes());
        let opening = match odd {
            Odd::Custom => Opening::Custom { name: "nobody".into() },
            Odd::Again | Odd::Old | Odd::Noise | Odd::Flow => Opening::Manifest { transfer, manifest_digest: [3; 32] },
            _ => Opening::Bulk { transfer, manifest_digest: [3; 32] },
        };
        let name = StreamName::Data(opening.kind());
        let number = self.foe.sessions[session].number + 1;
        self.foe.sessions[session].number = number;
        let (mut bytes, _, mut sealer) = self.data_flight(session, &opening, number)?;
        // Header: version, kind, session, number, noise.
        let mut millis = 1_000;
        match odd {
            Odd::Early | Odd::Custom => {}
            Odd::Noise => bytes[45] ^= 1,
            Odd::Version => bytes[0] = 2,
            Odd::Kind => bytes[1] = 9,
            Odd::Zero => bytes[18..26].fill(0),
            Odd::Beyond => match self.data_flight(session, &opening, limits::STREAM_COUNTER) {
                Some((beyond, ..)) => bytes = beyond,
                // There is no such header.
                None => bytes[18..26].copy_from_slice(&limits::STREAM_COUNTER.to_be_bytes()),
            },
            Odd::Flow => {
                let pages = (0..2 * limits::EARLY_RECORDS).filter_map(|_| sealer.seal(RecordType::Data, b"no page").ok());
                bytes.extend(pages.flatten());
            }
            Odd::Unknown => (bytes[5], millis) = (bytes[5] ^ 1, 11_000),
            Odd::Long => bytes[34..38].copy_from_slice(&600_u32.to_be_bytes()),
            Odd::Old | Odd::Again => {
                let before = self.stream_of(session, name)?;
                self.raw_send(before, &bytes);
                if odd == Odd::Old {
                    self.foe.sessions[session].number += 5_000;
                    self.open_data(session, &opening)?;
                }
                // What was sent before has to come first.
                let delay = 1_500_000 + 2 * (self.latency.0 + self.latency.1);
                self.after(delay, Act::Enemy(Due::Resend { session, before, name, bytes }));
                return Some(());
            }
        }
        if odd == Odd::Early {
            let mut all = vec![self.stream_of(session, name)?];
            self.raw_send(all[0], &bytes);
            for _ in 0..8 {
                all.extend(self.open_data(session, &opening).map(|(raw, ..)| raw));
            }
            self.expect(Expect::Closed { streams: all, most: 8, under: Some(session) }, 2_000, "S23");
            return Some(());
        }
        let raw = self.stream_of(session, name)?;
        self.raw_send(raw, &bytes);
        let under = (odd != Odd::Unknown).then_some(session);
        self.expect(Expect::Closed { streams: vec![raw], most: 0, under }, millis, "S12");
        Some(())
    }

    /// A recorded stream comes again: it must be reset at once.
    pub(super) fn resend(&mut self, session: usize, before: Raw, name: StreamName, bytes: &[u8]) {
        // What was refused unread may come.
        if self.is_held(before)
            && let Some(raw) = self.stream_of(session, name)
        {
            self.raw_send(raw, bytes);
            self.expect(Expect::Closed { streams: vec![raw], most: 0, under: Some(session) }, 1_000, "S12");
        }
    }

    /// Opens a stream under a session that is over.
    pub(super) fn late_stream(&mut self, session: usize) -> Option<()> {
        let opening = Opening::Manifest { transfer: TransferId([4; 16]), manifest_digest: [3; 32] };
        let (raw, ..) = self.open_data(session, &opening)?;
        // Whoever knows the session waits for an offer; whoever does not, for the session: both no longer than that.
        self.watch(raw, 11_000, "S12");
        Some(())
    }
}
