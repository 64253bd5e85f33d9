//! Writes the seeds of the fuzz targets: what the test vectors hold, and hostile inputs made by hand.
//!
//! `cargo run --example make-corpus` from anywhere in the repository. It adds and replaces; what fuzzing found stays.

use std::fs;
use std::path::PathBuf;

use adapter_sim::fuzz::Op;
use data_encoding::HEXLOWER;
use minicbor::Encoder;
use protocol_core::ids::TransferId;
use protocol_core::session::stream::{Opening, Refusal, StreamKind};
use protocol_core::wire::deframer::StreamName;
use serde_json::Value;

use kin_tests::repository;

fn main() {
    let file = repository::root().join("tests/vectors/kin-1.json");
    let text = fs::read_to_string(file).expect("the vectors are there");
    let vectors = Vectors(serde_json::from_str(&text).expect("the vectors are JSON"));
    let corpus = Corpus(repository::root().join("fuzz/corpus"));
    handshakes(&corpus, &vectors);
    infos(&corpus, &vectors);
    cbor(&corpus, &vectors);
    control(&corpus, &vectors);
    streams(&corpus, &vectors);
    records(&corpus, &vectors);
    manifests(&corpus, &vectors);
    data_plane(&corpus);
    texts(&corpus, &vectors);
    rows(&corpus, &vectors);
    nodes(&corpus, &vectors);
    worlds(&corpus);
}

/// Tapes of every profile: nothing, little, and much of anything.
fn worlds(corpus: &Corpus) {
    for profile in 0..5_u8 {
        for (name, len) in [("empty", 0), ("short", 40), ("long", 200)] {
            let mut number = u64::from(profile) + 1;
            let anything = (0..len).map(|_| {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                number.to_be_bytes()[0]
            });
            let tape: Vec<u8> = std::iter::once(profile).chain(anything).collect();
            corpus.put("world", &format!("{profile}-{name}"), tape);
        }
    }
}

struct Corpus(PathBuf);

impl Corpus {
    fn put(&self, target: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let directory = self.0.join(target);
        fs::create_dir_all(&directory).expect("the directory can be made");
        fs::write(directory.join(name), bytes).expect("the seed can be written");
    }
}

struct Vectors(Value);

impl Vectors {
    fn at(&self, path: &str) -> &Value {
        path.split('.').fold(&self.0, |value, key| &value[key])
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_else(|| panic!("{path} is a text"))
    }

    fn hex(&self, path: &str) -> Vec<u8> {
        HEXLOWER.decode(self.text(path).as_bytes()).unwrap_or_else(|_| panic!("{path} is hex"))
    }

    /// A frame or message without its length.
    fn body(&self, path: &str) -> Vec<u8> {
        self.hex(path)[4..].to_vec()
    }

    /// Names and bytes of the group at `path`, its notes left out.
    fn group(&self, path: &str) -> Vec<(String, Vec<u8>)> {
        let group = self.at(path).as_object().unwrap_or_else(|| panic!("{path} is a group"));
        let bytes = |value: &Value| HEXLOWER.decode(value.as_str()?.as_bytes()).ok();
        group.iter().filter_map(|(name, value)| Some((name.clone(), bytes(value)?))).collect()
    }
}

/// `bytes` behind their length in two bytes.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("seeds are short");
    [&len.to_be_bytes(), bytes].concat()
}

fn handshakes(corpus: &Corpus, vectors: &Vectors) {
    let bodies = ["pairing.frame1", "pairing.frame2", "pairing.frame3", "pairing.frame4", "link.frame1", "link.frame2", "link.frame3"];
    for (kind, path) in (0_u8..).zip(bodies).chain([(7, "link.notice_frame")]) {
        corpus.put("handshake", path, [&[kind][..], &vectors.body(path)].concat());
    }
    corpus.put("handshake", "params", [&[8][..], &vectors.hex("link.params_d")].concat());
    let refused = [("pairing_requests", 0, 18), ("challenges", 1, 4), ("responses", 2, 4), ("completes", 3, 4), ("link_accepts", 5, 3)];
    for (group, kind, most) in refused {
        for (name, frame) in vectors.group(&format!("refused.{group}")).into_iter().take(most).filter(|(_, frame)| frame.len() < 4000) {
            corpus.put("handshake", &format!("refused-{group}-{name}"), [&[kind], &frame[4..]].concat());
        }
    }
}

