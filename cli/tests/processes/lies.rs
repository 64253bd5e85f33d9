//! Every line of the list of hostile inputs that refuses a whole manifest, offered over a real socket by a device that is paired.
//!
//! Nothing of it may be seen at the receiver: no event, no file, not even a hidden one. And it goes on to serve honest devices.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use protocol_core::wire::control::ControlMessage;
use rustix::process::Signal;

use crate::manifest::{Entry, Lie, cbor, dir, file, link, message, page, path};
use crate::peer::{Liar, Session};
use crate::stage::{Device, Running, Stage, strings};

/// Reasons of a Decline (PROTOCOL.md, section 9.3).
const TOO_LARGE: u64 = 3;
const UNSAFE: u64 = 4;
const MISMATCH: u64 = 7;

/// How a row is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Decline(u64),
    /// The session ends.
    Closed,
}

type Row = (String, Lie, Answer);

/// A receiver, somebody honest, and the liar, all paired.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) receiver: Device,
    pub(crate) honest: Device,
    pub(crate) liar: Liar,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let stage = Stage::new();
        let (receiver, honest) = stage.pair();
        let (showing, code, addresses) = stage.show_code(&receiver, &["--yes"]);
        let liar = Liar::pair(&addresses[0], &code);
        let shown = showing.end();
        assert_eq!(shown.code, 0, "{:?}", shown.events);
        assert_eq!(shown.event("paired")["device"]["device_id"], liar.id());
        fs::create_dir(stage.path("inbox")).unwrap();
        fs::write(stage.path("inbox/mine"), "mine").unwrap();
        Self { stage, receiver, honest, liar }
    }

    /// Starts `kin recv`; its address.
    pub(crate) fn receive(&self, more: &[&str]) -> (Running, String) {
        let inbox = self.stage.text("inbox");
        let mut line = vec!["recv", &inbox, "--yes"];
        line.extend(more);
        let mut receiving = self.receiver.start(&line);
        let address = strings(&receiving.until("listening")["addresses"]).remove(0);
        (receiving, address)
    }

    pub(crate) fn inbox(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        listing(&self.stage.path("inbox"))
    }

    /// Somebody honest sends a file, and it arrives.
    pub(crate) fn honest_transfer(&self, address: &str) {
        let (file, arrived) = (self.stage.path("honest"), self.stage.path("inbox/honest"));
        fs::write(&file, "honest content").unwrap();
        let sent = self.honest.run(&["send", file.to_str().unwrap(), "--to", "device a", "--address", address]);
        assert_eq!(sent.code, 0, "{:?}", sent.events);
        assert_eq!(fs::read_to_string(&arrived).unwrap(), "honest content");
        fs::remove_file(arrived).unwrap();
    }
}

/// Everything below a directory, hidden or not.
pub(crate) fn listing(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let content = if path.is_dir() {
                open.push(path.clone());
                None
            } else {
                Some(fs::read(&path).unwrap())
            };
            found.insert(path, content);
        }
    }
    found
}

fn named(components: &[&[u8]]) -> Lie {
    Lie::of(&[file(components.iter().map(|component| component.to_vec()).collect())])
}

fn with(change: impl FnOnce(&mut Entry)) -> Lie {
    let mut entry = file(path("a"));
    change(&mut entry);
    Lie::of(&[entry])
}

fn row(name: &str, lie: Lie, reason: u64) -> Row {
    (name.to_owned(), lie, Answer::Decline(reason))
}

/// PATH-1, PATH-2.
fn paths() -> Vec<Row> {
    let below = |depth: usize| {
        let mut entries: Vec<Entry> = (1..depth).map(|depth| dir(&vec!["d"; depth].join("/"))).collect();
        entries.push(file(vec![b"d".to_vec(); depth]));
        Lie::of(&entries)
    };
    let mut rows = vec![
        row("no components", named(&[]), UNSAFE),
        row("65 directories", below(65), TOO_LARGE),
        row("10 000 directories", named(&vec![&b"d"[..]; 10_000]), TOO_LARGE),
        row("4097 bytes", named(&[vec![&[b'x'; 255][..]; 16], vec![b"x"]].concat()), TOO_LARGE),
        row("32 767 bytes", named(&vec![&[b'x'; 255][..]; 128]), TOO_LARGE),
    ];
    for name in [
        &b""[..],
        b".",
        b"..",
        b"a/../b",
        b"../x",
        b"/x",
        b"//x",
        b"a//b",
        b"a/./b",
        b"a/",
        b"/",
        b"\0",
        b"a\0b",
        b"a\0",
        b"../../etc/passwd",
    ] {
        rows.push(row(&format!("{:?}", name.escape_ascii().to_string()), named(&[name]), UNSAFE));
        rows.push(row(&format!("{:?} below", name.escape_ascii().to_string()), named(&[b"d", name]), UNSAFE));
    }
    for len in [256, 1024, 40_000] {
        rows.push(row(&format!("a name of {len} bytes"), named(&[&vec![b'x'; len]]), TOO_LARGE));
    }
    rows
}

