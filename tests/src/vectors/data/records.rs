//! The control stream: header, reply, keys, records in both directions.

use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordError, RecordOpener, RecordSealer, RecordType};
use protocol_core::session::stream::{Header, Opening, Refusal, StreamKind};
use protocol_core::wire::control::{ControlMessage, ControlReader, Item};
use protocol_core::wire::deframer::{Content, Deframer, StreamName};
use serde_json::{Value, json};

use super::{Context, bytes, deframe, hex, proved};

/// One direction as the file has it: the records that open, in order.
fn opened(key: &StreamKey, records: &[&Value]) -> Result<Vec<(RecordType, Vec<u8>)>, RecordError> {
    let mut opener = RecordOpener::new(key);
    records.iter().map(|record| opener.open(&bytes(record).unwrap_or_default())).collect()
}

fn seal(key: &StreamKey, records: &[(RecordType, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut sealer = RecordSealer::new(key);
    records.iter().map(|(kind, text)| sealer.seal(*kind, text).unwrap_or_default()).collect()
}

/// The messages in the plaintexts of data records.
pub(super) fn messages(texts: &[(RecordType, Vec<u8>)]) -> Vec<Option<Item>> {
    let mut reader = ControlReader::new();
    texts
        .iter()
        .filter(|(kind, _)| *kind == RecordType::Data)
        .flat_map(|(_, text)| {
            reader.push(text);
            reader.by_ref().map(Result::ok).collect::<Vec<_>>()
        })
        .collect()
}

impl Context<'_> {
    pub(super) fn control_header(&self) -> Option<Header> {
        Header::new(StreamKind::Control, self.session, 0, self.input(13)).ok()
    }

    /// D's bytes on the control stream up to its header, with handshake frames that only the deframer looks at.
    pub(super) fn before_header() -> Vec<u8> {
        [StreamName::Link.preamble(), vec![0, 0, 0, 1, 1], vec![0, 0, 0, 1, 3]].concat()
    }

    pub(super) fn records(&self) -> Option<Value> {
        let file = &self.json["records"];
        let (header, reply) = (self.control_header()?, self.input(16));
        let open = StreamKey::of_opener(&self.traffic_d2l, &header);
        let answer = StreamKey::of_answerer(&self.traffic_l2d, &header, &reply);
        let (ping, pong) = (ControlMessage::Ping { nonce: 7 }, ControlMessage::Pong { nonce: 7 });
        let there = [(RecordType::Opening, Opening::Ack.encode()), (RecordType::Data, ping.encode()), (RecordType::Fin, vec![])];
        let refusal = [(RecordType::Opening, Opening::Refuse(Refusal::User).encode())];
        let back = [(RecordType::Data, pong.encode()), (RecordType::Fin, vec![])];

        // As the other side: first by the deframer, then by the opener of each direction.
        let stream = ["opening", "ping", "fin"].iter().flat_map(|name| bytes(&file[name]).unwrap_or_default());
        let stream = [Self::before_header(), bytes(&file["header"])?, stream.collect()].concat();
        let frames = deframe(Deframer::accepting(), &stream).map(|(frames, _)| frames).unwrap_or_default();
        let cut = frames.len() == 7 && frames.get(3) == Some(&Content::Header(header));
        let theirs = opened(&open, &[&file["opening"], &file["ping"], &file["fin"]]);
        let takes_there = cut && theirs.as_deref() == Ok(&there) && messages(&there) == [Some(Item::Message(ping))];
        let takes_refusal = opened(&open, &[&file["refuse"]]).as_deref() == Ok(&refusal)
            && Opening::decode(StreamKind::Control, &refusal[0].1) == Ok(Opening::Refuse(Refusal::User));
        let theirs = opened(&answer, &[&file["pong"], &file["answer_fin"]]);
        let takes_back = theirs.as_deref() == Ok(&back) && messages(&back) == [Some(Item::Message(pong))];

        let (there, back) = (seal(&open, &there), seal(&answer, &back));
        Some(json!({
            "header": proved(header.encode(), cut),
            "reply": hex(reply),
            "k_open": hex(open.key().bytes()),
            "k_answer": hex(answer.key().bytes()),
            "k_rec_open": hex(open.records().bytes()),
            "opening": proved(&there[0], takes_there),
            "refuse": proved(&seal(&open, &refusal)[0], takes_refusal),
            "ping": proved(&there[1], takes_there),
            "fin": proved(&there[2], takes_there),
            "pong": proved(&back[0], takes_back),
            "answer_fin": proved(&back[1], takes_back),
        }))
    }
}
