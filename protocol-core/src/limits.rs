//! Every bound of the protocol, in one place (PROTOCOL.md, section 11 and where cited).

use core::time::Duration;

// Pairing (sections 6 and 11).
/// How long a code lives unless the owner says otherwise.
pub const CODE_TTL: Duration = Duration::from_secs(600);
/// The shortest and the longest life that an owner may give a code.
pub const CODE_TTL_RANGE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));
/// Challenge sent, Response awaited.
// PAIR-42.
pub const RESPONSE_WAIT: Duration = Duration::from_secs(30);
/// Request sent, Challenge awaited.
pub const CHALLENGE_WAIT: Duration = Duration::from_secs(30);
/// Response sent, Complete awaited; Complete sent, Ack awaited.
pub const COMPLETE_WAIT: Duration = Duration::from_secs(150);
/// How long a question to a user stays open.
pub const USER_WAIT: Duration = Duration::from_secs(120);
/// A whole pairing handshake.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(300);
/// A joiner's whole attempt.
pub const ATTEMPT_WAIT: Duration = Duration::from_secs(600);
/// A joiner's unconfirmed root.
pub const PENDING_ROOT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Handshakes of one code past the tag, at once.
pub const CODE_HANDSHAKES_AT_ONCE: usize = 4;
/// Handshakes of one code past the tag, in all; the last failing burns the code.
pub const CODE_HANDSHAKES: u32 = 16;
/// Failures past the tag (a bad box, not a cut) that burn the code. On bare TCP, where anyone can corrupt, they do not count.
pub const CODE_FAILURES: u32 = 3;
/// A joiner's connections for one code, at once.
pub const JOINER_CONNECTIONS: usize = 4;
/// Addresses that a joiner tries for one code.
pub const JOINER_CANDIDATES: usize = 16;
/// Addresses that one attempt tries at most where a lookup finds some, for a code or for a paired device.
pub const FOUND_ADDRESSES: usize = 64;
/// Devices for which a record is published: those that were seen last.
pub const PUBLISHED_DEVICES: usize = 32;
/// Pending roots that a device keeps for one peer.
pub const PENDING_ROOTS_PER_DEVICE: usize = 4;
/// Paired devices.
pub const DEVICES: usize = 256;
/// Tombstones of unpaired devices.
pub const TOMBSTONES: usize = 256;
/// Blocked devices.
pub const BLOCKED: usize = 256;
/// How long a goodbye waits for the other side's end.
pub const GOODBYE_WAIT: Duration = Duration::from_secs(2);