fn infos(corpus: &Corpus, vectors: &Vectors) {
    corpus.put("info", "initiator", vectors.hex("pairing.info_i"));
    corpus.put("info", "joiner", vectors.hex("pairing.info_j"));
    for (name, text) in [
        ("bidi", "\u{202e}txt.exe \u{2066}x"),
        ("control", "\x1b[31m\0\n"),
        ("wide", "👩‍👩‍👧‍👦ﷺ"),
        ("spaces", " \u{a0} a  b \u{3000}"),
        ("long", &"ä".repeat(70)),
    ] {
        corpus.put("info", name, [counted(text.as_bytes()), counted(text.as_bytes()), counted(b""), vec![1, 3, 5, 0, 19]].concat());
    }
    let body = vectors.hex("code.advert_body");
    corpus.put("advert", "body", [&[0], &body[..]].concat());
    corpus.put("advert", "sealed", [&[1], &vectors.hex("code.advert")[..]].concat());
    let padded = |body: &[u8], len: usize| {
        let mut text = [&[2], body, &[0x80]].concat();
        text.resize(1 + len, 0);
        text
    };
    corpus.put("advert", "padded", padded(&body, 512));
    corpus.put("advert", "a-block-too-long", padded(&body, 1024));
    corpus.put("advert", "no-transports", padded(&[0x83, 1, 0, 0x80], 512));
    corpus.put("advert", "no-end", [2; 513]);
}

/// Each line on encoding of the list of hostile inputs.
fn cbor(corpus: &Corpus, vectors: &Vectors) {
    for (name, hex) in [
        ("empty", ""),
        ("number-long-form", "1817"),
        ("length-long-form", "5900ff"),
        ("indefinite-bytes", "5f4100ff"),
        ("indefinite-text", "7f6161ff"),
        ("indefinite-array", "9f00ff"),
        ("indefinite-nested", "9f9f9fffffff"),
        ("indefinite-map", "bfff"),
        ("chunk-of-wrong-type", "5f6161ff"),
        ("break-outside", "ff"),
        ("array-of-2-32", "9affffffff"),
        ("array-of-2-64", "9bffffffffffffffff"),
        ("bytes-of-2-63", "5b8000000000000000"),
        ("text-of-2-64", "7bffffffffffffffff"),
        ("map-duplicate-keys", "a200000000"),
        ("map-unsorted", "a201000000"),
        ("text-not-utf8", "62c0af"),
        ("text-surrogate", "63eda080"),
        ("text-lone", "6180"),
        ("float-half-nan", "f97e00"),
        ("float-minus-zero", "fb8000000000000000"),
        ("bignum", "c249010000000000000000"),
        ("tags", "c6c6c6c6c600"),
        ("simple-two-bytes", "f814"),
        ("simple-255", "f8ff"),
        ("reserved-28", "1c"),
        ("reserved-30", "9e"),
        ("undefined", "f7"),
        ("trailing", "8000"),
        ("two-items", "81008101"),
        ("least", "3bffffffffffffffff"),
        ("least-that-fits", "3b7fffffffffffffff"),
        ("most", "1bffffffffffffffff"),
        ("edges", "8617181819010019ffff1a000100001b0000000100000000"),
        ("simple-values", "83f4f5f6"),
        ("empty-ones", "83804060"),
    ] {
        corpus.put("cbor", name, HEXLOWER.decode(hex.as_bytes()).expect("written as hex"));
    }
    for depth in [8, 9, 16, 17, 1000] {
        corpus.put("cbor", &format!("nested-{depth}"), [vec![0x81; depth], vec![0x00]].concat());
    }
    corpus.put("cbor", "nested-tags-1000", [0xc6; 1000]);
    corpus.put("cbor", "info", vectors.hex("pairing.info_i"));
    corpus.put("cbor", "advert", vectors.hex("code.advert_body"));
    corpus.put("cbor", "page", vectors.hex("transfer.entries_cbor"));
    corpus.put("cbor", "complete", vectors.body("pairing.frame4"));
}

