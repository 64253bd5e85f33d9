use super::*;
use crate::ids::TransferId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;

const CHUNK: u32 = 256 << 10;

fn file(path: &str, size: u64) -> Entry {
    let components = path.split('/').map(|component| component.as_bytes().to_vec()).collect();
    Entry { components, kind: EntryKind::File, size, mode: 0o644, mtime_s: 0, mtime_ns: 0, target: None }
}

fn directory(path: &str) -> Entry {
    Entry { kind: EntryKind::Directory, mode: 0o755, ..file(path, 0) }
}

fn link(path: &str, target: &[u8]) -> Entry {
    Entry { kind: EntryKind::Symlink, target: Some(target.to_vec()), ..file(path, 0) }
}

fn offer_of(manifest: &Manifest) -> Offer {
    Offer {
        transfer: TransferId([0; 16]),
        entries: manifest.len(),
        bytes: manifest.bytes(),
        chunk_size: manifest.chunk_size(),
        manifest_digest: *manifest.digest(),
        label: None,
    }
}

fn parse<'p>(offer: &Offer, pages: impl IntoIterator<Item = &'p [u8]>) -> Result<Manifest, ManifestError> {
    let mut parser = ManifestParser::new(offer)?;
    for page in pages {
        parser.page(page.to_vec())?;
    }
    parser.finish()
}

/// What a receiver says to these entries in one page, offered truthfully.
fn judged(entries: &[Entry]) -> Result<(), ManifestError> {
    let page = encode(|to| {
        to.array(entries.len() as u64)?;
        entries.iter().try_for_each(|entry| entry.encode(to))
    });
    let offer = Offer {
        transfer: TransferId([0; 16]),
        entries: u32::try_from(entries.len()).unwrap(),
        bytes: entries.iter().map(|entry| entry.size).fold(0, u64::wrapping_add) % limits::TRANSFER_BYTES,
        chunk_size: CHUNK,
        manifest_digest: [0; 32],
        label: None,
    };
    let mut parser = ManifestParser::new(&offer)?;
    let judged = parser.page(page);
    assert!(parser.page(vec![0x80]).is_err(), "an error stays, and an empty page is one");
    assert_eq!(judged.is_err(), Manifest::build(entries.iter().cloned(), CHUNK).is_err(), "both sides have the same rules");
    judged
}