// Streams (sections 6.0, 9.2, 11).
/// An unproved stream: preamble and first message, or header and opening record.
// DATA-6.
pub const UNPROVED_WAIT: Duration = Duration::from_secs(10);
/// How long an unproved stream is safe from being the oldest.
pub const UNPROVED_GRACE: Duration = Duration::from_secs(1);
/// A connection on which no stream is and no session stands.
// DATA-28.
pub const UNUSED_CONNECTION: Duration = Duration::from_secs(15);
/// Unproved streams in all.
pub const UNPROVED_STREAMS: usize = 64;
/// Unproved streams of one remote.
pub const UNPROVED_STREAMS_PER_REMOTE: usize = 16;
/// The name in a preamble.
pub const PREAMBLE_NAME: usize = 16;
/// Frame bodies: the opener's first (PairingRequest, Hello).
pub const FIRST_FRAME: usize = 1536;
/// Frame bodies: Challenge, Response, Accept, Finish.
pub const BOX_FRAME: usize = 8192;
/// Frame body: Complete.
pub const COMPLETE_FRAME: usize = 512;
/// Frame body: the unpair notice.
pub const NOTICE_FRAME: usize = 64;
/// An opening record, on the wire.
pub const OPENING_RECORD: usize = 512;
/// Plaintext of a record.
pub const RECORD_TEXT: usize = 65_536;
/// A control message's length.
pub const CONTROL_MESSAGE: usize = 64 * 1024;
/// The body of an application message, and the length of the control message that holds it.
pub const MESSAGE_BODY: usize = 1 << 20;
/// The control message that holds an application message.
pub const LONG_CONTROL_MESSAGE: usize = MESSAGE_BODY + 1024;
/// Messages that wait for a device, and their bytes; the same for those that came and were not taken.
pub const MESSAGES_QUEUED: usize = 4096;
/// See above.
pub const MESSAGE_BYTES_QUEUED: usize = 64 << 20;
/// Messages that are told and have no receipt, and their bytes before one more is told.
pub const MESSAGES_UNDER_WAY: usize = 64;
/// How many times as much a receiver holds before it takes the sender for a liar: where sessions follow each other, what was told on
/// one and given up is still being written when the next one tells others.
pub const MESSAGES_HELD: usize = 4;
/// See above.
pub const MESSAGE_BYTES_UNDER_WAY: usize = 4 << 20;
/// Messages of a device whose ids are remembered.
pub const MESSAGES_REMEMBERED: usize = 4096;
/// How often at least it is seen whether a message has expired, while one waits.
pub const MESSAGE_LOOK: Duration = Duration::from_secs(3600);
/// Counters that the replay window of a session and opener remembers.
pub const REPLAY_WINDOW: u64 = 4096;
/// Stream counters of a session end here.
pub const STREAM_COUNTER: u64 = 1 << 20;
/// Bytes of one direction of a stream.
pub const STREAM_BYTES: u64 = 1 << 36;
/// Records or chunks of one direction of a stream.
pub const STREAM_RECORDS: u64 = 1 << 32;
/// AEAD failures on proved streams that close a session.
pub const SESSION_FORGERIES: u32 = 3;
/// Scans of all roots for a Hello, a second.
pub const ROOT_SCANS_PER_SECOND: u32 = 200;
/// First flights remembered against replay.
pub const RECENT_HELLOS: usize = 1024;

// Sessions (section 9.1).
/// A session is renewed after this, by the side that opened it.
pub const SESSION_RENEW: Duration = Duration::from_secs(50 * 60);
/// A renewal that came to nothing is tried again after this.
pub const SESSION_RENEW_AGAIN: Duration = Duration::from_secs(120);
/// The opener opens nothing under a session older than this.
pub const SESSION_LIFE: Duration = Duration::from_secs(60 * 60);
/// The other side allows a minute more.
pub const SESSION_LIFE_GRACE: Duration = Duration::from_secs(61 * 60);
/// Secrets of a replaced or cut session are erased after this.
pub const SESSION_ERASE: Duration = Duration::from_secs(60);
/// Sessions of a device that are over and wait for that; the oldest are erased before.
pub const SESSIONS_OVER: usize = 16;
/// How long what comes on a session waits for the end of the one that it replaces.
pub const SUCCESSION_WAIT: Duration = Duration::from_secs(5);
/// Older sessions of a device that are heard out, each before the next; one more ends the oldest (LINK-12).
pub const SUCCESSIONS: usize = 3;
/// Records that wait so.
pub const HELD_RECORDS: usize = 1024;
/// A row that could not be written is written again after this, and how often that is done.
pub const STORE_AGAIN: Duration = Duration::from_secs(10);
/// See [`STORE_AGAIN`].
pub const STORE_TRIES: u32 = 30;
/// Staying connected: the first wait behind an attempt that came to nothing; each further one doubles it.
// KEEP-3.
pub const KEEP_FIRST: Duration = Duration::from_secs(1);
/// The longest such wait.
pub const KEEP_MOST: Duration = Duration::from_secs(300);
/// The longest wait behind a session that did not stand for long.
pub const KEEP_MOST_SHORT: Duration = Duration::from_secs(10);
/// A session that stood so long was a good one: the next wait is the first again.
pub const KEEP_STOOD: Duration = Duration::from_secs(30);
/// How much later the device with the greater key dials by itself (section 8, glare).
pub const KEEP_SECOND: Duration = Duration::from_secs(3);
/// By how much waits differ at least, so that a crowd does not dial at once.
pub const KEEP_JITTER: Duration = Duration::from_millis(500);
/// Attempts under way, above which none is begun that nobody asked for.
pub const KEEP_AT_ONCE: usize = 32;
/// Questions for the round trip that wait for their answer, of a session.
pub const PINGS: usize = 16;
/// How often at most the time of an attempt that came to what the one before came to is written.
pub const SEEN_AGAIN: Duration = Duration::from_secs(3600);
/// Silence after which a side sends Ping, and after which a session is dead.
pub const IDLE_PING: Duration = Duration::from_secs(15);
/// See [`IDLE_PING`].
pub const IDLE_DEAD: Duration = Duration::from_secs(30);
/// The same while something is awaited.
pub const BUSY_PING: Duration = Duration::from_secs(5);
/// See [`BUSY_PING`].
pub const BUSY_DEAD: Duration = Duration::from_secs(15);