/// XFER-2, PATH-3.
fn order() -> Vec<Row> {
    let entry = |text: &str| file(path(text));
    vec![
        row("the same path twice", Lie::of(&[entry("a"), entry("a")]), UNSAFE),
        row("unsorted", Lie::of(&[entry("b"), entry("a")]), UNSAFE),
        row("a parent after its child", Lie::of(&[entry("a/b"), dir("a")]), UNSAFE),
        row("a parent that is missing", Lie::of(&[entry("a/b")]), UNSAFE),
        row("a parent that is a file", Lie::of(&[entry("a"), entry("a/b")]), UNSAFE),
        row("a parent that is a link", Lie::of(&[link("a", Some(b"..")), entry("a/b")]), UNSAFE),
        row("a parent that is a link elsewhere", Lie::of(&[link("a", Some(b"/etc")), entry("a/passwd")]), UNSAFE),
        row("a directory and a file of one name", Lie::of(&[dir("a"), entry("a")]), UNSAFE),
        row("a file and a directory of one name", Lie::of(&[entry("a"), dir("a")]), UNSAFE),
    ]
}

/// XFER-4, XFER-5, XFER-6, LIM-5.
fn numbers() -> Vec<Row> {
    let ok = || Lie::of(&[file(path("a"))]);
    let sized = |size| with(|entry| entry.size = size);
    let big = |size| Entry { size, ..file(path("a")) };
    let mut rows = vec![
        row("a directory with a size", Lie::of(&[Entry { size: 5, ..dir("d") }]), UNSAFE),
        row("a link with a size", Lie::of(&[Entry { size: 5, ..link("l", Some(b"a")) }]), UNSAFE),
        row("sizes that overflow", Lie::of(&[big(u64::MAX), Entry { components: path("b"), ..big(u64::MAX) }]), TOO_LARGE),
        row(
            "sizes of 2^53 together",
            Lie { bytes: (1 << 53) - 1, ..Lie::of(&[big(1 << 52), Entry { components: path("b"), ..big(1 << 52) }]) },
            TOO_LARGE,
        ),
        row("chunks past 2^32", Lie::of(&[big((1 << 48) + 1)]), TOO_LARGE),
        row("a size that is not the offer's", Lie { bytes: 4, ..ok() }, MISMATCH),
        row("an offer of more bytes", Lie { bytes: 6, ..ok() }, MISMATCH),
        row("an offer of no bytes", Lie { bytes: 0, ..ok() }, MISMATCH),
        row("an offer of more entries", Lie { entries: 2, ..ok() }, MISMATCH),
        row("an offer of fewer entries", Lie { entries: 1, ..Lie::of(&[file(path("a")), Entry { size: 0, ..file(path("b")) }]) }, MISMATCH),
        row("a million and one entries", Lie { entries: 1_000_001, ..ok() }, TOO_LARGE),
        row("2^32 - 1 entries", Lie { entries: u64::from(u32::MAX), ..ok() }, TOO_LARGE),
        row("another digest", Lie { digest: Some([9; 32]), ..ok() }, MISMATCH),
        row("mode 0o10000", with(|entry| entry.mode = 0o10000), UNSAFE),
        row("mode 2^16", with(|entry| entry.mode = 1 << 16), UNSAFE),
        row("10^9 nanoseconds", with(|entry| entry.mtime_ns = 1_000_000_000), UNSAFE),
        row("2^32 nanoseconds", with(|entry| entry.mtime_ns = 1 << 32), UNSAFE),
        row("kind 3", with(|entry| entry.kind = 3), UNSAFE),
        row("kind 255", with(|entry| entry.kind = 255), UNSAFE),
        row("a link without a target", Lie::of(&[link("l", None)]), UNSAFE),
        row("a link to nothing", Lie::of(&[link("l", Some(b""))]), UNSAFE),
        row("a link to a zero byte", Lie::of(&[link("l", Some(b"a\0"))]), UNSAFE),
        row("a link to 4096 bytes", Lie::of(&[link("l", Some(&[b'x'; 4096]))]), UNSAFE),
        row("a file with a target", with(|entry| entry.target = Some(b"a".to_vec())), UNSAFE),
        row("a directory with a target", Lie::of(&[Entry { target: Some(b"a".to_vec()), ..dir("d") }]), UNSAFE),
    ];
    rows.extend([1 << 53, 1 << 63, u64::MAX].map(|size| row(&format!("{size} bytes"), sized(size), TOO_LARGE)));
    rows.extend([1 << 53, u64::MAX].map(|size| row(&format!("{size} bytes, said to be 5"), Lie { bytes: 5, ..sized(size) }, TOO_LARGE)));
    rows
}