fn control(corpus: &Corpus, vectors: &Vectors) {
    let messages = vectors.group("transfer.messages");
    for (name, message) in &messages {
        corpus.put("control", name, [&[5, 0], &message[..]].concat());
    }
    corpus.put("control", "all", [vec![20, 3], messages.iter().flat_map(|(_, message)| message.clone()).collect()].concat());
    for (name, message) in vectors.group("refused.messages") {
        corpus.put("control", &format!("refused-{name}"), [&[5, 0], &message[..]].concat());
    }
    for (name, hex) in [
        ("length-0", "00000000"),
        ("length-2-32", "ffffffff"),
        ("length-64-KiB-and-1", "00010001"),
        ("unknown-type", "0000000481183200"),
        ("unknown-twice", "000000038118ff000000038118ff"),
        ("cut", "0000001482181850"),
        ("long-of-a-short-type", "000100018210"),
        ("long-message-begins", "00010001851820"),
    ] {
        corpus.put("control", name, [vec![1, 1], HEXLOWER.decode(hex.as_bytes()).expect("written as hex")].concat());
    }
    for (name, hex) in [
        ("two", "8400020501"),
        ("touching", "8400020201"),
        ("descending", "8405010001"),
        ("zero", "820000"),
        ("overflow", "821b80000000000000001b8000000000000000"),
        ("all", "82001bffffffffffffffff"),
        ("odd", "8100"),
    ] {
        let set = HEXLOWER.decode(hex.as_bytes()).expect("written as hex");
        corpus.put("ranges", name, [counted(&set), vec![0x84, 0x01, 0x02, 0x0a, 0x05]].concat());
    }
    let (transfer, manifest_digest) = (TransferId([0xe0; 16]), [0x2f; 32]);
    for (name, opening) in [
        ("ack", Opening::Ack),
        ("refuse-user", Opening::Refuse(Refusal::User)),
        ("refuse-storage", Opening::Refuse(Refusal::Storage)),
        ("manifest", Opening::Manifest { transfer, manifest_digest }),
        ("bulk", Opening::Bulk { transfer, manifest_digest }),
        ("custom", Opening::Custom { name: "example/1".to_owned() }),
        ("custom-empty", Opening::Custom { name: String::new() }),
    ] {
        corpus.put("opening", name, [vec![opening.kind() as u8 - 1], opening.encode()].concat());
    }
    corpus.put("opening", "status-4", [0, 0x82, 0x00, 0x04]);
    corpus.put("opening", "ack-with-a-reason", [0, 0x82, 0x01, 0x01]);
}