fn tree() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop_oneof!["[a-c]", "[a-z]{1,3}", "\\PC{1,4}"].prop_filter("legal", |name| path::check_component(name.as_bytes()).is_ok());
    prop::collection::vec((prop::collection::vec(name, 1..4), 0_u8..3, 0_u64..1 << 20, any::<i64>()), 1..30).prop_map(|list| {
        let mut tree = BTreeMap::new();
        for (path, kind, size, mtime_s) in list {
            for depth in 1..path.len() {
                tree.insert(path[..depth].to_vec(), directory(&path[..depth].join("/")));
            }
            let path_text = path.join("/");
            let entry = match kind {
                0 => Entry { mtime_s, ..file(&path_text, size) },
                1 => directory(&path_text),
                _ => link(&path_text, b"../x"),
            };
            tree.entry(path).or_insert(entry);
        }
        // A directory that was put over a file keeps what is in it; a file over a directory was not inserted.
        tree.into_values().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_built_is_parsed(entries in tree()) {
        let manifest = Manifest::build(entries.iter().cloned(), CHUNK).unwrap();
        prop_assert_eq!(&manifest.entries().collect::<Vec<_>>(), &entries);
        prop_assert_eq!(manifest.bytes(), entries.iter().map(|entry| entry.size).sum::<u64>());
        let offer = offer_of(&manifest);
        let parsed = parse(&offer, manifest.pages()).unwrap();
        prop_assert_eq!(parsed.entries().collect::<Vec<_>>(), entries);
        prop_assert_eq!(parsed.layout().chunks(), manifest.layout().chunks());
        let wrong = Offer { entries: offer.entries + 1, ..offer.clone() };
        prop_assert_eq!(parse(&wrong, manifest.pages()).err(), Some(ManifestError::Mismatch));
        let wrong = Offer { bytes: offer.bytes + 1, ..offer.clone() };
        prop_assert_eq!(parse(&wrong, manifest.pages()).err(), Some(ManifestError::Mismatch));
        let wrong = Offer { manifest_digest: [0; 32], ..offer.clone() };
        prop_assert_eq!(parse(&wrong, manifest.pages()).err(), Some(ManifestError::Mismatch));
        let wrong = Offer { chunk_size: 2 * CHUNK, ..offer };
        prop_assert_eq!(parse(&wrong, manifest.pages()).err(), Some(ManifestError::Mismatch));
    }

    #[test]
    fn what_is_accepted_encodes_to_the_same(entries in tree(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)) {
        let manifest = Manifest::build(entries, CHUNK).unwrap();
        let mut page = manifest.pages().next().unwrap().to_vec();
        for (at, byte) in flips {
            let at = at.index(page.len());
            page[at] = byte;
        }
        let mut parser = ManifestParser::new(&Offer { entries: 1000, bytes: limits::TRANSFER_BYTES - 1, ..offer_of(&manifest) }).unwrap();
        if parser.page(page.clone()).is_ok() {
            let again = Manifest::build(parser.list.finish().entries(), CHUNK).unwrap();
            prop_assert_eq!(again.pages().collect::<Vec<_>>(), [&page[..]]);
        }
    }
}

#[test]
// XFER-4.
fn every_rule_of_an_entry() {
    let whole = file("a", 1);
    assert_eq!(judged(core::slice::from_ref(&whole)), Ok(()));
    for (entry, why) in [
        (Entry { components: vec![], ..whole.clone() }, ManifestError::Path(PathError::Empty)),
        (file("..", 1), ManifestError::Path(PathError::Dots)),
        (file("", 1), ManifestError::Path(PathError::EmptyComponent)),
        (Entry { mode: 0o10000, ..whole.clone() }, ManifestError::Mode),
        (Entry { mtime_ns: 1_000_000_000, ..whole.clone() }, ManifestError::Time),
        (Entry { target: Some(vec![b'x']), ..whole.clone() }, ManifestError::Target),
        (Entry { size: 1, ..directory("a") }, ManifestError::Size),
        (Entry { size: 1, ..link("a", b"x") }, ManifestError::Size),
        (link("a", b""), ManifestError::Target),
        (link("a", b"x\0"), ManifestError::Target),
        (link("a", &[b'x'; 4096]), ManifestError::Target),
        (Entry { target: None, ..link("a", b"x") }, ManifestError::Target),
        (file("a", limits::TRANSFER_BYTES), ManifestError::TooLarge),
        (file("a", u64::MAX), ManifestError::TooLarge),
        (file("a/b", 1), ManifestError::Parent),
    ] {
        assert_eq!(judged(core::slice::from_ref(&entry)), Err(why), "{entry:?}");
    }
    assert_eq!(judged(&[link("a", &[b'x'; 4095])]), Ok(()));
    assert_eq!(judged(&[Entry { mode: 0o7777, mtime_s: i64::MIN, mtime_ns: 999_999_999, ..whole }]), Ok(()));
}

#[test]
// XFER-2, PATH-3.
fn every_rule_between_entries() {
    for (entries, why) in [
        (vec![file("b", 0), file("a", 0)], ManifestError::Order),
        (vec![file("a", 0), file("a", 1)], ManifestError::Order),
        (vec![directory("a"), file("a", 1)], ManifestError::Order),
        (vec![file("a", 0), file("a/b", 1)], ManifestError::Parent),
        (vec![link("a", b"x"), file("a/b", 1)], ManifestError::Parent),
        (vec![directory("a"), file("a/b", 0), file("b/c", 0)], ManifestError::Parent),
        (vec![directory("a"), file("a/b", 0), file("a/b/c", 0)], ManifestError::Parent),
        (vec![directory("a"), file("a/c/d", 0)], ManifestError::Parent),
        (vec![directory("a"), file("a!", 0), file("a/b", 0)], ManifestError::Order),
        (vec![file("a", limits::TRANSFER_BYTES - 1), file("b", 1)], ManifestError::TooLarge),
        (vec![file("a", u64::MAX / 2 + 1), file("b", u64::MAX / 2 + 1)], ManifestError::TooLarge),
    ] {
        assert_eq!(judged(&entries), Err(why), "{entries:?}");
    }
    // Components are compared, not joined paths: what is in `a` comes before `a!`.
    assert_eq!(judged(&[directory("a"), directory("a/b"), file("a/b/c", 0), file("a/d", 0), file("a!", 0)]), Ok(()));
    let deep = |depth: usize| (1..=depth).map(|depth| directory(&vec!["d"; depth].join("/"))).collect::<Vec<_>>();
    assert_eq!(judged(&deep(64)), Ok(()));
    assert_eq!(judged(&deep(65)), Err(ManifestError::Path(PathError::Deep)));
}

#[test]
// XFER-6.
fn what_the_sender_is_told() {
    assert_eq!(ManifestError::Mismatch.reason(), DeclineReason::Mismatch);
    for limit in [ManifestError::TooManyEntries, ManifestError::TooLong, ManifestError::TooLarge, ManifestError::Path(PathError::Deep)] {
        assert_eq!(limit.reason(), DeclineReason::TooLarge);
    }
    for rule in [ManifestError::Path(PathError::Dots), ManifestError::Order, ManifestError::Malformed(Malformed::Trailing)] {
        assert_eq!(rule.reason(), DeclineReason::UnsafeManifest);
    }
}

#[test]
// XFER-3.
fn pages_are_filled_greedily_and_only_so() {
    let entries = (0..3000).map(|number| file(&std::format!("{number:04}-{}", "x".repeat(200)), 1)).collect::<Vec<_>>();
    let manifest = Manifest::build(entries.iter().cloned(), CHUNK).unwrap();
    let pages = manifest.pages().collect::<Vec<_>>();
    assert!(pages.len() > 5 && pages.iter().all(|page| page.len() <= limits::RECORD_TEXT));
    assert_eq!(manifest.entries().collect::<Vec<_>>(), entries);
    assert_eq!(manifest.entry(3000), None);
    let offer = offer_of(&manifest);
    assert!(parse(&offer, pages.iter().copied()).is_ok());
    assert_eq!(parse(&offer, pages[..pages.len() - 1].iter().copied()).err(), Some(ManifestError::Mismatch), "one page is missing");
    // The same entries, but a page that ends one entry too early.
    let cut = Manifest::build(entries[..10].iter().cloned(), CHUNK).unwrap();
    let rest = Manifest::build(entries[10..20].iter().cloned(), CHUNK).unwrap();
    assert_eq!(parse(&offer, cut.pages().chain(rest.pages())).err(), Some(ManifestError::NotGreedy));
    let fewer = Offer { entries: 100, ..offer.clone() };
    assert_eq!(parse(&fewer, pages.iter().copied()).err(), Some(ManifestError::Mismatch));
    assert_eq!(parse(&Offer { bytes: 100, ..offer.clone() }, pages.iter().copied()).err(), Some(ManifestError::Mismatch));
    assert_eq!(parse(&offer, [&[0x80][..]]).err(), Some(ManifestError::Empty));
    assert_eq!(parse(&offer, [&[0x81, 0x80][..]]).err(), Some(ManifestError::Malformed(Malformed::Count)));
}

#[test]
// LIM-5.
fn limits_of_offers_and_lists() {
    let manifest = Manifest::build([file("a", 1)], CHUNK).unwrap();
    let offer = offer_of(&manifest);
    let refused = |offer: Offer| ManifestParser::new(&offer).err();
    assert_eq!(refused(Offer { entries: 1_000_001, ..offer.clone() }), Some(ManifestError::TooManyEntries));
    assert_eq!(refused(Offer { bytes: limits::TRANSFER_BYTES, ..offer.clone() }), Some(ManifestError::TooLarge));
    assert_eq!(refused(Offer { chunk_size: 1000, ..offer.clone() }), Some(ManifestError::ChunkSize));
    assert_eq!(refused(offer), None);
    assert_eq!(Manifest::build([], CHUNK).err(), Some(ManifestError::Empty));
    assert_eq!(Manifest::build([file("a", 1)], 1 << 23).err(), Some(ManifestError::ChunkSize));
    let long = "x".repeat(250);
    let many = (0..100_000_u32).map(|number| file(&std::format!("{number:06}{}", &long[..200]), 0));
    let many = many.chain((0..).map(|number| file(&std::format!("y{number:07}{}", &long[..240]), 0)));
    assert_eq!(Manifest::build(many, CHUNK).err(), Some(ManifestError::TooLong), "64 MiB of pages");
    assert_eq!((chunk_size_for(0), chunk_size_for((64 << 30) - 1), chunk_size_for(64 << 30)), (256 << 10, 256 << 10, 1 << 20));
}
