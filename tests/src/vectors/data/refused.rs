//! What must be refused, for the reason that its name says. A name without a known reason must be refused for any.

use protocol_core::ids::TransferId;
use protocol_core::limits;
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordError, RecordOpener, RecordSealer, RecordType};
use protocol_core::session::stream::{HeaderError, Opening, StreamKind};
use protocol_core::transfer::manifest::{ManifestError, ManifestParser};
use protocol_core::transfer::path::PathError;
use protocol_core::wire::cbor::Malformed;
use protocol_core::wire::control::{ControlError, ControlReader, Offer};
use protocol_core::wire::deframer::{Content, Deframer, FrameError, StreamName};
use serde_json::{Map, Value, json};

use super::{Context, bytes, deframe};

/// What the note at the records says, as [`Context::record`] does it.
const NOTE: &str =
    "each is the opener's record number 1 of the control stream in `records`, after its opening record; first_* are number 0";

/// Why a record is refused: by the deframer, by the opener, or for what an opening record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Frame(FrameError),
    Record(RecordError),
    Opening(Malformed),
}

/// The leaves of `section` as they stand there, as far as `refused` finds them refused for the right reason.
fn judged(section: &Value, refused: impl Fn(&str, &[u8]) -> Option<bool>) -> Value {
    let leaves = section.as_object().into_iter().flatten().filter_map(|(name, leaf)| {
        let right = bytes(leaf).and_then(|bytes| refused(name, &bytes)).unwrap_or(false);
        right.then(|| (name.clone(), leaf.clone()))
    });
    leaves.collect::<Map<_, _>>().into()
}

/// Whether the reason is the expected one.
fn matches<E: PartialEq>(found: E, expected: Option<E>) -> bool {
    expected.is_none_or(|expected| expected == found)
}

impl Context<'_> {
    pub(super) fn refused(&self) -> Value {
        let file = &self.json["refused"];
        let chunk_size = u32::try_from(file["manifest_pages"]["chunk_size"].as_u64().unwrap_or(0)).unwrap_or(0);
        let mut records = judged(&file["records"], |name, record| Some(matches(self.record(name, record)?, record_reason(name))));
        records["note"] = NOTE.into();
        let mut pages = judged(&file["manifest_pages"], |name, page| Some(matches(bad_page(page, chunk_size)?, page_reason(name))));
        pages["chunk_size"] = chunk_size.into();
        json!({
            "records": records,
            "headers": judged(&file["headers"], |name, header| Some(matches(bad_header(header)?, header_reason(name)))),
            "manifest_pages": pages,
            "messages": judged(&file["messages"], |name, message| Some(matches(bad_message(message)?, message_reason(name)))),
        })
    }

    /// Why this record is refused behind the opening record of the control stream, or as the first one.
    fn record(&self, name: &str, record: &[u8]) -> Option<Refusal> {
        let header = self.control_header()?;
        let key = StreamKey::of_opener(&self.traffic_d2l, &header);
        let opening = RecordSealer::new(&key).seal(RecordType::Opening, &Opening::Ack.encode()).ok()?;
        let mut opener = RecordOpener::new(&key);
        let mut stream = [&Self::before_header()[..], &header.encode()].concat();
        let before = if name.starts_with("first_") { 4 } else { 5 };
        if before == 5 {
            opener.open(&opening).ok()?;
            stream.extend(opening);
        }
        stream.extend_from_slice(record);
        match deframe(Deframer::accepting(), &stream) {
            Err(error) => Some(Refusal::Frame(error)),
            Ok((frames, _)) => match frames.get(before)? {
                Content::Record(record) => match opener.open(record) {
                    Err(error) => Some(Refusal::Record(error)),
                    Ok((RecordType::Opening, text)) => Opening::decode(header.kind(), &text).err().map(Refusal::Opening),
                    Ok(_) => None,
                },
                _ => None,
            },
        }
    }
}

fn record_reason(name: &str) -> Option<Refusal> {
    Some(match name {
        "unknown_type" => Refusal::Record(RecordError::Type),
        "first_is_unknown" => Refusal::Opening(Malformed::Bounds),
        "second_opening" | "first_is_data" => Refusal::Record(RecordError::Place),
        "empty_data" | "fin_with_text" => Refusal::Record(RecordError::Length),
        "counter_skipped" | "repeated" | "answerers_key" | "other_bind" | "length_altered" => Refusal::Record(RecordError::Forged),
        "too_long" | "first_too_long" => Refusal::Frame(FrameError::TooLong),
        _ => return None,
    })
}

fn bad_header(header: &[u8]) -> Option<FrameError> {
    let stream = [&StreamName::Data(StreamKind::Bulk).preamble(), header].concat();
    deframe(Deframer::accepting(), &stream).err()
}

fn header_reason(name: &str) -> Option<FrameError> {
    Some(FrameError::Header(match name {
        "version_2" => HeaderError::Version,
        "kind_0" | "kind_5" => HeaderError::Kind,
        "bulk_with_counter_0" | "counter_too_large" => HeaderError::Counter,
        _ => return None,
    }))
}

/// Why a receiver refuses this page, under an offer that it does not contradict.
fn bad_page(page: &[u8], chunk_size: u32) -> Option<ManifestError> {
    let offer = Offer {
        transfer: TransferId([0; 16]),
        entries: limits::MANIFEST_ENTRIES,
        bytes: limits::TRANSFER_BYTES - 1,
        chunk_size,
        manifest_digest: [0; 32],
        label: None,
    };
    ManifestParser::new(&offer).ok()?.page(page.to_vec()).err()
}

fn page_reason(name: &str) -> Option<ManifestError> {
    Some(match name {
        "no_entries" => ManifestError::Empty,
        "dot" | "dotdot" => ManifestError::Path(PathError::Dots),
        "slash" | "nul" => ManifestError::Path(PathError::Separator),
        "empty_component" => ManifestError::Path(PathError::EmptyComponent),
        "no_components" => ManifestError::Path(PathError::Empty),
        "long_component" => ManifestError::Path(PathError::LongComponent),
        "too_deep" => ManifestError::Path(PathError::Deep),
        "parent_missing" | "parent_is_file" | "parent_is_link" => ManifestError::Parent,
        "twice" | "unsorted" => ManifestError::Order,
        "directory_with_size" => ManifestError::Size,
        "mode_too_big" => ManifestError::Mode,
        "ns_too_big" => ManifestError::Time,
        "target_on_file" | "link_without_target" => ManifestError::Target,
        "unknown_kind" => ManifestError::Malformed(Malformed::Bounds),
        "too_large" | "sum_too_large" => ManifestError::TooLarge,
        "trailing" => ManifestError::Malformed(Malformed::Trailing),
        _ => return None,
    })
}

fn bad_message(message: &[u8]) -> Option<ControlError> {
    let mut reader = ControlReader::new();
    reader.push(message);
    reader.next()?.err()
}

fn message_reason(name: &str) -> Option<ControlError> {
    Some(ControlError::Malformed(match name {
        "range_odd" => Malformed::Count,
        "range_zero_count" | "range_touching" | "range_descending" | "range_overflow" => Malformed::Bounds,
        "short_transfer_id" | "offer_no_entries" | "chunk_size_odd" | "chunk_size_small" | "digests_ragged" => Malformed::Bounds,
        _ => return None,
    }))
}