fn streams(corpus: &Corpus, vectors: &Vectors) {
    let control = ["records.header", "records.opening", "records.ping", "records.fin"].map(|path| vectors.hex(path)).concat();
    let answer = ["records.reply", "records.pong", "records.answer_fin"].map(|path| vectors.hex(path)).concat();
    let data = |kind| StreamName::Data(kind).preamble();
    let bulk =
        [data(StreamKind::Bulk), vectors.hex("bulk.header"), vectors.hex("bulk.opening"), vectors.hex("bulk.aead_only.frame")].concat();
    let frames = |paths: [&str; 2]| paths.map(|path| vectors.hex(path)).concat();
    for (name, role, bytes) in [
        ("pair", 0, [StreamName::Pair.preamble(), frames(["pairing.frame1", "pairing.frame3"]), control.clone()].concat()),
        ("pair-answer", 1, [frames(["pairing.frame2", "pairing.frame4"]), answer.clone()].concat()),
        ("link", 0, [StreamName::Link.preamble(), frames(["link.frame1", "link.frame3"]), control.clone()].concat()),
        ("link-answer", 2, [vectors.hex("link.frame2"), answer.clone()].concat()),
        ("notice", 2, vectors.hex("link.notice_frame")),
        ("bulk", 0, bulk),
        ("control-on-data", 0, [data(StreamKind::Custom), control].concat()),
        ("manifest-answer", 3, answer.clone()),
        ("bulk-answer", 4, answer.clone()),
        ("custom-answer", 5, answer),
        ("name-unknown", 0, b"\x0akin-pair/2".to_vec()),
        ("name-empty", 0, vec![0]),
        ("name-17", 0, vec![17; 18]),
        ("name-255", 0, vec![255; 30]),
        ("frame-0", 1, vec![0; 4]),
        ("frame-8193", 1, vec![0, 0, 0x20, 0x01, 0]),
        ("frame-2-32", 1, vec![0xff; 8]),
        ("record-15", 5, [vec![1; 16], vec![0, 0, 0, 15, 0]].concat()),
        ("record-65553", 5, [vec![1; 16], vec![0, 1, 0, 0x11, 0]].concat()),
        ("records-empty", 5, [vec![1; 16], [&[0, 0, 0, 16, 0][..], &[9; 16]].concat().repeat(20)].concat()),
    ] {
        corpus.put("deframer", name, [&[role, 3, 0, 6, 40], &bytes[..]].concat());
    }
    for path in ["records.header", "bulk.header", "bulk.opened_by_l.header"] {
        corpus.put("header", path, vectors.hex(path));
    }
    for (name, header) in vectors.group("refused.headers") {
        corpus.put("header", &format!("refused-{name}"), header);
    }
}

fn records(corpus: &Corpus, vectors: &Vectors) {
    /// What one step of the target is: how the record is made, its type, its text.
    fn step(how: u8, kind: u8, text: &[u8]) -> Vec<u8> {
        [vec![how, kind], counted(text)].concat()
    }
    let honest = [vec![0], step(1, 2, b"opening"), step(1, 0, b"data"), step(1, 0, &[7; 900]), step(1, 1, b"")].concat();
    corpus.put("record", "honest", honest);
    corpus.put("record", "answer", [vec![1], step(1, 0, b"data"), step(1, 1, b""), step(3, 0, b"behind the end")].concat());
    for (name, steps) in [
        ("first-is-data", [step(3, 0, b"x"), vec![]]),
        ("first-is-unknown", [step(3, 3, b"x"), vec![]]),
        ("second-opening", [step(3, 2, b"x"), step(2, 0, b"x")[1..].to_vec()]),
        ("empty-data", [step(3, 2, b"x"), step(0, 0, b"")[1..].to_vec()]),
        ("fin-with-text", [step(3, 2, b"x"), step(0, 1, b"x")[1..].to_vec()]),
        ("opening-too-long", [step(3, 2, &[1; 492]), vec![]]),
        ("opening-longest", [step(3, 2, &[1; 491]), step(0, 1, b"")[1..].to_vec()]),
    ] {
        corpus.put("record", name, [vec![0], steps.concat()].concat());
    }
    for (name, record) in vectors.group("refused.records").into_iter().filter(|(_, record)| record.len() < 2000) {
        corpus.put("record", &format!("refused-{name}"), [vec![0, 0], counted(&record)].concat());
    }
}