// Application protocols (section 9.9).
/// Bytes of a protocol's name, at least 1.
pub const PROTOCOL_NAME: usize = 64;
/// Protocols that an embedder may register, and names of them in a device's policy.
pub const PROTOCOLS: usize = 64;
/// Streams of protocols that are open with one device, whichever side opened them.
pub const PROTOCOL_STREAMS: usize = 64;

// DeviceInfo (section 4.2).
/// DeviceInfo as CBOR.
pub const INFO: usize = 4096;
/// Bytes of a device name.
pub const INFO_NAME: usize = 64;
/// Bytes of the names of system and program.
pub const INFO_WORD: usize = 32;
/// Transports of a device.
pub const INFO_TRANSPORTS: usize = 4;
/// Addresses of a transport.
pub const INFO_ADDRESSES: usize = 16;
/// Bytes of an address.
pub const INFO_ADDRESS: usize = 128;
/// Bytes of a relay's address.
pub const INFO_RELAY: usize = 256;
/// Bytes of an advert's body.
pub const ADVERT_BODY: usize = 4095;

// Transfers (sections 9.3 to 9.5, 11).
/// Entries of a manifest.
// LIM-5.
pub const MANIFEST_ENTRIES: u32 = 1_000_000;
/// Bytes of a manifest's pages together.
pub const MANIFEST_BYTES: usize = 64 << 20;
/// Components of a path.
pub const PATH_DEPTH: usize = 64;
/// Bytes of a component.
pub const PATH_COMPONENT: usize = 255;
/// Bytes of a path: its components with one byte between.
pub const PATH_BYTES: usize = 4096;
/// Bytes of a symlink's target.
pub const LINK_TARGET: usize = 4095;
/// Bytes that a transfer's files may have together (exclusive).
pub const TRANSFER_BYTES: u64 = 1 << 53;
/// Chunks of a transfer (inclusive).
pub const TRANSFER_CHUNKS: u64 = 1 << 32;
/// The smallest and the largest chunk size; powers of two.
pub const CHUNK_SIZE_RANGE: (u32, u32) = (64 << 10, 4 << 20);
/// The chunk size below [`LARGE_TRANSFER`] bytes.
pub const CHUNK_SIZE: u32 = 256 << 10;
/// The chunk size from [`LARGE_TRANSFER`] bytes on.
pub const LARGE_CHUNK_SIZE: u32 = 1 << 20;
/// See [`LARGE_CHUNK_SIZE`].
pub const LARGE_TRANSFER: u64 = 64 << 30;
/// Pairs in a `ranges` array.
pub const RANGE_PAIRS: usize = 1024;
/// Digests in a FileDigests message.
pub const DIGESTS_A_MESSAGE: usize = 1024;
/// Outcomes in a Receipt message.
pub const OUTCOMES_A_MESSAGE: usize = 1024;
/// Bytes of an offer's label.
pub const LABEL: usize = 255;
/// Open offers of a peer.
pub const OPEN_OFFERS: usize = 16;
/// Manifests of a peer that nobody has answered yet, in bytes together.
pub const UNANSWERED_MANIFESTS: usize = 64 << 20;
/// Bulk streams of a peer, and the largest count of OpenBulk.
pub const BULK_STREAMS: usize = 8;
/// How long a data stream waits for a faster path than that of its session; no longer than a person notices.
pub const FASTER_WAIT: Duration = Duration::from_millis(400);
/// After a faster path that came to nothing: how long data goes over the session's own.
pub const FASTER_AGAIN: Duration = Duration::from_secs(60);
/// Data streams that wait for their Offer.
pub const EARLY_STREAMS: usize = 8;
/// Records that wait on such a stream behind its opening record.
pub const EARLY_RECORDS: usize = 8;
/// A bulk stream without progress.
pub const BULK_STALL: Duration = Duration::from_secs(15);
/// Bytes in flight of one transfer on one side.
pub const IN_FLIGHT: u64 = 32 << 20;
/// The receiver's checkpoint, in bytes and in time.
pub const CHECKPOINT_BYTES: u64 = 64 << 20;
/// See [`CHECKPOINT_BYTES`].
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Pages of a manifest that a stream is given at once; the next ones when it has drained.
pub const PAGES_AT_ONCE: usize = 4;
/// The next page of an offered manifest.
pub const PAGE_WAIT: Duration = Duration::from_secs(60);
/// Tries of a transfer to get a stream that carries something, one after the other.
pub const STREAM_TRIES: u32 = 3;
/// Transfers of fewer bytes have one bulk stream, others two.
pub const ONE_STREAM: u64 = 64 << 20;
/// Files of an earlier try that cannot be read back and are wanted anew; with one more it is the disk that fails (XFER-26). Fewer than
/// [`FRUITLESS_ACCEPTS`], for each is asked for again.
pub const UNREADABLE_FILES: u32 = 8;
/// Accepts that name again what was sent, without anything becoming durable in between; how often, on average, the digest of an
/// entry is told again in a whole transfer.
pub const FRUITLESS_ACCEPTS: u32 = 16;
/// Offers of a transfer under way that are answered again; one more ends it.
pub const REPEATED_OFFERS: u32 = 16;
/// How often a peer may have a transfer rest, and go on, in one session; once more ends it.
pub const PAUSE_TURNS: u32 = 256;
/// Times that a receiver names what is missing, without anything arriving in between.
pub const FRUITLESS_ROUNDS: u32 = 3;
/// After a transfer's last bulk stream ended and before what is missing is named: another stream may be on its way.
pub const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// What a receiver waits for its peer while no bulk stream is up.
pub const ROUND_WAIT: Duration = Duration::from_secs(15);
/// How long a transfer waits for the session in which it goes on. What is durable of it is kept longer, by the host.
pub const AWAY: Duration = Duration::from_secs(120);
/// How long a receiver waits, in the next session, for the offer of what it has begun.
pub const OFFER_WAIT: Duration = Duration::from_secs(15);
/// Transfers that came and are done of which the receipt can be told again, and lines of all these receipts together.
pub const FINISHED: usize = 64;
/// See [`FINISHED`].
pub const FINISHED_LINES: usize = 100_000;
/// Entries of one Publish.
pub const PUBLISH_RUN: u64 = 1024;
/// Publishes under way of one transfer.
pub const PUBLISHES: usize = 64;

const _: () = {
    assert!(UNPROVED_STREAMS_PER_REMOTE <= UNPROVED_STREAMS);
    assert!(UNUSED_CONNECTION.as_secs() >= UNPROVED_WAIT.as_secs());
    assert!(CODE_FAILURES < CODE_HANDSHAKES);
    assert!(CHUNK_SIZE_RANGE.0.is_power_of_two() && CHUNK_SIZE_RANGE.1.is_power_of_two());
    assert!(CHUNK_SIZE.is_power_of_two() && CHUNK_SIZE >= CHUNK_SIZE_RANGE.0 && LARGE_CHUNK_SIZE <= CHUNK_SIZE_RANGE.1);
    assert!(IN_FLIGHT >= 4 * CHUNK_SIZE_RANGE.1 as u64);
    assert!(PATH_COMPONENT <= PATH_BYTES);
    assert!(LONG_CONTROL_MESSAGE > CONTROL_MESSAGE);
    assert!(INFO_NAME < INFO && OPENING_RECORD < RECORD_TEXT);
};