/// Pages: XFER-3, ID-9, ID-10.
fn encodings() -> Vec<Row> {
    let honest = page(&[file(path("a"))]);
    let swapped = |at: usize, bytes: &[u8]| [&honest[..at], bytes, &honest[at + 1..]].concat();
    // 81 | 87 | 81 41 'a' | 00 | 05 | 19 01 a4 | 1a … | 07 | f6
    assert_eq!(honest[..7], [0x81, 0x87, 0x81, 0x41, b'a', 0, 5]);
    let (long, last) = (honest.len(), honest.len() - 1);
    let mut pages = vec![
        ("an empty page".to_owned(), vec![0x80]),
        ("another page behind it".to_owned(), [&honest[..], &honest].concat()),
        ("a byte behind the end".to_owned(), [&honest[..], &[0]].concat()),
        ("a count of 2".to_owned(), swapped(0, &[0x82])),
        ("a count of 2^32 - 1".to_owned(), swapped(0, &[0x9a, 0xff, 0xff, 0xff, 0xff])),
        ("a count of 2^64 - 1".to_owned(), swapped(0, &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("a count in two bytes".to_owned(), swapped(0, &[0x98, 1])),
        ("an endless array".to_owned(), [&swapped(0, &[0x9f])[..], &[0xff]].concat()),
        ("an endless path".to_owned(), [&honest[..2], &[0x9f, 0x41, b'a', 0xff], &honest[5..]].concat()),
        ("an endless name".to_owned(), [&honest[..3], &[0x5f, 0x41, b'a', 0xff], &honest[5..]].concat()),
        ("a name as text".to_owned(), swapped(3, &[0x61])),
        ("a name of 2^63 bytes".to_owned(), swapped(3, &[0x5b, 0x80, 0, 0, 0, 0, 0, 0, 0])),
        ("a length in two bytes".to_owned(), swapped(3, &[0x58, 1])),
        ("six fields".to_owned(), swapped(1, &[0x86])),
        ("eight fields".to_owned(), swapped(1, &[0x88])),
        ("a size in two bytes".to_owned(), swapped(6, &[0x18, 5])),
        ("a negative size".to_owned(), swapped(6, &[0x20])),
        ("a size that is a float".to_owned(), swapped(6, &[0xf9, 0x45, 0])),
        ("a size that is no number".to_owned(), swapped(6, &[0xf9, 0x7e, 0])),
        ("a size that is a bignum".to_owned(), swapped(6, &[0xc2, 0x41, 5])),
        ("a size that is nothing".to_owned(), swapped(6, &[0xf6])),
        ("a reserved head".to_owned(), swapped(6, &[0x1c])),
        ("a tag".to_owned(), [&[0xc0][..], &honest].concat()),
        ("a map".to_owned(), swapped(0, &[0xa1])),
        ("a target that is undefined".to_owned(), swapped(last, &[0xf7])),
        ("a target that is a simple value".to_owned(), swapped(last, &[0xf8, 0xf6])),
        ("a break".to_owned(), swapped(0, &[0xff])),
        ("60 000 arrays in one another".to_owned(), vec![0x81; 60_000]),
        ("60 000 tags in one another".to_owned(), vec![0xc6; 60_000]),
        ("60 000 endless arrays".to_owned(), vec![0x9f; 60_000]),
        ("a full page of zeros".to_owned(), vec![0; 65_536]),
    ];
    pages.extend((1..long).map(|at| (format!("cut at {at}"), honest[..at].to_vec())));
    let mut rows: Vec<Row> = pages.into_iter().map(|(name, page)| row(&name, Lie::of_page(page), UNSAFE)).collect();
    let pages = |pages: Vec<Vec<u8>>| Lie { entries: 2, bytes: 10, pages, ..Lie::of_page(Vec::new()) };
    let one = |name: &str| page(&[file(path(name))]);
    rows.push(row("pages that are not filled", pages(vec![one("a"), one("b")]), UNSAFE));
    rows.push(row("the same page twice", pages(vec![one("a"), one("a")]), UNSAFE));
    rows.push(row("a page and an empty one", pages(vec![one("a"), vec![0x80]]), UNSAFE));
    rows.push(row("no page", pages(Vec::new()), MISMATCH));
    rows
}

/// Offers that are no offers: DATA-17, XFER-9.
fn offers() -> Vec<Row> {
    let ok = || Lie::of(&[file(path("a"))]);
    let chunk = |size: u64| (format!("chunks of {size} bytes"), Lie { chunk_size: size, ..ok() }, Answer::Closed);
    let mut rows: Vec<Row> = [0, 1, 65_535, 65_537, 32_768, 100_000, 8 << 20, 1 << 31, u64::from(u32::MAX), 1 << 32].map(chunk).into();
    rows.push(("no entries".to_owned(), Lie { entries: 0, ..ok() }, Answer::Closed));
    rows.push(("2^32 entries".to_owned(), Lie { entries: 1 << 32, ..ok() }, Answer::Closed));
    rows.push(("2^53 bytes".to_owned(), Lie { bytes: 1 << 53, ..ok() }, Answer::Decline(TOO_LARGE)));
    rows.push(("2^64 - 1 bytes".to_owned(), Lie { bytes: u64::MAX, ..ok() }, Answer::Decline(TOO_LARGE)));
    rows
}

/// Offers a lie and its pages, and listens.
fn offer(session: &mut Session, lie: &Lie) -> Answer {
    session.tell(&message(&lie.offer()));
    let mut pages = session.pages(lie.transfer, lie.manifest_digest());
    for page in &lie.pages {
        pages.page(page);
    }
    pages.fin();
    match session.hear() {
        Some(ControlMessage::Decline { transfer, reason }) if transfer == lie.transfer => Answer::Decline(reason.number()),
        None => Answer::Closed,
        Some(other) => panic!("{other:?}"),
    }
}

/// The receiver saw nothing of all that: it was never asked, and nothing was written.
fn end_unmoved(scene: &Scene, before: &BTreeMap<PathBuf, Option<Vec<u8>>>, receiving: Running, address: &str) {
    assert_eq!(&scene.inbox(), before);
    scene.honest_transfer(address);
    assert_eq!(&scene.inbox(), before);
    receiving.signal(Signal::TERM);
    let received = receiving.end();
    assert_eq!(received.code, 143);
    assert_eq!(received.all("offer").len(), 1, "only the honest offer was shown: {:?}", received.events);
    assert_eq!(received.all("done").len(), 1);
}

#[test]
// XFER-6, XFER-7.
fn manifests_that_lie_are_refused_without_a_trace() {
    let scene = Scene::new();
    let before = scene.inbox();
    let (receiving, address) = scene.receive(&[]);
    let mut session = scene.liar.connect(&address);
    let rows = [paths(), order(), numbers(), encodings(), offers()].concat();
    assert!(rows.len() > 140, "{}", rows.len());
    let mut wrong = Vec::new();
    for (name, lie, expected) in rows {
        let answer = offer(&mut session, &lie);
        if answer != expected {
            wrong.push(format!("{name}: {answer:?} and not {expected:?}"));
        }
        if scene.inbox() != before {
            wrong.push(format!("{name}: something was written"));
        }
        if answer == Answer::Closed {
            session = scene.liar.connect(&address);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    end_unmoved(&scene, &before, receiving, &address);
}

/// Control messages that end the session, each in a session of its own.
fn bad_messages() -> Vec<(&'static str, Vec<u8>)> {
    let lie = Lie::of(&[file(path("a"))]);
    let honest = lie.offer();
    let label = |label: &dyn Fn(&mut minicbor::Encoder<Vec<u8>>)| {
        let mut body = honest[..honest.len() - 1].to_vec();
        body.extend(cbor(|to| label(to)));
        body
    };
    let of_transfer = |number: u8, rest: &[u8]| {
        let fields = if number == 19 { 4 } else { 3 };
        [
            cbor(|to| {
                to.array(fields).unwrap().u8(number).unwrap().bytes(&lie.transfer.0).unwrap();
            }),
            rest.to_vec(),
        ]
        .concat()
    };
    vec![
        ("no body", message(&[])),
        ("a body of nonsense", message(b"hello")),
        ("65 537 bytes announced", [65_537_u32.to_be_bytes().to_vec(), honest.clone(), vec![0; 65_536]].concat()),
        ("2^32 - 1 bytes announced", [u32::MAX.to_be_bytes().to_vec(), honest.clone()].concat()),
        ("six fields", message(&[&[0x86][..], &honest[1..honest.len() - 1]].concat())),
        ("eight fields", message(&[&[0x88][..], &honest[1..], &[0xf6]].concat())),
        ("a byte behind the end", message(&[&honest[..], &[0]].concat())),
        ("cut", message(&honest[..honest.len() - 1])),
        ("an id of 15 bytes", message(&[&honest[..3], &[0x4f], &honest[5..]].concat())),
        (
            "a label of 256 bytes",
            message(&label(&|to| {
                to.str(&"x".repeat(256)).unwrap();
            })),
        ),
        (
            "a label that is bytes",
            message(&label(&|to| {
                to.bytes(b"x").unwrap();
            })),
        ),
        ("a label that is not UTF-8", message(&[&honest[..honest.len() - 1], &[0x61, 0xff]].concat())),
        ("a type in two bytes", message(&[&honest[..1], &[0x18, 0x10], &honest[2..]].concat())),
        ("an endless array", message(&[&[0x9f][..], &honest[1..], &[0xff]].concat())),
        ("digests that are not 32 bytes each", message(&of_transfer(19, &[0, 0x41, 0]))),
        ("no digests", message(&of_transfer(19, &[0, 0x40]))),
        ("ranges that touch", message(&of_transfer(20, &[0x84, 0, 1, 1, 1]))),
        ("an empty range", message(&of_transfer(20, &[0x82, 0, 0]))),
        ("half a range", message(&of_transfer(20, &[0x81, 0]))),
        ("nine streams", message(&of_transfer(4, &[9]))),
        ("no streams", message(&of_transfer(4, &[0]))),
    ]
}

#[test]
// DATA-15, DATA-16, DATA-17, DATA-18.
fn messages_that_are_none_end_the_session_and_nothing_else() {
    let scene = Scene::new();
    let before = scene.inbox();
    let (receiving, address) = scene.receive(&[]);
    for (name, bytes) in bad_messages() {
        let mut session = scene.liar.connect(&address);
        session.tell(&bytes);
        assert_eq!(session.hear(), None, "{name}");
    }
    // What nobody defined is passed over, and so is what is about nothing.
    let mut session = scene.liar.connect(&address);
    session.tell(&message(&[0x82, 0x18, 40, 0]));
    let answer = offer(&mut session, &Lie { bytes: 6, ..Lie::of(&[file(path("a"))]) });
    assert_eq!(answer, Answer::Decline(MISMATCH), "the session goes on");
    end_unmoved(&scene, &before, receiving, &address);
}

#[test]
// PAIR-3, DATA-3, DATA-12, XFER-19.
fn pages_that_cannot_be_read_end_their_stream() {
    let scene = Scene::new();
    let before = scene.inbox();
    let (receiving, address) = scene.receive(&[]);
    let mut session = scene.liar.connect(&address);
    let lie = Lie::of(&[file(path("a"))]);
    session.tell(&message(&lie.offer()));
    // A record that is longer than any page.
    let mut pages = session.pages(lie.transfer, lie.manifest_digest());
    pages.page_without_limit(&vec![0x81; 65_537]);
    pages.await_close();
    // Pages for another manifest than the one that was offered.
    let mut pages = session.pages(lie.transfer, [9; 32]);
    pages.page(&lie.pages[0]);
    pages.fin();
    pages.await_close();
    // The same transfer, with other numbers.
    session.tell(&message(&Lie { bytes: 4, ..lie.clone() }.offer()));
    let declined = session.hear();
    assert!(matches!(declined, Some(ControlMessage::Decline { reason, .. }) if reason.number() == MISMATCH), "{declined:?}");
    end_unmoved(&scene, &before, receiving, &address);
}