fn manifests(corpus: &Corpus, vectors: &Vectors) {
    corpus.put("manifest", "ten-entries", [vec![16], counted(&vectors.hex("transfer.entries_cbor"))].concat());
    for (name, page) in vectors.group("refused.manifest_pages") {
        corpus.put("manifest", &format!("refused-{name}"), [vec![22], counted(&page)].concat());
    }
    let file = |name: &[u8]| {
        let mut page = Encoder::new(Vec::new());
        let mut write = || page.array(1)?.array(7)?.array(1)?.bytes(name)?.u8(0)?.u8(5)?.u16(0o644)?.u8(0)?.u8(0)?.null().map(drop);
        write().expect("a vector takes every byte");
        page.into_writer()
    };
    for (number, name) in (0..).zip([
        &b"..."[..],
        b"a ",
        b"~",
        b"-rf",
        b"%2e%2e%2f",
        b"aux.c",
        b"a:b",
        b"C:\\x",
        b"..\\x",
        b"a\nb",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        "\u{202e}txt".as_bytes(),
        "e\u{301}".as_bytes(),
        b".ssh",
        &[b'x'; 255],
        &[b'x'; 256],
    ]) {
        corpus.put("manifest", &format!("name-{number}"), [vec![18], counted(&file(name))].concat());
    }
    corpus.put("manifest", "two-pages-not-greedy", [vec![18], counted(&file(b"a")), counted(&file(b"b"))].concat());
    corpus.put("manifest", "chunk-size-odd", [vec![3], counted(&file(b"a"))].concat());
    corpus.put("manifest", "trailing", [vec![18], counted(&[file(b"a"), vec![0]].concat())].concat());
    let sizes = |shift: u8, sizes: &[u64]| {
        let number = |size: &u64| [&[8][..], &size.to_be_bytes()].concat();
        [vec![shift], sizes.iter().flat_map(number).collect()].concat()
    };
    let most = (1 << 53) - 1;
    for (name, list) in [
        ("small", &[0, 1, 100, 65_535, 1, 0, 65_536][..]),
        ("edges", &[65_535, 65_536, 65_537, 131_072, 1]),
        ("most", &[most]),
        ("most-and-1", &[most, 1]),
        ("overflow", &[u64::MAX, u64::MAX]),
        ("chunks", &[1 << 48, 1]),
        ("2-31-and-2-32", &[(1 << 31) - 1, 1 << 31, 1 << 32]),
        ("empty-ones", &[0, 0, 0]),
        ("2-63", &[1 << 63]),
    ] {
        corpus.put("layout", name, sizes(0, list));
        corpus.put("layout", &format!("{name}-4-MiB"), sizes(6, list));
    }
}

fn data_plane(corpus: &Corpus) {
    let frame = |index: u64, bit: u8, text: &[u8]| [&[8][..], &index.to_be_bytes(), &[0, 1, bit], &counted(text)].concat();
    for choice in [2, 3] {
        corpus.put("frames", &format!("honest-{choice}"), [vec![choice], frame(0, 8, &[1; 100]), frame(u64::MAX, 8, b"x")].concat());
        corpus.put("frames", &format!("altered-{choice}"), [vec![choice], frame(7, 3, &[1; 100])].concat());
        corpus.put("frames", &format!("empty-{choice}"), [vec![choice], frame(7, 8, b"")].concat());
    }
    for (name, len) in
        [("zero", 0_u32), ("seven", 7), ("tag-only", 24), ("one", 25), ("longest", 65_560), ("too-long", 65_561), ("all", u32::MAX)]
    {
        corpus.put("frames", &format!("head-{name}"), [&[0][..], &len.to_be_bytes(), &[0; 8], &[9; 60]].concat());
    }
    // Steps of the target: 0 allow, 2 withdraw, 3 pause, 4 stop, 5 lane, 6 finish, 7 give back, 8 claim.
    corpus.put("chunks", "send", [0, 40, 0, 0, 40, 5, 8, 0, 32, 33, 6, 0, 6, 0, 7, 0, 5, 8, 1, 9, 5]);
    corpus.put("chunks", "send-again", [0, 3, 0, 0, 3, 5, 8, 0, 9, 9, 6, 0, 6, 0, 6, 0, 0, 0, 3, 8, 0, 9, 9, 5, 8, 1, 9, 9, 6, 0]);
    corpus.put("chunks", "receive", [1, 40, 0, 0, 40, 8, 3, 1, 8, 3, 1, 8, 4, 0, 7, 0, 8, 3, 1, 6, 0, 8, 200, 1]);
    corpus.put("chunks", "pause-and-stop", [0, 9, 0, 0, 9, 5, 3, 0, 8, 0, 9, 9, 3, 1, 8, 0, 9, 9, 4, 255, 8, 0, 9, 9]);
    corpus.put("chunks", "withdraw", [1, 64, 0, 0, 64, 2, 10, 40, 8, 12, 1, 8, 60, 1, 2, 60, 1, 7, 0]);
    for (name, size) in [("empty", 0_u16), ("one", 1), ("chunk", 1024), ("chunk-and-1", 1025), ("odd", 7777), ("most", 20_479)] {
        corpus.put("digest", name, [&size.to_be_bytes()[..], &[3, 1, 0, 2, 7, 30, 5, 5, 4, 6]].concat());
    }
}

fn texts(corpus: &Corpus, vectors: &Vectors) {
    corpus.put("words", "code", vectors.text("code.words"));
    for group in ["accepted_words", "refused.words"] {
        for (name, text) in vectors.at(group).as_object().expect("a group") {
            corpus.put("words", &format!("{}-{name}", group.trim_end_matches(".words")), text.as_str().expect("a text"));
        }
    }
    corpus.put("words", "empty", "");
    corpus.put("words", "one", "elephant");
    corpus.put("words", "24", "abandon ".repeat(23) + "art");
    corpus.put("words", "30", "abandon ".repeat(30));
    corpus.put("words", "unlike", "abandon ".repeat(11) + "\u{fb01}n\u{301}\u{130}ß");
    for (name, text) in [
        ("tcp", "tcp:192.168.1.7:4711"),
        ("tcp6", "tcp:[fe80::1%eth0]:4711"),
        ("iroh", "iroh:07e1050f@192.168.1.7:1"),
        ("libp2p", "libp2p:/ip4/127.0.0.1/udp/1/quic-v1"),
        ("no-kind", "192.168.1.7:4711"),
        ("unknown", "smtp:example"),
        ("nothing", "tcp:"),
        ("space", "tcp:a b"),
        ("escape", "tcp:\x1b[31m"),
        ("bidi", "tcp:\u{202e}1"),
        ("id", "8845ab46-778c-8589-b740-85ec879d5fef"),
        ("id-braces", "{8845ab46-778c-8589-b740-85ec879d5fef}"),
        ("id-short", "8845ab46"),
    ] {
        corpus.put("address", name, text);
    }
}

/// Rows of the table of devices, as a store may hand them back.
fn rows(corpus: &Corpus, vectors: &Vectors) {
    let row = |version: u8, addresses: &[&str], roots: &[(u8, u64)]| {
        let mut row = Encoder::new(Vec::new());
        let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            row.array(8)?.u8(version)?.bytes(&vectors.hex("pairing.info_j"))?.str("a name")?.u32(1_700_000_000)?.u32(1_700_000_001)?;
            row.array(2)?.str("tcp")?.str("10.0.0.1:1")?.array(addresses.len() as u64)?;
            for address in addresses {
                row.str(address)?;
            }
            row.array(roots.len() as u64)?;
            for (state, expires) in roots {
                row.array(4)?.bytes(&[7; 32])?.bytes(&[8; 16])?.u8(*state)?.u64(*expires)?;
            }
            Ok(())
        };
        write().expect("a vector takes every byte");
        row.into_writer()
    };
    let key = vectors.hex("pairing.identity_j");
    let whole = row(1, &["tcp:10.0.0.1:1", "libp2p:/x"], &[(0, 0)]);
    for (name, choice, value) in [
        ("paired", 7, whole.clone()),
        ("pending", 7, row(1, &[], &[(2, 1_900_000_000), (3, 1_900_000_000), (1, 0)])),
        ("expired", 7, row(1, &[], &[(3, 5)])),
        ("no-roots", 7, row(1, &[], &[])),
        ("version-2", 7, row(2, &[], &[(0, 0)])),
        ("state-4", 7, row(1, &[], &[(4, 0)])),
        ("six-roots", 7, row(1, &[], &[(1, 0); 6])),
        ("bad-address", 7, row(1, &["10.0.0.1"], &[(0, 0)])),
        ("short-key", 1, whole.clone()),
        ("other-table", 0, whole.clone()),
        ("cut", 7, whole[..whole.len() / 2].to_vec()),
        ("zeros", 7, vec![0; whole.len()]),
        ("empty", 7, Vec::new()),
    ] {
        corpus.put("restore", name, [&[choice], &key[..], &value].concat());
    }
}

/// Tapes of one Node: honest stories, and the same with one thing wrong.
fn nodes(corpus: &Corpus, vectors: &Vectors) {
    type Story = Vec<(Op, Vec<u8>)>;
    let put = |name: &str, parts: &[&Story]| {
        let ops = parts.iter().flat_map(|part| part.iter());
        corpus.put("node", name, ops.flat_map(|(op, arguments)| [&[*op as u8], &arguments[..]].concat()).collect::<Vec<u8>>());
    };
    let again = |op: Op, count: usize| {
        vec![(op, vec![0]); count].into_iter().map(|(op, arguments)| (op, if op == Op::AnswerAll { vec![] } else { arguments }))
    };
    let linked = |kind: u8| vec![(Op::Connection, vec![kind, 0]), (Op::Link, vec![0]), (Op::Honest, vec![0])];
    let (sim, tcp) = (linked(0), linked(4));
    put("link-sim", &[&sim, &vec![(Op::Tell, vec![0, 17, 0, 0, 1, 7]), (Op::Tick, vec![8]), (Op::Sealed, vec![0, 1, 0, 0])]]);
    put("link-tcp", &[&tcp, &vec![(Op::Tick, vec![6]), (Op::Tick, vec![15]), (Op::Tick, vec![14])]]);
    let connect: Story = [(Op::Connect, vec![64])].into_iter().chain(again(Op::AnswerAll, 2)).chain(again(Op::Honest, 2)).collect();
    put("connect", &[&connect]);
    let invite = vec![(Op::Invite, vec![1]), (Op::Connection, vec![0, 0]), (Op::Pair, vec![0]), (Op::Honest, vec![0])];
    let yes: Story = [(Op::Confirm, vec![0, 0]), (Op::AnswerAll, vec![]), (Op::Honest, vec![0])].into();
    put("invite", &[&invite, &yes]);
    put("invite-declined", &[&invite, &vec![(Op::Confirm, vec![0, 1]), (Op::Honest, vec![0])]]);
    put("invite-cut", &[&invite, &vec![(Op::Confirm, vec![0, 0]), (Op::ConnectionDown, vec![0]), (Op::AnswerAll, vec![])]]);
    let join: Story =
        [(Op::Join, vec![1])].into_iter().chain(again(Op::AnswerAll, 2)).chain([(Op::Honest, vec![0]), (Op::AnswerAll, vec![])]).collect();
    let joined: Story = [(Op::Honest, vec![0]), (Op::Confirm, vec![0, 0]), (Op::AnswerAll, vec![]), (Op::Honest, vec![0])].into();
    put("join", &[&join, &joined]);
    put("join-disk-full", &[&join, &vec![(Op::Honest, vec![0]), (Op::Confirm, vec![0, 0]), (Op::Answer, vec![0, 5])]]);
    for files in 0..3_u8 {
        let offered =
            vec![(Op::Tell, vec![0, 0, 0, files]), (Op::Data, vec![0, 0, 4 * files]), (Op::Pages, vec![0, files]), (Op::AnswerAll, vec![])];
        let taken = vec![(Op::Decide, vec![0, 0]), (Op::AnswerAll, vec![]), (Op::Tell, vec![0, 2, 0, files])];
        let chunks: Story = [(Op::Data, vec![0, 1, 4 * files]), (Op::Work, vec![0, 0]), (Op::Down, vec![0, 0])]
            .into_iter()
            .chain(again(Op::AnswerAll, 4))
            .collect();
        put(&format!("receive-{files}"), &[&sim, &offered, &taken, &chunks]);
        put(&format!("receive-tcp-{files}"), &[&tcp, &offered, &taken, &chunks]);
        put(&format!("receive-{files}-declined"), &[&sim, &offered, &vec![(Op::Decide, vec![0, 1])]]);
        put(&format!("receive-{files}-cut"), &[&sim, &offered, &taken, &vec![(Op::ConnectionDown, vec![0]), (Op::AnswerAll, vec![])]]);
        let shared = vec![(Op::Share, vec![files]), (Op::AnswerAll, vec![]), (Op::Drained, vec![0]), (Op::Tell, vec![0, 1, 128, files])];
        let sent =
            vec![(Op::AnswerAll, vec![]), (Op::Work, vec![0, 0]), (Op::Tell, vec![0, 3, 128, files]), (Op::Tell, vec![0, 4, 128, files])];
        put(&format!("send-{files}"), &[&sim, &shared, &sent]);
        put(&format!("send-{files}-source-gone"), &[&sim, &shared, &vec![(Op::AnswerAll, vec![]), (Op::Work, vec![0, 4])], &sent]);
        put(&format!("send-{files}-forgotten"), &[&sim, &shared, &vec![(Op::Manage, vec![255])], &sent]);
    }
    let half_closed = vec![(Op::Share, vec![3]), (Op::Data, vec![0, 0, 140]), (Op::Down, vec![0, 0]), (Op::Drained, vec![0])];
    put("pages-half-closed", &[&tcp, &half_closed]);
    let ended = vec![(Op::Disconnect, vec![0]), (Op::Tell, vec![0, 0, 0, 0]), (Op::Data, vec![0, 0, 0]), (Op::Pages, vec![0, 0])];
    put("offer-after-the-end", &[&sim, &ended]);
    let forgotten = vec![(Op::Manage, vec![255]), (Op::Honest, vec![0]), (Op::Join, vec![1])];
    put("join-forgotten", &[&join, &forgotten]);
    // Answers to an attempt that is over come to one that began after it.
    let late = vec![(Op::Connect, vec![64]), (Op::Tick, vec![9]), (Op::Connect, vec![64]), (Op::AnswerAll, vec![])];
    put("connect-late-answers", &[&late, &late]);
    let late: Story =
        [(Op::Join, vec![1]), (Op::CancelPairing, vec![0]), (Op::Join, vec![1])].into_iter().chain(again(Op::AnswerAll, 2)).collect();
    put("join-late-answers", &[&late]);
    put("shutdown", &[&sim, &vec![(Op::Invite, vec![0]), (Op::Join, vec![0]), (Op::Shutdown, vec![255])]]);
    let raw = |path: &str| [vec![0], counted(&vectors.hex(path))].concat();
    let fresh = vec![(Op::Connection, vec![4, 1]), (Op::Stream, vec![0])];
    let pair = StreamName::Pair.preamble();
    put("raw-request", &[&fresh, &vec![(Op::Raw, [vec![0], counted(&pair)].concat()), (Op::Raw, raw("pairing.frame1"))]]);
    let link = StreamName::Link.preamble();
    put("raw-hello", &[&fresh, &vec![(Op::Raw, [vec![0], counted(&link)].concat()), (Op::Raw, raw("link.frame1"))]]);
    put(
        "flood",
        &[&vec![(Op::Connection, vec![0, 0])], &vec![(Op::Stream, vec![0]); 80], &vec![(Op::Tick, vec![4]), (Op::Stream, vec![0])]],
    );
    put("confused", &[&sim, &(0..8).map(|how| (Op::Confused, vec![how])).collect()]);
}
